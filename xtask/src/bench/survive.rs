//! What the death of daemon and keeper costs, and what it does not.
//!
//! - the daemon is killed with a thousand services, and some of these right after it: how long until the next one
//!   supervises, who was started again meanwhile, and whether an end is missing;
//! - keeper and daemon are killed, and started again: how long until every service is the next one's, and whether one was
//!   started a second time;
//! - `defib daemon restart` while a service is crashed and another one writes;
//! - how much a service can write while nobody reads;
//! - restarts while the disk of the state directory hangs, against those while it does not.
//!
//! What this defib cannot do yet has its reason in the table.

mod disk;
mod rows;

use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open, pidfd_send_signal};
use serde_json::{Value, json};

use super::peers::defib;
use super::section::{Section, micros};
use super::starts::Start;
use super::stats::{Spread, Summary};
use super::subject::Subject;
use super::victims::{Patient, WARM_UP};
use super::{Bench, clock, http, logs, tree};
use disk::Disk;
use rows::Outcome;

/// The crowd, and that of a quick look.
const SERVICES: [usize; 2] = [1000, 50];

/// How many of them are killed with the daemon.
const KILLED: usize = 20;

/// A daemon that did not last so long is not started again at once (`keeper/nurse.rs`).
const LASTING: Duration = Duration::from_millis(10_500);

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// What defib says when it supervises.
const SUPERVISES: &str = "defib supervises";

/// How often the keeper is to execute itself while a service is crashed.
const RENEWALS: usize = 5;

/// What the service writes meanwhile: bytes a second.
const CHATTER: u64 = 2_000_000;

/// A writer that has not come further in this time waits.
const STILL: Duration = Duration::from_millis(500);

pub(super) fn measure(bench: &Bench) -> Result<Section> {
    let outcomes = vec![
        rows::daemon(daemon_killed(bench)?),
        rows::both(both_killed(bench)?),
        rows::renewed(renewed(bench)?),
        rows::unread(unread(bench)?),
        rows::disk(hanging_disk(bench)?),
    ];
    Ok(rows::section(outcomes, services(bench)))
}

fn services(bench: &Bench) -> usize {
    SERVICES[usize::from(bench.options.quick)]
}

/// A thousand services that have all begun, and their first lives.
fn crowd(bench: &Bench) -> Result<(Subject, Vec<Start>)> {
    let victims = vec![(bench.programs.victim.as_path(), Vec::new()); services(bench)];
    let mut subject = defib::launch(bench, "defib", &victims, defib::Options::PLAIN)?;
    let lives = subject.first_starts()?;
    subject.await_line(SUPERVISES)?;
    Ok((subject, lives))
}

/// What came of the deaths of daemons.
#[derive(Debug)]
pub(super) struct Deaths {
    /// From the kill to the next one supervising, in nanoseconds.
    took: Vec<u64>,
    /// Services that were killed with them, those that lived again before the next daemon supervised, and ends that were
    /// not told.
    killed: usize,
    meanwhile: usize,
    missed: usize,
}

fn daemon_killed(bench: &Bench) -> Result<Deaths> {
    let (mut subject, mut lives) = crowd(bench)?;
    let mut deaths = Deaths { took: Vec::new(), killed: 0, meanwhile: 0, missed: 0 };
    for _ in 0..bench.options.runs {
        clock::sleep(LASTING);
        subject.skip_log()?;
        let daemon = process(tree::daemon_of(subject.pid())?)?;
        let begun = clock::now();
        kill_process(daemon, Signal::KILL)?;
        for life in &lives[..KILLED] {
            pidfd_send_signal(pidfd_open(life.pid, PidfdFlags::empty())?, Signal::KILL)?;
        }
        subject.await_line(SUPERVISES)?;
        let supervised = clock::now();
        deaths.took.push(supervised - begun);
        for (victim, life) in lives[..KILLED].iter_mut().enumerate() {
            *life = subject.next_start(victim)?;
            deaths.killed += 1;
            deaths.meanwhile += usize::from(life.stamp < supervised);
        }
    }
    let told = wait_for_restarts(&subject, deaths.killed)?;
    deaths.missed = deaths.killed.saturating_sub(told);
    subject.expect_no_start()?;
    Ok(deaths)
}

