//! What hearing of processes costs those that are none of defib's.
//!
//! A static program forks, executes itself and reaps, 5000 times in a row on one CPU: without defib, beside a defib
//! with one quiet service for each source, and while somebody also follows the events of all processes. The conditions
//! take turns within a round, each round begins with another one, and the figure is the ratio to the round's own bare
//! pass. A second bare pass in each round is the control: what it differs from 1 is chance.
//!
//! With the feed the follower counts what arrives, and what it is told was lost: 5000 processes are 15,000 events.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::peers::defib;
use super::programs::Programs;
use super::section::{Row, Section, Table, show};
use super::stats::Spread;
use super::{Bench, clock};

/// Processes of one pass, and of one in a quick look.
const PROCESSES: [u64; 2] = [5000, 2000];

/// How long a daemon may have after-effects of its start, and a follower take to be heard.
const SETTLE: Duration = Duration::from_millis(700);

/// What surrounds a pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Condition {
    name: &'static str,
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
struct Pass {
    /// For all of the processes.
    nanoseconds: u64,
    /// Forks, execs and exits of the strangers that arrived at the follower.
    heard: u64,
    /// Events that it was told were lost.
    lost: u64,
}

pub(super) fn measure(bench: &Bench) -> Result<Section> {
    let (wanted, processes) = (bench.options.runs, PROCESSES[usize::from(bench.options.quick)]);
    println!("{processes} processes in a pass, {wanted} rounds of {} passes", CONDITIONS.len());
    let mut rounds = Vec::new();
    churn(&bench.programs, processes)?;
    for round in 0..wanted {
        let mut passes = vec![Pass::default(); CONDITIONS.len()];
        for step in 0..CONDITIONS.len() {
            let index = (step + round) % CONDITIONS.len();
            passes[index] = pass(bench, CONDITIONS[index], processes)?;
        }
        let micros: Vec<u64> = passes.iter().map(|pass| pass.nanoseconds / processes / 1000).collect();
        println!("round {} of {wanted}: {micros:?} µs a process", round + 1);
        rounds.push(passes);
    }
    Ok(section(&rounds, processes))
}

fn pass(bench: &Bench, condition: Condition, processes: u64) -> Result<Pass> {
    let Some(source) = condition.source else {
        clock::sleep(SETTLE);
        return Ok(Pass { nanoseconds: churn(&bench.programs, processes)?, ..Pass::default() });
    };
    let options = defib::Options { source, ..defib::Options::PLAIN };
    let victims = [(bench.programs.victim.as_path(), Vec::new())];
    let mut defib = defib::launch(bench, "defib", &victims, options)?;
    defib.first_starts()?;
    let events = || Follower::start(defib::all_events(&defib, &bench.programs));
    let follower = condition.feed.then(events).transpose()?;
    clock::sleep(SETTLE);
    let nanoseconds = churn(&bench.programs, processes)?;
    let (heard, lost) = follower.map_or(Ok((0, 0)), Follower::finish)?;
    Ok(Pass { nanoseconds, heard, lost })
}

/// How many nanoseconds the processes took.
fn churn(programs: &Programs, processes: u64) -> Result<u64> {
    let output = Command::new(&programs.churn).arg(processes.to_string()).output().context("cannot churn")?;
    ensure!(output.status.success(), "the churning ended with {}", output.status);
    String::from_utf8_lossy(&output.stdout).trim().parse().context("the churning tells no time")
}

/// Somebody who follows the events of all processes.
struct Follower {
    client: Child,
    /// Lines of churning processes that have come so far: on a busy machine those of others never end.
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
        // To take each line apart would cost the core on which the daemon works; what the bench starts has this name.
        if line.contains("churn") {
            lines.fetch_add(1, Ordering::Relaxed);
            heard += 1;
        } else if line.contains(r#""kind":"lost""#)
            && let Ok(event) = serde_json::from_str::<Value>(&line)
        {
            lost += event["count"].as_u64().unwrap_or(0);
        }
    }
    (heard, lost)
}

fn section(rounds: &[Vec<Pass>], processes: u64) -> Section {
    let time = |pass: &Pass| pass.nanoseconds as f64;
    let (mut rows, mut json_rows) = (Vec::new(), Vec::<Value>::new());
    for (index, condition) in CONDITIONS.iter().enumerate() {
        let micros = rounds.iter().map(|round| time(&round[index]) / processes as f64 / 1000.0);
        let ratio = rounds.iter().map(|round| time(&round[index]) / time(&round[0]));
        let (Some(micros), Some(ratio)) = (Spread::of(micros), Spread::of(ratio)) else { continue };
        let sum = |of: fn(&Pass) -> u64| rounds.iter().map(|round| of(&round[index])).sum::<u64>();
        let (heard, lost) = (sum(|pass| pass.heard), sum(|pass| pass.lost));
        rows.push(Row::new(
            condition.name,
            vec![show(micros, 1), show(ratio, 3), heard.to_string(), lost.to_string()],
        ));
        json_rows.push(json!({
            "name": condition.name, "us": micros.json(), "ratio": ratio.json(), "heard": heard, "lost": lost,
        }));
    }
    Section {
        key: "strangers",
        title: "fork + exec + exit of processes that are none of defib's".to_owned(),
        notes: vec![format!("{processes} in a pass, median of {} rounds (lowest–highest)", rounds.len())],
        tables: vec![Table {
            caption: String::new(),
            columns: vec!["µs a process", "to bare", "heard", "lost"],
            rows,
        }],
        panels: Vec::new(),
        json: json!({ "processes": processes, "rounds": rounds.len(), "conditions": json_rows }),
    }
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

    #[test]
    fn a_ratio_is_to_the_bare_pass_of_the_round() {
        let pass = |nanoseconds| Pass { nanoseconds, heard: 1, lost: 0 };
        let rounds = [vec![pass(1000); CONDITIONS.len()], vec![pass(4000); CONDITIONS.len()]];
        let section = section(&rounds, 10);
        assert_eq!(section.json["conditions"][3]["ratio"]["median"], 1.0);
        assert_eq!(section.json["conditions"][3]["heard"], 2);
    }
}
