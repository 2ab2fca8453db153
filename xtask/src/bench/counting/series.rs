//! What counting costs: one long load of short connections, cut into slices in which who counts takes turns.
//!
//! A machine that is not alone on its hardware is at times a third slower than before, for seconds. So slices are short, what
//! is compared lies within seconds of each other, the order is turned round every time, and there are many: of each pair
//! the ratio counts, and of all ratios the median. Two slices that follow each other with nothing changed in between are the
//! control.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{alone, wrk_command};
use crate::bench::subject::{START_LIMIT, Subject};
use crate::bench::{Bench, clock, http};

/// How long a slice is.
const SLICE: Duration = Duration::from_millis(800);

/// How long the start of a defib, which takes CPU from the server, may have its after-effects.
const AFTER_START: Duration = Duration::from_millis(1000);

/// How long any other change may have them.
const AFTER: Duration = Duration::from_millis(150);

/// Until all addresses of clients have been used once and the kernel uses them again, the load is another one.
const WARM: Duration = Duration::from_secs(8);

/// Units of /proc/stat in a second, on every architecture that defib runs on.
const TICKS: f64 = 100.0;

/// Who counts the connections of the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// There is no defib.
    Nobody,
    /// The probes are attached, and the port of the server is not watched.
    Others,
    /// The probes.
    Probes,
    /// A defib without eBPF, by the ends of sockets.
    Ends,
}

/// What happened in a slice.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slice {
    /// Connections a second, each with a request.
    pub(super) rate: f64,
    /// Seconds of CPU for each, of everybody and of the kernel's own. What others have had of the hardware is not in it.
    pub(super) cpu: f64,
}

/// Slices of turns, in the order of `turns`, as often as they were taken: every other time the other way round.
#[derive(Debug)]
pub(super) struct Series(Vec<Vec<Slice>>);

/// The counters of the machine.
struct Counters {
    at: u64,
    connections: u64,
    busy: u64,
}

/// wrk, until this is dropped.
struct Load(Child);

/// The defib of the turn.
struct Table<'a> {
    bench: &'a Bench,
    port: u16,
    defib: Option<(&'static str, Subject)>,
    after_start: Duration,
}

impl Series {
    /// Of a server that wrk asks as fast as it can.
    pub(super) fn of_server(bench: &Bench, port: u16, turns: &[Turn], rounds: usize) -> Result<Self> {
        let _load = Load(wrk_command("127.0.0.1", port, 32, 24 * 3600).stdout(Stdio::null()).spawn()?);
        clock::sleep(WARM);
        let table = Table { bench, port, defib: None, after_start: AFTER_START };
        Self::measure(table, turns, rounds, slice)
    }

    /// Of one thread that connects to itself.
    pub(super) fn of_one(bench: &Bench, turns: &[Turn], rounds: usize) -> Result<Self> {
        let listener = alone::listen()?;
        let port = listener.local_addr()?.port();
        // One thread leaves another CPU to whoever starts.
        let table = Table { bench, port, defib: None, after_start: AFTER };
        Self::measure(table, turns, rounds, || alone::slice(&listener))
    }

    fn measure(
        mut table: Table<'_>,
        turns: &[Turn],
        rounds: usize,
        slice: impl Fn() -> Result<Slice>,
    ) -> Result<Self> {
        let mut found = Vec::with_capacity(rounds);
        for round in 0..rounds {
            let mut slices: Vec<(usize, Slice)> = Vec::with_capacity(turns.len());
            for step in 0..turns.len() {
                let turn = if round % 2 == 0 { step } else { turns.len() - 1 - step };
                table.take(turns[turn])?;
                slices.push((turn, slice()?));
            }
            slices.sort_unstable_by_key(|(turn, _)| *turn);
            found.push(slices.into_iter().map(|(_, slice)| slice).collect());
        }
        Ok(Self(found))
    }

    /// A figure of one turn, in all rounds.
    pub(super) fn each(&self, turn: usize, figure: fn(&Slice) -> f64) -> impl Iterator<Item = f64> {
        self.0.iter().map(move |round| figure(&round[turn]))
    }

    /// The figure of one turn, by that of another, round by round.
    pub(super) fn ratios(
        &self,
        of: usize,
        to: usize,
        figure: fn(&Slice) -> f64,
    ) -> impl Iterator<Item = f64> {
        self.0.iter().map(move |round| figure(&round[of]) / figure(&round[to]))
    }

    /// By how much the figure of one turn is above that of another, round by round.
    pub(super) fn differences(
        &self,
        of: usize,
        to: usize,
        figure: fn(&Slice) -> f64,
    ) -> impl Iterator<Item = f64> {
        self.0.iter().map(move |round| figure(&round[of]) - figure(&round[to]))
    }

    /// A figure by the one right before it, where both have the same turn: the last of a round and the first of the next.
    pub(super) fn control(&self, figure: fn(&Slice) -> f64) -> impl Iterator<Item = f64> {
        self.0.windows(2).enumerate().filter_map(move |(at, rounds)| {
            let of = |round: &Vec<Slice>| if at % 2 == 0 { round.last() } else { round.first() }.map(figure);
            Some(of(&rounds[1])? / of(&rounds[0])?)
        })
    }
}

