//! What the sources of events tell, where they differ, and that no source can make defib lose sight of a process.

use std::collections::BTreeSet;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use defib_tests::{Daemon, Hunger, Options, patiently, pid, signal};
use serde_json::{Value, json};
use tempfile::TempDir;

const SLEEP: &str = "command = \"sleep 1000\"";

fn source(daemon: &Daemon) -> Value {
    let all: Value = serde_json::from_str(&daemon.ask(&["status", "--json"])).expect("JSON");
    all["source"].clone()
}

/// Waits for an event of `it`.
#[track_caller]
fn wait_event(daemon: &Daemon, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    patiently(what, || daemon.events("it").into_iter().find(|event| wanted(event)))
}

#[test]
fn for_root_the_best_source_is_ebpf_and_it_knows_the_facts() {
    let daemon = Daemon::start(
        "[service.it]\ncommand = [\"sh\", \"-c\", \"sleep 4321 & exec sleep 1000\"]\n\
         restart = { delays = [\"1h\"] }\n",
    );
    let it = daemon.wait_state("it", "running");
    assert_eq!(source(&daemon), "ebpf", "these tests need root and a kernel with BTF: {}", daemon.log());
    let log = daemon.log();
    for probe in ["on_fork", "on_exec", "on_exit", "on_oom"] {
        let line = log.lines().find(|line| line.contains(probe)).unwrap_or_else(|| panic!("{probe}: {log}"));
        assert!(line.contains("ebpf") && line.contains("tp_btf/"), "what it is attached to: {line}");
    }

    let main = pid(&it);
    let runs = |name: &'static str| {
        move |event: &Value| event["filename"].as_str().is_some_and(|file| file.ends_with(name))
    };
    wait_event(&daemon, "its second program", |event| event["pid"] == main && runs("/sleep")(event));
    let of_main: Vec<_> = daemon
        .events("it")
        .into_iter()
        .filter(|event| event["pid"] == main && event["kind"] != "state")
        .collect();
    let [fork, shell, sleep] = &of_main[..] else { panic!("{of_main:#?}") };
    assert!(daemon.events("it").iter().all(|event| event["pid"] == main || event["pid"].is_null()));
    assert_eq!((&fork["kind"], &fork["parent"]), (&json!("fork"), &json!(daemon.keeper())));
    assert!(runs("/sh")(shell) && runs("/sleep")(sleep), "{of_main:#?}");
    assert_eq!((&shell["main"], &sleep["main"]), (&json!(true), &json!(true)));

    signal(main, libc::SIGKILL);
    let it = daemon.wait_state("it", "retrying");
    assert_eq!(it["last_exit"]["unknown"], json!([]), "the kernel was asked");
    let exit = wait_event(&daemon, "the end", |event| event["kind"] == "exit" && event["pid"] == main);
    assert_eq!((&exit["oom"], &exit["unknown"]), (&json!(false), &json!([])));
    assert_eq!((&exit["main"], &exit["incarnation"]), (&json!(true), &json!(1)));
    assert!(exit["ran_seconds"].is_f64() && exit["max_rss_bytes"].as_u64() > Some(0), "{exit:#}");
}

