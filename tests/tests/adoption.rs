//! The keeper dies: the services live on, and the next keeper takes them over.
#![expect(clippy::disallowed_methods, reason = "tests wait, and make processes that only look like services")]

use std::fs;
use std::net::{Ipv4Addr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use defib_tests::{
    Callers, Daemon, Options, SERVER, children, free_port, lives, patiently, pid, signal, victim,
};
use rustix::fs::XattrFlags;
use serde_json::{Value, json};

/// Three services, by a source.
fn three(source: &str) -> String {
    format!(
        "[daemon]\nsource = \"{source}\"\n\
         [service.a]\ncommand = \"sleep 1000\"\n\
         [service.b]\ncommand = [\"sh\", \"-c\", \"sleep 1000 & exec sleep 1000\"]\n\
         restart = {{ immediate = 256, max_restarts = \"none\" }}\n\
         [service.c]\ncommand = \"sleep 1000\"\nautostart = false\n"
    )
}

const SOURCES: [&str; 3] = ["ebpf", "proc-connector", "pidfd"];

#[test]
fn services_live_on_and_are_supervised_again_whatever_the_source() {
    for source in SOURCES {
        let mut daemon = Daemon::start(&three(source));
        let before = ["a", "b"].map(|name| daemon.wait_state(name, "running"));
        daemon.ask(&["disable", "c"]);
        daemon.ask(&["pause", "b"]);
        daemon.ask(&["resume", "b"]);
        daemon.kill_keeper();
        assert!(before.iter().all(|status| lives(pid(status))), "services go on");
        daemon.start_again();
        for (name, before) in ["a", "b"].iter().zip(&before) {
            let after = daemon.wait_state(name, "running");
            for field in ["pid", "incarnation", "restarts", "last_exit"] {
                assert_eq!(after[field], before[field], "{source} {name} {field}");
            }
            assert_eq!((&after["adopted"], &before["adopted"]), (&json!(true), &json!(false)));
            assert_eq!(after["ready"], true);
        }
        assert_eq!(daemon.wait_state("c", "disabled")["enabled"], false, "{source}");
        assert!(daemon.ask(&["status", "a"]).contains("adopted"));

        // Its end is noticed and told, the rest of its tree is ended, and the next life is a child again.
        signal(pid(&before[0]), libc::SIGSEGV);
        let after =
            daemon.wait("a", "in its next life", |it| it["incarnation"] == 2 && it["state"] == "running");
        assert_eq!(after["adopted"], false);
        assert_eq!(after["last_exit"]["signal"], "SIGSEGV", "{source}: {after:#}");
        let (main, rest) = (pid(&before[1]), rest_of(pid(&before[1])));
        assert!(!rest.is_empty());
        signal(main, libc::SIGKILL);
        let after =
            daemon.wait("b", "in its next life", |it| it["incarnation"] == 2 && it["state"] == "running");
        assert_eq!((&after["restarts"], &after["last_exit"]["signal"]), (&json!(1), &json!("SIGKILL")));
        assert!(!rest.iter().any(|pid| lives(*pid)), "{source}: leftovers");
        assert_eq!(daemon.events_of("b", "exit").iter().filter(|event| event["by"].is_string()).count(), 1);
    }
}

/// The processes of the session that a main process leads, but for itself.
fn rest_of(main: u32) -> Vec<u32> {
    let all = fs::read_dir("/proc").expect("/proc").flatten();
    all.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid| *pid != main && session(*pid) == Some(main))
        .collect()
}

/// The session of a process.
fn session(pid: u32) -> Option<u32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.split(' ').nth(3)?.parse().ok()
}

