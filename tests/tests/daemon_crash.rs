//! The daemon dies, the keeper and the services live on.

use std::fs;
use std::process::Stdio;

use defib_tests::{Daemon, Hunger, Options, lives, patiently, pid, signal};

const THREE: &str = r#"
[service.a]
command = "sleep 1000"
[service.b]
command = "sleep 1000"
restart = { immediate = 256, max_restarts = "none" }
[service.c]
command = "sleep 1000"
autostart = false
"#;

#[test]
fn services_keep_their_pids_and_what_was_asked_is_remembered() {
    let daemon = Daemon::start(THREE);
    let before = ["a", "b"].map(|name| daemon.wait_state(name, "running"));
    daemon.ask(&["disable", "c"]);
    let first = daemon.daemon();
    signal(first, libc::SIGKILL);
    let second = patiently("the next daemon", || Some(daemon.daemon()).filter(|pid| *pid != first));
    assert_ne!(first, second);
    for (name, before) in ["a", "b"].iter().zip(&before) {
        let after = daemon.wait_state(name, "running");
        for field in ["pid", "incarnation", "restarts"] {
            assert_eq!(after[field], before[field], "{name} {field}");
        }
    }
    assert_eq!(daemon.wait_state("c", "disabled")["enabled"], false);

    // It supervises: an end is noticed, and told as fully as before.
    signal(pid(&before[0]), libc::SIGKILL);
    let after =
        daemon.wait("a", "in its second life", |it| it["incarnation"] == 2 && it["state"] == "running");
    assert_eq!(after["last_exit"]["signal"], "SIGKILL");
}

/// A process dies while there is no daemon: its end waits in the keeper.
#[test]
fn no_exit_is_lost_between_two_daemons() {
    let daemon = Daemon::start(THREE);
    let mut lives_lost = 0;
    let mut seen = daemon.wait_state("b", "running");
    for round in 0..10 {
        let old = daemon.daemon();
        let victim = pid(&seen);
        if round % 2 == 0 {
            signal(old, libc::SIGKILL);
            signal(victim, libc::SIGKILL);
        } else {
            signal(victim, libc::SIGKILL);
            signal(old, libc::SIGKILL);
        }
        lives_lost += 1;
        let expected = lives_lost + 1;
        seen = daemon.wait("b", "to be back", |it| it["incarnation"] == expected && it["state"] == "running");
        assert_eq!(seen["restarts"], lives_lost, "round {round}: one end, one restart");
        assert!(!lives(victim));
    }
}

/// However a daemon dies, another one follows, and says how it was.
#[test]
fn every_death_of_a_daemon_is_followed_by_another() {
    let daemon = Daemon::start(THREE);
    let before = pid(&daemon.wait_state("a", "running"));
    let next = |old: u32| {
        let new = patiently("the next daemon", || Some(daemon.daemon()).filter(|pid| *pid != old));
        assert_eq!(pid(&daemon.wait_state("a", "running")), before);
        new
    };
    let first = daemon.daemon();
    // As of a panic, which is one in every build.
    signal(first, libc::SIGABRT);
    let second = next(first);
    assert!(daemon.log().contains("the daemon ended by SIGABRT"), "{}", daemon.log());
    // The out-of-memory killer, who has nobody else to choose.
    if !nix::unistd::geteuid().is_root() {
        eprintln!("no memory cgroup without root: the daemon is not killed for want of memory");
        return;
    }
    let hunger = Hunger::new("daemon");
    // Before there is anybody: a limit below what cannot be taken back from a group is refused.
    hunger.starve();
    fs::write(hunger.folder().join("cgroup.procs"), second.to_string()).expect("root may move it");
    let mut clients = Vec::new();
    for _ in 0..50 {
        let mut client = daemon.command(&["events", "--follow"]);
        client.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        clients.push(client.spawn().expect("a client"));
    }
    let third = next(second);
    for mut client in clients {
        client.kill().expect("a child");
        client.wait().expect("a child");
    }
    assert!(daemon.log().contains("the daemon ended by SIGKILL"), "{}", daemon.log());
    signal(third, libc::SIGKILL);
    next(third);
}

/// The file has changed, or broken, since it was accepted: a daemon that comes back goes on with what it had.
#[test]
fn a_daemon_that_comes_back_does_not_read_the_file_again() {
    let daemon = Daemon::start(THREE);
    let before = daemon.wait_state("a", "running");
    fs::write(daemon.path("defib.toml"), "this is [not TOML").expect("a file");
    signal(daemon.daemon(), libc::SIGKILL);
    assert_eq!(daemon.wait_state("a", "running")["pid"], before["pid"]);
    daemon.ask(&["stop", "a"]);
}

#[test]
fn a_second_daemon_on_the_same_state_is_refused_with_the_holder() {
    let first = Daemon::start(THREE);
    let state = first.path("state").display().to_string();
    let options = Options { args: vec!["--state-dir".into(), state.clone()], ..Options::default() };
    // The last flag of a kind wins.
    let mut second = Daemon::launch(THREE, &options);
    assert_eq!(second.exit_code(), 1);
    let log = second.log();
    assert!(log.contains(&format!("pid {}", first.keeper())) && log.contains(&state), "{log}");
    first.wait_state("a", "running");
}

/// The daemon dies while it ends everything: the next one goes on with that.
#[test]
fn a_request_to_end_outlives_the_daemon() {
    let mut daemon = Daemon::start(
        "[service.it]\ncommand = [\"sh\", \"-c\", \"trap '' TERM; echo ready > {dir}/ready; while :; do sleep 0.1; done\"]\n\
         stop = { timeout = \"6s\" }\n",
    );
    patiently("the trap", || daemon.path("ready").exists().then_some(()));
    let victim = pid(&daemon.wait_state("it", "running"));
    signal(daemon.keeper(), libc::SIGTERM);
    daemon.wait_state("it", "stopping");
    signal(daemon.daemon(), libc::SIGKILL);
    assert_eq!(daemon.exit_code(), 0, "{}", daemon.log());
    assert!(!lives(victim));
}
