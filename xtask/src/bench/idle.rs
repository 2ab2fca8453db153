//! What a hundred quiet services cost: context switches of the processes that supervise them. Two more defibs beside the
//! ordinary one watch fifty ports on which nothing happens, with eBPF and without.
//!
//! Where nothing happens nothing should run. The switches of every thread, voluntary or not, are read from /proc before
//! and after a window in which no service does anything, on a machine that may be busy otherwise: a thread that does
//! not run is not switched. The bench sleeps meanwhile. All supervisors idle in the same window.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Result, bail};
use serde_json::{Value, json};

use super::peers::{self, defib};
use super::section::{Row, Section, Table, mib};
use super::subject::Subject;
use super::svg::{Bar, Panel};
use super::tree::{self, Switches};
use super::{Bench, clock};

const SERVICES: usize = 100;

/// Ports that two of the defibs watch: nobody listens on those, and nobody asks.
const PORTS: &str = "[ports]\nwatch = [\"1-50\"]\n";

/// Those two, and their sources.
const WATCHING: [(&str, &str); 2] = [("defib, 50 ports", "auto"), ("defib, 50 ports, no eBPF", "pidfd")];

/// How long the start-up may have its after-effects: caches dropped, histories written, timers of a young service.
const SETTLE: [Duration; 2] = [Duration::from_secs(10), Duration::from_secs(3)];

/// How long a supervisor may take to start all of them: monit, for one, takes its time with each.
const START_LIMIT: [Duration; 2] = [Duration::from_secs(180), Duration::from_secs(60)];

/// What was seen of one supervisor in the window.
#[derive(Debug)]
struct Cost {
    processes: Vec<Process>,
}

#[derive(Debug)]
struct Process {
    threads: usize,
    switches: u64,
    pss_kib: u64,
}

pub(super) fn measure(bench: &Bench) -> Result<Section> {
    let window = bench.options.window;
    let mut subjects: Vec<(&str, Result<Subject, String>)> = Vec::new();
    let ours = [peers::LOOP, peers::DEFIB].map(|peer| (peer, Ok(String::new())));
    for (peer, version) in ours.into_iter().chain(bench.peers.iter().cloned()) {
        let started = version.and_then(|_version| {
            let victims = [bench.programs.victim.as_path() as &Path; SERVICES];
            let subject = peer.launch(&bench.arena, &bench.programs, &victims);
            subject.map_err(|error| format!("{error:#}"))
        });
        subjects.push((peer.name, started));
    }
    for (name, source) in WATCHING {
        let victims = vec![(bench.programs.victim.as_path(), Vec::new()); SERVICES];
        let subject = Subject::launch(name, &bench.arena, &bench.programs, &victims, |stage| {
            let setup = defib::setup(stage, defib::Options { source, ..defib::Options::PLAIN })?;
            let config = stage.folder.join("defib.toml");
            fs::write(&config, format!("{PORTS}{}", fs::read_to_string(&config)?))?;
            Ok(setup)
        });
        subjects.push((name, subject.map_err(|error| format!("{error:#}"))));
    }
    // They start beside each other: what counts begins when all are there.
    let limit = START_LIMIT[usize::from(bench.options.quick)];
    for (_, subject) in &mut subjects {
        let started = std::mem::replace(subject, Err(String::new()));
        *subject = started.and_then(|it| all_started(it, limit).map_err(|error| format!("{error:#}")));
    }
    clock::sleep(SETTLE[usize::from(bench.options.quick)]);
    let counts = |subject: &Subject| -> Vec<(u32, Switches)> {
        let pids = subject.supervising().into_iter();
        // One that ends while it is looked at is told by its absence.
        pids.filter_map(|pid| Some((pid, tree::switches(pid).ok()?))).collect()
    };
    let before: Vec<_> = subjects.iter().map(|(_, it)| it.as_ref().ok().map(counts)).collect();
    clock::sleep(window);
    let after: Vec<_> = subjects.iter().map(|(_, it)| it.as_ref().ok().map(counts)).collect();
    let mut source = String::new();
    let mut costs = Vec::new();
    for ((name, subject), (before, after)) in subjects.into_iter().zip(before.into_iter().zip(after)) {
        let cost = subject.and_then(|mut subject| {
            if name == peers::DEFIB.name {
                source = defib::source(&subject, &bench.programs);
            }
            subject.expect_no_start().map_err(|error| format!("{error:#}"))?;
            Ok(cost(&before.unwrap_or_default(), &after.unwrap_or_default()))
        });
        costs.push((name, cost));
    }
    Ok(section(&costs, window, &source))
}