#[test]
fn an_adopted_service_is_stopped_with_all_that_it_has_made() {
    let mut daemon = Daemon::start(&three("pidfd"));
    let main = pid(&daemon.wait_state("b", "running"));
    let child = patiently("its child", || rest_of(main).first().copied());
    signal(daemon.daemon(), libc::SIGSTOP);
    let stopped = daemon.daemon();
    signal(daemon.keeper(), libc::SIGKILL);
    signal(stopped, libc::SIGKILL);
    daemon.start_again();
    assert_eq!(pid(&daemon.wait_state("b", "running")), main);
    daemon.ask(&["stop", "b"]);
    assert!(!lives(main) && !lives(child));
    assert_eq!(daemon.status("b")["last_exit"]["by"], "stop");
    daemon.ask(&["start", "b"]);
    assert_eq!(daemon.status("b")["adopted"], false);
}

/// What died meanwhile is told once, and restarted; how it died nobody knows.
#[test]
fn who_died_while_nobody_watched_is_told_once_and_restarted() {
    let mut daemon = Daemon::start(&three("pidfd"));
    let before = ["a", "b"].map(|name| pid(&daemon.wait_state(name, "running")));
    daemon.kill_keeper();
    for pid in before {
        signal(pid, libc::SIGKILL);
        patiently("its end", || (!lives(pid)).then_some(()));
    }
    daemon.start_again();
    for name in ["a", "b"] {
        let after =
            daemon.wait(name, "in its next life", |it| it["incarnation"] == 2 && it["state"] == "running");
        assert_eq!((&after["restarts"], &after["adopted"]), (&json!(1), &json!(false)), "{after:#}");
        let ends: Vec<_> =
            daemon.events_of(name, "exit").into_iter().filter(|event| event["by"].is_string()).collect();
        assert_eq!(ends.len(), 1, "{ends:?}");
        // Whoever was to reap it may not have done so, and then it can be read.
        let end = &after["last_exit"];
        if end["unknown"] == json!(["status"]) {
            assert_eq!(
                (&end["cause"], &end["code"], &end["signal"]),
                (&Value::Null, &Value::Null, &Value::Null)
            );
        } else {
            assert_eq!(end["signal"], "SIGKILL", "{end}");
        }
    }
}

/// With the probes pinned the kernel has written down how.
#[test]
fn how_a_service_died_meanwhile_is_known_with_ebpf() {
    let config = "[daemon]\nsource = \"ebpf\"\n[service.it]\n\
                  command = [\"sh\", \"-c\", \"trap 'exit 7' USR1; echo > {dir}/ready; while :; do sleep 0.1; done\"]\n\
                  [service.other]\ncommand = \"sleep 1000\"\n";
    let mut daemon = Daemon::start(config);
    patiently("the trap", || daemon.path("ready").exists().then_some(()));
    let [it, other] = ["it", "other"].map(|name| pid(&daemon.wait_state(name, "running")));
    daemon.kill_keeper();
    signal(it, libc::SIGUSR1);
    signal(other, libc::SIGSEGV);
    for pid in [it, other] {
        patiently("its end", || (!lives(pid)).then_some(()));
    }
    daemon.start_again();
    let after = daemon.wait("it", "in its next life", |it| it["incarnation"] == 2);
    assert_eq!((&after["last_exit"]["cause"], &after["last_exit"]["code"]), (&json!("exit"), &json!(7)));
    let after = daemon.wait("other", "in its next life", |it| it["incarnation"] == 2);
    assert_eq!(after["last_exit"]["signal"], "SIGSEGV", "{after:#}");
}

/// A lock that a service holds for its life: a second copy would say that it is taken.
#[test]
fn there_is_never_a_second_copy() {
    let config = "[service.it]\ncommand = [\"sh\", \"-c\", \"flock -n 9 || { echo twice >> {dir}/twice; exit 3; }; \
                  echo $$ >> {dir}/once; while :; do read x <{dir}/fifo; done\"]\n";
    let config = config.replace("flock -n 9 ||", "exec 9>{dir}/lock; flock -n 9 ||");
    let mut daemon = Daemon::start(&config.replace("read x <{dir}/fifo", "sleep 1"));
    let first = pid(&daemon.wait_state("it", "running"));
    patiently("its lock", || daemon.path("once").exists().then_some(()));
    for round in 0..5 {
        if round % 2 == 0 {
            daemon.kill_keeper();
        } else {
            let pid = daemon.daemon();
            signal(pid, libc::SIGKILL);
            signal(daemon.keeper(), libc::SIGKILL);
            daemon.exit_code();
        }
        daemon.start_again();
        assert_eq!(pid(&daemon.wait_state("it", "running")), first, "round {round}");
    }
    assert!(!daemon.path("twice").exists());
    assert_eq!(fs::read_to_string(daemon.path("once")).expect("a file").lines().count(), 1);
}