#[test]
fn the_work_of_the_oom_killer_is_told_as_such() {
    for name in ["ebpf", "proc-connector", "pidfd"] {
        let group = Hunger::new(name);
        let join = group.join();
        let daemon = Daemon::start_with(
            &format!(
                "[service.it]\ncommand = [\"sh\", \"-c\", \"{join} exec tail /dev/zero\"]\n\
                 restart = {{ delays = [\"1h\"] }}\n[service.bystander]\n{SLEEP}\n"
            ),
            &Options::with_source(name),
        );
        let it = daemon.wait_state("it", "retrying");
        let last = &it["last_exit"];
        assert_eq!(
            (&last["cause"], &last["signal"], &last["by"], &last["unknown"]),
            (&json!("oom"), &json!("SIGKILL"), &json!("self"), &json!([])),
            "{name}"
        );
        let [exit] = &daemon.events_of("it", "exit")[..] else { panic!("{:#?}", daemon.events("it")) };
        assert_eq!((&exit["cause"], &exit["main"]), (&json!("oom"), &json!(true)));
        assert_eq!(exit["oom"], true);
        assert!(exit["max_rss_bytes"].as_u64() > Some(16 << 20), "it did eat: {exit:#}");
        let [restart] = &daemon.events_of("it", "restart")[..] else { panic!("{:#?}", daemon.events("it")) };
        assert_eq!(restart["reason"], "oom");
        assert!(daemon.cli(&["status", "it"]).out.contains("SIGKILL (oom)"));
        if name == "ebpf" {
            let [oom] = &daemon.events_of("it", "oom")[..] else { panic!("{:#?}", daemon.events("it")) };
            assert_eq!((&oom["pid"], &oom["main"]), (&exit["pid"], &json!(true)));
        }
        let bystander = daemon.status("bystander");
        assert_eq!((&bystander["state"], &bystander["restarts"]), (&json!("running"), &json!(0)));
    }
}

/// The main process outlives the child that was chosen, and ends by itself.
#[test]
fn a_child_that_runs_out_of_memory_is_not_its_parent() {
    let group = Hunger::new("child");
    let daemon = Daemon::start(
        "[service.it]\ncommand = [\"sh\", \"-c\", \"sh {dir}/eat; exit $?\"]\nautostart = false\n\
         restart = { delays = [\"1h\"] }\n",
    );
    fs::write(daemon.path("eat"), format!("{}\nexec tail /dev/zero\n", group.join())).expect("a script");
    daemon.ask(&["start", "--no-wait", "it"]);
    let it = daemon.wait_state("it", "retrying");
    assert_eq!((&it["last_exit"]["cause"], &it["last_exit"]["code"]), (&json!("exit"), &json!(137)));
    let oom = daemon.events_of("it", "oom");
    assert_eq!((oom.len(), &oom[0]["main"]), (1, &json!(false)));
    let exits = daemon.events_of("it", "exit");
    let child = exits.iter().find(|exit| exit["pid"] == oom[0]["pid"]);
    if let Some(child) = child {
        assert_eq!((&child["cause"], &child["main"]), (&json!("oom"), &json!(false)));
        assert_eq!((&child["incarnation"], &child["by"]), (&Value::Null, &Value::Null));
    }
    assert_eq!(daemon.events_of("it", "restart")[0]["reason"], "exit");
}

/// How one life ended and what followed: all that does not differ from run to run.
fn life(source: &str, script: &str) -> (Vec<Value>, Value) {
    let daemon = Daemon::start_with(
        &format!(
            "[service.it]\ncommand = [\"sh\", \"-c\", \"ulimit -c 0; {script}\"]\n\
             restart = {{ delays = [\"1h\"] }}\n"
        ),
        &Options::with_source(source),
    );
    assert_eq!(self::source(&daemon), source);
    let mut it = daemon.wait("it", "to end", |it| !it["last_exit"].is_null() && it["state"] != "crashed");
    let events = daemon.events("it").into_iter();
    let mut events: Vec<_> = events
        .filter(|event| ["state", "exit", "restart"].iter().any(|kind| event["kind"] == **kind))
        .collect();
    for value in events.iter_mut().chain([&mut it, &mut Value::Null]) {
        for key in
            ["seq", "at", "pid", "ran_seconds", "cpu_seconds", "max_rss_bytes", "started_at", "next_start_at"]
        {
            if let Some(value) = value.get_mut(key) {
                *value = json!(value.is_null());
            }
        }
    }
    it["last_exit"]["at"] = Value::Null;
    (events, it)
}

