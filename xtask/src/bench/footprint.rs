//! What defib takes with 1, 100 and 1000 services, and how long it takes to start them.
//!
//! The start is timed from before defib itself is started to the first instruction of the last service. Memory of user
//! space is the proportional set size of keeper and daemon. Of what the kernel keeps, the memory of the eBPF maps is
//! told by their descriptors, and the rest is the growth of the slab in between, which holds all that the kernel keeps for
//! the services' own processes too, and whatever else happened on the machine.

use std::fmt::Write as _;
use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::clock;
use super::idle::{daemon_of, field, pss};
use super::programs::Programs;
use super::subject::Subject;

const SIZES: [usize; 3] = [1, 100, 1000];

/// How long what is only of use during the start may take to go.
const SETTLE: Duration = Duration::from_secs(5);

/// What one size took.
#[derive(Debug)]
pub(super) struct Footprint {
    services: usize,
    start: Duration,
    keeper_kib: u64,
    daemon_kib: u64,
    maps_kib: u64,
    slab_kib: u64,
}

pub(super) fn measure(programs: &Programs) -> Result<Vec<Footprint>> {
    SIZES.iter().map(|services| of(programs, *services)).collect()
}

fn of(programs: &Programs, services: usize) -> Result<Footprint> {
    println!("\nfootprint: {services} services");
    let slab = slab_kib()?;
    let begun = clock::now();
    let mut defib = Subject::defib(programs, services)?;
    let last = defib.first_starts()?.iter().map(|start| start.stamp).max().unwrap_or(begun);
    clock::sleep(SETTLE);
    let keeper = defib.pid();
    let daemon = daemon_of(keeper)?;
    Ok(Footprint {
        services,
        start: Duration::from_nanos(last.saturating_sub(begun)),
        keeper_kib: pss(keeper)?,
        daemon_kib: pss(daemon)?,
        maps_kib: maps_kib(daemon)?,
        slab_kib: slab_kib()?.saturating_sub(slab),
    })
}

fn slab_kib() -> Result<u64> {
    let text = fs::read_to_string("/proc/meminfo").context("cannot read /proc/meminfo")?;
    field(&text, "Slab").context("/proc/meminfo has no Slab")
}

/// What the eBPF maps that a process holds take, each counted once.
fn maps_kib(pid: u32) -> Result<u64> {
    let mut maps = std::collections::BTreeMap::new();
    for entry in fs::read_dir(format!("/proc/{pid}/fdinfo"))? {
        let Ok(text) = fs::read_to_string(entry?.path()) else { continue };
        if let (Some(id), Some(bytes)) = (field(&text, "map_id"), field(&text, "memlock")) {
            maps.insert(id, bytes);
        }
    }
    Ok(maps.values().sum::<u64>() / 1024)
}

pub(super) fn table(footprints: &[Footprint]) -> String {
    let mut text = format!(
        "footprint\n{:>9}{:>14}{:>13}{:>13}{:>11}{:>12}{:>14}",
        "services", "all started", "keeper PSS", "daemon PSS", "together", "eBPF maps", "slab growth"
    );
    let mib = |kib: u64| format!("{:.1} MiB", kib as f64 / 1024.0);
    for it in footprints {
        let start = format!("{:.3} s", it.start.as_secs_f64());
        // Writing to a string cannot fail.
        write!(
            text,
            "\n{:>9}{start:>14}{:>13}{:>13}{:>11}{:>12}{:>14}",
            it.services,
            mib(it.keeper_kib),
            mib(it.daemon_kib),
            mib(it.keeper_kib + it.daemon_kib),
            mib(it.maps_kib),
            mib(it.slab_kib)
        )
        .ok();
    }
    text
}

pub(super) fn json(footprints: &[Footprint]) -> Value {
    let one = |it: &Footprint| {
        json!({
            "services": it.services,
            "start_seconds": it.start.as_secs_f64(),
            "keeper_pss_kib": it.keeper_kib,
            "daemon_pss_kib": it.daemon_kib,
            "ebpf_maps_kib": it.maps_kib,
            "slab_growth_kib": it.slab_kib,
        })
    };
    footprints.iter().map(one).collect()
}