/// A service that the file names no longer is not left to nobody.
#[test]
fn a_service_that_was_removed_meanwhile_is_ended_and_said() {
    let mut daemon = Daemon::start(&three("pidfd"));
    let [a, b] = ["a", "b"].map(|name| pid(&daemon.wait_state(name, "running")));
    daemon.kill_keeper();
    fs::write(daemon.path("defib.toml"), "[service.a]\ncommand = \"sleep 1000\"\n").expect("a file");
    daemon.start_again();
    assert_eq!(pid(&daemon.wait_state("a", "running")), a);
    assert!(!lives(b));
    assert!(daemon.log().contains("they were ended"), "{}", daemon.log());
}

/// Without the state database the leaves alone say who lives.
#[test]
fn a_lost_state_database_costs_no_service_its_life() {
    let mut daemon = Daemon::start(&three("pidfd"));
    let a = daemon.wait_state("a", "running");
    signal(pid(&a), libc::SIGKILL);
    let a = daemon.wait("a", "in its next life", |it| it["incarnation"] == 2 && it["state"] == "running");
    daemon.kill_keeper();
    for name in ["state.db", "state.db-wal", "state.db-shm"] {
        fs::remove_file(daemon.path("state").join(name)).ok();
    }
    daemon.start_again();
    let after = daemon.wait_state("a", "running");
    assert_eq!((&after["pid"], &after["incarnation"]), (&a["pid"], &json!(2)));
    assert_eq!(after["adopted"], true);
    signal(pid(&a), libc::SIGTERM);
    let after = daemon.wait("a", "in its next life", |it| it["incarnation"] == 3 && it["state"] == "running");
    assert_eq!(after["last_exit"]["signal"], "SIGTERM");
}

/// A pid that has been given to another process is not taken for the service.
#[test]
fn a_pid_that_is_used_again_is_another_process() {
    let mut daemon = Daemon::start(&three("pidfd"));
    let old = pid(&daemon.wait_state("a", "running"));
    daemon.kill_keeper();
    signal(old, libc::SIGKILL);
    // None where whoever is to reap it has not: the number is not free.
    let other = patiently("the end", || (!lives(old)).then(|| with_pid(old)));
    daemon.start_again();
    let after = daemon.wait("a", "in its next life", |it| it["incarnation"] == 2 && it["state"] == "running");
    assert_eq!(after["adopted"], false);
    if let Some(mut other) = other {
        assert_eq!(other.try_wait().expect("a child"), None, "nobody has touched it");
        other.kill().expect("it lives");
        other.wait().expect("a child");
    }
}

/// A process with this number, if it is free.
fn with_pid(pid: u32) -> Option<std::process::Child> {
    (0..20).find_map(|_| {
        fs::write("/proc/sys/kernel/ns_last_pid", (pid - 1).to_string()).ok()?;
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().ok()?;
        if child.id() == pid {
            return Some(child);
        }
        child.kill().ok();
        child.wait().ok();
        None
    })
}

/// The leaf of a process, in the file system.
fn leaf(pid: u32) -> PathBuf {
    let groups = fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("it lives");
    let group = groups.lines().find_map(|line| line.strip_prefix("0::/")).expect("cgroups of version 2");
    let places = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"].map(|base| Path::new(base).join(group));
    places.into_iter().find(|place| place.join("cgroup.procs").exists()).expect("its cgroup")
}