#[test]
fn without_ebpf_the_same_is_told_but_for_what_only_the_kernel_knows() {
    for (script, cause, code, signal) in [
        ("exit 0", "exit", json!(0), Value::Null),
        ("exit 7", "exit", json!(7), Value::Null),
        ("kill -SEGV $$", "signal", Value::Null, json!("SIGSEGV")),
        ("kill -TERM $$", "signal", Value::Null, json!("SIGTERM")),
        ("kill -KILL $$", "signal", Value::Null, json!("SIGKILL")),
    ] {
        let (ebpf, pidfd) = (life("ebpf", script), life("pidfd", script));
        let exit = |events: &[Value]| {
            let exits: Vec<_> = events.iter().filter(|event| event["kind"] == "exit").cloned().collect();
            assert_eq!(exits.len(), 1, "{script}: {events:#?}");
            exits[0].clone()
        };
        let (told, less) = (exit(&ebpf.0), exit(&pidfd.0));
        assert_eq!(
            (&told["cause"], &told["code"], &told["signal"]),
            (&json!(cause), &code, &signal),
            "{script}"
        );
        assert_eq!((&told["oom"], &told["unknown"]), (&json!(false), &json!([])), "{script}");
        let unknown = if script.contains("kill") { json!(["sender"]) } else { json!([]) };
        assert_eq!((&less["unknown"], &less["oom"]), (&unknown, &json!(false)), "{script}");
        assert_eq!(pidfd.1["last_exit"]["unknown"], unknown, "{script}");

        let known = |(mut events, mut it): (Vec<Value>, Value)| {
            for event in events.iter_mut().filter(|event| event["kind"] == "exit") {
                (event["sender"], event["unknown"]) = (json!("-"), json!("-"));
            }
            (it["last_exit"]["sender"], it["last_exit"]["unknown"]) = (json!("-"), json!("-"));
            for value in events.iter_mut().chain([&mut it]) {
                if let Some(Value::String(why)) = value.get_mut("why") {
                    *why = why.replace(" from itself", "");
                }
            }
            (events, it)
        };
        assert_eq!(known(ebpf), known(pidfd), "{script}");
    }
}

/// A script that is written while the daemon reads it.
struct Script {
    _folder: TempDir,
    path: PathBuf,
    marks: u32,
    writer: Option<File>,
}

impl Script {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("script");
        nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRUSR | nix::sys::stat::Mode::S_IWUSR)
            .expect("a named pipe");
        Self { _folder: folder, path, marks: 0, writer: None }
    }

    fn options(&self) -> Options {
        let path = self.path.to_str().expect("UTF-8").to_owned();
        Options { env: vec![("DEFIB_SCRIPT".to_owned(), path)], ..Options::default() }
    }

    fn line(&mut self, line: &[u8]) {
        let path = &self.path;
        let writer = self.writer.get_or_insert_with(|| {
            // Without a reader this fails instead of waiting for ever.
            let open = || OpenOptions::new().write(true).custom_flags(libc::O_NONBLOCK).open(path).ok();
            patiently("the script's reader", open)
        });
        let line = [line, b"\n"].concat();
        patiently("room in the pipe", || writer.write_all(&line).ok());
    }

    fn event(&mut self, (pid, start): (u32, u64), main: bool, fact: &Value) {
        let event = json!({ "at": 1, "pid": pid, "start": start, "slot": 0, "main": main, "fact": fact });
        self.line(event.to_string().as_bytes());
    }

    /// Waits until the daemon has taken in everything so far.
    #[track_caller]
    fn settle(&mut self, daemon: &Daemon) {
        self.marks += 1;
        let mark = format!("mark {}", self.marks);
        self.event((1, 1), false, &json!({ "exec": { "filename": mark } }));
        wait_event(daemon, &mark, |event| event["filename"] == *mark);
    }
}

fn exit(at: u64, status: i32, oom: bool) -> Value {
    json!({ "exit": { "at": at, "status": status, "oom": oom } })
}

