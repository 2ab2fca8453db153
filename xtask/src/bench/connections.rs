//! What clients of a server notice when it is crashed: connections that are refused, and that are reset.
//!
//! Four clients connect to a port, each every 200 µs or so, and want one byte. Meanwhile the server is killed a hundred
//! times. Where it binds the port itself, nobody listens until its replacement does; where its supervisor holds the
//! listening socket and hands it on (LISTEN_FDS), clients wait instead.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustix::process::Signal;
use serde_json::{Value, json};

use super::hammer::{Tally, hammer};
use super::peers::{self, defib};
use super::section::{Row, Section, Table, micros};
use super::stage::Service;
use super::stats::Summary;
use super::subject::Subject;
use super::svg::{Bar, Panel};
use super::victims::Patient;
use super::{Bench, clock};

const CLIENTS: usize = 4;

/// Kills in a run, and in a quick look.
const KILLS: [usize; 2] = [100, 20];

/// Between a start and the next kill.
const LIFE: Duration = Duration::from_millis(20);

/// Who restarts the server, and whether the socket is held for it.
const ROWS: [(&str, bool); 3] = [("loop", false), ("defib", false), ("defib, held socket", true)];

/// What one row gave, over all runs.
#[derive(Debug, Default)]
struct Count {
    kills: usize,
    tally: Tally,
    latencies: Vec<u64>,
}

pub(super) fn measure(bench: &Bench) -> Result<Section> {
    let mut counts: Vec<Result<Count, String>> =
        vec![Ok(Count::default()), Ok(Count::default()), holds(bench)?];
    let kills = KILLS[usize::from(bench.options.quick)];
    for run in 0..bench.options.runs {
        for step in 0..ROWS.len() {
            let row = (step + run) % ROWS.len();
            if let Ok(count) = &mut counts[row] {
                crash(bench, row, kills, count)?;
            }
        }
    }
    Ok(section(&counts))
}

/// Whether defib takes the key that makes it hold a socket; else what it says.
fn holds(bench: &Bench) -> Result<Result<Count, String>> {
    let (folder, cage) = bench.arena.stall()?;
    let file = folder.join("defib.toml");
    let server = bench.programs.server.clone();
    let service = Service { name: "victim".to_owned(), program: server, arguments: Vec::new() };
    std::fs::write(
        &file,
        defib::settings(&[service], defib::Options { socket: Some(9), ..defib::Options::PLAIN }),
    )?;
    let mut check = Command::new(&bench.programs.defib);
    let answer = check.args(["check", "--config"]).arg(&file).output().context("cannot start defib")?;
    cage.remove()?;
    if answer.status.success() {
        return Ok(Ok(Count::default()));
    }
    let said = [answer.stderr, answer.stdout].concat();
    let said = String::from_utf8_lossy(&said).replace(&format!("{}/", folder.display()), "");
    let line = said.lines().find(|line| line.contains("sockets")).or(said.lines().next());
    Ok(Err(line.unwrap_or("defib refuses the key `sockets`").trim().to_owned()))
}

fn crash(bench: &Bench, row: usize, kills: usize, count: &mut Count) -> Result<()> {
    let port = free_port()?;
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let victims = [(bench.programs.server.as_path(), vec![port.to_string()])];
    let (name, held) = ROWS[row];
    let options = defib::Options { socket: held.then_some(port), ..defib::Options::PLAIN };
    let subject = if name == peers::LOOP.name {
        Subject::launch(name, &bench.arena, &bench.programs, &victims, |stage| peers::LOOP.setup(stage))?
    } else {
        defib::launch(bench, name, &victims, options)?
    };
    let mut patient = Patient::new(subject)?;
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let clients: Vec<_> = (0..CLIENTS).map(|_| scope.spawn(|| hammer(address, &stop))).collect();
        clock::sleep(LIFE);
        let crashed = (0..kills).try_for_each(|_| {
            clock::sleep(LIFE);
            let crash = patient.end(0, Signal::KILL, clock::now)?;
            count.latencies.push(crash.latency()?);
            anyhow::Ok(())
        });
        clock::sleep(LIFE);
        stop.store(true, Ordering::Relaxed);
        for client in clients {
            let Ok(tally) = client.join() else { bail!("a client has panicked") };
            count.tally += tally;
        }
        crashed
    })?;
    count.kills += kills;
    ensure!(count.tally.served > 0, "{name}: nobody was served");
    Ok(())
}

/// A port that nobody has. Somebody else may take it before the server does: then the bench fails, and says so.
fn free_port() -> Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no port is free")?;
    Ok(listener.local_addr()?.port())
}

fn section(counts: &[Result<Count, String>]) -> Section {
    let (mut rows, mut bars, mut json_rows) = (Vec::new(), Vec::new(), Vec::<Value>::new());
    for ((name, held), count) in ROWS.into_iter().zip(counts) {
        let figures = count.as_ref().map_err(Clone::clone).and_then(|count| {
            let summary = Summary::of(count.latencies.clone()).ok_or("was not crashed")?;
            Ok((count, summary))
        });
        bars.push(Bar {
            label: name.to_owned(),
            value: figures
                .as_ref()
                .ok()
                .map(|(count, _)| count.per_kill(count.tally.refused + count.tally.reset)),
            tail: None,
            ours: name != peers::LOOP.name,
        });
        match figures {
            Ok((count, restart)) => {
                let Tally { served, refused, reset, stalled } = count.tally;
                let of = |what: u64| format!("{:.2}", count.per_kill(what));
                let p50 = format!("{:.0}", micros(restart.p50));
                rows.push(Row::new(
                    name,
                    vec![
                        of(refused),
                        of(reset),
                        of(stalled),
                        served.to_string(),
                        p50,
                        count.kills.to_string(),
                    ],
                ));
                json_rows.push(json!({
                    "name": name, "held": held, "kills": count.kills, "served": served, "refused": refused,
                    "reset": reset, "stalled": stalled, "restart": restart.json(),
                }));
            }
            Err(reason) => {
                json_rows.push(json!({ "name": name, "held": held, "reason": reason }));
                rows.push(Row::absent(name, &reason));
            }
        }
    }
    Section {
        key: "connections",
        title: format!("what {CLIENTS} clients meet while the server that they connect to is killed"),
        notes: vec!["Per kill: refused, reset, without an answer within a second".to_owned()],
        tables: vec![Table {
            caption: String::new(),
            columns: vec!["refused", "reset", "stalled", "served in all", "restart p50 µs", "kills"],
            rows,
        }],
        panels: vec![Panel {
            title: "connections refused or reset for each kill".to_owned(),
            unit: "",
            bars,
        }],
        json: json!({ "rows": json_rows }),
    }
}

impl Count {
    fn per_kill(&self, what: u64) -> f64 {
        what as f64 / self.kills.max(1) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_socket_that_cannot_be_held_has_a_reason() {
        let tally = Tally { served: 900, refused: 42, reset: 3, stalled: 0 };
        let count = || Ok(Count { kills: 4, tally, latencies: vec![1000] });
        let section = section(&[count(), count(), Err("not built yet".to_owned())]);
        let rows = &section.tables[0].rows;
        assert_eq!(rows[0].cells, Ok(["10.50", "0.75", "0.00", "900", "1", "4"].map(str::to_owned).into()));
        assert_eq!(rows[2].cells, Err("not built yet".to_owned()));
        assert_eq!(section.json["rows"][2]["reason"], "not built yet");
    }
}
