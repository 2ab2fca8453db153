//! From a kill to its handling, for each source: until the supervisor thread has sent the order that follows.
//!
//! The time runs from just before SIGKILL is sent to the moment at which the daemon has told the keeper what to do. It
//! holds the end of the process in the kernel, the keeper's reaping and report, what the source adds, and the decision. The
//! sources run side by side, each with a daemon of its own, and are crashed in turn; the daemon tells its stamps in its
//! log at level debug, which costs each of them the same.

use anyhow::{Context, Result};
use rustix::time::{ClockId, clock_gettime};

use super::patient::{Patient, WARM_UP};
use super::programs::Programs;
use super::stats::Summary;
use super::subject::Subject;

/// The sources, the one to which the others are compared first.
const SOURCES: [&str; 3] = ["pidfd", "proc-connector", "ebpf"];

/// The outcome: for each run a summary for each source.
#[derive(Debug)]
pub(super) struct Handlings {
    pub(super) sources: Vec<&'static str>,
    pub(super) runs: Vec<Vec<Summary>>,
}

pub(super) fn measure(programs: &Programs, runs: usize, crashes: usize) -> Result<Handlings> {
    println!("\nhandling: {crashes} kills for each source, {runs} runs");
    let mut outcome = Handlings { sources: SOURCES.to_vec(), runs: Vec::new() };
    for run in 1..=runs {
        let patients: Result<Vec<Patient>> =
            SOURCES.iter().map(|source| Patient::new(Subject::talkative(programs, source)?)).collect();
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
        outcome.runs.push(summaries);
    }
    Ok(outcome)
}

/// Kills the victim and returns after how many nanoseconds the daemon had sent the next order.
fn handle(patient: &mut Patient) -> Result<u64> {
    patient.subject.skip_log()?;
    let (killed, _) = patient.crash(boottime)?;
    let ordered = patient.subject.stamp("ordered=")?;
    ordered.checked_sub(killed).context("an order before the kill")
}

/// Nanoseconds of the clock that the daemon goes by.
fn boottime() -> u64 {
    let time = clock_gettime(ClockId::Boottime);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}