/// How many restarts are told in all, once there are as many as wanted, or they do not come.
fn wait_for_restarts(subject: &Subject, wanted: usize) -> Result<usize> {
    let mut told = 0;
    clock::wait(PATIENCE, || {
        // A daemon that is just being replaced answers nobody.
        let Ok(services) = status(subject) else { return Ok(None) };
        told = services.iter().filter_map(|service| service["restarts"].as_u64()).sum::<u64>() as usize;
        Ok((told >= wanted).then_some(()))
    })?;
    Ok(told)
}

fn status(subject: &Subject) -> Result<Vec<Value>> {
    let answer: Value = serde_json::from_str(&http::ask(&subject.folder().join("run"), "/v1/status")?)?;
    answer["services"].as_array().cloned().context("a status without services")
}

fn process(pid: u32) -> Result<Pid> {
    Pid::from_raw(i32::try_from(pid)?).context("no pid")
}

/// What came of the deaths of keepers with their daemons.
#[derive(Debug)]
pub(super) struct Orphans {
    /// From the start of the next ones to every service running, in nanoseconds.
    took: Vec<u64>,
    services: usize,
    /// Services that were started a second time.
    copies: usize,
}

fn both_killed(bench: &Bench) -> Result<Orphans> {
    let (mut subject, lives) = crowd(bench)?;
    let mut orphans = Orphans { took: Vec::new(), services: lives.len(), copies: 0 };
    for _ in 0..bench.options.runs {
        clock::sleep(Duration::from_secs(2));
        subject.skip_log()?;
        let daemon = process(tree::daemon_of(subject.pid())?)?;
        kill_process(daemon, Signal::KILL)?;
        let begun = subject.kill_and_start_again()?;
        subject.await_line(SUPERVISES)?;
        let all = clock::wait(PATIENCE, || {
            Ok(status(&subject)?.iter().all(|service| service["state"] == "running").then_some(()))
        })?;
        all.context("not every service runs again")?;
        orphans.took.push(clock::now() - begun);
        for victim in 0..lives.len() {
            let second = subject.start_within(victim, Duration::ZERO)?;
            orphans.copies += usize::from(second.is_some());
        }
        if orphans.copies > 0 {
            // The next round would count those of this one.
            break;
        }
    }
    Ok(orphans)
}

/// What came of a keeper that executes itself.
#[derive(Debug)]
pub(super) struct Renewal {
    renewals: usize,
    /// Of the crashed service, across all of it.
    restarts: Summary,
    crashes: usize,
    told: usize,
    /// Bytes that the other service has written, all of which are in its log, in order.
    bytes: u64,
}

/// `Err`: why it cannot be done.
fn renewed(bench: &Bench) -> Result<Result<Renewal, String>> {
    let crashes = bench.options.crashes;
    // About as long as the crashes take.
    let time = Duration::from_millis(20 * crashes as u64).max(Duration::from_secs(2));
    let chatter = vec![CHATTER.to_string(), time.as_millis().to_string()];
    let programs = &bench.programs;
    let victims = [(programs.victim.as_path(), Vec::new()), (programs.chatter.as_path(), chatter)];
    let options = defib::Options { service: "log = { max_size = 0 }\n", ..defib::Options::PLAIN };
    let subject = defib::launch(bench, "defib", &victims, options)?;
    let mut patient = Patient::of_first(subject)?;
    let restart = || {
        let mut verb = Command::new(&programs.defib);
        verb.args(["daemon", "restart", "--runtime-dir"]).arg(patient.subject.folder().join("run"));
        verb.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        verb
    };
    let mut restart = restart();
    let mut latencies = Vec::with_capacity(crashes);
    let mut verbs = Vec::new();
    for crash in 0..crashes {
        if crash % crashes.div_ceil(RENEWALS) == crashes.div_ceil(2 * RENEWALS) {
            verbs.push(restart.spawn().context("cannot run defib")?);
        }
        latencies.push(patient.crash()?.latency()?);
    }
    let renewals = verbs.len();
    for verb in verbs {
        let said = verb.wait_with_output()?;
        if !said.status.success() {
            let text = String::from_utf8_lossy(&said.stderr).into_owned();
            return Ok(Err(format!("`defib daemon restart`: {}", text.lines().next().unwrap_or_default())));
        }
    }
    let told = wait_for_restarts(&patient.subject, crashes)?;
    let bytes = logs::all_written(&patient.subject, 1, time)?;
    let restarts = Summary::of(latencies).context("no crashes")?;
    Ok(Ok(Renewal { renewals, restarts, crashes, told, bytes }))
}

