//! How much output defib takes from services into files without a loss.
//!
//! First one service that writes as fast as it can, then twenty that write 20 MB a second each, for ten seconds. Every
//! line has a number. The time runs until the last byte is in its file; then every file is read, and a line that is
//! missing, twice or torn is an error. The files are on the disk of the temporary folder: what is measured is how fast
//! bytes come into the page cache, as for every program that writes a log, unless the disk slows that down.

use std::fs::{self, File};
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use super::clock;
use super::programs::Programs;

const TIME: Duration = Duration::from_secs(10);

/// How long the last bytes may take to come into a file.
const PATIENCE: Duration = Duration::from_secs(120);

/// The length of a line, and of its number.
const LINE: (usize, usize) = (64, 16);

/// What was measured.
#[derive(Debug)]
pub(super) struct Logs {
    pub(super) loads: Vec<Load>,
}

/// One load.
#[derive(Debug)]
pub(super) struct Load {
    pub(super) services: usize,
    /// What each was to write in a second; 0: all that it could.
    pub(super) rate: u64,
    /// All of them together.
    pub(super) bytes: u64,
    pub(super) nanoseconds: u64,
    /// The least that one of them has written.
    pub(super) least: u64,
}

impl Load {
    /// Megabytes a second.
    pub(super) fn speed(&self) -> f64 {
        self.bytes as f64 * 1000.0 / self.nanoseconds as f64
    }
}

pub(super) fn measure(programs: &Programs) -> Result<Logs> {
    let loads = [(1, 0), (20, 20_000_000)];
    Ok(Logs {
        loads: loads
            .iter()
            .map(|(services, rate)| load(programs, *services, *rate))
            .collect::<Result<_>>()?,
    })
}

fn load(programs: &Programs, services: usize, rate: u64) -> Result<Load> {
    let folder = TempDir::with_prefix("defib-bench-").context("cannot make a folder")?;
    let path = |name: &str| folder.path().join(name);
    fs::write(path("defib.toml"), settings(programs, folder.path(), services, rate))?;
    let begun = clock::now();
    let mut daemon = Daemon::start(programs, folder.path())?;
    let limit = TIME + PATIENCE;
    let mut written = Vec::new();
    for number in 0..services {
        let report = clock::wait(limit, || Ok(fs::read_to_string(path(&format!("report-{number}"))).ok()))?;
        let report = report.with_context(|| format!("service {number} does not come to an end"))?;
        let (bytes, _) = report.split_once(' ').context("a report without a time")?;
        written.push(bytes.parse::<u64>()?);
    }
    let logs: Vec<PathBuf> = (0..services).map(|number| path(&format!("log/chatter-{number}.log"))).collect();
    let whole = clock::wait(PATIENCE, || {
        let lens = logs.iter().map(|log| fs::metadata(log).map_or(0, |found| found.len()));
        Ok(lens.eq(written.iter().copied()).then_some(()))
    })?;
    ensure!(whole.is_some(), "not every byte came into a file: {}", fs::read_to_string(path("output"))?);
    let nanoseconds = clock::now() - begun;
    daemon.stop()?;
    for (log, bytes) in logs.iter().zip(&written) {
        check(log, *bytes)?;
    }
    let least = written.iter().copied().min().unwrap_or_default();
    Ok(Load { services, rate, bytes: written.iter().sum(), nanoseconds, least })
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

fn settings(programs: &Programs, folder: &Path, services: usize, rate: u64) -> String {
    let service = |number: usize| {
        format!(
            "[service.chatter-{number}]\ncommand = ['{}', '{rate}', '{}', '{}']\nlog = {{ max_size = 0 }}\n",
            programs.chatter.display(),
            TIME.as_millis(),
            folder.join(format!("report-{number}")).display(),
        )
    };
    (0..services).map(service).collect()
}

/// A daemon that ends with this.
struct Daemon(Child);

impl Daemon {
    fn start(programs: &Programs, folder: &Path) -> Result<Self> {
        let mut command = Command::new(&programs.defib);
        command.args(["daemon", "--config"]).arg(folder.join("defib.toml")).args(["--listen-metrics", ""]);
        for (option, name) in [("--runtime-dir", "run"), ("--state-dir", "state"), ("--log-dir", "log")] {
            command.arg(option).arg(folder.join(name));
        }
        let output = File::create(folder.join("output"))?;
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output);
        command.spawn().map(Self).context("cannot start defib")
    }

    fn stop(&mut self) -> Result<()> {
        let pid = i32::try_from(self.0.id()).ok().and_then(Pid::from_raw).context("no pid")?;
        if self.0.try_wait()?.is_none() {
            kill_process(pid, Signal::TERM)?;
            self.0.wait()?;
        }
        Ok(())
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if let Err(error) = self.stop() {
            println!("cannot clean up: {error:#}");
        }
    }
}