#[test]
fn a_source_that_lies_changes_nothing_about_a_process_that_runs() {
    let mut script = Script::new();
    let daemon = Daemon::start_with(
        &format!("[service.it]\n{SLEEP}\nrestart = {{ delays = [\"20ms\"], max_restarts = \"none\" }}\n"),
        &script.options(),
    );
    assert_eq!(source(&daemon), "scripted");
    let before = daemon.wait_state("it", "running");
    let main = pid(&before);

    let fork = json!({ "fork": { "parent": 1 } });
    for at in [0, 1, u64::MAX] {
        for status in [0, 9, 0x700, -1, i32::MIN, i32::MAX] {
            for start in [0, 5, u64::MAX] {
                for pid in [0, 1, main, daemon.keeper(), u32::MAX] {
                    script.event((pid, start), true, &exit(at, status, true));
                }
            }
        }
    }
    for _ in 0..50 {
        script.event((main, 5), true, &fork);
        script.event((main, 5), true, &exit(7, 0x700, false));
        script.event((main, 5), false, &exit(7, 9, true));
        script.event((main, 5), true, &json!("oom"));
        script.event((main, 5), true, &json!({ "exec": { "filename": "\u{1b}[2J" } }));
    }
    for slot in [1_u32, 4096, u32::MAX] {
        for fact in [&fork, &exit(1, 0x700, false), &json!("oom")] {
            let event =
                json!({ "at": u64::MAX, "pid": main, "start": 5, "slot": slot, "main": true, "fact": fact });
            script.line(event.to_string().as_bytes());
        }
    }
    let garbage: [&[u8]; 8] = [
        b"",
        b"null",
        b"{}",
        b"not JSON",
        b"[[[[[[[[",
        b"{\"at\":-1,\"pid\":1,\"start\":1,\"slot\":0,\"main\":true,\"fact\":\"oom\"}",
        b"{\"at\":1,\"pid\":4294967296,\"start\":1,\"slot\":0,\"main\":true,\"fact\":\"oom\"}",
        b"{\"at\":1,\"pid\":1,\"start\":1,\"slot\":0,\"main\":true,\"fact\":{\"exit\":{\"at\":-1}}}",
    ];
    for line in garbage {
        script.line(line);
    }
    script.settle(&daemon);

    let it = daemon.status("it");
    for field in ["state", "pid", "incarnation", "started_at", "restarts", "last_exit", "why"] {
        assert_eq!(it[field], before[field], "{field}");
    }
    let of_main = |daemon: &Daemon| -> Vec<Value> {
        daemon.events_of("it", "exit").into_iter().filter(|event| event["main"] == true).collect()
    };
    assert_eq!(of_main(&daemon), [Value::Null; 0]);
    let all = daemon.ask(&["events", "--json"]);
    let all = all.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    let lost = all.filter(|event| event["kind"] == "lost").map(|event| {
        assert_eq!(event["source"], "scripted");
        event["count"].as_u64().expect("a number")
    });
    assert_eq!(lost.sum::<u64>(), garbage.len() as u64, "what cannot be read is a loss, and is told");

    // A real end is told by its real status, whatever the source said of it.
    signal(main, libc::SIGKILL);
    let it = daemon.wait("it", "in its second life", |it| it["incarnation"] == 2 && it["state"] == "running");
    let last = &it["last_exit"];
    assert_eq!((&last["cause"], &last["signal"]), (&json!("signal"), &json!("SIGKILL")));
    assert_eq!(
        last["unknown"],
        json!(["oom", "sender"]),
        "a witness of another death knows nothing of this one"
    );
    let exits = of_main(&daemon);
    assert_eq!((exits.len(), &exits[0]["pid"], &it["restarts"]), (1, &json!(main), &json!(1)));
    assert!(daemon.log().contains("two statuses of one death"), "{}", daemon.log());

    // Nor does a time that cannot be put the next start off, or an end before its beginning.
    for (life, at) in [(2, u64::MAX), (3, 0)] {
        let it = daemon.wait("it", "alive", |it| it["incarnation"] == life && it["state"] == "running");
        script.event((pid(&it), 5), true, &fork);
        script.event((pid(&it), 5), true, &exit(at, 9, false));
        script.settle(&daemon);
        signal(pid(&it), libc::SIGKILL);
        let next = daemon.wait("it", "alive", |it| it["incarnation"] == life + 1 && it["state"] == "running");
        assert_eq!(next["last_exit"]["unknown"], json!(["sender"]), "this witness was believed");
        let (began, died) = (&it["started_at"], &next["last_exit"]["at"]);
        let order = [began, died, &next["started_at"]].map(|time| time.as_str().expect("a time").to_owned());
        assert!(order.is_sorted_by_key(|time| micros(time)), "{order:?}");
    }
    assert_eq!(of_main(&daemon).len(), 3, "one end for each life");
}

