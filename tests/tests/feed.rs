//! `defib events --all`: every process of the host, for as long as somebody listens.
#![expect(clippy::disallowed_methods, reason = "tests make processes that defib does not know")]

use std::process::Command;

use defib_tests::{Daemon, Ear, Options, patiently, victim};
use serde_json::{Value, json};

const QUIET: &str = "[service.it]\ncommand = \"sleep 1000\"\n";

/// Waits until the feed is heard: processes are made until one of them is told.
fn listen(daemon: &Daemon) -> Ear {
    let ear = Ear::new(daemon, &["--all"]);
    patiently("the feed to begin", || {
        Command::new(victim()).args(["exit", "0"]).status().expect("the victim starts");
        ear.all().iter().any(|event| event["seq"].is_null() && event["kind"] == "exit").then_some(())
    });
    ear
}

fn stranger(way: &[&str]) -> u32 {
    let mut child = Command::new(victim()).args(way).spawn().expect("the victim starts");
    let pid = child.id();
    child.wait().expect("our child");
    pid
}

#[track_caller]
fn exit_of(ear: &Ear, pid: u32) -> Value {
    let wanted = |event: &Value| event["kind"] == "exit" && event["pid"] == pid && event["main"] == false;
    patiently("the end of a stranger", || ear.all().into_iter().find(wanted))
}

#[test]
fn strangers_are_told_from_their_first_to_their_last_moment() {
    for source in ["ebpf", "proc-connector"] {
        let daemon = Daemon::start_with(QUIET, &Options::with_source(source));
        daemon.wait_state("it", "running");
        let ear = listen(&daemon);
        let exited = stranger(&["exit", "7"]);
        let killed = stranger(&["raise", "15"]);
        let exit = exit_of(&ear, exited);
        assert_eq!(
            (&exit["seq"], &exit["service"], &exit["code"], &exit["cause"], &exit["unknown"]),
            (&Value::Null, &Value::Null, &json!(7), &json!("exit"), &json!([])),
            "{source}: {exit:#}"
        );
        let end = exit_of(&ear, killed);
        assert_eq!(
            (&end["signal"], &end["cause"]),
            (&json!("SIGTERM"), &json!("signal")),
            "{source}: {end:#}"
        );
        let of_it = |kind: &str| -> Vec<Value> {
            ear.all().into_iter().filter(|event| event["pid"] == exited && event["kind"] == kind).collect()
        };
        let (forks, execs, exits) = (of_it("fork"), of_it("exec"), of_it("exit"));
        assert_eq!(
            (forks.len(), execs.len(), exits.len()),
            (1, 1, 1),
            "{source}: {forks:#?} {execs:#?} {exits:#?}"
        );
        assert_eq!(forks[0]["parent"], std::process::id(), "{source}");

        // The service is told of in the journal alone.
        let main = daemon.status("it")["pid"].clone();
        let twice = ear.all().into_iter().filter(|event| event["pid"] == main && event["seq"].is_null());
        assert_eq!(twice.count(), 0, "{source}");
    }
}

#[test]
fn descendants_are_told_with_their_service_where_the_kernel_knows_it() {
    let daemon = Daemon::start_with(
        &format!(
            "[service.it]\ncommand = [{:?}, \"burst\", \"50\", \"0\"]\nautostart = false\nrestart = {{ policy = \"never\" }}\n",
            victim()
        ),
        &Options::with_source("ebpf"),
    );
    let ear = listen(&daemon);
    daemon.ask(&["start", "--no-wait", "it"]);
    daemon.wait("it", "to end", |it| !it["last_exit"].is_null() && it["state"] == "stopped");
    let descendants = |kind: &str| {
        let wanted = |event: &&Value| {
            event["service"] == "it"
                && event["kind"] == kind
                && event["seq"].is_null()
                && event["main"] == false
        };
        ear.all().iter().filter(wanted).count()
    };
    patiently("all descendants", || ((descendants("fork"), descendants("exit")) == (50, 50)).then_some(()));
}

#[test]
fn a_source_that_hears_of_no_others_says_so() {
    let daemon = Daemon::start_with(QUIET, &Options::with_source("pidfd"));
    let said = daemon.cli(&["events", "--all", "--follow"]);
    assert_eq!(said.code, 1, "{said:?}");
    assert!(said.err.contains("pidfd") && said.err.contains("defib doctor"), "{said:?}");
    let said = daemon.cli(&["events", "--all"]);
    assert_eq!(said.code, 2, "{said:?}");
}
