//! defib is restarted as another binary, under its services.
#![expect(clippy::disallowed_methods, reason = "tests wait, and run programs")]

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read;
use std::net::{Ipv4Addr, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use defib_tests::{
    Daemon, Lease, Options, SERVER, Said, beside, children, descriptors, free_port, install, install_text,
    lives, patiently, pid, program, signal,
};
use serde_json::Value;

/// A daemon of a copy of defib, which can be exchanged for another.
fn start(config: &str) -> (Daemon, Binary) {
    let folder = tempfile::Builder::new().prefix("defib-binary-").tempdir().expect("a folder");
    let binary = Binary { path: folder.path().join("defib"), _folder: folder };
    binary.install(&program());
    let options = Options { program: Some(binary.path.clone()), ..Options::default() };
    (Daemon::start_with(config, &options), binary)
}

/// Where defib is installed.
struct Binary {
    path: PathBuf,
    _folder: tempfile::TempDir,
}

impl Binary {
    fn install(&self, new: &Path) {
        install(new, &self.path);
    }

    fn write(&self, text: &str, mode: u32) {
        install_text(text, mode, &self.path);
    }
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// The output of a service in its files, oldest first.
fn output(daemon: &Daemon, service: &str) -> String {
    daemon.ask(&["logs", service, "-n", "1000000"])
}

/// A service that ends all the time, one that writes all the time, one that does nothing: over several restarts of defib
/// no end is missed, no line is lost or written twice, and nobody gets another pid.
#[test]
fn no_end_and_no_line_is_lost() {
    let (daemon, binary) = start(
        "[service.steady]\ncommand = \"sleep 1000\"\n\
         [service.crashing]\n\
         command = [\"sh\", \"-c\", \"echo life $DEFIB_INCARNATION; echo $DEFIB_INCARNATION >> {dir}/lives; sleep 0.1; exit 1\"]\n\
         restart = { immediate = 256, max_restarts = \"none\" }\n\
         [service.writing]\n\
         command = [\"sh\", \"-c\", \"i=0; while :; do i=$((i+1)); echo line $i; sleep 0.001; done\"]\n\
         log = { lines = 100000, memory = \"16M\" }\n",
    );
    let before = ["steady", "writing"].map(|name| pid(&daemon.wait_state(name, "running")));
    let keeper = daemon.keeper();
    let mut open = 0;
    for round in 0..5 {
        let old = daemon.daemon();
        if round % 2 == 1 {
            binary.install(&program());
        }
        let said = daemon.ask(&["daemon", "restart"]);
        let new = daemon.daemon();
        let expected = format!("keeper pid {keeper} unchanged, daemon {old} → {new}\n");
        assert!(said.starts_with("defib ") && said.ends_with(&expected), "{said}");
        assert_ne!(old, new);
        // What is under way at the time has some descriptors too.
        match round {
            0 => open = descriptors(keeper),
            _ => assert!(descriptors(keeper) < open + 16, "descriptors are left open"),
        }
    }
    let after = ["steady", "writing"].map(|name| pid(&daemon.wait_state(name, "running")));
    assert_eq!(after, before);
    let exe = fs::read_link(format!("/proc/{keeper}/exe")).expect("a process");
    assert_eq!(exe, binary.path, "the keeper is what was installed last");

    daemon.ask(&["stop", "crashing", "writing"]);
    let status = daemon.status("crashing");
    let noted = read(&daemon.path("lives"));
    let lives: Vec<u64> = noted.lines().filter_map(|line| line.parse().ok()).collect();
    assert!(lives.len() > 5, "{noted}");
    assert_eq!(lives, (1..=lives.len() as u64).collect::<Vec<_>>());
    let latest = status["incarnation"].as_u64().expect("a number");
    // The last one may have been ended before it could note itself.
    assert!(latest == lives.len() as u64 || latest == lives.len() as u64 + 1, "{status}");
    // The next one may have been counted when it was asked to stop.
    let restarts = status["restarts"].as_u64().expect("a number");
    assert!(restarts == latest - 1 || restarts == latest, "{status}");
    let told: Vec<u64> = output(&daemon, "crashing")
        .lines()
        .map(|line| line.strip_prefix("life ").and_then(|number| number.parse().ok()).expect(line))
        .collect();
    assert!(told.len() >= lives.len());
    assert_eq!(told, (1..=told.len() as u64).collect::<Vec<_>>());
    let text = output(&daemon, "writing");
    let lines: Vec<&str> = text.lines().collect();
    let expected: Vec<String> = (1..=lines.len()).map(|number| format!("line {number}")).collect();
    assert!(lines.len() > 100 && lines == expected, "{} lines", lines.len());
}

/// Without root all of it works as well.
#[test]
fn a_user_restarts_a_defib_of_its_own() {
    if !nix::unistd::geteuid().is_root() {
        // Every other test here is that one.
        return;
    }
    const NOBODY: u32 = 65534;
    let folder = tempfile::Builder::new().prefix("defib-binary-").tempdir().expect("a folder");
    fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o755)).expect("permissions");
    let binary = Binary { path: folder.path().join("defib"), _folder: folder };
    binary.install(&program());
    let id = NOBODY.to_string();
    let options = Options {
        before: ["setpriv", "--reuid", &id, "--regid", &id, "--clear-groups"].map(String::from).into(),
        owner: Some(NOBODY),
        program: Some(binary.path.clone()),
        ..Options::default()
    };
    let daemon = Daemon::start_with("[service.it]\ncommand = \"sleep 1000\"\n", &options);
    let before = pid(&daemon.wait_state("it", "running"));
    let old = daemon.daemon();
    binary.install(&program());
    daemon.ask(&["daemon", "restart"]);
    assert_ne!(daemon.daemon(), old);
    assert_eq!(pid(&daemon.wait_state("it", "running")), before);
    signal(before, libc::SIGKILL);
    daemon.wait("it", "in its second life", |it| it["incarnation"] == 2 && it["state"] == "running");
}