/// A main process may die before the keeper has written down which it is, and the keeper then, too: a child that leads a
/// session of its own looks like it.
#[test]
fn a_child_is_not_taken_for_the_main_process() {
    for main_lives in [false, true] {
        let mut daemon = Daemon::start(
            "[service.it]\ncommand = [\"sh\", \"-c\", \"setsid sleep 1000 & echo $! > {dir}/child; exec sleep 1000\"]\n",
        );
        let main = pid(&daemon.wait_state("it", "running"));
        let child: u32 = patiently("its child", || {
            let child = fs::read_to_string(daemon.path("child")).ok()?.trim().parse().ok()?;
            (session(child) == Some(child)).then_some(child)
        });
        daemon.kill_keeper();
        // As if nobody had had the time to remember more than which life it is.
        let mark = XattrFlags::REPLACE;
        rustix::fs::setxattr(leaf(child), "trusted.defib.life", b"1", mark).expect("it is marked");
        for name in ["state.db", "state.db-wal", "state.db-shm"] {
            fs::remove_file(daemon.path("state").join(name)).ok();
        }
        if !main_lives {
            signal(main, libc::SIGKILL);
            patiently("its end", || (!lives(main)).then_some(()));
        }
        daemon.start_again();
        let after = daemon.wait_state("it", "running");
        assert_eq!((pid(&after) == main, &after["adopted"]), (main_lives, &json!(main_lives)), "{after:#}");
        assert_eq!(lives(child), main_lives, "it is left over, or part of what lives");
        assert_ne!(pid(&after), child);
    }
}

/// A keeper whose first daemon fails ends with it, and leaves what it has found as it was.
#[test]
fn whenever_a_first_daemon_dies_services_live_on() {
    let port = free_port();
    let config = format!(
        "[service.a]\ncommand = [\"sh\", \"-c\", \"while :; do echo tick; sleep 0.05; done\"]\n\
         [service.b]\ncommand = \"sleep 1000\"\nsockets = [\"tcp:127.0.0.1:{port}\", \"unix:{{dir}}/s\"]\n"
    );
    let mut daemon = Daemon::start(&config);
    let pids = ["a", "b"].map(|name| pid(&daemon.wait_state(name, "running")));
    let unharmed = |daemon: &Daemon| {
        assert!(pids.iter().all(|pid| lives(*pid)), "{}", daemon.log());
        TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("it is held");
        UnixStream::connect(daemon.path("s")).expect("it is held, too");
    };
    daemon.kill_keeper();

    let file = daemon.path("defib.toml");
    let good = fs::read_to_string(&file).expect("the configuration");
    fs::write(&file, "[service.a]\ncommand = 7\n").expect("a file");
    daemon.launch_again();
    assert_eq!(daemon.exit_code(), 1, "{}", daemon.log());
    unharmed(&daemon);
    fs::write(&file, good).expect("a file");

    let mut failed = 0;
    for wait in [0, 1, 2, 4, 6, 8, 12, 16, 24, 32, 48, 64] {
        daemon.launch_again();
        let first = daemon.daemon();
        std::thread::sleep(Duration::from_millis(wait));
        signal(first, libc::SIGKILL);
        let went_on = patiently("the keeper to end, or to go on", || {
            if daemon.has_ended() {
                return Some(false);
            }
            let others = children(daemon.keeper()).into_iter().any(|pid| pid != first);
            others.then_some(true)
        });
        if went_on {
            daemon.kill_keeper();
        } else {
            assert_eq!(daemon.exit_code(), 1, "{}", daemon.log());
            failed += 1;
        }
        unharmed(&daemon);
    }
    assert!(failed > 0, "the first was not killed before it supervised");

    daemon.start_again();
    for (name, pid) in ["a", "b"].iter().zip(pids) {
        let after = daemon.wait_state(name, "running");
        assert_eq!((self::pid(&after), &after["adopted"]), (pid, &json!(true)));
        assert_eq!((&after["incarnation"], &after["restarts"]), (&json!(1), &json!(0)));
        assert_eq!(daemon.events_of(name, "exit").len(), 0);
    }
    unharmed(&daemon);
    let ticks = || fs::read_to_string(daemon.path("log/a.log")).unwrap_or_default().lines().count();
    let before = ticks();
    patiently("its output to go on", || (ticks() > before + 2).then_some(()));
}

