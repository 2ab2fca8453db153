//! Reload: what changes, what is left alone, and what a bad file does, which is nothing.

use std::fs;

use defib_tests::{Daemon, lives, patiently, signal};
use serde_json::Value;

const SLEEP: &str = "command = 'sleep 1000'\n";

/// Writes the configuration anew.
fn edit(daemon: &Daemon, config: &str) {
    fs::write(daemon.path("defib.toml"), config).expect("a file");
}

fn pid(daemon: &Daemon, service: &str) -> u32 {
    defib_tests::pid(&daemon.wait_state(service, "running"))
}

fn names(daemon: &Daemon) -> Vec<String> {
    let status: Value = serde_json::from_str(&daemon.ask(&["status", "--json"])).expect("JSON");
    let services = status["services"].as_array().expect("services");
    services.iter().map(|service| service["name"].as_str().expect("a name").to_owned()).collect()
}

/// Waits until a removed service is gone altogether.
#[track_caller]
fn wait_gone(daemon: &Daemon, service: &str) {
    patiently("the service to be forgotten", || {
        (!names(daemon).iter().any(|name| name == service)).then_some(())
    });
}

#[test]
fn only_what_has_changed_is_touched() {
    let daemon = Daemon::start(&format!(
        "[service.rules]\n{SLEEP}[service.other]\n{SLEEP}[service.gone]\n{SLEEP}[service.same]\n{SLEEP}"
    ));
    let before = ["rules", "other", "gone", "same"].map(|name| pid(&daemon, name));
    edit(
        &daemon,
        &format!(
            "[service.rules]\n{SLEEP}stop.timeout = '1s'\nrestart.max_restarts = 3\nlog.max_files = 2\n\
             [service.other]\ncommand = 'sleep 2000'\n[service.same]\n{SLEEP}[service.new]\n{SLEEP}"
        ),
    );
    let asked = daemon.ask(&["reload", "--dry-run"]);
    for line in [
        "~ service.rules.restart.max_restarts: 10 -> 3",
        "~ service.rules.stop.timeout: \"10s\" -> \"1s\"",
        "~ service.rules.log.max_files: 5 -> 2",
        "(restarts it)",
        "- service.gone (stops it)",
        "+ service.new (starts it)",
    ] {
        assert!(asked.contains(line), "{line} is not told:\n{asked}");
    }
    assert!(!asked.contains("service.same"), "{asked}");
    assert_eq!(names(&daemon), ["gone", "other", "rules", "same"], "a question changes nothing");

    let done = daemon.ask(&["reload"]);
    assert!(done.ends_with("reloaded\n") && asked.lines().next() == done.lines().next(), "{done}");
    daemon.wait("other", "in its second life", |it| it["incarnation"] == 2 && it["state"] == "running");
    let after = ["rules", "other", "same", "new"].map(|name| pid(&daemon, name));
    assert_eq!((after[0], after[2]), (before[0], before[3]), "what has not changed runs on");
    assert_ne!(after[1], before[1]);
    assert_eq!(fs::read(format!("/proc/{}/cmdline", after[1])).expect("a process"), b"sleep\x002000\0");
    assert_eq!(daemon.events_of("other", "restart")[0]["reason"], "config");
    wait_gone(&daemon, "gone");
    assert!(!lives(before[2]));
    assert_eq!(daemon.cli(&["status", "gone"]).code, 3);
    assert_eq!(daemon.ask(&["reload"]), "nothing has changed\n");

    // The rules that came hold for a life that was there before them.
    assert_eq!(daemon.status("rules")["restarts"], 0);
    signal(daemon.daemon(), libc::SIGKILL);
    let same = daemon.wait("same", "to be there for the next daemon", |it| it["state"] == "running");
    assert_eq!(same["pid"], before[3]);
    assert_eq!(
        names(&daemon),
        ["new", "other", "rules", "same"],
        "the next daemon has the new configuration"
    );
    assert_eq!(pid(&daemon, "other"), after[1]);
    assert_eq!(pid(&daemon, "new"), after[3]);
}

