//! From a crash to the first instruction of the replacement.
//!
//! A tiny static program is killed by SIGKILL. The time runs from just before the signal is sent to the first thing
//! that the replacement does, which is to read the same clock. So it holds the end of the old process in the kernel,
//! the news of it, the supervisor's decision, and the start of the new process up to its entry point.
//!
//! It is a ratio that counts, to a bare C loop of `waitpid` and `posix_spawn`. The subjects run at the same time and
//! are crashed one by one, in turn, in every order: a change of the machine meets all of them, and none always comes
//! after the same other one. The loop takes part twice: the ratio of the second to the first is what chance makes of two
//! equals. Each run starts all subjects anew, since where their memory lies is chance as well.
//!
//! What the figures do not say: how a program with a libc, a dynamic loader or a slow start of its own fares (their
//! time is the same for every supervisor and would hide the difference); what a large process costs, whose memory the
//! kernel frees first; what happens under load. The loop writes no log, keeps no history and puts nothing in a
//! cgroup: it is a bound, not a rival.

use anyhow::{Context, Result, ensure};

use super::clock;
use super::patient::{Patient, WARM_UP};
use super::programs::Programs;
use super::stats::Summary;
use super::subject::Subject;

/// The outcome of all runs.
#[derive(Debug)]
pub(super) struct Restarts {
    pub(super) subjects: Vec<&'static str>,
    /// For each run, a summary for each subject.
    pub(super) runs: Vec<Vec<Summary>>,
    /// From where defib heard of the ends.
    pub(super) source: String,
}

pub(super) fn measure(programs: &Programs, runs: usize, crashes: usize) -> Result<Restarts> {
    let mut outcome = Restarts { subjects: Vec::new(), runs: Vec::new(), source: String::new() };
    for run in 1..=runs {
        let mut patients = [
            Patient::new(Subject::bare("loop", programs)?)?,
            Patient::new(Subject::bare("control", programs)?)?,
            Patient::new(Subject::defib(programs, 1)?)?,
        ];
        crash_in_turn(&mut patients, WARM_UP)?;
        let latencies = crash_in_turn(&mut patients, crashes)?;
        let summaries: Option<Vec<Summary>> = latencies.into_iter().map(Summary::of).collect();
        let summaries = summaries.context("nothing was crashed")?;
        let [.., defib] = &patients;
        outcome.source = defib.subject.source(programs);
        outcome.subjects = patients.iter().map(|patient| patient.subject.name()).collect();
        let medians: Vec<u64> = summaries.iter().map(|summary| summary.p50 / 1000).collect();
        println!("run {run} of {runs}: p50 of {} {medians:?} µs", outcome.subjects.join(", "));
        outcome.runs.push(summaries);
    }
    Ok(outcome)
}

/// Kills the victim and returns after how many nanoseconds its replacement ran.
fn crash(patient: &mut Patient) -> Result<u64> {
    let (killed, next) = patient.crash(clock::now)?;
    ensure!(next.stamp > killed, "{}: a start before the crash", patient.subject.name());
    Ok(next.stamp - killed)
}

/// Crashes every patient `crashes` times and returns the latencies of each.
fn crash_in_turn(patients: &mut [Patient], crashes: usize) -> Result<Vec<Vec<u64>>> {
    let mut latencies = vec![Vec::with_capacity(crashes); patients.len()];
    for round in 0..crashes {
        for index in order(patients.len(), round) {
            latencies[index].push(crash(&mut patients[index])?);
        }
    }
    Ok(latencies)
}

/// Every rotation, forwards and backwards: of three subjects these are all six orders.
fn order(count: usize, round: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..count).collect();
    order.rotate_left(round / 2 % count);
    if round % 2 == 1 {
        order.reverse();
    }
    order
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn three_subjects_take_every_order_once_in_six_rounds() {
        let orders: BTreeSet<Vec<usize>> = (0..6).map(|round| order(3, round)).collect();
        assert_eq!(orders.len(), 6);
        assert_eq!(order(3, 0), [0, 1, 2]);
        assert_eq!(order(3, 1), [2, 1, 0]);
    }
}
