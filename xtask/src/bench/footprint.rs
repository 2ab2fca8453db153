//! What supervisors take with 1, 100 and 1000 services, and how long they take to start them.
//!
//! The start is timed from before the supervisor itself is started to the first instruction of the last service; of
//! systemd, which boots first, from the order on. Memory of user space is the proportional set size of all processes
//! that supervise. Of the kernel's it is all that the subject's cgroup is charged for: slab, page tables, stacks,
//! pipes, eBPF maps. That holds what the kernel keeps for the services' own processes too: the bare loop's row says
//! how much that is at least.

use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use serde_json::{Value, json};

use super::peers::{self, Peer};
use super::section::{Row, Section, Table, mib};
use super::svg::{Bar, Panel};
use super::{Bench, clock, tree};

const SIZES: [usize; 3] = [1, 100, 1000];

/// How long what is only of use during the start may take to go.
const SETTLE: [Duration; 2] = [Duration::from_secs(3), Duration::from_secs(2)];

/// How long a supervisor may take to start all of them.
const START_LIMIT: [Duration; 2] = [Duration::from_secs(40), Duration::from_secs(20)];

/// What one supervisor took with one number of services.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Footprint {
    services: usize,
    started: usize,
    /// Until the last that was started within the limit.
    start: Duration,
    processes: usize,
    pss_kib: u64,
    /// Each process of those that are few.
    each_kib: Vec<u64>,
    kernel_kib: Option<u64>,
}

type Found = (&'static str, usize, Result<Footprint, String>);

pub(super) fn measure(bench: &Bench) -> Result<Section> {
    let ours = [peers::LOOP, peers::DEFIB].map(|peer| (peer, Ok(String::new())));
    let all: Vec<_> = ours.into_iter().chain(bench.peers.iter().cloned()).collect();
    let mut found: Vec<Found> = Vec::new();
    for services in SIZES {
        for (peer, version) in &all {
            let footprint = version
                .clone()
                .and_then(|_version| of(bench, *peer, services).map_err(|error| format!("{error:#}")));
            println!(
                "{services} services, {}: {}",
                peer.name,
                if footprint.is_ok() { "done" } else { "failed" }
            );
            found.push((peer.name, services, footprint));
        }
    }
    Ok(section(&found))
}

fn of(bench: &Bench, peer: Peer, services: usize) -> Result<Footprint> {
    let victims = vec![bench.programs.victim.as_path() as &Path; services];
    let mut subject = peer.launch(&bench.arena, &bench.programs, &victims)?;
    let begun = subject.begun();
    let starts = subject.starts_until(START_LIMIT[usize::from(bench.options.quick)])?;
    clock::sleep(SETTLE[usize::from(bench.options.quick)]);
    let last = starts.iter().map(|start| start.stamp).max().unwrap_or(begun);
    let pids = subject.supervising();
    // One that has just ended has no memory.
    let each: Vec<u64> = pids.into_iter().filter_map(|pid| tree::pss(pid).ok()).collect();
    Ok(Footprint {
        services,
        started: starts.len(),
        start: Duration::from_nanos(last.saturating_sub(begun)),
        processes: each.len(),
        pss_kib: each.iter().sum(),
        each_kib: if each.len() <= 3 { each } else { Vec::new() },
        kernel_kib: subject.cage().kernel_kib(),
    })
}

impl Footprint {
    fn cells(&self) -> Vec<String> {
        let seconds = format!("{:.2}", self.start.as_secs_f64());
        let all = self.started == self.services;
        let start = if all { seconds } else { format!("{} in {seconds}", self.started) };
        let each: Vec<String> = self.each_kib.iter().map(|kib| mib(*kib)).collect();
        let pss = match each.as_slice() {
            [_, _, ..] => format!("{} ({})", mib(self.pss_kib), each.join(" + ")),
            _ => mib(self.pss_kib),
        };
        vec![start, self.processes.to_string(), pss, self.kernel_kib.map_or_else(|| "-".to_owned(), mib)]
    }

    fn json(&self) -> Value {
        json!({
            "started": self.started,
            "start_seconds": self.start.as_secs_f64(),
            "processes": self.processes,
            "pss_kib": self.pss_kib,
            "each_pss_kib": self.each_kib,
            "kernel_kib": self.kernel_kib,
        })
    }
}

fn section(found: &[Found]) -> Section {
    let (mut tables, mut panels, mut json_rows) = (Vec::new(), Vec::new(), Vec::<Value>::new());
    for services in SIZES {
        let (mut rows, mut bars) = (Vec::new(), Vec::new());
        for (name, _, footprint) in found.iter().filter(|(_, size, _)| *size == services) {
            let mut json_row =
                footprint.as_ref().map_or_else(|reason| json!({ "reason": reason }), Footprint::json);
            json_row["name"] = json!(name);
            json_row["services"] = json!(services);
            json_rows.push(json_row);
            bars.push(Bar {
                label: (*name).to_owned(),
                value: footprint.as_ref().ok().map(|it| it.pss_kib as f64 / 1024.0),
                tail: None,
                ours: *name == peers::DEFIB.name,
            });
            rows.push(match footprint {
                Ok(footprint) => Row::new(*name, footprint.cells()),
                Err(reason) => Row::absent(*name, reason),
            });
        }
        let caption = format!("{services} service{}", if services == 1 { "" } else { "s" });
        panels.push(Panel { title: format!("memory of the supervisor, {caption}"), unit: "MiB", bars });
        tables.push(Table {
            caption,
            columns: vec!["all started s", "processes", "PSS MiB", "kernel MiB"],
            rows,
        });
    }
    Section {
        key: "footprint",
        title: "the time to start all services, and memory".to_owned(),
        notes: vec![
            "Kernel: what the cgroup is charged for beside user space, the services' own part included"
                .to_owned(),
            "systemd boots first; its time runs from the order to start".to_owned(),
        ],
        tables,
        panels,
        json: Value::Array(json_rows),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_processes_are_told_apart_and_a_start_that_is_not_whole_says_so() {
        let mut footprint = Footprint {
            services: 100,
            started: 100,
            start: Duration::from_millis(260),
            processes: 2,
            pss_kib: 15 * 1024,
            each_kib: vec![4 * 1024, 11 * 1024],
            kernel_kib: Some(512),
        };
        assert_eq!(footprint.cells(), ["0.26", "2", "15.0 (4.0 + 11.0)", "0.5"]);
        (footprint.started, footprint.each_kib, footprint.kernel_kib) = (67, Vec::new(), None);
        assert_eq!(footprint.cells(), ["67 in 0.26", "2", "15.0", "-"]);
    }

    #[test]
    fn there_is_a_table_for_each_size() {
        let found: Vec<Found> = SIZES.map(|size| ("monit", size, Err("no apt-get".to_owned()))).into();
        let section = section(&found);
        assert_eq!(section.tables.len(), SIZES.len());
        assert!(section.tables.iter().all(|table| table.rows.len() == 1));
        assert_eq!(section.json[2]["services"], 1000);
    }
}
