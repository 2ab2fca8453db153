//! From a kill to its handling, for each source: until the supervisor thread has sent the order that follows.
//!
//! The time runs from just before SIGKILL is sent to the moment at which the daemon has told the keeper what to do. It
//! holds the end of the process in the kernel, the keeper's reaping and report, what the source adds, and the decision. The
//! sources run side by side, each with a daemon of its own, and are crashed in turn; the daemon tells its stamps in its
//! log at level debug, which costs each of them the same.

use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::{PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use rustix::time::{ClockId, clock_gettime};

use super::clock;
use super::programs::Programs;
use super::starts::Start;
use super::stats::Summary;
use super::subject::Subject;

/// As in the restart bench.
const QUIET: Duration = Duration::from_millis(5);
const WARM_UP: usize = 20;

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
                let latency = patients[index].crash()?;
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

struct Patient {
    subject: Subject,
    life: Start,
}

impl Patient {
    fn new(mut subject: Subject) -> Result<Self> {
        let life = subject.next_start(0)?;
        Ok(Self { subject, life })
    }

    /// Kills the victim and returns after how many nanoseconds the daemon had sent the next order.
    fn crash(&mut self) -> Result<u64> {
        let victim = pidfd_open(self.life.pid, PidfdFlags::empty()).context("the victim is gone")?;
        clock::sleep(QUIET);
        self.subject.skip_log()?;
        let killed = boottime();
        pidfd_send_signal(&victim, Signal::KILL)?;
        self.life = self.subject.next_start(0)?;
        let ordered = self.subject.stamp("ordered=")?;
        ordered.checked_sub(killed).context("an order before the kill")
    }
}

/// Nanoseconds of the clock that the daemon goes by.
fn boottime() -> u64 {
    let time = clock_gettime(ClockId::Boottime);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}
