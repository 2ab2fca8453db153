//! Stops: all traffic is held up at random moments, and what defib has counted is compared with what `ss` shows.

use std::collections::BTreeMap;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use super::traffic::Traffic;
use super::wrk_command;
use crate::bench::subject::Subject;
use crate::bench::{clock, http};

/// How often a comparison is tried until `ss` shows the same before and after it.
const ATTEMPTS: usize = 500;

/// How long there may be something to be closed when all clients have gone.
const CLOSING: Duration = Duration::from_secs(30);

/// What comparisons gave.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Second counts under load, and those that were equal.
    pub(super) looks: usize,
    pub(super) equal: usize,
    pub(super) stops: usize,
    /// What differed at stops and at the end.
    pub(super) differences: Vec<String>,
    /// Stops at which the sockets did not come to rest.
    pub(super) restless: usize,
    /// The most connections that `ss` has shown of each family at a stop.
    pub(super) most: [u64; 2],
    pub(super) held: usize,
    /// Connections to the second port: those that were made, and those that were counted.
    pub(super) made: u64,
    pub(super) opened: u64,
    /// Connections that were counted at both ports.
    pub(super) counted: u64,
    pub(super) reseeds: u64,
}

/// Who talks to nginx over connections that come and go, of both families.
struct Hammer(Vec<Child>);

impl Hammer {
    fn start(port: u16, seconds: u64) -> Result<Self> {
        let start = |host| wrk_command(host, port, 16, seconds).stdout(Stdio::null()).spawn();
        Ok(Self(["127.0.0.1", "[::1]"].map(start).into_iter().collect::<Result<_, _>>()?))
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        for pid in self.0.iter().filter_map(|child| Pid::from_raw(child.id().cast_signed())) {
            kill_process(pid, signal)?;
        }
        Ok(())
    }
}

impl Drop for Hammer {
    fn drop(&mut self) {
        for child in &mut self.0 {
            child.kill().ok();
            child.wait().ok();
        }
    }
}

/// What `ss` shows as established at each of these ports, of both families.
fn shown(ports: [u16; 2]) -> Result<BTreeMap<(u16, bool), u64>> {
    let filter = format!("( sport = :{} or sport = :{} )", ports[0], ports[1]);
    let said = Command::new("ss").args(["-Htn", "state", "established", &filter]).output()?;
    let mut found = BTreeMap::new();
    for line in String::from_utf8_lossy(&said.stdout).lines() {
        let local = line.split_ascii_whitespace().nth(2).context("a line of ss has no address")?;
        let (host, port) = local.rsplit_once(':').context("an address of ss has no port")?;
        *found.entry((port.parse()?, host.starts_with('['))).or_default() += 1;
    }
    Ok(found)
}

/// A number of each of these ports, as defib tells it.
fn told(subject: &Subject, ports: [u16; 2], name: &str) -> Result<[u64; 2]> {
    let mut numbers = [0; 2];
    for (number, port) in numbers.iter_mut().zip(ports) {
        let answer = http::ask(&subject.folder().join("run"), &format!("/v1/ports?of={port}"))?;
        let table: Value = serde_json::from_str(&answer)?;
        let value = table["ports"][0][name].as_u64();
        *number = value.with_context(|| format!("port {port} has no {name}: {table}"))?;
    }
    Ok(numbers)
}

impl Found {
    /// Compares at a moment in which nobody connects. What goes on nevertheless, at nginx and in the kernel, is waited for.
    fn compare(&mut self, subject: &Subject, ports: [u16; 2], when: &str) -> Result<()> {
        for _ in 0..ATTEMPTS {
            let before = shown(ports)?;
            let counted = told(subject, ports, "active")?;
            if shown(ports)? != before {
                clock::sleep(Duration::from_millis(10));
                continue;
            }
            let of = |port, six| before.get(&(port, six)).copied().unwrap_or_default();
            for (port, counted) in ports.into_iter().zip(counted) {
                let shown = of(port, false) + of(port, true);
                if shown != counted {
                    self.differences.push(format!("{when}, port {port}: counted {counted}, ss {shown}"));
                }
            }
            for (most, six) in self.most.iter_mut().zip([false, true]) {
                *most = (*most).max(ports.iter().map(|port| of(*port, six)).sum());
            }
            return Ok(());
        }
        self.restless += 1;
        Ok(())
    }
}

/// Lets all clients loose for about so long, and stops them so often.
pub(super) fn compare(
    subject: &Subject,
    nginx: u16,
    traffic: &mut Traffic,
    (held, stops): (usize, usize),
    window: Duration,
    mut verify: impl FnMut() -> Result<Value>,
) -> Result<Found> {
    let ports = [nginx, traffic.port];
    let mut found = Found { held, stops, ..Found::default() };
    let hammer = Hammer::start(nginx, 10 * window.as_secs() + 600)?;
    let each = window.as_nanos() as u64 / stops.max(1) as u64;
    let mut seed = clock::now();
    for stop in 1..=stops {
        let begun = clock::now();
        found.looks += 1;
        found.equal += usize::from(verify()?["verify"]["equal"] == true);
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        // Somewhere in twice the time that each stop has.
        let until = (u128::from(seed >> 32) * u128::from(2 * each)) >> 32;
        clock::sleep(Duration::from_nanos((until as u64).saturating_sub(clock::now() - begun)));
        hammer.signal(Signal::STOP)?;
        traffic.pause()?;
        found.compare(subject, ports, &format!("stop {stop}"))?;
        traffic.resume();
        hammer.signal(Signal::CONT)?;
    }
    // Killed in the middle of it: so the last connections are reset.
    drop(hammer);
    traffic.stop()?;
    found.made = traffic.made();
    let closed = clock::wait(CLOSING, || Ok(shown(ports)?.is_empty().then_some(())))?;
    found.restless += usize::from(closed.is_none());
    found.compare(subject, ports, "the end")?;
    let opened = told(subject, ports, "opened")?;
    (found.opened, found.counted) = (opened[1], opened.iter().sum());
    if found.opened != found.made {
        found.differences.push(format!("the end: {} were opened, and {} made", found.opened, found.made));
    }
    found.reseeds = verify()?["reseeds"].as_u64().unwrap_or_default();
    Ok(found)
}
