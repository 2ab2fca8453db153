//! Standing orders: the keeper restarts by itself what the daemon has decided beforehand. Here the daemon is stopped, so
//! that nobody else can have done it.

use std::fs;

use defib_tests::{Daemon, lives, patiently, pid, signal};
use serde_json::Value;

/// Notes the pid of each of its lives.
const NOTED: &str = r#"
[service.it]
command = ["sh", "-c", "echo $$ >> {dir}/lives; exec sleep 1000"]
"#;

fn noted(restart: &str) -> String {
    format!("{NOTED}restart = {{ {restart} }}\n")
}

/// The pids of all lives that have begun so far, once there are `count`.
fn lives_of(daemon: &Daemon, count: usize) -> Vec<u32> {
    patiently(&format!("life {count}"), || {
        let text = fs::read_to_string(daemon.path("lives")).unwrap_or_default();
        let pids: Vec<u32> = text.lines().filter_map(|line| line.parse().ok()).collect();
        (pids.len() >= count).then_some(pids)
    })
}

/// A daemon that does nothing while this lives.
struct Stopped(u32);

impl Stopped {
    fn new(daemon: &Daemon) -> Self {
        let pid = daemon.daemon();
        signal(pid, libc::SIGSTOP);
        Self(pid)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        if lives(self.0) {
            signal(self.0, libc::SIGCONT);
        }
    }
}

#[test]
fn a_service_is_restarted_while_the_daemon_stands_still_and_every_end_is_told_later() {
    let daemon = Daemon::start(&noted("immediate = 100, max_restarts = \"none\""));
    daemon.wait_state("it", "running");
    let stopped = Stopped::new(&daemon);
    for life in 1..=20 {
        let pids = lives_of(&daemon, life);
        signal(pids[life - 1], if life % 2 == 0 { libc::SIGKILL } else { libc::SIGSEGV });
    }
    let pids = lives_of(&daemon, 21);
    drop(stopped);
    let status = daemon.wait("it", "in life 21", |it| it["incarnation"] == 21 && it["state"] == "running");
    assert_eq!((pid(&status), &status["restarts"]), (pids[20], &Value::from(20)));
    let exits = daemon.events_of("it", "exit");
    let told: Vec<_> = exits.iter().map(|exit| (exit["incarnation"].as_u64(), pid(exit))).collect();
    let expected: Vec<_> = (1..=20).zip(&pids).map(|(life, pid)| (Some(life), *pid)).collect();
    assert_eq!(told, expected);
    for (exit, signal) in exits.iter().zip(["SIGSEGV", "SIGKILL"].iter().cycle()) {
        assert_eq!(exit["signal"], *signal, "{exit}");
    }
    assert_eq!(daemon.events_of("it", "restart").len(), 20);
}

#[test]
fn the_budget_is_that_of_the_series() {
    let daemon = Daemon::start(&noted("immediate = 2, delays = [\"1h\"]"));
    daemon.wait_state("it", "running");
    let stopped = Stopped::new(&daemon);
    for life in 1..=3 {
        signal(lives_of(&daemon, life)[life - 1], libc::SIGKILL);
    }
    drop(stopped);
    let status = daemon.wait_state("it", "retrying");
    assert_eq!((&status["incarnation"], &status["restarts"]), (&Value::from(3), &Value::from(3)));
    assert_eq!(lives_of(&daemon, 3).len(), 3);
}

#[test]
fn an_end_that_the_policy_spares_is_not_followed() {
    let daemon = Daemon::start(
        "[service.it]\ncommand = [\"sh\", \"-c\", \"trap 'exit 0' USR1; echo $$ >> {dir}/lives; while :; do sleep 0.05; done\"]\n\
         restart = { immediate = 100 }\n",
    );
    daemon.wait_state("it", "running");
    let stopped = Stopped::new(&daemon);
    let victim = lives_of(&daemon, 1)[0];
    signal(victim, libc::SIGUSR1);
    patiently("its end", || (!lives(victim)).then_some(()));
    drop(stopped);
    assert_eq!(daemon.wait_state("it", "stopped")["incarnation"], 1);
    assert_eq!(lives_of(&daemon, 1).len(), 1);
}

/// The stop is asked of a life that has been followed meanwhile: it holds for the next one.
#[test]
fn a_stop_that_crosses_a_restart_stops_what_there_is() {
    let daemon = Daemon::start(&noted("immediate = 100"));
    for round in 0..5 {
        daemon.ask(&["start", "it"]);
        let before = lives_of(&daemon, 1 + 2 * round);
        let stopped = Stopped::new(&daemon);
        let mut asked = daemon.command(&["stop", "it"]).spawn().expect("it runs");
        signal(before[2 * round], libc::SIGKILL);
        let after = lives_of(&daemon, 2 + 2 * round);
        drop(stopped);
        assert!(asked.wait().expect("an end").success());
        let status = daemon.status("it");
        assert_eq!(status["state"], "stopped", "{status}");
        assert!(!lives(after[1 + 2 * round]));
        assert_eq!(lives_of(&daemon, 1).len(), 2 + 2 * round, "nothing was started after the answer");
    }
}

