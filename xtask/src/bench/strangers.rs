//! What hearing of processes costs those that are none of defib's.
//!
//! A static program forks, executes itself and reaps, 20,000 times in a row on one CPU: without defib, beside a defib with one
//! quiet service for each source, and while somebody also follows the events of all processes. The conditions take
//! turns within a round, each round begins with another one, and the figure is the ratio to the round's own bare pass. A
//! second bare pass in each round is the control: what it differs from 1 is chance.
//!
//! With the feed the follower counts what arrives, and what it is told was lost: 20,000 processes are 60,000 events.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::clock;
use super::programs::Programs;
use super::subject::Subject;

/// Processes of one pass.
pub(super) const PROCESSES: u64 = 20_000;

/// How long a daemon may have after-effects of its start, and a follower take to be heard.
const SETTLE: Duration = Duration::from_millis(700);

/// What surrounds a pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Condition {
    pub(super) name: &'static str,
    source: Option<&'static str>,
    feed: bool,
}

const CONDITIONS: [Condition; 7] = [
    Condition { name: "bare", source: None, feed: false },
    Condition { name: "control", source: None, feed: false },
    Condition { name: "pidfd", source: Some("pidfd"), feed: false },
    Condition { name: "ebpf", source: Some("ebpf"), feed: false },
    Condition { name: "ebpf+feed", source: Some("ebpf"), feed: true },
    Condition { name: "connector", source: Some("proc-connector"), feed: false },
    Condition { name: "connector+feed", source: Some("proc-connector"), feed: true },
];

/// What one pass gave.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Pass {
    /// For all of the processes.
    pub(super) nanoseconds: u64,
    /// Forks, execs and exits of the strangers that arrived at the follower.
    pub(super) heard: u64,
    /// Events that it was told were lost.
    pub(super) lost: u64,
}

/// The outcome: for each round a pass for each condition.
#[derive(Debug)]
pub(super) struct Strangers {
    pub(super) conditions: Vec<&'static str>,
    pub(super) rounds: Vec<Vec<Pass>>,
}

pub(super) fn measure(programs: &Programs, rounds: usize) -> Result<Strangers> {
    println!("\nstrangers: {PROCESSES} processes in a pass, {rounds} rounds of {} passes", CONDITIONS.len());
    let mut outcome =
        Strangers { conditions: CONDITIONS.iter().map(|it| it.name).collect(), rounds: Vec::new() };
    churn(programs)?;
    for round in 0..rounds {
        let mut passes = vec![Pass::default(); CONDITIONS.len()];
        for step in 0..CONDITIONS.len() {
            let index = (step + round) % CONDITIONS.len();
            passes[index] = pass(programs, CONDITIONS[index])?;
        }
        let micros: Vec<u64> = passes.iter().map(|pass| pass.nanoseconds / PROCESSES / 1000).collect();
        println!("round {} of {rounds}: {micros:?} µs a process", round + 1);
        outcome.rounds.push(passes);
    }
    Ok(outcome)
}

fn pass(programs: &Programs, condition: Condition) -> Result<Pass> {
    let Some(source) = condition.source else {
        clock::sleep(SETTLE);
        return Ok(Pass { nanoseconds: churn(programs)?, ..Pass::default() });
    };
    let mut defib = Subject::defib_with(programs, 1, source)?;
    defib.first_starts()?;
    let follower = condition.feed.then(|| Follower::start(defib.all_events(programs))).transpose()?;
    clock::sleep(SETTLE);
    let nanoseconds = churn(programs)?;
    let (heard, lost) = follower.map_or(Ok((0, 0)), Follower::finish)?;
    Ok(Pass { nanoseconds, heard, lost })
}

/// How many nanoseconds the processes took.
fn churn(programs: &Programs) -> Result<u64> {
    let output = Command::new(&programs.churn).arg(PROCESSES.to_string()).output().context("cannot churn")?;
    ensure!(output.status.success(), "the churning ended with {}", output.status);
    String::from_utf8_lossy(&output.stdout).trim().parse().context("the churning tells no time")
}

/// Somebody who follows the events of all processes.
struct Follower {
    client: Child,
    /// Lines that have come so far.
    lines: Arc<AtomicU64>,
    counter: JoinHandle<(u64, u64)>,
}

impl Follower {
    fn start(mut command: Command) -> Result<Self> {
        let mut client = command.stdout(Stdio::piped()).spawn().context("cannot follow events")?;
        let output = BufReader::new(client.stdout.take().context("no output to read")?);
        let lines = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&lines);
        Ok(Self { client, lines, counter: std::thread::spawn(move || count(output, &counted)) })
    }

    /// Waits until nothing more comes.
    fn finish(mut self) -> Result<(u64, u64)> {
        let mut before = None;
        while before != Some(self.lines.load(Ordering::Relaxed)) {
            before = Some(self.lines.load(Ordering::Relaxed));
            clock::sleep(SETTLE);
        }
        self.client.kill()?;
        self.client.wait()?;
        Ok(self.counter.join().unwrap_or_default())
    }
}

/// The events of churning processes, and the losses, in lines of JSON.
fn count(output: impl BufRead, lines: &AtomicU64) -> (u64, u64) {
    let (mut heard, mut lost) = (0, 0);
    for line in output.lines().map_while(Result::ok) {
        lines.fetch_add(1, Ordering::Relaxed);
        // To take each line apart would cost the core on which the daemon works; what the bench starts has this name.
        if line.contains("churn") {
            heard += 1;
        } else if line.contains(r#""kind":"lost""#)
            && let Ok(event) = serde_json::from_str::<Value>(&line)
        {
            lost += event["count"].as_u64().unwrap_or(0);
        }
    }
    (heard, lost)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strangers_and_losses_are_counted() {
        let lines = "{\"kind\":\"exec\",\"name\":\"churn\"}\n{\"kind\":\"lost\",\"count\":7}\n{\"kind\":\"fork\"}\n\
                     {\"kind\":\"exit\",\"name\":\"churn\"}\n{\"kind\":\"lost\",\"count\":null}\n";
        assert_eq!(count(lines.as_bytes(), &AtomicU64::new(0)), (2, 7));
    }
}
