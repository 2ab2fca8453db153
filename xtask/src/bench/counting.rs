//! What it costs to count connections, and whether the counts are right.
//!
//! One thread connects to itself, at a port that is counted and at one that is not, in turn within milliseconds: its CPU time
//! is the one figure that a machine tells exactly which others have a part in ([`alone`]). And wrk asks an nginx for a small
//! page, each time over a new connection, which is the worst that a server can have of this: without any defib, beside one that
//! watches fifty ports by its probes, that of nginx not among them, and beside the same with nginx's port among them
//! ([`series`]); and beside one that counts without eBPF, by the ends of sockets. Then the kernel's own figures are read of what
//! the two probes take (`kernel.bpf_stats_enabled`, which costs something itself).
//!
//! Whether the counts are right is looked at for as long as `--seconds` says, over both families: wrk goes on, ten
//! thousand connections are held at nginx beside it, and at a second port others are reset from either end, or half closed by
//! either. Under that load counts are compared with the sockets at instants of which nobody knows what happens in them
//! (`defib ports --verify`); and at random moments all clients stop, and what is counted is compared with what `ss` shows, and
//! once more in the end. No difference is allowed. Before all of it nothing happens at all, and whoever wakes up is counted.

mod alone;
mod rates;
mod series;
mod stops;
mod traffic;

