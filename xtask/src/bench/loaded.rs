//! Restarts by defib while something else goes on, each condition against the bare loop under the same.
//!
//! - quiet: a defib with one service, and one with a thousand;
//! - asked: that of a thousand while its status is asked for and its metrics are scraped, again and again;
//! - busy: twice as many busy loops as there are CPUs take their share of them;
//! - stopped: the daemon does not run at all (SIGSTOP); who restarts then does it without the daemon.
//!
//! The floor of each condition is the loop that gives each life a cgroup and a session, as no supervisor can leave out.

use std::net::SocketAddr;
use std::path::Path;
use std::process::{Child, Command};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use super::peers::{self, defib};
use super::section::{self, Row, Section, Table, micros, show};
use super::stats::{Spread, Summary};
use super::svg::{Bar, Panel};
use super::victims::{Patient, QUIET, WARM_UP};
use super::{Bench, clock, http, tree};

/// The crowd.
const SERVICES: usize = 1000;

/// How long the start of all services may have its after-effects.
const SETTLE: Duration = Duration::from_secs(3);

/// Between two requests of a client. There are two, one for the status and one for the metrics.
const EVERY: Duration = Duration::from_millis(10);

/// How long a restart may take while the daemon is stopped.
const STOPPED_LIMIT: Duration = Duration::from_secs(2);

/// The rows, those of a condition together. The first of each condition is what the others are compared with.
const ROWS: [(&str, &str); 15] = [
    ("quiet", "loop"),
    ("quiet", "control"),
    ("quiet", "cgroup loop"),
    ("quiet", "defib"),
    ("quiet", "defib, 1000 services"),
    ("asked", "loop"),
    ("asked", "control"),
    ("asked", "cgroup loop"),
    ("asked", "defib, 1000 services"),
    ("busy", "loop"),
    ("busy", "control"),
    ("busy", "cgroup loop"),
    ("busy", "defib"),
    ("stopped", "loop"),
    ("stopped", "defib"),
];

/// For each row its summary, or the reason why there is none.
type Run = Vec<Result<Summary, String>>;

pub(super) fn measure(bench: &Bench) -> Result<Section> {
    let mut runs: Vec<Run> = Vec::new();
    for run in 1..=bench.options.runs {
        println!("run {run} of {}", bench.options.runs);
        runs.push(one_run(bench)?);
    }
    Ok(told(&runs))
}

fn one_run(bench: &Bench) -> Result<Run> {
    let crashes = bench.options.crashes;
    let launch = |peer: peers::Peer| {
        let subject = peer.launch(&bench.arena, &bench.programs, &[&bench.programs.victim])?;
        Patient::new(subject)
    };
    let scraped = defib::Options { metrics: "127.0.0.1:0", ..defib::Options::PLAIN };
    let victims = vec![(bench.programs.victim.as_path(), Vec::new()); SERVICES];
    let mut crowd = defib::launch(bench, "defib, 1000 services", &victims, scraped)?;
    let address = crowd.metrics()?;
    let runtime = crowd.folder().join("run");
    let mut patients = [
        launch(peers::LOOP)?,
        launch(peers::CONTROL)?,
        launch(peers::CGROUP_LOOP)?,
        launch(peers::DEFIB)?,
        Patient::new(crowd)?,
    ];
    clock::sleep(SETTLE);
    let [reference, control, floor, single, crowd] = &mut patients;

    crash_in_turn(&mut [reference, control, floor, single, crowd], WARM_UP)?;
    let mut run = crash_in_turn(&mut [reference, control, floor, single, crowd], crashes)?;

    let stop = AtomicBool::new(false);
    let asked = thread::scope(|scope| {
        let askers = scope.spawn(|| ask_until(&stop, address, &runtime));
        let crashed = crash_in_turn(&mut [reference, control, floor, crowd], crashes);
        stop.store(true, Ordering::Relaxed);
        let asked = askers.join().unwrap_or(Ok(0))?;
        println!("{asked} requests while {} restarts were measured", 4 * crashes);
        crashed
    })?;
    run.extend(asked);

    let busy = Busy::start(&bench.programs.spin)?;
    run.extend(crash_in_turn(&mut [reference, control, floor, single], crashes)?);
    drop(busy);

    run.extend(crash_in_turn(&mut [reference], crashes)?);
    run.push(without_daemon(single, crashes)?);
    Ok(run)
}

/// Crashes all of them in turn.
fn crash_in_turn(patients: &mut [&mut Patient], crashes: usize) -> Result<Run> {
    let mut latencies = vec![Vec::with_capacity(crashes); patients.len()];
    for round in 0..crashes {
        for step in 0..patients.len() {
            let index = (step + round) % patients.len();
            latencies[index].push(patients[index].crash()?.latency()?);
        }
    }
    let summary = |samples| Summary::of(samples).ok_or_else(|| "was not crashed".to_owned());
    Ok(latencies.into_iter().map(summary).collect())
}

/// Asks for the status, and scrapes, until it is to stop; how often.
fn ask_until(stop: &AtomicBool, address: SocketAddr, runtime: &Path) -> Result<usize> {
    let count = AtomicUsize::new(0);
    let turn = |request: &(dyn Fn() -> Result<String> + Sync)| -> Result<()> {
        while !stop.load(Ordering::Relaxed) {
            request()?;
            count.fetch_add(1, Ordering::Relaxed);
            clock::sleep(EVERY);
        }
        Ok(())
    };
    thread::scope(|scope| {
        let scraper = scope.spawn(|| turn(&|| http::scrape(address)));
        let asked = turn(&|| http::ask(runtime, "/v1/status"));
        asked.and(scraper.join().unwrap_or(Ok(())))
    })?;
    Ok(count.into_inner())
}