/// The digits of an RFC 3339 time in UTC as one number, to the microsecond, for comparison.
fn micros(time: &str) -> u128 {
    let (seconds, fraction) = time.trim_end_matches('Z').split_once('.').unwrap_or((time, "0"));
    let digits: String = seconds.chars().filter(char::is_ascii_digit).collect();
    format!("{digits}{fraction:0<6}").parse().expect("digits")
}

#[test]
fn two_daemons_do_not_hear_of_each_others_processes() {
    let config = "[service.it]\ncommand = [\"sh\", \"-c\", \"sleep 4321 & exec sleep 1000\"]\n";
    let daemons = [
        Daemon::start_with(config, &Options::with_source("ebpf")),
        Daemon::start_with(config, &Options::with_source("ebpf")),
    ];
    // The same slot in both.
    for life in 1..4 {
        for daemon in &daemons {
            let it = daemon.wait("it", "alive", |it| it["incarnation"] == life && it["state"] == "running");
            if life < 3 {
                signal(pid(&it), libc::SIGKILL);
            }
        }
    }
    let pids = daemons.each_ref().map(|daemon| {
        let events = daemon.events("it");
        let exits = events.iter().filter(|event| event["kind"] == "exit" && event["main"] == true).count();
        assert_eq!(exits, 2, "{events:#?}");
        let forks: Vec<_> = events.iter().filter(|event| event["kind"] == "fork").collect();
        let mut known: BTreeSet<_> = [u64::from(daemon.keeper())].into();
        for fork in forks {
            assert!(known.contains(&fork["parent"].as_u64().expect("a pid")), "{fork:#}");
            known.insert(fork["pid"].as_u64().expect("a pid"));
        }
        for event in &events {
            assert!(event["pid"].as_u64().is_none_or(|pid| known.contains(&pid)), "{event:#}");
        }
        known
    });
    assert!(pids[0].is_disjoint(&pids[1]), "{pids:?}");
}

#[test]
fn no_crash_is_missed_or_counted_twice_however_fast_they_come() {
    const LIVES: u64 = 301;
    for name in ["ebpf", "pidfd"] {
        let daemon = Daemon::start_with(
            &format!(
                "[service.it]\n\
                 command = [\"sh\", \"-c\", \"[ $DEFIB_INCARNATION -ge {LIVES} ] && exec sleep 1000; exit 1\"]\n\
                 restart = {{ immediate = 1000000, max_restarts = \"none\" }}\n"
            ),
            &Options::with_source(name),
        );
        for life in [LIVES / 4, LIVES / 2, LIVES * 3 / 4] {
            daemon.wait("it", "on its way", |it| it["incarnation"].as_u64() >= Some(life));
        }
        let it = daemon.wait("it", "through", |it| it["incarnation"] == LIVES && it["state"] == "running");
        assert_eq!(it["restarts"], LIVES - 1);
        let events = daemon.events("it");
        let numbers: Vec<_> = events.iter().map(|event| event["seq"].as_u64().expect("a number")).collect();
        assert!(numbers.is_sorted_by(|one, next| one < next), "{numbers:?}");
        let of = |kind: &str, field: &str| -> Vec<Value> {
            events.iter().filter(|event| event["kind"] == kind).map(|event| event[field].clone()).collect()
        };
        assert_eq!(of("lost", "count"), [Value::Null; 0]);
        let ended: Vec<Value> = (1..LIVES).map(Value::from).collect();
        assert_eq!(of("exit", "incarnation"), ended, "{name}");
        assert_eq!(of("restart", "incarnation"), ended, "{name}");
        assert!(of("exit", "code").iter().all(|code| *code == 1));
        if name == "ebpf" {
            let (forks, exits) = (of("fork", "pid"), of("exit", "pid"));
            assert_eq!(forks[..exits.len()], exits, "the kernel told of every one, in order");
        }
    }
}
