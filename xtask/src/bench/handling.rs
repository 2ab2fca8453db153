//! From a kill to its handling, for each source: until the supervisor thread has sent the order that follows.
//!
//! The time runs from just before SIGKILL is sent to the moment at which the daemon has told the keeper what to do. It
//! holds the end of the process in the kernel, the keeper's reaping and report, what the source adds, and the
//! decision. The sources run side by side, each with a daemon of its own, and are crashed in turn; the daemon tells
//! its stamps in its log at level debug, which costs each of them the same.

use anyhow::{Context, Result};
use rustix::process::Signal;
use rustix::time::{ClockId, clock_gettime};
use serde_json::{Value, json};

use super::peers::defib;
use super::section::{self, Row, Section, Table, micros, show};
use super::stats::{Spread, Summary};
use super::victims::{Patient, QUIET, WARM_UP};
use super::{Bench, clock};

/// The sources, the one to which the others are compared first.
const SOURCES: [&str; 3] = ["pidfd", "proc-connector", "ebpf"];

pub(super) fn measure(bench: &Bench) -> Result<Section> {
    let (runs, crashes) = (bench.options.runs, bench.options.crashes * 3);
    let mut outcome: Vec<Vec<Summary>> = Vec::new();
    for run in 1..=runs {
        let patients: Result<Vec<Patient>> = SOURCES.iter().map(|source| patient(bench, source)).collect();
        let mut patients = patients?;
        let mut latencies = vec![Vec::with_capacity(crashes); patients.len()];
        for round in 0..WARM_UP + crashes {
            for step in 0..patients.len() {
                let index = (step + round) % patients.len();
                let latency = handle(&mut patients[index])?;
                if round >= WARM_UP {
                    latencies[index].push(latency);
                }
            }
        }
        let summaries: Option<Vec<Summary>> = latencies.into_iter().map(Summary::of).collect();
        let summaries = summaries.context("nothing was killed")?;
        let medians: Vec<u64> = summaries.iter().map(|summary| summary.p50 / 1000).collect();
        println!("run {run} of {runs}: p50 of {} {medians:?} µs", SOURCES.join(", "));
        outcome.push(summaries);
    }
    Ok(told(&outcome, crashes))
}

/// A defib on a source, which tells when it handles a death.
fn patient(bench: &Bench, source: &'static str) -> Result<Patient> {
    let options = defib::Options { source, log: "info,defib::daemon=debug", ..defib::Options::PLAIN };
    let victims = [(bench.programs.victim.as_path(), Vec::new())];
    Patient::new(defib::launch(bench, "defib", &victims, options)?)
}

/// Kills the victim and returns after how many nanoseconds the daemon had sent the next order.
fn handle(patient: &mut Patient) -> Result<u64> {
    patient.subject.skip_log()?;
    clock::sleep(QUIET);
    let crash = patient.end(0, Signal::KILL, boottime)?;
    let ordered = patient.subject.stamp("ordered=")?;
    ordered.checked_sub(crash.killed).context("an order before the kill")
}

/// Nanoseconds of the clock that the daemon goes by.
fn boottime() -> u64 {
    let time = clock_gettime(ClockId::Boottime);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

fn told(runs: &[Vec<Summary>], crashes: usize) -> Section {
    let (mut rows, mut json_rows) = (Vec::new(), Vec::<Value>::new());
    for (index, source) in SOURCES.into_iter().enumerate() {
        let over_runs = |of: &dyn Fn(&[Summary]) -> f64| Spread::of(runs.iter().map(|run| of(run)));
        let figures = [
            over_runs(&|run| micros(run[index].p50)),
            over_runs(&|run| micros(run[index].p99)),
            over_runs(&|run| run[index].p50 as f64 / run[0].p50 as f64),
        ];
        let [Some(p50), Some(p99), Some(ratio)] = figures else { continue };
        rows.push(Row::new(source, vec![show(p50, 0), show(p99, 0), show(ratio, 2)]));
        json_rows.push(json!({
            "name": source, "p50_us": p50.json(), "p99_us": p99.json(), "p50_ratio": ratio.json(),
            "runs": runs.iter().map(|run| run[index].json()).collect::<Vec<_>>(),
        }));
    }
    Section {
        key: "handling",
        title: "from SIGKILL to the daemon's order".to_owned(),
        notes: vec![format!(
            "{crashes} kills for each source in a run; figures are {}",
            section::runs(runs.len())
        )],
        tables: vec![Table {
            caption: String::new(),
            columns: vec!["p50 µs", "p99 µs", "p50 / pidfd"],
            rows,
        }],
        panels: Vec::new(),
        json: json!({ "sources": json_rows }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sources_are_compared_with_the_first_in_each_run() {
        let summary = |p50| Summary { count: 9, p50, p99: p50, max: p50 };
        let runs = [[4000, 2000, 8000].map(summary).to_vec(), [1000, 500, 1000].map(summary).to_vec()];
        let section = told(&runs, 9);
        assert_eq!(section.json["sources"][2]["p50_ratio"], json!({ "median": 1.5, "min": 1.0, "max": 2.0 }));
        assert_eq!(section.tables[0].rows.len(), SOURCES.len());
    }
}
