//! What keeper and daemon hold before and after very many crashes: it must not grow with their number.
//!
//! The victim is killed as soon as it runs, again and again. Before the first look it has been killed some thousand
//! times, so that every history and ring of a bounded size has the size that it keeps.

use std::fs;
use std::time::Duration;

use anyhow::Result;
use rustix::process::Signal;
use serde_json::{Value, json};

use super::peers::{DEFIB, defib};
use super::section::{Row, Section, Table, mib};
use super::stats::Summary;
use super::victims::Patient;
use super::{Bench, clock, tree};

/// Crashes before the first look.
const BEFORE: usize = 2000;

/// How long what a crash leaves may take to go: removed cgroups die in the kernel's own time.
const SETTLE: Duration = Duration::from_secs(5);

/// What is held at one moment. `None`: nothing here tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Holdings {
    crashes: usize,
    keeper_kib: u64,
    daemon_kib: u64,
    kernel_kib: Option<u64>,
    /// The same without what the kernel gives up when it needs memory.
    kept_kib: Option<u64>,
    dying: Option<u64>,
    keeper_descriptors: usize,
    daemon_descriptors: usize,
}

pub(super) fn measure(bench: &Bench) -> Result<Section> {
    let wanted = bench.options.loops;
    let subject = DEFIB.launch(&bench.arena, &bench.programs, &[&bench.programs.victim])?;
    let mut patient = Patient::new(subject)?;
    let source = defib::source(&patient.subject, &bench.programs);
    let before = BEFORE.min(wanted);
    crash(&mut patient, before)?;
    let mut looks = vec![look(&patient, 0)?];
    let mut summaries = Vec::new();
    let mut done = 0;
    for part in [wanted.div_ceil(10), wanted] {
        summaries.extend(Summary::of(crash(&mut patient, part - done)?));
        done = part;
        looks.push(look(&patient, done)?);
        println!("{done} of {wanted} crashes");
    }
    Ok(section(&looks, &summaries, before, &source))
}

/// Crashes without a pause; returns the latencies.
fn crash(patient: &mut Patient, crashes: usize) -> Result<Vec<u64>> {
    (0..crashes).map(|_| patient.end(0, Signal::KILL, clock::now)?.latency()).collect()
}

fn look(patient: &Patient, crashes: usize) -> Result<Holdings> {
    clock::sleep(SETTLE);
    let keeper = patient.subject.pid();
    let daemon = tree::daemon_of(keeper)?;
    let cage = patient.subject.cage();
    let kernel_kib = cage.kernel_kib();
    // Also what it keeps for pages of the logs. Nobody else is measured now.
    let kept_kib = fs::write("/proc/sys/vm/drop_caches", "3").ok().and_then(|()| cage.kernel_kib());
    Ok(Holdings {
        crashes,
        keeper_kib: tree::pss(keeper)?,
        daemon_kib: tree::pss(daemon)?,
        kernel_kib,
        kept_kib,
        dying: cage.dying(),
        keeper_descriptors: tree::descriptors(keeper)?,
        daemon_descriptors: tree::descriptors(daemon)?,
    })
}

fn section(looks: &[Holdings], summaries: &[Summary], before: usize, source: &str) -> Section {
    let row = |it: &Holdings| {
        let known = |number: Option<u64>| number.map_or_else(|| "-".to_owned(), |number| number.to_string());
        let cells = [
            mib(it.keeper_kib),
            mib(it.daemon_kib),
            it.kernel_kib.map_or_else(|| "-".to_owned(), mib),
            it.kept_kib.map_or_else(|| "-".to_owned(), mib),
            known(it.dying),
            it.keeper_descriptors.to_string(),
            it.daemon_descriptors.to_string(),
        ];
        Row::new(format!("after {} crashes", it.crashes), cells.into())
    };
    let json_row = |it: &Holdings| -> Value {
        json!({
            "crashes": it.crashes, "keeper_pss_kib": it.keeper_kib, "daemon_pss_kib": it.daemon_kib,
            "kernel_kib": it.kernel_kib, "kept_kib": it.kept_kib, "dying_cgroups": it.dying,
            "keeper_descriptors": it.keeper_descriptors, "daemon_descriptors": it.daemon_descriptors,
        })
    };
    let restarts: Vec<Value> = summaries.iter().map(Summary::json).collect();
    Section {
        key: "crash-loop",
        title: "what is held before and after very many crashes in a row".to_owned(),
        notes: vec![
            format!("Counted from the end of a warm-up of {before} crashes on; defib's source: {source}"),
            "Kernel: all that its cgroup is charged for beside user space, the eBPF maps among it; and without what it \
             gives up when it needs memory"
                .to_owned(),
        ],
        tables: vec![Table {
            caption: String::new(),
            columns: vec![
                "keeper PSS MiB",
                "daemon PSS MiB",
                "kernel MiB",
                "without caches",
                "dying cgroups",
                "keeper's descriptors",
                "daemon's descriptors",
            ],
            rows: looks.iter().map(row).collect(),
        }],
        panels: Vec::new(),
        json: json!({
            "source": source, "looks": looks.iter().map(json_row).collect::<Vec<_>>(), "restarts": restarts,
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_nothing_tells_is_left_open() {
        let look = Holdings {
            crashes: 7,
            keeper_kib: 1024,
            daemon_kib: 2048,
            kernel_kib: None,
            kept_kib: Some(512),
            dying: Some(3),
            keeper_descriptors: 20,
            daemon_descriptors: 40,
        };
        let section = section(&[look], &[], 2000, "ebpf");
        let row = &section.tables[0].rows[0];
        assert_eq!(row.name, "after 7 crashes");
        assert_eq!(row.cells, Ok(["1.0", "2.0", "-", "0.5", "3", "20", "40"].map(str::to_owned).into()));
        assert_eq!(section.json["looks"][0]["kernel_kib"], Value::Null);
    }
}