fn all_started(mut subject: Subject, limit: Duration) -> Result<Subject> {
    let started = subject.starts_until(limit)?.len();
    if started < SERVICES {
        bail!("has started {started} of {SERVICES} services in {limit:?}");
    }
    Ok(subject)
}

/// What each process did in between. One that came or went did all that it has on its count.
fn cost(before: &[(u32, Switches)], after: &[(u32, Switches)]) -> Cost {
    let find =
        |list: &[(u32, Switches)], pid| list.iter().find(|(it, _)| *it == pid).map(|(_, it)| it.clone());
    let lasting = after.iter().map(|(pid, switches)| Process {
        threads: switches.len(),
        switches: tree::difference(&find(before, *pid).unwrap_or_default(), switches),
        pss_kib: tree::pss(*pid).unwrap_or_default(),
    });
    let ended = before.iter().filter(|(pid, _)| find(after, *pid).is_none());
    let ended =
        ended.map(|(_, switches)| Process { threads: 0, switches: switches.len() as u64, pss_kib: 0 });
    Cost { processes: lasting.chain(ended).collect() }
}

fn section(costs: &[(&'static str, Result<Cost, String>)], window: Duration, source: &str) -> Section {
    let seconds = window.as_secs_f64();
    let (mut rows, mut bars, mut json_rows) = (Vec::new(), Vec::new(), Vec::<Value>::new());
    for (name, cost) in costs {
        let bar = |value| Bar {
            label: (*name).to_owned(),
            value,
            tail: None,
            ours: name.starts_with(peers::DEFIB.name),
        };
        match cost {
            Ok(cost) => {
                let sum = |of: fn(&Process) -> u64| cost.processes.iter().map(of).sum::<u64>();
                let (switches, pss) = (sum(|it| it.switches), sum(|it| it.pss_kib));
                let threads = sum(|it| it.threads as u64);
                let rate = switches as f64 / seconds;
                let cells = [
                    cost.processes.len().to_string(),
                    threads.to_string(),
                    switches.to_string(),
                    format!("{rate:.1}"),
                    mib(pss),
                ];
                rows.push(Row::new(*name, cells.into()));
                bars.push(bar(Some(rate)));
                json_rows.push(json!({
                    "name": name, "processes": cost.processes.len(), "threads": threads,
                    "context_switches": switches, "pss_kib": pss,
                }));
            }
            Err(reason) => {
                rows.push(Row::absent(*name, reason));
                bars.push(bar(None));
                json_rows.push(json!({ "name": name, "reason": reason }));
            }
        }
    }
    Section {
        key: "idle",
        title: format!("{SERVICES} quiet services for {seconds} s"),
        notes: vec![format!("defib's source: {source}")],
        tables: vec![Table {
            caption: String::new(),
            columns: vec!["processes", "threads", "context switches", "a second", "PSS MiB"],
            rows,
        }],
        panels: vec![Panel {
            title: format!("context switches a second, {SERVICES} quiet services"),
            unit: "",
            bars,
        }],
        json: json!({ "services": SERVICES, "seconds": seconds, "source": source, "subjects": json_rows }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processes_that_come_and_go_count() {
        let before = [(1, Switches::from([(1, 10)])), (2, Switches::from([(2, 4)]))];
        let after = [(1, Switches::from([(1, 13)])), (3, Switches::from([(3, 5)]))];
        let switches: Vec<u64> = cost(&before, &after).processes.iter().map(|it| it.switches).collect();
        assert_eq!(switches, [3, 5, 1]);
    }

    #[test]
    fn a_quiet_supervisor_has_a_row_and_a_missing_one_a_reason() {
        let quiet = Cost { processes: vec![Process { threads: 7, switches: 0, pss_kib: 2048 }] };
        let costs = [("defib", Ok(quiet)), ("s6", Err("no apt-get".to_owned()))];
        let section = section(&costs, Duration::from_secs(60), "ebpf");
        let rows = &section.tables[0].rows;
        assert_eq!(rows[0].cells, Ok(["1", "7", "0", "0.0", "2.0"].map(str::to_owned).into()));
        assert_eq!(rows[1].cells, Err("no apt-get".to_owned()));
    }
}