/// How many bytes a service could write while the daemon was stopped.
fn unread(bench: &Bench) -> Result<u64> {
    let victims = [(bench.programs.filler.as_path(), Vec::new())];
    let mut subject = defib::launch(bench, "defib", &victims, defib::Options::PLAIN)?;
    let life = subject.first_starts()?.swap_remove(0);
    subject.await_line(SUPERVISES)?;
    clock::sleep(Duration::from_secs(1));
    let daemon = process(tree::daemon_of(subject.pid())?)?;
    let io = format!("/proc/{}/io", life.pid.as_raw_nonzero());
    let written = || -> Result<u64> {
        tree::field(&fs::read_to_string(&io)?, "wchar").with_context(|| format!("{io} has no wchar"))
    };
    let before = written()?;
    kill_process(daemon, Signal::STOP)?;
    kill_process(life.pid, Signal::USR1)?;
    let mut last = before;
    loop {
        clock::sleep(STILL);
        let now = written()?;
        if now == last && now > before {
            break;
        }
        last = now;
    }
    kill_process(daemon, Signal::CONT)?;
    Ok(last - before)
}

/// Restarts while the disk of the state directory hangs, and while it does not: p50 and p99 of each run.
fn hanging_disk(bench: &Bench) -> Result<Result<[[Spread; 2]; 2], String>> {
    let (folder, _cage) = bench.arena.stall()?;
    // It is thawed and unmounted when this ends, after defib has.
    let disk = match Disk::make(&folder) {
        Ok(disk) => disk,
        Err(error) => return Ok(Err(format!("{error:#}"))),
    };
    let victims = [(bench.programs.victim.as_path(), Vec::new())];
    let subject = defib::launch_on(bench, &victims, disk.place())?;
    let mut patient = Patient::new(subject)?;
    crash(&mut patient, WARM_UP)?;
    let mut runs = [Vec::new(), Vec::new()];
    for _ in 0..bench.options.runs {
        runs[0].push(crash(&mut patient, bench.options.crashes)?);
        let frozen = disk.freeze()?;
        runs[1].push(crash(&mut patient, bench.options.crashes)?);
        drop(frozen);
    }
    let spread = |runs: &[Summary], of: fn(&Summary) -> u64| {
        Spread::of(runs.iter().map(|run| micros(of(run)))).context("no runs")
    };
    let both = |runs: &[Summary]| Ok([spread(runs, |run| run.p50)?, spread(runs, |run| run.p99)?]);
    let [idle, hanging]: [Result<[Spread; 2]>; 2] = [both(&runs[0]), both(&runs[1])];
    Ok(Ok([idle?, hanging?]))
}

fn crash(patient: &mut Patient, crashes: usize) -> Result<Summary> {
    let latencies: Result<Vec<u64>> = (0..crashes).map(|_| patient.crash()?.latency()).collect();
    Summary::of(latencies?).context("no crashes")
}

impl Deaths {
    fn json(&self) -> Value {
        let Self { took, killed, meanwhile, missed } = self;
        json!({ "nanoseconds": took, "killed": killed, "restarted_meanwhile": meanwhile, "ends_missed": missed })
    }
}

impl Outcome {
    fn of_spread(nanoseconds: &[u64]) -> Option<Spread> {
        Spread::of(nanoseconds.iter().map(|took| micros(*took) / 1000.0))
    }
}
