//! A life: how it starts, what it may count on, how it ends, and what follows.
#![expect(clippy::disallowed_methods, reason = "tests wait")]

use std::fs;
use std::time::Duration;

use defib_tests::{Daemon, Options, lives, patiently, pid, signal};
use serde_json::{Value, json};

/// One service called `it`.
fn service(lines: &str) -> Daemon {
    Daemon::start(&format!("[service.it]\n{lines}\n"))
}

#[test]
fn a_process_that_is_killed_is_there_again_at_once() {
    let daemon = service(r#"command = "sleep 1000""#);
    let before = daemon.wait_state("it", "running");
    signal(pid(&before), libc::SIGKILL);
    let after =
        daemon.wait("it", "in its second life", |it| it["incarnation"] == 2 && it["state"] == "running");
    assert_ne!(after["pid"], before["pid"]);
    assert_eq!(after["restarts"], 1);
    let exit = &after["last_exit"];
    assert_eq!(
        (&exit["cause"], &exit["by"], &exit["signal"]),
        (&json!("signal"), &json!("self"), &json!("SIGKILL"))
    );
    assert_eq!((&exit["code"], &exit["core"]), (&Value::Null, &json!(false)));

    let exits = daemon.events_of("it", "exit");
    assert_eq!(exits.len(), 1, "{exits:#?}");
    assert_eq!(exits[0]["pid"], before["pid"]);
    let states: Vec<_> = daemon.events_of("it", "state").iter().map(|event| event["to"].clone()).collect();
    assert_eq!(states, ["starting", "running", "crashed", "starting", "running"]);
    assert_eq!(daemon.events_of("it", "restart")[0]["delay_seconds"], 0.0);
}

#[test]
fn exit_codes_are_told_exactly_and_decide_what_follows() {
    for (code, policy, state) in [
        (0, "on-failure", "stopped"),
        (7, "on-failure", "retrying"),
        (255, "never", "failed"),
        (0, "never", "stopped"),
        (0, "always", "retrying"),
    ] {
        let daemon = service(&format!(
            "command = [\"sh\", \"-c\", \"exit {code}\"]\nrestart = {{ policy = \"{policy}\", delays = [\"1h\"] }}"
        ));
        let it = daemon.wait("it", "to end", |it| it["last_exit"] != Value::Null && it["state"] == state);
        assert_eq!(it["last_exit"]["code"], code, "{policy}");
        assert_eq!(it["last_exit"]["cause"], "exit");
        assert_eq!(it["next_start_at"].is_string(), state == "retrying");
    }
}

#[test]
fn a_series_of_restarts_ends_in_failed_and_reset_forgives() {
    let daemon = service(
        "command = [\"sh\", \"-c\", \"exit 3\"]\n\
         restart = { immediate = 2, delays = [\"50ms\"], max_restarts = 4, window = \"1h\" }",
    );
    let it = daemon.wait_state("it", "failed");
    assert_eq!((&it["restarts"], &it["incarnation"]), (&json!(4), &json!(5)));
    let why = it["why"].as_str().expect("a reason");
    assert!(why.contains("4 restarts") && why.contains("exit code 3"), "{why}");
    let delays: Vec<_> =
        daemon.events_of("it", "restart").iter().map(|event| event["delay_seconds"].clone()).collect();
    assert_eq!(delays, [0.0, 0.0, 0.05, 0.05]);

    daemon.ask(&["reset", "it"]);
    assert_eq!(daemon.status("it")["state"], "stopped");
}

#[test]
fn stop_asks_first_and_kills_after_the_timeout() {
    let daemon = service(
        "command = [\"sh\", \"-c\", \"trap '' TERM; echo ready > {dir}/ready; while :; do sleep 0.1; done\"]\n\
         stop = { timeout = \"300ms\" }",
    );
    patiently("the trap", || daemon.path("ready").exists().then_some(()));
    daemon.ask(&["stop", "it"]);
    let it = daemon.status("it");
    assert_eq!((&it["state"], &it["pid"]), (&json!("stopped"), &Value::Null));
    assert_eq!((&it["last_exit"]["signal"], &it["last_exit"]["by"]), (&json!("SIGKILL"), &json!("stop")));
    assert_eq!(it["restarts"], 0);
}

#[test]
fn stop_start_and_restart_answer_when_they_are_done() {
    let daemon = service(r#"command = "sleep 1000""#);
    let first = pid(&daemon.wait_state("it", "running"));
    daemon.ask(&["restart", "it"]);
    let second = pid(&daemon.status("it"));
    assert!(first != second && !lives(first) && lives(second));
    daemon.ask(&["stop", "it"]);
    assert!(!lives(second));
    daemon.ask(&["start", "it"]);
    assert_eq!(daemon.status("it")["state"], "running");
    assert!(daemon.ask(&["start", "it"]).contains("already running"));
}

#[test]
fn a_restart_that_cannot_work_leaves_the_old_process_alone() {
    let daemon = service("command = \"sleep 1000\"\nenv_file = \"{dir}/env\"\nautostart = false");
    fs::write(daemon.path("env"), "A=1\n").expect("a file");
    daemon.ask(&["start", "it"]);
    let before = daemon.status("it");
    fs::remove_file(daemon.path("env")).expect("the file");
    let said = daemon.cli(&["restart", "it"]);
    assert_eq!(said.code, 1, "{said:?}");
    assert!(said.err.contains("env_file") && said.err.contains("left alone"), "{}", said.err);
    assert_eq!(daemon.status("it")["pid"], before["pid"]);
}

#[test]
fn a_disabled_service_refuses_to_start_until_it_is_enabled() {
    let daemon = service(r#"command = "sleep 1000""#);
    daemon.wait_state("it", "running");
    daemon.ask(&["disable", "it"]);
    let it = daemon.status("it");
    assert_eq!((&it["state"], &it["enabled"]), (&json!("disabled"), &json!(false)));
    assert_eq!(daemon.cli(&["start", "it"]).code, 6);
    assert_eq!(daemon.cli(&["restart", "it"]).code, 6);
    daemon.ask(&["enable", "it"]);
    daemon.ask(&["start", "it"]);
}

/// The promises of every start: see the manual of the service keys.
#[test]
fn a_process_starts_with_clean_signals_session_streams_and_environment() {
    let daemon = service(
        "command = [\"sh\", \"-c\", \"cat /proc/self/status > {dir}/status; ls /proc/self/fd > {dir}/fds; \
         readlink /proc/self/fd/0 > {dir}/stdin; env > {dir}/env; umask > {dir}/umask; pwd > {dir}/pwd; \
         ulimit -n > {dir}/nofile; cut -d' ' -f5,6 /proc/$$/stat > {dir}/session; echo $$ > {dir}/pid; \
         echo to the log; touch {dir}/done; exec sleep 1000\"]\n\
         env = { COLOUR = \"green\", PATH = \"/usr/bin:/bin\" }\nenv_file = \"{dir}/more\"\nautostart = false",
    );
    fs::write(daemon.path("more"), "# more\nCOLOUR=red\nSHAPE='a b'\n").expect("a file");
    daemon.ask(&["start", "it"]);
    patiently("the script", || daemon.path("done").exists().then_some(()));
    let read = |name: &str| fs::read_to_string(daemon.path(name)).expect(name).trim().to_owned();

    let status = read("status");
    for field in ["SigBlk", "SigIgn", "SigCgt"] {
        let line = status.lines().find(|line| line.starts_with(field)).expect(field);
        assert!(line.ends_with("0000000000000000"), "{line}");
    }
    // 3 is the folder that ls itself reads.
    assert_eq!(read("fds").split_whitespace().collect::<Vec<_>>(), ["0", "1", "2", "3"]);
    assert_eq!(read("stdin"), "/dev/null");
    assert_eq!((read("umask").as_str(), read("pwd").as_str()), ("0022", "/"));
    let (session, pid) = (read("session"), read("pid"));
    assert_eq!(session, format!("{pid} {pid}"), "process group and session");
    let own = nix_nofile();
    assert_eq!(read("nofile"), own, "the limit that the keeper was started with");

    let environment = read("env");
    for line in [
        "COLOUR=green",
        "SHAPE=a b",
        "PATH=/usr/bin:/bin",
        "DEFIB_SERVICE=it",
        "DEFIB_INCARNATION=1",
        "USER=root",
    ] {
        assert!(environment.lines().any(|found| found == line), "{line} is not in\n{environment}");
    }
    assert!(environment.lines().any(|line| line == format!("DEFIB_PID={pid}")), "{environment}");
    for name in ["HOME", "LOGNAME", "SHELL", "LANG"] {
        assert!(environment.lines().any(|line| line.starts_with(&format!("{name}="))), "{name}");
    }
    assert!(!environment.contains("CARGO"), "nothing else of defib's own environment");
    // Another process writes it.
    let log = || fs::read_to_string(daemon.path("log/it.log")).unwrap_or_default();
    patiently("the log", || (log() == "to the log\n").then_some(()));
}

fn nix_nofile() -> String {
    let limits = fs::read_to_string("/proc/self/limits").expect("limits");
    let line = limits.lines().find(|line| line.starts_with("Max open files")).expect("a line");
    line.split_whitespace().nth(3).expect("a number").to_owned()
}

#[test]
fn a_process_runs_as_its_user() {
    let daemon = service(
        "command = [\"sh\", \"-c\", \"id -u > {dir}/uid; id -g > {dir}/gid; id -G > {dir}/groups; touch {dir}/done; sleep 1000\"]\n\
         user = \"nobody\"\ngroups = [\"12\", \"34\"]",
    );
    patiently("the script", || daemon.path("done").exists().then_some(()));
    let read = |name: &str| fs::read_to_string(daemon.path(name)).expect(name).trim().to_owned();
    assert_eq!((read("uid").as_str(), read("gid").as_str()), ("65534", "65534"));
    let groups = read("groups");
    assert!(["12", "34"].iter().all(|group| groups.split(' ').any(|found| found == *group)), "{groups}");
}

/// A descendant that has left the session and holds on is gone before the next life begins.
#[test]
fn leftovers_end_before_a_new_life_begins() {
    let script = "setsid sleep 4321 & echo $! >> {dir}/leftovers; if [ $(wc -l < {dir}/leftovers) -ge 2 ]; then \
                  kill -0 $(head -1 {dir}/leftovers) && echo yes > {dir}/overlap; fi; touch {dir}/life; exec sleep 1000";
    let daemon = service(&format!("command = [\"sh\", \"-c\", \"{script}\"]"));
    patiently("the first life", || daemon.path("life").exists().then_some(()));
    let before = daemon.wait_state("it", "running");
    fs::remove_file(daemon.path("life")).expect("the mark");
    signal(pid(&before), libc::SIGKILL);
    patiently("the second life", || daemon.path("life").exists().then_some(()));
    let leftovers = fs::read_to_string(daemon.path("leftovers")).expect("pids");
    let first = leftovers.lines().next().and_then(|pid| pid.parse().ok()).expect("a pid");
    assert!(!lives(first) && !daemon.path("overlap").exists());

    // A leaf in which something was killed is fit for many lives more.
    for life in 3..8 {
        signal(
            pid(&daemon.wait("it", "alive", |it| it["incarnation"] == life - 1 && it["state"] == "running")),
            libc::SIGKILL,
        );
        if life == 4 {
            daemon.ask(&["reset", "it"]);
        }
    }
    daemon.wait("it", "alive", |it| it["incarnation"] == 7 && it["state"] == "running");
    assert_eq!(daemon.events_of("it", "exit").len(), 6, "no life ended but those that were killed");
}

#[test]
fn leftovers_that_are_kept_survive() {
    let daemon = service(
        "command = [\"sh\", \"-c\", \"setsid sleep 30 & echo $! > {dir}/leftover; exec sleep 1000\"]\n\
         leftovers = \"keep\"",
    );
    daemon.wait_state("it", "running");
    let leftover: u32 =
        patiently("its pid", || fs::read_to_string(daemon.path("leftover")).ok()?.trim().parse().ok());
    daemon.ask(&["stop", "it"]);
    assert!(lives(leftover));
    signal(leftover, libc::SIGKILL);
    patiently("its end", || (!lives(leftover)).then_some(()));
}

#[test]
fn a_signal_to_the_keeper_ends_everything_and_leaves_nothing_behind() {
    for how in ["signal", "verb"] {
        let mut daemon =
            Daemon::start("[service.a]\ncommand = \"sleep 1000\"\n[service.b]\ncommand = \"sleep 1000\"\n");
        let pids = ["a", "b"].map(|name| pid(&daemon.wait_state(name, "running")));
        let cgroup = fs::read_to_string(format!("/proc/{}/cgroup", pids[0])).expect("a cgroup");
        match how {
            "signal" => signal(daemon.keeper(), libc::SIGTERM),
            _ => drop(daemon.ask(&["daemon", "stop"])),
        }
        assert_eq!(daemon.exit_code(), 0, "{}", daemon.log());
        assert!(pids.iter().all(|pid| !lives(*pid)));
        assert!(!daemon.path("run/defib.sock").exists());
        let group = cgroup.lines().find_map(|line| line.strip_prefix("0::")).expect("the unified hierarchy");
        for root in ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"] {
            assert!(!std::path::Path::new(&format!("{root}{group}")).exists(), "{root}{group} was left");
        }
        assert_eq!(daemon.cli(&["status"]).code, 5);
    }
}

/// However early it is asked: it may not even have read its command line.
#[test]
fn a_keeper_that_is_asked_to_end_while_it_begins_ends_in_order() {
    for asked in [libc::SIGTERM, libc::SIGINT].repeat(5) {
        let config = "[service.it]\ncommand = \"sleep 1000\"\n";
        let mut daemon = Daemon::launch(config, &Options::default());
        patiently("it to hold signals back", || holds_back(daemon.keeper(), asked).then_some(()));
        signal(daemon.keeper(), asked);
        assert_eq!(daemon.exit_code(), 0, "{}", daemon.log());
        assert!(!daemon.path("run/defib.sock").exists());
    }
}

/// Whether a process has blocked a signal.
fn holds_back(pid: u32, signal: i32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("a process");
    let mask = status.lines().find_map(|line| line.strip_prefix("SigBlk:")).expect("a line");
    u64::from_str_radix(mask.trim(), 16).expect("a number") & 1 << (signal - 1) != 0
}

#[test]
fn a_second_request_to_end_hurries() {
    let mut daemon = service(
        "command = [\"sh\", \"-c\", \"trap '' TERM; echo ready > {dir}/ready; while :; do sleep 0.1; done\"]\n\
         stop = { timeout = \"1h\" }",
    );
    patiently("the trap", || daemon.path("ready").exists().then_some(()));
    signal(daemon.keeper(), libc::SIGTERM);
    daemon.wait_state("it", "stopping");
    // Later than the echo that some tools send.
    std::thread::sleep(Duration::from_millis(700));
    signal(daemon.keeper(), libc::SIGINT);
    assert_eq!(daemon.exit_code(), 0);
}
