//! What outlives keeper and daemon: the state database.

use std::fs;
use std::path::PathBuf;

use defib_tests::{Daemon, Options, patiently, signal};
use serde_json::Value;

fn pid(status: &Value) -> u32 {
    status["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok()).expect("a pid")
}

/// Another defib on the state directory of an earlier one.
fn again(config: &str, earlier: &Daemon) -> Daemon {
    Daemon::start_with(config, &on(earlier.path("state")))
}

fn on(state: PathBuf) -> Options {
    let state = state.into_os_string().into_string().expect("UTF-8");
    // The last flag of a kind wins.
    Options { args: vec!["--state-dir".into(), state], ..Options::default() }
}

const FOUR: &str = r#"
[service.a]
command = "sleep 1000"
restart = { immediate = 256, max_restarts = "none" }
[service.off]
command = "sleep 1000"
[service.held]
command = "sleep 1000"
[service.manual]
command = "sleep 1000"
autostart = false
"#;

/// `disable`, `pause`, counters and the last end; what was started by hand is not, and the number of no life comes twice.
#[test]
fn what_operators_decided_outlives_a_stop_of_defib() {
    let mut first = Daemon::start(FOUR);
    signal(pid(&first.wait_state("a", "running")), libc::SIGKILL);
    first.wait("a", "in its second life", |it| it["incarnation"] == 2 && it["state"] == "running");
    first.ask(&["disable", "off"]);
    first.ask(&["pause", "held"]);
    first.ask(&["start", "manual"]);
    first.ask(&["daemon", "stop"]);
    assert_eq!(first.exit_code(), 0, "{}", first.log());

    let second = again(FOUR, &first);
    let a = second.wait_state("a", "running");
    assert_eq!((&a["incarnation"], &a["restarts"]), (&3.into(), &1.into()), "{a}");
    assert_eq!(a["last_exit"]["by"], "shutdown", "{a}");
    let off = second.wait_state("off", "disabled");
    assert_eq!(off["enabled"], false);
    assert_eq!(second.cli(&["start", "off"]).code, 6);
    let held = second.wait_state("held", "running");
    signal(pid(&held), libc::SIGKILL);
    second.wait_state("held", "failed");
    second.wait_state("manual", "stopped");
    second.ask(&["enable", "off"]);
    second.ask(&["resume", "held"]);
    second.wait_state("held", "running");
}

/// Keeper and daemon are killed at once: what was stopped stays so, what ran is there again.
#[test]
fn what_was_so_stays_so_when_keeper_and_daemon_are_killed() {
    let mut first = Daemon::start(FOUR);
    first.wait_state("a", "running");
    first.ask(&["stop", "off"]);
    first.ask(&["start", "manual"]);
    let text = |query: &str| sqlite(&first.path("state").join("state.db"), query);
    patiently("the database to have it all", || {
        let lives = text("SELECT count(*) FROM service WHERE life_pid IS NOT NULL");
        (lives == "3" && text("SELECT memo LIKE '%Stopped%' FROM service WHERE name = 'off'") == "1")
            .then_some(())
    });
    let daemon = first.daemon();
    signal(first.keeper(), libc::SIGKILL);
    signal(daemon, libc::SIGKILL);
    assert_eq!(first.exit_code(), -1);

    let second = again(FOUR, &first);
    second.wait_state("manual", "running");
    second.wait_state("a", "running");
    assert_eq!(second.status("off")["state"], "stopped", "nobody has asked for it since");
}

/// sqlite3's answer, by the library that every defib has: a copy is read, so that nothing is disturbed.
fn sqlite(path: &std::path::Path, query: &str) -> String {
    let output = std::process::Command::new("sqlite3").arg("-readonly").arg(path).arg(query).output();
    let output = output.expect("sqlite3 is needed for this test");
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

#[test]
fn a_service_that_is_configured_no_longer_is_forgotten() {
    let mut first = Daemon::start(FOUR);
    first.ask(&["disable", "off"]);
    first.ask(&["daemon", "stop"]);
    assert_eq!(first.exit_code(), 0);
    let mut second = again("[service.a]\ncommand = \"sleep 1000\"\n", &first);
    second.wait_state("a", "running");
    second.ask(&["daemon", "stop"]);
    assert_eq!(second.exit_code(), 0);
    let third = again(FOUR, &first);
    third.wait_state("off", "running");
    assert!(fs::metadata(first.path("state").join("state.db")).is_ok());
}
