//! How much output defib takes from services into files without a loss.
//!
//! First one service that writes as fast as it can, then twenty that write 20 MB a second each, for ten seconds. Every
//! line has a number. The time runs until the last byte is in its file; then every file is read, and a line that is
//! missing, twice or torn is an error. The files are on the disk of the temporary folder: what is measured is how fast
//! bytes come into the page cache, as for every program that writes a log, unless the disk slows that down.

use std::fs::{self, File};
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::peers::defib;
use super::section::{Row, Section, Table};
use super::subject::Subject;
use super::{Bench, clock};

/// For how long they write, and in a quick look.
const TIME: [Duration; 2] = [Duration::from_secs(10), Duration::from_secs(2)];

/// How long the last bytes may take to come into a file.
const PATIENCE: Duration = Duration::from_secs(120);

/// The length of a line, and of its number.
const LINE: (usize, usize) = (64, 16);

/// One load.
#[derive(Debug)]
struct Load {
    services: usize,
    /// What each was to write in a second; 0: all that it could.
    rate: u64,
    /// All of them together.
    bytes: u64,
    nanoseconds: u64,
    /// The least that one of them has written.
    least: u64,
}

pub(super) fn measure(bench: &Bench) -> Result<Section> {
    let loads = [(1, 0), (20, 20_000_000)];
    let loads: Result<Vec<Load>> =
        loads.iter().map(|(services, rate)| load(bench, *services, *rate)).collect();
    Ok(section(&loads?))
}

fn load(bench: &Bench, services: usize, rate: u64) -> Result<Load> {
    let time = TIME[usize::from(bench.options.quick)];
    let more = vec![rate.to_string(), time.as_millis().to_string()];
    let victims = vec![(bench.programs.chatter.as_path(), more); services];
    let options = defib::Options { service: "log = { max_size = 0 }\n", ..defib::Options::PLAIN };
    let defib = defib::launch(bench, "defib", &victims, options)?;
    let path = |name: String| defib.folder().join(name);
    let mut written = Vec::new();
    for number in 0..services {
        written.push(written_by(&defib, number, time)?);
    }
    let logs: Vec<PathBuf> = (0..services).map(|number| path(format!("log/victim-{number}.log"))).collect();
    let whole = clock::wait(PATIENCE, || {
        let lens = logs.iter().map(|log| fs::metadata(log).map_or(0, |found| found.len()));
        Ok(lens.eq(written.iter().copied()).then_some(()))
    })?;
    ensure!(whole.is_some(), "not every byte came into a file");
    let nanoseconds = clock::now() - defib.begun();
    for (log, bytes) in logs.iter().zip(&written) {
        check(log, *bytes)?;
    }
    let least = written.iter().copied().min().unwrap_or_default();
    Ok(Load { services, rate, bytes: written.iter().sum(), nanoseconds, least })
}

/// Waits for the end of what a service writes, and returns how many bytes that were.
fn written_by(defib: &Subject, number: usize, time: Duration) -> Result<u64> {
    let report = clock::wait(time + PATIENCE, || {
        // It is put there when it is done, over what was made for starts.
        let text = fs::read_to_string(defib.folder().join(format!("starts-{number}")))?;
        Ok((!text.is_empty()).then_some(text))
    })?;
    let report = report.with_context(|| format!("service {number} does not come to an end"))?;
    let (bytes, _) = report.split_once(' ').context("a report without a time")?;
    Ok(bytes.parse::<u64>()?)
}

/// Waits for the end of what a service writes, and for all of it in its file; fails if a line is missing.
pub(super) fn all_written(defib: &Subject, number: usize, time: Duration) -> Result<u64> {
    let bytes = written_by(defib, number, time)?;
    let log = defib.folder().join(format!("log/victim-{number}.log"));
    let whole = clock::wait(PATIENCE, || {
        Ok((fs::metadata(&log).map_or(0, |found| found.len()) >= bytes).then_some(()))
    })?;
    ensure!(whole.is_some(), "not every byte came into a file");
    check(&log, bytes)?;
    Ok(bytes)
}

/// Every line once and in order.
fn check(log: &Path, bytes: u64) -> Result<()> {
    let mut file = BufReader::with_capacity(1 << 20, File::open(log)?);
    let mut line = [0; LINE.0];
    for number in 0..bytes / LINE.0 as u64 {
        file.read_exact(&mut line)?;
        let digits = str::from_utf8(&line[..LINE.1])?;
        ensure!(digits.parse::<u64>()? == number, "{}: line {number} is {digits}", log.display());
    }
    Ok(())
}

fn section(loads: &[Load]) -> Section {
    let row = |load: &Load| {
        let wanted = if load.rate == 0 { "any".to_owned() } else { (load.rate / 1_000_000).to_string() };
        let speed = load.bytes as f64 * 1000.0 / load.nanoseconds as f64;
        let cells = vec![wanted, format!("{speed:.0}"), (load.least / 1_000_000).to_string()];
        let plural = if load.services == 1 { "" } else { "s" };
        Row::new(format!("{} service{plural}", load.services), cells)
    };
    let json_row = |load: &Load| -> Value {
        json!({
            "services": load.services, "rate": load.rate, "bytes": load.bytes,
            "nanoseconds": load.nanoseconds, "least_bytes": load.least,
        })
    };
    Section {
        key: "logs",
        title: "from services into files, every line checked".to_owned(),
        notes: Vec::new(),
        tables: vec![Table {
            caption: String::new(),
            columns: vec!["MB/s each", "MB/s in all", "least in MB"],
            rows: loads.iter().map(row).collect(),
        }],
        panels: Vec::new(),
        json: loads.iter().map(json_row).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_speed_is_of_all_of_them() {
        let load =
            Load { services: 20, rate: 20_000_000, bytes: 600_000_000, nanoseconds: 2_000_000_000, least: 1 };
        let cells = section(&[load]).tables[0].rows[0].cells.clone();
        assert_eq!(cells, Ok(["20", "300", "0"].map(str::to_owned).into()));
    }
}