/// Whatever lies at the place of the binary, nothing changes if it cannot take over.
#[test]
fn what_cannot_take_over_is_refused_with_the_reason() {
    let (daemon, binary) = start("[service.it]\ncommand = \"sleep 1000\"\n");
    let before = pid(&daemon.wait_state("it", "running"));
    let old = daemon.daemon();
    let refused = |what: &str| {
        let Said { code, out, err } = daemon.cli(&["daemon", "restart"]);
        assert_eq!((code, out.as_str()), (1, ""), "{err}");
        assert!(err.contains(what), "{err}");
        assert_eq!(daemon.daemon(), old);
        assert_eq!(pid(&daemon.status("it")), before);
    };
    binary.write("garbage", 0o755);
    refused("the binary cannot be started: Exec format error");
    binary.write("garbage", 0o644);
    refused("the binary cannot be started: Permission denied");
    binary.write("#!/bin/sh\nexit 0\n", 0o755);
    refused("does not take the hand-over");
    // It ends with exit code 0, whatever it is asked.
    binary.install(Path::new("/bin/true"));
    refused("does not take the hand-over (exit code 0)");
    // It waits for something else.
    binary.install(&beside("victim"));
    refused("does not take the hand-over");
    if nix::unistd::geteuid().is_root() {
        binary.write("garbage", 0o777);
        refused("may be written by others");
    }
    fs::remove_file(&binary.path).expect("a file");
    refused("No such file or directory");
    // A folder is no binary.
    fs::create_dir(&binary.path).expect("a folder");
    refused("is a folder");
    fs::remove_dir(&binary.path).expect("a folder");

    binary.install(&program());
    daemon.ask(&["daemon", "restart"]);
    assert_ne!(daemon.daemon(), old);
    assert_eq!(pid(&daemon.wait_state("it", "running")), before);
}