#[test]
fn a_pause_that_was_answered_holds_without_the_daemon() {
    let daemon = Daemon::start(&noted("immediate = 100"));
    daemon.wait_state("it", "running");
    let said = daemon.ask(&["pause", "it"]);
    assert!(said.contains("paused"), "{said}");
    let stopped = Stopped::new(&daemon);
    signal(lives_of(&daemon, 1)[0], libc::SIGKILL);
    drop(stopped);
    let status = daemon.wait_state("it", "failed");
    assert_eq!(status["incarnation"], 1);
    daemon.ask(&["resume", "it"]);
    daemon.wait("it", "in its second life", |it| it["incarnation"] == 2 && it["state"] == "running");

    // It stands again.
    let stopped = Stopped::new(&daemon);
    signal(lives_of(&daemon, 2)[1], libc::SIGKILL);
    lives_of(&daemon, 3);
    drop(stopped);
}

#[test]
fn leftovers_are_ended_before_the_next_life() {
    let daemon = Daemon::start(
        "[service.it]\ncommand = [\"sh\", \"-c\", \"sleep 1000 & echo $! >> {dir}/left; echo $$ >> {dir}/lives; wait\"]\n\
         restart = { immediate = 100 }\n",
    );
    daemon.wait_state("it", "running");
    let stopped = Stopped::new(&daemon);
    for life in 1..=5 {
        let pids = lives_of(&daemon, life);
        let left = fs::read_to_string(daemon.path("left")).expect("a file");
        let left: Vec<u32> = left.lines().filter_map(|line| line.parse().ok()).collect();
        assert!(lives(left[life - 1]));
        signal(pids[life - 1], libc::SIGKILL);
        lives_of(&daemon, life + 1);
        assert!(!lives(left[life - 1]), "life {life} left somebody behind");
    }
    drop(stopped);
    daemon.wait("it", "in life 6", |it| it["incarnation"] == 6 && it["state"] == "running");
}

/// The daemon dies too; what it decided stands.
#[test]
fn restarts_go_on_between_two_daemons() {
    let daemon = Daemon::start(&noted("immediate = 100, max_restarts = \"none\""));
    daemon.wait_state("it", "running");
    let first = daemon.daemon();
    let stopped = Stopped::new(&daemon);
    for life in 1..=3 {
        signal(lives_of(&daemon, life)[life - 1], libc::SIGKILL);
    }
    signal(first, libc::SIGKILL);
    for life in 4..=6 {
        signal(lives_of(&daemon, life)[life - 1], libc::SIGKILL);
    }
    drop(stopped);
    let status = daemon.wait("it", "in life 7", |it| it["incarnation"] == 7 && it["state"] == "running");
    assert_eq!(status["restarts"], 6);
    assert_eq!(daemon.events_of("it", "exit").len(), 6, "the next daemon tells of every end");
}

#[test]
fn nothing_is_followed_once_defib_is_asked_to_end() {
    let mut daemon = Daemon::start(&noted("immediate = 100"));
    daemon.wait_state("it", "running");
    let stopped = Stopped::new(&daemon);
    let victim = lives_of(&daemon, 1)[0];
    signal(daemon.keeper(), libc::SIGTERM);
    signal(victim, libc::SIGKILL);
    patiently("its end", || (!lives(victim)).then_some(()));
    drop(stopped);
    assert_eq!(daemon.exit_code(), 0, "{}", daemon.log());
    assert_eq!(lives_of(&daemon, 1).len(), 1);
}

/// What each life has written is in its own log, though nobody read it meanwhile.
#[test]
fn each_life_has_its_own_output() {
    let daemon = Daemon::start(
        "[service.it]\n\
         command = [\"sh\", \"-c\", \"echo $DEFIB_INCARNATION begins; echo $$ >> {dir}/lives; exec sleep 1000\"]\n\
         restart = { immediate = 100 }\nlog = { layout = \"per-start\", max_files = 20 }\n",
    );
    daemon.wait_state("it", "running");
    let stopped = Stopped::new(&daemon);
    for life in 1..=6 {
        signal(lives_of(&daemon, life)[life - 1], libc::SIGKILL);
    }
    lives_of(&daemon, 7);
    drop(stopped);
    let logs = || {
        let folders = fs::read_dir(daemon.path("log/it")).into_iter().flatten().flatten();
        let texts = folders.map(|folder| fs::read_to_string(folder.path().join("output.log")));
        let mut logs: Vec<_> = texts.map(Result::unwrap_or_default).collect();
        logs.sort();
        logs
    };
    patiently("the last line", || logs().concat().contains("7 begins\n").then_some(()));
    assert_eq!(logs(), (1..=7).map(|life| format!("{life} begins\n")).collect::<Vec<_>>());
}
