//! What it costs to count connections, and whether the counts are right.
//!
//! wrk asks an nginx for a small page, each time over a new connection, which is the worst that a server can have of this:
//! beside a defib without probes, and beside one that watches fifty ports, that of nginx among them. Both take turns, and
//! which is first, too; a second pass without probes in each round is the control. Then the kernel's own figures are read
//! of what the two probes take (`kernel.bpf_stats_enabled`, which costs something itself), counts are compared with the
//! sockets at instants of which nobody knows what happens in them, and in the end with what `ss` shows. Before all of it
//! nothing happens at all, and whoever wakes up is counted.

use std::fs;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};

use super::cage::Cage;
use super::peers::defib;
use super::section::{Row, Section, Table};
use super::stats::Spread;
use super::subject::Subject;
use super::{Bench, clock, tree};

/// Ports that are watched.
const PORTS: u16 = 50;

/// For how long wrk asks in a pass, and in a quick look.
const PASS: [u64; 2] = [5, 2];

/// Rounds, and in a quick look.
const ROUNDS: [usize; 2] = [8, 2];

/// Times that a count is compared with the sockets.
const LOOKS: [usize; 2] = [200, 20];

/// How long a start may have its after-effects.
const SETTLE: Duration = Duration::from_millis(700);

/// The kernel's switch for figures of programs.
const FIGURES: &str = "/proc/sys/kernel/bpf_stats_enabled";

pub(super) fn measure(bench: &Bench) -> Result<Section> {
    let quick = usize::from(bench.options.quick);
    let (folder, cage) = bench.arena.stall()?;
    let server = Nginx::start(&folder, cage)?;
    let launch = |source| launch(bench, source, server.port);

    let idle = {
        let subject = launch("ebpf")?;
        clock::sleep(2 * SETTLE);
        idle(&subject, bench.options.window)
    };
    let (mut ratios, mut controls, mut rates) = (Vec::new(), Vec::new(), Vec::new());
    for round in 0..ROUNDS[quick] {
        let pass = |source| -> Result<f64> {
            let _subject = launch(source)?;
            clock::sleep(SETTLE);
            wrk(server.port, PASS[quick])
        };
        let (on, off) = if round % 2 == 0 {
            let off = pass("pidfd")?;
            (pass("ebpf")?, off)
        } else {
            let on = pass("ebpf")?;
            (on, pass("pidfd")?)
        };
        let control = pass("pidfd")?;
        ratios.push(on / off);
        controls.push(control / off);
        rates.push(off);
    }
    let subject = launch("ebpf")?;
    clock::sleep(SETTLE);
    let cost = cost(&subject, server.port, PASS[quick])?;
    let looks = looks(&subject, bench, server.port, LOOKS[quick])?;
    section(ratios, controls, rates, &cost, &looks, idle)
}