/// The keeper of the new binary works, and its daemon does not: after three of them the old binary is back.
#[test]
fn a_binary_whose_daemon_does_not_supervise_is_taken_back() {
    let (daemon, binary) = start(
        "[service.steady]\ncommand = \"sleep 1000\"\n\
         [service.crashing]\ncommand = [\"sh\", \"-c\", \"sleep 0.05; exit 1\"]\n\
         restart = { immediate = 256, max_restarts = \"none\" }\n",
    );
    let before = pid(&daemon.wait_state("steady", "running"));
    let (keeper, old) = (daemon.keeper(), daemon.daemon());
    binary.install(&beside("halfling"));
    let Said { code, out, err } = daemon.cli(&["daemon", "restart"]);
    assert_eq!(code, 1, "{out}{err}");
    let new = daemon.daemon();
    assert!(out.contains(&format!("keeper pid {keeper} unchanged, daemon {old} → {new}")), "{out}");
    assert!(
        err.contains("ended 3 times before it supervised, at last by exit code 1: the binary before is back"),
        "{err}"
    );
    assert!(daemon.log().contains("the binary before is back"));
    assert_eq!(pid(&daemon.wait_state("steady", "running")), before);
    let status = daemon.wait("crashing", "to have been restarted", |it| it["state"] == "running");
    assert_eq!(status["restarts"], status["incarnation"].as_u64().expect("a number") - 1);

    // What has failed once may go well again.
    binary.install(&program());
    let said: Value = serde_json::from_str(&daemon.ask(&["daemon", "restart", "--json"])).expect("JSON");
    assert_eq!((&said["result"], &said["after"]["restart_failure"]), (&"done".into(), &Value::Null));
    assert_eq!(said["before"]["daemon"], new);
    assert_eq!(pid(&daemon.wait_state("steady", "running")), before);
}

/// A child hangs between clone3 and the end of its execve: it goes over to the next keeper, and its start with it.
#[test]
fn a_start_that_hangs_goes_over() {
    let (daemon, _binary) = start(
        "[service.slow]\ncommand = \"{dir}/slow 1000\"\nautostart = false\n\
         [service.gone]\ncommand = \"{dir}/gone 1000\"\nautostart = false\nrestart = { policy = \"never\" }\n",
    );
    for name in ["slow", "gone"] {
        install(Path::new("/bin/sleep"), &daemon.path(name));
    }
    let leases =
        ["slow", "gone"].map(|name| Lease::take(&daemon.path(name), &daemon.path(&format!("{name}.told"))));
    daemon.ask(&["start", "slow", "gone", "--no-wait"]);
    let hung = |daemon: &Daemon| {
        let mut hung: Vec<u32> = children(daemon.keeper());
        let supervisor = daemon.daemon();
        hung.retain(|pid| *pid != supervisor);
        hung
    };
    let before = patiently("two children", || Some(hung(&daemon)).filter(|pids| pids.len() == 2));
    daemon.ask(&["daemon", "restart"]);
    assert_eq!(hung(&daemon), before);
    for name in ["slow", "gone"] {
        assert_eq!(daemon.status(name)["state"], "starting");
    }
    // One of them ends before its program runs.
    let [slow, gone] = leases;
    drop(slow);
    let running = daemon.wait_state("slow", "running");
    assert!(before.contains(&pid(&running)) && running["incarnation"] == 1, "{running}");
    daemon.ask(&["daemon", "restart"]);
    assert_eq!(pid(&daemon.wait_state("slow", "running")), pid(&running));
    let other = before.iter().find(|other| **other != pid(&running)).expect("another");
    signal(*other, libc::SIGKILL);
    drop(gone);
    daemon.wait_state("gone", "failed");
    assert!(!lives(*other));
}

#[test]
fn sockets_stay_open() {
    let port = free_port();
    let (daemon, _binary) = start(&format!(
        "[service.it]\ncommand = [\"python3\", \"-Ic\", '''{SERVER}''']\nsockets = [\"tcp:127.0.0.1:{port}\"]\n\
         env = {{ PATH = \"{}\" }}\nrestart = {{ immediate = 100 }}\n",
        std::env::var("PATH").unwrap_or_default()
    ));
    let before = pid(&daemon.wait_state("it", "running"));
    let (stop, answered) = (AtomicBool::new(false), AtomicU32::new(0));
    std::thread::scope(|scope| {
        let client = scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let mut text = String::new();
                let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("an open socket");
                stream.read_to_string(&mut text).expect("an answer");
                assert_eq!(text.trim().parse::<u32>().ok(), Some(before));
                answered.fetch_add(1, Ordering::Relaxed);
            }
        });
        for _ in 0..3 {
            daemon.ask(&["daemon", "restart"]);
        }
        stop.store(true, Ordering::Relaxed);
        client.join().expect("no client is refused");
    });
    assert!(answered.into_inner() > 0);
    assert!(!daemon.log().contains("opened anew"), "{}", daemon.log());
    // The next life gets the same socket, from the keeper that was handed it.
    signal(before, libc::SIGKILL);
    daemon.wait("it", "in its second life", |it| it["incarnation"] == 2 && it["state"] == "running");
    TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("an open socket");
}