impl Table<'_> {
    fn take(&mut self, turn: Turn) -> Result<()> {
        let source = match turn {
            Turn::Nobody => None,
            Turn::Others | Turn::Probes => Some("ebpf"),
            Turn::Ends => Some("pidfd"),
        };
        let watched = turn != Turn::Others;
        let after = match source {
            None => {
                self.defib = None;
                AFTER
            }
            Some(source) if self.defib.as_ref().is_some_and(|(other, _)| *other == source) => {
                self.watch(watched)?;
                AFTER
            }
            Some(source) => {
                self.defib = None;
                self.defib = Some((source, super::launch(self.bench, Some(source), self.busy(watched))?));
                self.after_start
            }
        };
        if source.is_some() {
            self.confirm(watched)?;
        }
        clock::sleep(after);
        Ok(())
    }

    fn busy(&self, watched: bool) -> &[u16] {
        if watched { std::slice::from_ref(&self.port) } else { &[] }
    }

    /// Lets the defib that there is watch the port, or not.
    fn watch(&self, watched: bool) -> Result<()> {
        let Some((_, subject)) = &self.defib else { return Ok(()) };
        let config = subject.folder().join("defib.toml");
        fs::write(&config, super::config(self.busy(watched)))?;
        let mut reload = Command::new(&self.bench.programs.defib);
        reload
            .arg("reload")
            .arg("--config")
            .arg(&config)
            .arg("--runtime-dir")
            .arg(subject.folder().join("run"));
        let output = reload.output()?;
        ensure!(
            output.status.success(),
            "defib does not reload: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(())
    }

    /// Waits until the port is counted, or not.
    fn confirm(&self, watched: bool) -> Result<()> {
        let Some((_, subject)) = &self.defib else { return Ok(()) };
        let run = subject.folder().join("run");
        let settled =
            clock::wait(START_LIMIT, || Ok((is_counted(&run, self.port) == watched).then_some(())))?;
        settled.with_context(|| format!("port {} is not counted as it should be: {watched}", self.port))
    }
}

/// Whether a defib counts the connections of a port. One that does not watch it knows of none.
fn is_counted(run: &Path, port: u16) -> bool {
    let answer = http::ask(run, &format!("/v1/ports?of={port}")).unwrap_or_default();
    let table: Value = serde_json::from_str(&answer).unwrap_or_default();
    table["ports"][0]["opened"].is_u64() || table["ports"][0]["closed"].is_u64()
}

fn slice() -> Result<Slice> {
    let before = Counters::read()?;
    clock::sleep(SLICE);
    let after = Counters::read()?;
    let connections = (after.connections - before.connections) as f64;
    ensure!(connections > 0.0, "no connections are made: has wrk ended?");
    let seconds = (after.at - before.at) as f64 / 1e9;
    let busy = (after.busy - before.busy) as f64 / TICKS;
    Ok(Slice { rate: connections / seconds, cpu: busy / connections })
}

impl Counters {
    fn read() -> Result<Self> {
        let stat = fs::read_to_string("/proc/stat")?;
        let snmp = fs::read_to_string("/proc/net/snmp")?;
        let at = clock::now();
        let busy = busy(&stat).context("/proc/stat has no line of all CPUs")?;
        let connections = accepted(&snmp).context("/proc/net/snmp does not tell of accepted connections")?;
        Ok(Self { at, connections, busy })
    }
}

/// Time of all CPUs that was spent here: user, nice, system, irq, softirq.
fn busy(stat: &str) -> Option<u64> {
    let fields: Vec<u64> = stat
        .lines()
        .next()?
        .strip_prefix("cpu ")?
        .split_whitespace()
        .filter_map(|it| it.parse().ok())
        .collect();
    [0, 1, 2, 5, 6].iter().map(|at| fields.get(*at)).sum()
}

/// Connections that came from others, in this network namespace.
fn accepted(snmp: &str) -> Option<u64> {
    let mut lines = snmp.lines().filter_map(|line| line.strip_prefix("Tcp: "));
    let (names, values) = (lines.next()?, lines.next()?);
    let at = names.split(' ').position(|name| name == "PassiveOpens")?;
    values.split(' ').nth(at)?.parse().ok()
}

impl Drop for Load {
    fn drop(&mut self) {
        self.0.kill().ok();
        self.0.wait().ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counters_of_the_machine_are_found() {
        let stat = "cpu  1 2 4 1000 1000 8 16 1000 0 0\ncpu0 1 1 1 1 1 1 1 1 0 0\n";
        assert_eq!(busy(stat), Some(31));
        let snmp = "Ip: a b\nIp: 1 2\nTcp: RtoMin ActiveOpens PassiveOpens\nTcp: 1 -1 77\n";
        assert_eq!((accepted(snmp), accepted("Tcp: RtoMin\nTcp: 1\n")), (Some(77), None));
        assert!(Counters::read().is_ok());
    }

    #[test]
    fn what_is_compared_has_the_same_turn() {
        let of = |rates: [f64; 3]| rates.map(|rate| Slice { rate, cpu: 1.0 }).to_vec();
        // Taken in the order 1 2 3, 6 5 4, 7 8 9.
        let series = Series(vec![of([1.0, 2.0, 3.0]), of([4.0, 5.0, 6.0]), of([7.0, 8.0, 9.0])]);
        assert_eq!(series.control(|slice| slice.rate).collect::<Vec<_>>(), [6.0 / 3.0, 7.0 / 4.0]);
        assert_eq!(series.ratios(2, 0, |slice| slice.rate).collect::<Vec<_>>(), [3.0, 1.5, 9.0 / 7.0]);
    }
}