/// Starts a defib that watches ports, without services.
fn launch(bench: &Bench, source: &'static str, port: u16) -> Result<Subject> {
    let ports: Vec<String> = std::iter::once(port).chain(1..PORTS).map(|port| port.to_string()).collect();
    let options = defib::Options { source, ..defib::Options::PLAIN };
    let mut subject = Subject::launch("defib", &bench.arena, &bench.programs, &[], |stage| {
        let setup = defib::setup(stage, options)?;
        let config = format!("[ports]\nwatch = [{}]\n", ports.join(", "));
        fs::write(stage.folder.join("defib.toml"), config)?;
        Ok(setup)
    })?;
    subject.await_line("supervises")?;
    Ok(subject)
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
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        let (config, here) = (folder.join("nginx.conf"), folder.display());
        fs::write(
            &config,
            format!(
                "daemon off; pid {here}/nginx.pid; error_log {here}/error.log; worker_processes 1;\n\
                 events {{ worker_connections 4096; }}\n\
                 http {{ access_log off; keepalive_timeout 0;\n\
                 server {{ listen 127.0.0.1:{port} backlog=4096; location / {{ return 200 'ok'; }} }} }}\n"
            ),
        )?;
        let mut nginx = Command::new("nginx");
        nginx.arg("-p").arg(folder).arg("-c").arg(config);
        let child = cage.wrap(&nginx).stdin(Stdio::null()).stderr(Stdio::null()).spawn();
        let child = child.context("no nginx: apt-get install nginx-light wrk iproute2")?;
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

fn wrk_command(port: u16, seconds: u64) -> Command {
    let mut wrk = Command::new("wrk");
    let time = format!("{seconds}s");
    wrk.args(["-t1", "-c32", "-H", "Connection: close", "-d", &time, &format!("http://127.0.0.1:{port}/")]);
    wrk
}

/// Requests a second.
fn wrk(port: u16, seconds: u64) -> Result<f64> {
    let said = wrk_command(port, seconds).output().context("no wrk: apt-get install wrk")?;
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

/// What comparisons of the counts with the sockets gave.
#[derive(Debug)]
struct Looks {
    equal: usize,
    all: usize,
    reseeds: u64,
    counted: u64,
    shown: u64,
    opened: u64,
}

fn looks(subject: &Subject, bench: &Bench, port: u16, all: usize) -> Result<Looks> {
    let ask = |verify: bool| -> Result<Value> {
        let mut command = Command::new(&bench.programs.defib);
        command
            .args(["ports", "--json", &port.to_string(), "--runtime-dir"])
            .arg(subject.folder().join("run"));
        let output = command.args(verify.then_some("--verify")).output()?;
        serde_json::from_slice(&output.stdout).context("defib ports says no JSON")
    };
    let mut load = wrk_command(port, 600).stdout(Stdio::null()).spawn()?;
    let mut equal = 0;
    let mut seed = clock::now();
    for _ in 0..all {
        equal += usize::from(ask(true)?["verify"]["equal"] == true);
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        clock::sleep(Duration::from_micros(seed >> 50));
    }
    // Killed in the middle of it: so the last connections are reset.
    load.kill()?;
    load.wait()?;
    clock::sleep(SETTLE);
    let row = ask(false)?;
    let shown = Command::new("ss")
        .args(["-Htn", "state", "established", &format!("( sport = :{port} )")])
        .output()?;
    let number = |name: &str| row["ports"][0][name].as_u64().with_context(|| format!("no {name}: {row}"));
    Ok(Looks {
        equal,
        all,
        reseeds: row["reseeds"].as_u64().unwrap_or(0),
        counted: number("active")?,
        shown: shown.stdout.iter().filter(|byte| **byte == b'\n').count() as u64,
        opened: number("opened")?,
    })
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

fn section(
    ratios: Vec<f64>,
    controls: Vec<f64>,
    rates: Vec<f64>,
    cost: &Cost,
    looks: &Looks,
    idle: u64,
) -> Result<Section> {
    let (Some(ratio), Some(control), Some(rate)) =
        (Spread::of(ratios), Spread::of(controls), Spread::of(rates))
    else {
        bail!("nothing was measured");
    };
    let each = cost.nanoseconds as f64 / cost.connections.max(1) as f64;
    let spread = |it: Spread| format!("{:.3} ({:.3}–{:.3})", it.median, it.min, it.max);
    let row = |name: &str, cell: String| Row::new(name, vec![cell]);
    Ok(Section {
        key: "counting",
        title: "what it costs to count connections, and whether the counts are right".to_owned(),
        notes: vec![format!(
            "{PORTS} watched ports; nginx, one worker; wrk, 32 at a time, a connection each request"
        )],
        tables: vec![Table {
            caption: String::new(),
            columns: vec![""],
            rows: vec![
                row("requests a second, not counted", format!("{:.0}", rate.median)),
                row("the same counted, as a ratio", spread(ratio)),
                row("control: not counted once more", spread(control)),
                row("time in the probes, for each connection", format!("{each:.0} ns")),
                row("runs skipped of the first probe, and the second", format!("{:?}", cost.skipped)),
                row("second counts under load that were equal", format!("{} of {}", looks.equal, looks.all)),
                row("in the end: counted, by ss", format!("{}, {}", looks.counted, looks.shown)),
                row("connections that were counted meanwhile", looks.opened.to_string()),
                row("context switches while nothing happens", idle.to_string()),
            ],
        }],
        panels: Vec::new(),
        json: json!({
            "ports": PORTS, "requests_a_second": rate.json(), "ratio": ratio.json(), "control": control.json(),
            "nanoseconds_a_connection": each, "runs": cost.runs, "connections": cost.connections,
            "skipped": cost.skipped, "equal": looks.equal, "looks": looks.all, "reseeds": looks.reseeds,
            "counted": looks.counted, "shown": looks.shown, "opened": looks.opened, "idle_switches": idle,
        }),
    })
}