/// Somebody has stopped the daemon: that is said at once, though nobody watches it.
#[test]
fn a_daemon_that_is_stopped_is_told_of() {
    let daemon = Daemon::start("[service.it]\ncommand = \"sleep 1000\"\n");
    daemon.wait_state("it", "running");
    let stopped = daemon.daemon();
    signal(stopped, libc::SIGSTOP);
    let told = format!("the daemon, process {stopped}, has been stopped by signal 19");
    patiently("the news", || daemon.log().contains(&told).then_some(()));
    signal(stopped, libc::SIGCONT);
    let told = format!("the daemon, process {stopped}, goes on");
    patiently("the news", || daemon.log().contains(&told).then_some(()));
    assert_eq!(daemon.daemon(), stopped);
    daemon.ask(&["stop", "it"]);
}

/// With `watchdog` one that hangs is replaced; after a restart of defib as well, and after a reload that asks for it.
#[test]
fn a_daemon_that_hangs_is_replaced() {
    let (daemon, _binary) = start("[daemon]\nwatchdog = \"1s\"\n[service.it]\ncommand = \"sleep 1000\"\n");
    let before = pid(&daemon.wait_state("it", "running"));
    let replaced = || {
        let hung = daemon.daemon();
        signal(hung, libc::SIGSTOP);
        patiently("its end", || (!lives(hung)).then_some(()));
        assert_eq!(pid(&daemon.wait_state("it", "running")), before);
        assert_ne!(daemon.daemon(), hung);
    };
    replaced();
    assert!(daemon.log().contains("the daemon does not answer"), "{}", daemon.log());
    daemon.ask(&["daemon", "restart"]);
    replaced();
    fs::write(daemon.path("defib.toml"), "[service.it]\ncommand = \"sleep 1000\"\n").expect("a file");
    let said = daemon.ask(&["reload"]);
    assert!(said.contains("daemon.watchdog: \"1s\" -> \"none\""), "{said}");
    fs::write(
        daemon.path("defib.toml"),
        "[daemon]\nwatchdog = \"2s\"\n[service.it]\ncommand = \"sleep 1000\"\n",
    )
    .expect("a file");
    daemon.ask(&["reload"]);
    replaced();
}

/// What was asked of defib before, it still knows: that it ends, that a service is disabled, that another is paused.
#[test]
fn what_was_asked_before_holds_after() {
    let (mut daemon, _binary) = start(
        "[service.off]\ncommand = \"sleep 1000\"\n[service.paused]\ncommand = \"sleep 1000\"\n\
         [service.stubborn]\ncommand = [\"sh\", \"-c\", \"trap '' TERM; echo > {dir}/ready; while :; do sleep 0.1; done\"]\n\
         stop = { timeout = \"6s\" }\n",
    );
    daemon.wait_state("off", "running");
    daemon.ask(&["disable", "off"]);
    daemon.ask(&["pause", "paused"]);
    patiently("the trap", || daemon.path("ready").exists().then_some(()));
    daemon.ask(&["daemon", "restart"]);
    assert_eq!(daemon.status("off")["state"], "disabled");
    assert_eq!(daemon.status("paused")["paused"], true);
    signal(daemon.keeper(), libc::SIGTERM);
    daemon.wait_state("stubborn", "stopping");
    let Said { code, err, .. } = daemon.cli(&["daemon", "restart"]);
    assert_eq!(code, 1);
    assert!(err.contains("defib is shutting down"), "{err}");
    assert_eq!(daemon.exit_code(), 0, "{}", daemon.log());
}

