//! `defib stats`: what services use, from two looks at them.

use std::collections::BTreeMap;
use std::time::Duration;

use clap::Args;
use defib_core::model::{ServiceName, State};
use jiff::Timestamp;
use serde::Serialize;

use super::Exit;
use super::args::Options;
use super::choice::Chosen;
use super::output::{Printer, complain_of, size, span, table};
use super::session::{self, Failure};
use super::targets::{self, Choice, Known, Targets};
use crate::api::types::{Service, Usage};
use crate::client::Client;
use crate::duration;

/// The time between two looks where nobody says another.
const INTERVAL: Duration = Duration::from_secs(1);

/// The words of `defib stats`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Words {
    /// Which.
    #[command(flatten)]
    chosen: Chosen,
    /// The time between two looks, as in 60s; goes on until interrupted, unless --count is given [default: 1s]
    #[arg(short, long, value_name = "TIME", value_parser = duration::parse)]
    interval: Option<Duration>,
    /// How many tables [default: 1]
    #[arg(short = 'n', long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
    /// Print lines of values with commas between them, under one line of names
    #[arg(long, conflicts_with = "json")]
    csv: bool,
}

const EXAMPLES: &str = "\
CPU is the share of one processor since the look before: 200% is two processors. CPU and MEMORY are those of \
all processes of a service; memory that several of them share counts for each.

  defib stats                                      all services, once, after a second
  defib stats 'web:*' --interval 5s                those of a group, until interrupted
  defib stats --interval 60s --count 5 --csv       five minutes for a spreadsheet";

/// What a service uses.
#[derive(Clone, Debug, PartialEq, Serialize)]
struct Row {
    name: ServiceName,
    state: State,
    pid: Option<u32>,
    cpu_percent: Option<f64>,
    memory_bytes: Option<u64>,
    processes: Option<u64>,
    connections: Option<u64>,
    uptime_seconds: Option<f64>,
    restarts: u64,
}

/// What all of them use, in JSON.
#[derive(Debug, Serialize)]
struct Table {
    at: Timestamp,
    services: Vec<Row>,
}

/// Shows what services use, as often as is wanted.
pub fn run(options: &Options, words: &Words) -> Exit {
    let choice = Choice::from(&words.chosen);
    let interval = words.interval.unwrap_or(INTERVAL);
    let count = words.count.or(words.interval.is_none().then_some(1));
    session::run(options, async |client, printer| {
        let mut exit = Exit::Done;
        let known: Vec<Known> = client.status().await?.services.iter().map(Known::from).collect();
        for (_, text) in targets::find(choice, &known).missing {
            complain_of(&text);
            exit = Exit::NotFound;
        }
        if targets::find(choice, &known).names.is_empty() {
            if choice.is_all() {
                complain_of("no service is configured");
            }
            return Ok(exit);
        }
        let mut before = uses(&client).await?;
        let mut ticks = tokio::time::interval(interval.max(Duration::from_millis(1)));
        // A look that comes late does not make the next one come early.
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        ticks.tick().await;
        let mut shown = 0;
        while count.is_none_or(|count| shown < count) {
            ticks.tick().await;
            let (status, now) = (client.status().await?, uses(&client).await?);
            // Services may come and go with a reload, and patterns mean those that there are.
            let known: Vec<Known> = status.services.iter().map(Known::from).collect();
            let Targets { names, .. } = targets::find(choice, &known);
            let chosen = status.services.iter().filter(|service| names.binary_search(&service.name).is_ok());
            let rows = chosen.map(|it| row(it, before.get(&it.name), now.get(&it.name))).collect();
            show(printer, words.csv, shown == 0, Table { at: Timestamp::now(), services: rows })?;
            (before, shown) = (now, shown + 1);
        }
        Ok(exit)
    })
}

async fn uses(client: &Client) -> Result<BTreeMap<ServiceName, Usage>, Failure> {
    let all = client.usage().await?.services.into_iter();
    Ok(all.map(|usage| (usage.name.clone(), usage)).collect())
}

fn row(service: &Service, before: Option<&Usage>, now: Option<&Usage>) -> Row {
    let share = |(before, now): (&Usage, &Usage)| {
        let (spent, passed) =
            (now.cpu_seconds - before.cpu_seconds, now.clock_seconds - before.clock_seconds);
        // Without cgroups what has ended is not counted any more, so the sum may shrink.
        (passed > 0.0).then(|| (spent.max(0.0) / passed * 1000.0).round() / 10.0)
    };
    let lives = now.filter(|now| now.processes > 0);
    let connections = service.ports.iter().map(|port| port.connections).sum::<Option<u64>>();
    Row {
        name: service.name.clone(),
        state: service.state,
        pid: service.pid,
        cpu_percent: before.zip(lives).and_then(share),
        memory_bytes: lives.map(|now| now.memory_bytes),
        processes: now.map(|now| now.processes),
        connections: connections.filter(|_| !service.ports.is_empty()),
        uptime_seconds: service.uptime_seconds,
        restarts: service.restarts,
    }
}

fn show(printer: &mut Printer, csv: bool, first: bool, table: Table) -> Result<(), Failure> {
    if printer.json {
        return printer.print_json(&table);
    }
    if csv {
        return printer.print(&commas(&table, first));
    }
    let gap = if first { "" } else { "\n" };
    printer.print(&format!("{gap}{}", lines(&table.services)))
}

fn lines(rows: &[Row]) -> String {
    let cells = |row: &Row| {
        vec![
            row.name.to_string(),
            row.state.to_string(),
            row.pid.map(|pid| pid.to_string()).unwrap_or_default(),
            row.cpu_percent.map(|percent| format!("{percent:.1}%")).unwrap_or_default(),
            row.memory_bytes.map(size).unwrap_or_default(),
            row.processes.map(|count| count.to_string()).unwrap_or_default(),
            row.connections.map(|count| count.to_string()).unwrap_or_default(),
            row.uptime_seconds.map(span).unwrap_or_default(),
            row.restarts.to_string(),
        ]
    };
    let head = ["NAME", "STATE", "PID", "CPU", "MEMORY", "PROCS", "CONNS", "UPTIME", "RESTARTS"];
    let lines = table(&head, rows.iter().map(cells).collect());
    lines.into_iter().map(|line| line + "\n").collect()
}

/// RFC 4180, but for the ends of lines. No value holds a comma or a quote: names are harmless.
fn commas(Table { at, services }: &Table, first: bool) -> String {
    const HEAD: &str =
        "time,name,state,pid,cpu_percent,memory_bytes,processes,connections,uptime_seconds,restarts\n";
    let number = |value: Option<u64>| value.map(|value| value.to_string()).unwrap_or_default();
    let line = |row: &Row| {
        let Row { name, state, restarts, .. } = row;
        let (pid, memory) = (number(row.pid.map(u64::from)), number(row.memory_bytes));
        let (processes, connections) = (number(row.processes), number(row.connections));
        let percent = row.cpu_percent.map(|value| format!("{value:.1}")).unwrap_or_default();
        let uptime = row.uptime_seconds.map(|value| format!("{value:.3}")).unwrap_or_default();
        format!(
            "{at:.3},{name},{state},{pid},{percent},{memory},{processes},{connections},{uptime},{restarts}\n"
        )
    };
    let head = if first { HEAD } else { "" };
    std::iter::once(head.to_owned()).chain(services.iter().map(line)).collect()
}