/// The plan that was wanted when the keeper was killed is asked for again, and finds the service's own sockets open.
#[test]
fn a_restart_that_was_torn_away_goes_on_with_the_sockets_of_the_life_before() {
    let port = free_port();
    // A search that takes its time, so that the keeper is killed before there is a plan.
    let path = "x:".repeat(50_000) + "/usr/bin:/bin";
    let mut daemon = Daemon::start(&format!(
        "[service.it]\ncommand = [\"sleep\", \"1000\"]\nenv = {{ PATH = \"{path}\" }}\n\
         sockets = [\"tcp:127.0.0.1:{port}\", \"unix:{{dir}}/s\"]\n\
         [service.other]\ncommand = \"sleep 1000\"\nautostart = false\n"
    ));
    let mut before = pid(&daemon.wait_state("it", "running"));
    for round in 0..3 {
        daemon.wait("it", "planned", |it| it["sockets"][0]["held"] == true);
        daemon.ask(&["restart", "it", "--no-wait"]);
        // An answer to this says that the one before has been taken.
        daemon.ask(&["stop", "other"]);
        daemon.kill_keeper();
        daemon.start_again();
        let after = daemon.wait("it", "in its next life", |it| {
            it["state"] == "running" && it["pid"].as_u64().is_some_and(|pid| pid != u64::from(before))
        });
        before = pid(&after);
        TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("it is held");
        UnixStream::connect(daemon.path("s")).expect("it is held, too");
        assert!(!daemon.log().contains("in use"), "round {round}: {}", daemon.log());
    }
}

/// The ways to end of a process that is no child, read by the keeper itself.
#[test]
fn how_an_adopted_service_ends_is_told_exactly() {
    let victim = victim();
    let config = format!(
        "[daemon]\nsource = \"pidfd\"\n\
         [service.it]\ncommand = [\"sh\", \"-c\", \"trap 'exit 7' USR1; echo > {{dir}}/it; while :; do sleep 0.1; done\"]\n\
         [service.well]\ncommand = [\"sh\", \"-c\", \"trap 'exit 0' USR1; echo > {{dir}}/well; while :; do sleep 0.1; done\"]\n\
         # {}\n",
        victim.display()
    );
    let mut daemon = Daemon::start(&config);
    let [it, well] = ["it", "well"].map(|name| pid(&daemon.wait_state(name, "running")));
    patiently("the traps", || ["it", "well"].iter().all(|name| daemon.path(name).exists()).then_some(()));
    daemon.kill_keeper();
    daemon.start_again();
    for pid in [it, well] {
        signal(pid, libc::SIGUSR1);
    }
    let after = daemon.wait("it", "in its next life", |it| it["incarnation"] == 2);
    assert_eq!((&after["last_exit"]["cause"], &after["last_exit"]["code"]), (&json!("exit"), &json!(7)));
    let after = daemon.wait_state("well", "stopped");
    assert_eq!(after["last_exit"]["code"], 0, "{after:#}");
}

#[test]
fn nobody_is_refused_while_the_keeper_is_killed_and_then_the_service() {
    let port = free_port();
    let mut daemon = Daemon::start(&format!(
        "[service.it]\ncommand = [\"python3\", \"-Ic\", '''{SERVER}''']\n\
         env = {{ PATH = \"{}\" }}\nsockets = [\"tcp:127.0.0.1:{port}\", \"unix:{{dir}}/s\"]\nready = {{ port = {port} }}\n\
         restart = {{ immediate = 256, max_restarts = \"none\" }}\n",
        std::env::var("PATH").unwrap_or_default()
    ));
    daemon.wait("it", "ready", |it| it["ready"] == true);
    let callers = Callers::at(port, 1, |callers| {
        for life in 1..=3_u64 {
            let before = daemon.wait("it", "ready", |it| it["incarnation"] == life && it["ready"] == true);
            daemon.kill_keeper();
            daemon.start_again();
            let after = daemon.wait("it", "ready", |it| it["ready"] == true);
            assert_eq!((&after["pid"], &after["adopted"]), (&before["pid"], &json!(true)));
            daemon.wait("it", "to have its sockets", |it| {
                it["sockets"].as_array().is_some_and(|all| all.iter().all(|socket| socket["held"] == true))
            });
            assert!(!daemon.log().contains("taken back"), "{}", daemon.log());
            signal(pid(&after), libc::SIGKILL);
            callers.wait_served();
        }
    });
    assert_eq!(callers.refused(), 0, "of {}", callers.served());
    daemon.ask(&["stop", "it"]);
    assert!(TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err(), "closed with the stop, as ever");
    patiently("the path to be removed", || (!daemon.path("s").exists()).then_some(()));
}