#[test]
fn a_bad_file_changes_nothing() {
    let daemon = Daemon::start(&format!("[service.it]\n{SLEEP}"));
    let before = pid(&daemon, "it");
    edit(&daemon, &format!("[service.it]\n{SLEEP}restrat = 1\n[service.other]\ncommand = 5\n"));
    for args in [&["reload"][..], &["reload", "--dry-run"]] {
        let said = daemon.cli(args);
        assert_eq!(said.code, 1, "{said:?}");
        let file = daemon.path("defib.toml");
        let lines: Vec<&str> = said.err.lines().collect();
        assert_eq!(lines.len(), 2, "{said:?}");
        assert!(lines[0].starts_with(&format!("{}:3: service.it.restrat: unknown key", file.display())));
        assert!(lines[1].starts_with(&format!("{}:5: service.other.command: ", file.display())));
    }
    signal(daemon.keeper(), libc::SIGHUP);
    patiently("the refusal to be logged", || {
        (daemon.log().matches("not reloaded").count() == 2).then_some(())
    });
    let events = daemon.ask(&["events", "--json"]);
    assert_eq!(events.lines().filter(|line| line.contains(r#""kind":"config","ok":false"#)).count(), 2);
    assert_eq!(pid(&daemon, "it"), before);
    // The next daemon goes on with what was accepted.
    signal(daemon.daemon(), libc::SIGKILL);
    daemon.wait("it", "to be there for the next daemon", |it| it["pid"] == before);
    assert_eq!(names(&daemon), ["it"]);

    edit(&daemon, &format!("[service.it]\n{SLEEP}[service.new]\n{SLEEP}"));
    signal(daemon.keeper(), libc::SIGHUP);
    pid_of_new(&daemon);
    assert_eq!(pid(&daemon, "it"), before);
}

fn pid_of_new(daemon: &Daemon) -> u32 {
    patiently("the new service", || names(daemon).contains(&"new".to_owned()).then_some(()));
    pid(daemon, "new")
}

#[test]
fn a_plan_that_cannot_be_made_leaves_the_process_alone() {
    let daemon = Daemon::start(&format!("[service.it]\n{SLEEP}"));
    let before = pid(&daemon, "it");
    edit(&daemon, &format!("[service.it]\n{SLEEP}user = 'nobody-has-this-name'\n"));
    daemon.ask(&["reload"]);
    patiently("the attempt", || {
        let log = daemon.log();
        log.contains("nobody-has-this-name").then_some(())
    });
    assert_eq!(pid(&daemon, "it"), before);
    edit(&daemon, &format!("[service.it]\n{SLEEP}"));
    daemon.ask(&["reload"]);
    daemon.wait("it", "in its second life", |it| it["incarnation"] == 2 && it["state"] == "running");
}

#[test]
fn what_was_failing_is_tried_with_its_new_command() {
    let daemon = Daemon::start(
        "[service.given-up]\ncommand = ['sh', '-c', 'exit 3']\nrestart.policy = 'never'\n\
         [service.waiting]\ncommand = ['sh', '-c', 'exit 3']\nrestart.delays = ['1h']\n",
    );
    daemon.wait_state("given-up", "failed");
    daemon.wait_state("waiting", "retrying");
    edit(&daemon, &format!("[service.given-up]\n{SLEEP}[service.waiting]\n{SLEEP}"));
    daemon.ask(&["reload"]);
    daemon.wait_state("given-up", "running");
    daemon.wait_state("waiting", "running");
}

#[test]
fn a_service_that_comes_back_while_it_goes_is_started_again() {
    // It goes when this test kills it.
    let stubborn = "[service.it]\ncommand = ['sh', '-c', 'trap \"\" TERM; echo > {dir}/ready; while :; do sleep 0.1; done']\n\
                    stop.timeout = '1h'\n";
    let daemon = Daemon::start(stubborn);
    let stubborn = &stubborn.replace("{dir}", daemon.path("").to_str().expect("UTF-8"));
    let trap = || {
        patiently("the trap", || daemon.path("ready").exists().then_some(()));
        fs::remove_file(daemon.path("ready")).expect("a file");
    };
    trap();
    let before = pid(&daemon, "it");
    edit(&daemon, "");
    daemon.ask(&["reload"]);
    daemon.wait_state("it", "stopping");
    let said = daemon.cli(&["start", "it"]);
    assert_eq!((said.code, said.err.contains("configured no longer")), (1, true), "{said:?}");
    edit(&daemon, stubborn);
    daemon.ask(&["reload"]);
    signal(before, libc::SIGKILL);
    daemon.wait("it", "in another life", |it| it["state"] == "running" && it["pid"] != before);
    assert!(!lives(before));
    trap();
    let before = pid(&daemon, "it");

    edit(&daemon, "");
    daemon.ask(&["reload"]);
    // A daemon that dies meanwhile leaves the end of it to the next.
    signal(daemon.daemon(), libc::SIGKILL);
    daemon.wait_state("it", "stopping");
    signal(before, libc::SIGKILL);
    wait_gone(&daemon, "it");
    edit(&daemon, &format!("[service.it]\n{SLEEP}"));
    daemon.ask(&["reload"]);
    assert_eq!(daemon.wait_state("it", "running")["incarnation"], 1, "another service of that name");
}