/// Crashes the victim of a defib whose daemon is stopped. It runs on when this is over.
fn without_daemon(patient: &mut Patient, crashes: usize) -> Result<Result<Summary, String>> {
    let daemon =
        Pid::from_raw(i32::try_from(tree::daemon_of(patient.subject.pid())?)?).context("no daemon")?;
    kill_process(daemon, Signal::STOP)?;
    let outcome = crash_until_left_alone(patient, crashes);
    kill_process(daemon, Signal::CONT)?;
    outcome
}

fn crash_until_left_alone(patient: &mut Patient, crashes: usize) -> Result<Result<Summary, String>> {
    let mut latencies = Vec::with_capacity(crashes);
    for crash in 0..crashes {
        clock::sleep(QUIET);
        match patient.end_within(0, Signal::KILL, clock::now, STOPPED_LIMIT)? {
            Some(crash) => latencies.push(crash.latency()?),
            None => {
                let restarts =
                    if crash == 0 { "no restart".to_owned() } else { format!("{crash} restarts, then none") };
                return Ok(Err(format!("{restarts} within {STOPPED_LIMIT:?} without the daemon")));
            }
        }
    }
    Ok(Summary::of(latencies).ok_or_else(|| "was not crashed".to_owned()))
}

/// Busy loops, which end with this.
struct Busy(Vec<Child>);

impl Busy {
    fn start(program: &Path) -> Result<Self> {
        let mut busy = Self(Vec::new());
        for _ in 0..2 * thread::available_parallelism()?.get() {
            // Their janitor is this value; a bench that is killed takes them along by this signal.
            let mut spin = Command::new("setpriv");
            spin.arg("--pdeathsig=KILL").arg(program);
            busy.0.push(spin.spawn().context("cannot start a busy loop")?);
        }
        Ok(busy)
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        for child in &mut self.0 {
            if let Err(error) = child.kill().and_then(|()| child.wait()) {
                println!("cannot end a busy loop: {error}");
            }
        }
    }
}

/// p50 and p99 in microseconds, and their ratios to the first row of the condition, over all runs.
fn figures(runs: &[Run], row: usize) -> Result<[Spread; 4], String> {
    let first = ROWS.iter().position(|(condition, _)| *condition == ROWS[row].0).unwrap_or(row);
    let mut pairs = Vec::new();
    for run in runs {
        pairs.push((run[row].as_ref().map_err(Clone::clone)?, run[first].as_ref().map_err(Clone::clone)?));
    }
    let over_runs = |of: &dyn Fn(&Summary, &Summary) -> f64| {
        Spread::of(pairs.iter().map(|(own, reference)| of(own, reference))).ok_or("no run")
    };
    Ok([
        over_runs(&|own, _| micros(own.p50))?,
        over_runs(&|own, _| micros(own.p99))?,
        over_runs(&|own, reference| own.p50 as f64 / reference.p50 as f64)?,
        over_runs(&|own, reference| own.p99 as f64 / reference.p99 as f64)?,
    ])
}

fn told(runs: &[Run]) -> Section {
    let mut rows = Vec::new();
    let mut json_rows: Vec<Value> = Vec::new();
    let mut bars = Vec::new();
    for (row, (condition, subject)) in ROWS.into_iter().enumerate() {
        let name = format!("{condition}: {subject}");
        let figures = figures(runs, row);
        bars.push(Bar {
            label: name.clone(),
            value: figures.as_ref().ok().map(|[p50, ..]| p50.median / 1000.0),
            tail: figures.as_ref().ok().map(|[_, p99, ..]| p99.median / 1000.0),
            ours: subject.starts_with("defib"),
        });
        match figures {
            Ok([p50, p99, p50_ratio, p99_ratio]) => {
                json_rows.push(json!({
                    "condition": condition, "subject": subject, "p50_us": p50.json(), "p99_us": p99.json(),
                    "p50_ratio": p50_ratio.json(), "p99_ratio": p99_ratio.json(),
                }));
                let cells = [show(p50, 0), show(p99, 0), show(p50_ratio, 2), show(p99_ratio, 2)];
                rows.push(Row::new(name, cells.into()));
            }
            Err(reason) => {
                json_rows.push(json!({ "condition": condition, "subject": subject, "reason": reason }));
                rows.push(Row::absent(name, &reason));
            }
        }
    }
    Section {
        key: "loaded",
        title: "from SIGKILL to the first instruction of the replacement, under load".to_owned(),
        notes: vec![
            format!("Figures are {}; ratios are to the loop under the same load", section::runs(runs.len())),
            "Asked: one client asks for the status of 1000 services, another for their metrics, again and again; \
             busy: two busy loops for each CPU; stopped: the daemon does not run"
                .to_owned(),
        ],
        tables: vec![Table {
            caption: String::new(),
            columns: vec!["p50 µs", "p99 µs", "p50 / loop", "p99 / loop"],
            rows,
        }],
        panels: vec![Panel {
            title: "restart under load: p50, and p99 as a line".to_owned(),
            unit: "ms",
            bars,
        }],
        json: json!({ "rows": json_rows }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_is_compared_with_its_own_loop() {
        let summary = |p50| Ok(Summary { count: 9, p50, p99: p50, max: p50 });
        let mut run: Run = (1..=15).map(|row| summary(row * 1000)).collect();
        run[14] = Err("no restart".to_owned());
        let section = told(&[run]);
        assert_eq!(section.json["rows"][8]["p50_ratio"]["median"], 9.0 / 6.0);
        assert_eq!(section.json["rows"][14]["reason"], "no restart");
        assert_eq!(section.tables[0].rows[14].cells, Err("no restart".to_owned()));
    }
}