use std::fs;
use std::net::{Ipv4Addr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::cage::Cage;
use super::peers::defib;
use super::section::{Row, Section, Table};
use super::subject::Subject;
use super::{Bench, clock, tree};
use crate::packages;
use alone::Pairs;
use rates::Rates;
use series::{Series, Turn};
use stops::Found;
use traffic::Traffic;

/// Ports that are watched.
const PORTS: u16 = 50;

/// For how long wrk asks in a pass, and in a quick look.
const PASS: [u64; 2] = [5, 2];

/// Who counts, by the probes.
const BY_PROBES: [Turn; 3] = [Turn::Nobody, Turn::Others, Turn::Probes];

/// Who counts, by the ends of sockets.
const BY_ENDS: [Turn; 2] = [Turn::Nobody, Turn::Ends];

/// For how long ports that are counted and not are compared, and in a quick look.
const PAIRS: [Duration; 2] = [Duration::from_secs(30), Duration::from_secs(3)];

/// Rounds: of one thread, of the server with probes, and without; and in a quick look.
const ROUNDS: [[usize; 3]; 2] = [[100, 60, 20], [2, 2, 2]];

/// Times that all traffic stops, each after a second count under load, and in a quick look.
const STOPS: [usize; 2] = [100, 20];

/// Connections that are held meanwhile.
const HELD: usize = 10_000;

/// How long a start may have its after-effects.
const SETTLE: Duration = Duration::from_millis(700);

/// The kernel's switch for figures of programs.
const FIGURES: &str = "/proc/sys/kernel/bpf_stats_enabled";

pub(super) fn measure(bench: &Bench) -> Result<Section> {
    let quick = usize::from(bench.options.quick);
    tools()?;
    let (folder, cage) = bench.arena.stall()?;
    let server = Nginx::start(&folder, cage)?;
    let listeners = Traffic::listen()?;
    let second = listeners[0].local_addr()?.port();
    let launch = |source| launch(bench, source, &[server.port, second]);

    let idle = {
        let subject = launch(Some("ebpf"))?;
        clock::sleep(2 * SETTLE);
        idle(&subject, bench.options.window)
    };
    let [one, by_probes, by_ends] = ROUNDS[quick];
    let rates = Rates {
        pairs: Pairs::measure(bench, PAIRS[quick])?,
        one: Series::of_one(bench, &BY_PROBES[..2], one)?,
        by_probes: Series::of_server(bench, server.port, &BY_PROBES, by_probes)?,
        by_ends: Series::of_server(bench, server.port, &BY_ENDS, by_ends)?,
    };
    let subject = launch(Some("ebpf"))?;
    clock::sleep(SETTLE);
    let cost = cost(&subject, server.port, PASS[quick])?;
    let mut traffic = Traffic::start(listeners, server.port, HELD)?;
    let verify = || -> Result<Value> {
        let mut command = Command::new(&bench.programs.defib);
        let ports = [server.port, second].map(|port| port.to_string());
        command.args(["ports", "--json", "--verify", "--runtime-dir"]).arg(subject.folder().join("run"));
        let output = command.args(ports).output()?;
        serde_json::from_slice(&output.stdout).context("defib ports says no JSON")
    };
    let how_much = (HELD, STOPS[quick]);
    let found = stops::compare(&subject, server.port, &mut traffic, how_much, bench.options.window, verify)?;
    section(&rates, &cost, &found, idle)
}

/// Installs what is missing of the programs that this takes.
fn tools() -> Result<()> {
    let there = |program: &str| {
        ["/usr/sbin", "/usr/bin", "/sbin", "/bin"]
            .iter()
            .any(|folder| Path::new(folder).join(program).is_file())
    };
    let wanted = [("nginx", "nginx-light"), ("wrk", "wrk"), ("ss", "iproute2")];
    let missing: Vec<&str> =
        wanted.iter().filter(|(program, _)| !there(program)).map(|(_, package)| *package).collect();
    if missing.is_empty() {
        return Ok(());
    }
    println!("The bench `counting` needs {}.", missing.join(", "));
    packages::install(&missing, packages::Advice::default())
}

/// Starts a defib without services that watches ports by this source, or none.
fn launch(bench: &Bench, source: Option<&'static str>, busy: &[u16]) -> Result<Subject> {
    let options = defib::Options { source: source.unwrap_or("pidfd"), ..defib::Options::PLAIN };
    let mut subject = Subject::launch("defib", &bench.arena, &bench.programs, &[], |stage| {
        let setup = defib::setup(stage, options)?;
        if source.is_some() {
            fs::write(stage.folder.join("defib.toml"), config(busy))?;
        }
        Ok(setup)
    })?;
    subject.await_line("supervises")?;
    Ok(subject)
}

/// The configuration of a defib that watches these ports, and as many more as there are to be.
fn config(busy: &[u16]) -> String {
    let quiet = 1..=PORTS - busy.len() as u16;
    let ports: Vec<String> = busy.iter().copied().chain(quiet).map(|port| port.to_string()).collect();
    format!("[ports]\nwatch = [{}]\n", ports.join(", "))
}

/// A server with one worker. It ends with this.
struct Nginx {
    child: Child,
    /// So that it ends in any case.
    _cage: Cage,
    port: u16,
}

impl Nginx {
    fn start(folder: &Path, cage: Cage) -> Result<Self> {
        let port = Traffic::listen()?[0].local_addr()?.port();
        let (config, here) = (folder.join("nginx.conf"), folder.display());
        fs::write(
            &config,
            format!(
                "daemon off; pid {here}/nginx.pid; error_log {here}/error.log; worker_processes 1;\n\
                 events {{ worker_connections 12288; }}\n\
                 http {{ access_log off; keepalive_timeout 0; client_header_timeout 1h;\n\
                 server {{ listen 127.0.0.1:{port} backlog=4096; listen [::1]:{port} backlog=4096; location / {{ return 200 'ok'; }} }} }}\n"
            ),
        )?;
        let mut nginx = Command::new("nginx");
        nginx.arg("-p").arg(folder).arg("-c").arg(config);
        let child = cage.wrap(&nginx).stdin(Stdio::null()).stderr(Stdio::null()).spawn();
        let child = child.context("no nginx: apt-get install nginx-light")?;
        let server = Self { child, _cage: cage, port };
        let up = || Ok(TcpStream::connect((Ipv4Addr::LOCALHOST, port)).ok());
        clock::wait(Duration::from_secs(5), up)?.context("nginx does not listen")?;
        Ok(server)
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // Its worker leaves with it, told by a signal that it can act on.
        if let Some(pid) = rustix::process::Pid::from_raw(self.child.id() as i32) {
            rustix::process::kill_process(pid, rustix::process::Signal::TERM).ok();
        }
        self.child.wait().ok();
    }
}

fn wrk_command(host: &str, port: u16, clients: usize, seconds: u64) -> Command {
    let mut wrk = Command::new("wrk");
    let (clients, time) = (format!("-c{clients}"), format!("{seconds}s"));
    wrk.args(["-t1", &clients, "-H", "Connection: close", "-d", &time, &format!("http://{host}:{port}/")]);
    wrk
}

/// Requests a second.
fn wrk(port: u16, seconds: u64) -> Result<f64> {
    let said = wrk_command("127.0.0.1", port, 32, seconds).output().context("no wrk: apt-get install wrk")?;
    let text = String::from_utf8_lossy(&said.stdout);
    let rate = text.lines().find_map(|line| line.strip_prefix("Requests/sec:")?.trim().parse().ok());
    rate.with_context(|| format!("wrk says no rate: {text}"))
}

/// What the probes have taken.
#[derive(Debug)]
struct Cost {
    connections: u64,
    nanoseconds: u64,
    runs: u64,
    /// How often the kernel did not run the first of them, and the second.
    skipped: Vec<u64>,
}

/// Lets the kernel take the time of the probes for a pass.
fn cost(subject: &Subject, port: u16, seconds: u64) -> Result<Cost> {
    struct Restored(String);
    impl Drop for Restored {
        fn drop(&mut self) {
            fs::write(FIGURES, &self.0).ok();
        }
    }
    let daemon = tree::daemon_of(subject.pid())?;
    let _restored = Restored(fs::read_to_string(FIGURES)?);
    fs::write(FIGURES, "1")?;
    let before = probes(daemon)?;
    let requests = wrk(port, seconds)? * seconds as f64;
    let after = probes(daemon)?;
    ensure!(after.len() == 2, "{} probes of connections instead of two", after.len());
    let sum = |probes: &[[u64; 3]], index: usize| probes.iter().map(|probe| probe[index]).sum::<u64>();
    Ok(Cost {
        connections: requests as u64,
        nanoseconds: sum(&after, 0) - sum(&before, 0),
        runs: sum(&after, 1) - sum(&before, 1),
        skipped: after.iter().map(|probe| probe[2]).collect(),
    })
}

/// Time, runs and skipped runs of the programs at `inet_sock_set_state`, by their numbers.
fn probes(daemon: u32) -> Result<Vec<[u64; 3]>> {
    let infos: Vec<String> = fs::read_dir(format!("/proc/{daemon}/fdinfo"))?
        .flatten()
        .filter_map(|entry| fs::read_to_string(entry.path()).ok())
        .collect();
    let number = |info: &str, name: &str| {
        info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')?.trim().parse::<u64>().ok())
    };
    let links = infos.iter().filter(|info| info.contains("inet_sock_set_state"));
    let mut ids: Vec<u64> = links.filter_map(|info| number(info, "prog_id")).collect();
    ids.sort_unstable();
    ids.dedup();
    let figures = ids.iter().filter_map(|id| {
        let of = |info: &&String| info.contains("run_cnt") && number(info, "prog_id") == Some(*id);
        let info = infos.iter().find(of)?;
        Some([number(info, "run_time_ns")?, number(info, "run_cnt")?, number(info, "recursion_misses")?])
    });
    Ok(figures.collect())
}

/// Context switches of defib while nothing happens.
fn idle(subject: &Subject, window: Duration) -> u64 {
    let counts = || -> Vec<_> {
        let pids = subject.supervising();
        pids.iter().filter_map(|pid| tree::switches(*pid).ok()).collect()
    };
    let before = counts();
    clock::sleep(window);
    before.iter().zip(&counts()).map(|(before, after)| tree::difference(before, after)).sum()
}

fn section(rates: &Rates, cost: &Cost, found: &Found, idle: u64) -> Result<Section> {
    let (mut tables, ratios) = rates.tables()?;
    let each = cost.nanoseconds as f64 / cost.connections.max(1) as f64;
    let row = |name: &str, cell: String| Row::new(name, vec![cell]);
    let differences = match found.differences.len() {
        0 => "0".to_owned(),
        count => format!("{count}: {}", found.differences.join("; ")),
    };
    let [four, six] = found.most;
    tables.push(Table {
        caption: "the probes, and what they counted".to_owned(),
        columns: vec![""],
        rows: vec![
            row("time in the probes, for each connection", format!("{each:.0} ns")),
            row("runs skipped of the first probe, and the second", format!("{:?}", cost.skipped)),
            row("second counts under load that were equal", format!("{} of {}", found.equal, found.looks)),
            row(
                "stops at which counts were compared with ss",
                (found.stops - found.restless.min(found.stops)).to_string(),
            ),
            row("the most connections at a stop, IPv4 and IPv6", format!("{four}, {six}")),
            row("differences, at stops and in the end", differences),
            row("connections that were counted meanwhile", found.counted.to_string()),
            row("context switches while nothing happens", idle.to_string()),
        ],
    });
    Ok(Section {
        key: "counting",
        title: "what it costs to count connections, and whether the counts are right".to_owned(),
        notes: vec![
            format!("{PORTS} watched ports; nginx, one worker; wrk, 32 at a time, a connection each request"),
            format!(
                "stops: wrk over both families, beside {} held connections, and others that are reset or half closed",
                found.held
            ),
        ],
        tables,
        panels: Vec::new(),
        json: json!({
            "ports": PORTS, "ratios": ratios, "nanoseconds_a_connection": each, "runs": cost.runs,
            "connections": cost.connections, "skipped": cost.skipped, "equal": found.equal, "looks": found.looks,
            "stops": found.stops, "restless": found.restless, "differences": found.differences,
            "held": found.held, "most_at_a_stop": { "ipv4": four, "ipv6": six }, "made": found.made,
            "opened": found.opened, "counted": found.counted, "reseeds": found.reseeds, "idle_switches": idle,
        }),
    })
}