#[test]
fn defib_leaves_its_services_running_if_it_is_asked_to() {
    let mut daemon = Daemon::start(&three("pidfd"));
    let before = ["a", "b"].map(|name| daemon.wait_state(name, "running"));
    for round in 0..3 {
        match round {
            0 => assert!(daemon.ask(&["daemon", "stop", "--leave"]).contains("run on")),
            1 => signal(daemon.keeper(), libc::SIGQUIT),
            _ => {
                // It comes to the next daemon if there is none.
                signal(daemon.daemon(), libc::SIGKILL);
                signal(daemon.keeper(), libc::SIGQUIT);
            }
        }
        assert_eq!(daemon.exit_code(), 0, "round {round}: {}", daemon.log());
        assert!(before.iter().all(|status| lives(pid(status))), "round {round}");
        daemon.start_again();
        for (name, before) in ["a", "b"].iter().zip(&before) {
            let after = daemon.wait_state(name, "running");
            assert_eq!((&after["pid"], &after["restarts"]), (&before["pid"], &json!(0)), "round {round}");
            assert_eq!(after["adopted"], true);
        }
    }
    assert!(daemon.cli(&["daemon", "stop", "--leave", "--now"]).code != 0, "one or the other");
    // As ever, whoever had begun them.
    daemon.ask(&["daemon", "stop"]);
    assert!(!before.iter().any(|status| lives(pid(status))));
}

/// Without root there are no cgroups here: the state database alone knows who lives, and the environment what is left.
#[test]
fn without_cgroups_services_are_taken_over_too() {
    let before = ["setpriv", "--reuid=54321", "--regid=54321", "--clear-groups"].map(str::to_owned).into();
    let options = Options { before, owner: Some(54321), ..Options::default() };
    let mut daemon = Daemon::start_with(&three("pidfd"), &options);
    assert!(daemon.log().contains("no cgroups"), "{}", daemon.log());
    for round in 1..=3_u64 {
        let status = daemon.wait("b", "running", |it| it["state"] == "running" && it["incarnation"] == round);
        let (main, a) = (pid(&status), pid(&daemon.wait_state("a", "running")));
        let rest = patiently("its child", || Some(rest_of(main)).filter(|rest| !rest.is_empty()));
        // The daemon, which leaves, writes down who lives.
        daemon.kill_keeper();
        if round == 3 {
            signal(main, libc::SIGKILL);
            patiently("its end", || (!lives(main)).then_some(()));
        }
        daemon.start_again();
        assert_eq!(pid(&daemon.wait_state("a", "running")), a);
        if round < 3 {
            assert_eq!(pid(&daemon.wait_state("b", "running")), main);
            signal(main, libc::SIGKILL);
        }
        let next = round + 1;
        let status = daemon.wait("b", "running", |it| it["state"] == "running" && it["incarnation"] == next);
        assert_eq!(status["restarts"], round);
        assert!(!rest.iter().any(|pid| lives(*pid)), "round {round}: leftovers");
    }
    let (main, rest) = (pid(&daemon.status("b")), rest_of(pid(&daemon.status("b"))));
    daemon.kill_keeper();
    daemon.start_again();
    daemon.ask(&["stop", "b"]);
    assert!(!lives(main) && !rest.iter().any(|pid| lives(*pid)));
}