/// A keeper of the first version, played by a test program, is replaced: every kind of slot goes over, and the memos, which
/// are of a version that nobody knows, lead to no second copy of what lives.
#[test]
fn what_a_keeper_of_version_1_hands_over_is_taken() {
    let text = concat!(env!("CARGO_MANIFEST_DIR"), "/../monitor/src/keeper/handover/version-1.json");
    let before = |folder: &Path| {
        let folder = folder.to_str().expect("UTF-8").to_owned();
        [beside("predecessor").to_str().expect("UTF-8").to_owned(), text.to_owned(), folder]
    };
    let place = tempfile::Builder::new().prefix("defib-version-").tempdir().expect("a folder");
    let mut config = String::new();
    for slot in [0, 2, 3, 4, 5, 6] {
        config.push_str(&format!(
            "[service.it-{slot}]\ncommand = [\"sh\", \"-c\", \"echo $$ >> {}/lives-{slot}; exec sleep 1000\"]\n\
             restart = {{ delays = [\"10ms\"] }}\n",
            place.path().display()
        ));
    }
    let options = Options { before: before(place.path()).into(), ..Options::default() };
    let daemon = Daemon::launch(&config, &options);
    let running: BTreeMap<u64, Value> = patiently("all services", || {
        // Not by the harness: it puts the predecessor before every verb too.
        let Said { code: 0, out, .. } = defib_tests::defib(&[
            "--runtime-dir",
            daemon.path("run").to_str().expect("UTF-8"),
            "status",
            "--json",
        ]) else {
            return None;
        };
        let status: Value = serde_json::from_str(&out).expect("JSON");
        let services = status["services"].as_array().expect("services").clone();
        let running = services.into_iter().filter(|it| it["state"] == "running");
        let slot = |it: &Value| it["name"].as_str().and_then(|name| name.strip_prefix("it-")?.parse().ok());
        let running: BTreeMap<u64, Value> = running.filter_map(|it| Some((slot(&it)?, it))).collect();
        (running.len() == 6).then_some(running)
    });
    let pids: BTreeMap<u64, u32> = read(&place.path().join("pids"))
        .lines()
        .filter_map(|line| line.split_once(' '))
        .map(|(slot, pid)| (slot.parse().expect("a slot"), pid.parse().expect("a pid")))
        .collect();
    let is = |slot: u64| (pid(&running[&slot]), running[&slot]["incarnation"].as_u64().expect("a number"));
    assert_eq!((is(3), is(4)), ((pids[&3], 1), (pids[&4], 2)), "what lives is left alone");
    for slot in [3, 4] {
        assert_eq!(read(&place.path().join(format!("lives-{slot}"))), "", "and has no second copy");
    }
    // The numbers of lives go on.
    assert_eq!([is(0).1, is(2).1, is(5).1, is(6).1], [8, 9, 5, 5]);
    let log = daemon.log();
    assert!(log.contains("its memo is unreadable: it is taken as the keeper has it"), "{log}");
}

/// A file that is no hand-over, or of a later version, is refused by `--check-handover`, and never by a panic.
#[test]
fn a_hand_over_is_checked() {
    let folder = tempfile::tempdir().expect("a folder");
    let check = |text: &[u8]| {
        let path = folder.path().join("text");
        fs::write(&path, text).expect("a file");
        let mut command = Command::new(program());
        command.args(["daemon", "--check-handover"]).stdin(File::open(&path).expect("a file"));
        let output = command.output().expect("the program runs");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let good = include_bytes!("../../monitor/src/keeper/handover/version-1.json");
    assert_eq!(check(good), (Some(0), "defib understands the hand-over\n".to_owned()));
    for end in [0, 1, 20, good.len() / 2, good.len() - 3] {
        let (code, err) = check(&good[..end]);
        assert!(code == Some(1) && err.starts_with("the hand-over is not understood"), "{end}: {err}");
    }
    let (code, err) = check(br#"{"readable_by": 1000}"#);
    assert!(code == Some(1) && err.contains("wants a reader of version 1000"), "{err}");
}
