//! What scripts and people see of the command line: exit codes, JSON, and what is said when something is refused.
#![expect(clippy::disallowed_methods, reason = "tests start the program in ways of their own")]

mod check;

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use defib_tests::{
    Daemon, Options, Said, assert_harmless, assert_said, defib, install, install_text, patiently, pid,
    program, said, signal,
};
use serde_json::Value;

/// Somebody who is neither root nor in any group.
const NOBODY: u32 = 54321;

/// What makes a command another user's.
const AS_NOBODY: [&str; 4] = ["setpriv", "--reuid=54321", "--regid=54321", "--clear-groups"];

const SLEEP: &str = "command = \"sleep 1000\"";

fn parse(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(parse).collect()
}

fn keys(value: &Value) -> Vec<&str> {
    value.as_object().expect("an object").keys().map(String::as_str).collect()
}

fn names(status: &Value) -> Vec<&str> {
    status["services"].as_array().expect("a list").iter().filter_map(|it| it["name"].as_str()).collect()
}

/// `2026-08-03T14:03:22.118Z`, with or without the fraction.
#[track_caller]
fn assert_utc(value: &Value) {
    let text = value.as_str().unwrap_or_else(|| panic!("{value} is no time"));
    let (seconds, fraction) = text.trim_end_matches('Z').split_once('.').unwrap_or((text, "0"));
    let shape: String =
        seconds.trim_end_matches('Z').chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    assert!(text.ends_with('Z') && shape == "0000-00-00T00:00:00", "{text} is not RFC 3339 in UTC");
    assert!(
        fraction.trim_end_matches('Z').chars().all(|c| c.is_ascii_digit()) && !fraction.starts_with('Z'),
        "{text} has no number as its fraction"
    );
}

#[test]
fn words_that_make_no_sense_are_usage_errors() {
    for line in [
        "",
        "no-such-verb",
        "stop",
        "stop --all it",
        "status --no-such-option",
        "status --color sometimes",
        "events --service a/b",
        "events --after yesterday",
        "kill it --signal NOPE",
        "kill it --signal 0",
        "kill it --signal 65",
        "kill it --signal",
    ] {
        let said = defib(&line.split_whitespace().collect::<Vec<_>>());
        assert_eq!((said.code, said.out.as_str()), (2, ""), "{line}: {said:?}");
        assert!(!said.err.is_empty(), "{line}");
    }
    let said = defib(&["kill", "it", "--signal", "NOPE"]);
    assert_said(&said, 2, &["NOPE", "SIGKILL"]);
    for line in ["--help", "--version", "status --help", "daemon --help"] {
        let said = defib(&line.split_whitespace().collect::<Vec<_>>());
        assert_eq!((said.code, said.err.as_str()), (0, ""), "{line}: {said:?}");
    }
}

#[test]
fn without_a_daemon_every_verb_says_how_to_start_one() {
    let folder = tempfile::tempdir().expect("a folder");
    let run = folder.path().to_str().expect("UTF-8");
    for line in [
        "status",
        "start it",
        "stop --all",
        "kill it",
        "events",
        "events --follow",
        "daemon stop",
        "daemon restart",
    ] {
        let mut args = vec!["--runtime-dir", run];
        args.extend(line.split(' '));
        let said = defib(&args);
        assert_said(&said, 5, &[run, "`defib daemon`", "systemctl start defib"]);
        assert_eq!(said.out, "", "{line}");
    }
    // A socket that nobody serves any more is no daemon either.
    drop(std::os::unix::net::UnixListener::bind(folder.path().join("defib.sock")).expect("a socket"));
    assert_said(&defib(&["--runtime-dir", run, "status"]), 5, &["refused", "`defib daemon`"]);
}

/// Whose highest code counts, whatever the order of the names.
#[test]
fn of_several_services_the_worst_end_counts() {
    let daemon = Daemon::start(&format!(
        "[service.api-1]\n{SLEEP}\n[service.api-2]\n{SLEEP}\n[service.database]\n{SLEEP}\n\
         [service.bad]\ncommand = \"/no/such/program\"\nautostart = false\nrestart = {{ policy = \"never\" }}\n"
    ));
    for name in ["api-1", "api-2", "database"] {
        daemon.wait_state(name, "running");
    }
    let said = daemon.cli(&["status", "databse"]);
    assert_said(&said, 3, &["\"databse\"", "did you mean database?"]);
    assert_eq!(said.out, "", "nothing of the services that were not asked for");

    // A mistyped name keeps nobody from the others.
    assert_said(&daemon.cli(&["stop", "databse", "api-*"]), 3, &["api-1: stopped", "api-2: stopped"]);
    assert_eq!(daemon.status("database")["state"], "running");
    let shown = parse(&daemon.ask(&["status", "--json", "api-?"]));
    assert_eq!(names(&shown), ["api-1", "api-2"]);
    assert_eq!(names(&parse(&daemon.ask(&["status", "--json", "*", "api-1"]))).len(), 4, "each once");

    assert_said(&daemon.cli(&["start", "api-1", "api-2"]), 0, &["api-1: running", "api-2: running"]);
    for args in [["bad", "api-1"], ["api-1", "bad"]] {
        assert_said(&daemon.cli(&["start", args[0], args[1]]), 1, &["/no/such/program", "already running"]);
    }
    assert_said(&daemon.cli(&["start", "nosuch", "bad"]), 3, &[]);
    daemon.ask(&["disable", "database"]);
    for args in [["database", "bad", "nosuch"], ["nosuch", "bad", "database"]] {
        assert_said(&daemon.cli(&["start", args[0], args[1], args[2]]), 6, &[]);
    }

    let said = daemon.cli(&["start", "--json", "nosuch", "bad", "database", "api-1"]);
    assert_eq!(said.code, 6);
    let results = parse(&said.out)["results"].as_array().expect("a list").clone();
    let mut found: Vec<_> = results
        .iter()
        .map(|result| {
            (result["service"].as_str().expect("a name"), result["result"].as_str().expect("a word"))
        })
        .collect();
    found.sort();
    assert_eq!(
        found,
        [("api-1", "done"), ("bad", "failed"), ("database", "disabled"), ("nosuch", "not-found")]
    );
    for result in &results {
        assert_eq!(keys(result), ["detail", "result", "service", "verb"]);
    }
}

#[test]
fn status_has_every_field_in_every_state() {
    let daemon = Daemon::start(&format!(
        "[service.up]\n{SLEEP}\n[service.down]\n{SLEEP}\nautostart = false\n\
         [service.crashing]\ncommand = \"false\"\nrestart = {{ delays = [\"1h\"] }}\n\
         [service.impossible]\ncommand = \"/no/such/program\"\nrestart = {{ policy = \"never\" }}\n"
    ));
    daemon.wait_state("up", "running");
    daemon.wait_state("crashing", "retrying");
    daemon.wait_state("impossible", "failed");
    let all = parse(&daemon.ask(&["status", "--json"]));
    assert!(["ebpf", "pidfd"].iter().any(|name| all["source"] == **name), "{all:#}");
    assert_eq!(names(&all), ["crashing", "down", "impossible", "up"], "by name");

    type Kind = fn(&Value) -> bool;
    const FIELDS: [(&str, Kind, bool); 21] = [
        ("name", Value::is_string, false),
        ("state", Value::is_string, false),
        ("pid", Value::is_u64, true),
        ("incarnation", Value::is_u64, false),
        ("ready", Value::is_boolean, false),
        ("healthy", Value::is_boolean, true),
        ("adopted", Value::is_boolean, false),
        ("enabled", Value::is_boolean, false),
        ("paused", Value::is_boolean, false),
        ("paused_until", Value::is_string, true),
        ("group", Value::is_string, true),
        ("started_at", Value::is_string, true),
        ("uptime_seconds", Value::is_f64, true),
        ("restarts", Value::is_u64, false),
        ("last_exit", Value::is_object, true),
        ("next_start_at", Value::is_string, true),
        ("cpu_seconds", Value::is_f64, true),
        ("memory_bytes", Value::is_u64, true),
        ("ports", Value::is_array, false),
        ("description", Value::is_string, false),
        ("why", Value::is_string, false),
    ];
    for service in all["services"].as_array().expect("a list") {
        for (field, kind, nullable) in FIELDS {
            let value = service.get(field).unwrap_or_else(|| panic!("no {field} in {service:#}"));
            assert!(kind(value) || nullable && value.is_null(), "{field}: {service:#}");
        }
        for field in ["started_at", "next_start_at"] {
            if !service[field].is_null() {
                assert_utc(&service[field]);
            }
        }
        if !service["last_exit"].is_null() {
            let exit = &service["last_exit"];
            assert_eq!(
                keys(exit),
                ["address", "at", "by", "cause", "code", "core", "sender", "signal", "unknown"]
            );
            assert_utc(&exit["at"]);
        }
    }

    let [crashing, down, impossible, up] = &all["services"].as_array().expect("a list")[..] else {
        panic!("{all:#}")
    };
    let nulls = |service: &Value| {
        let fields = service.as_object().expect("an object").iter();
        fields.filter(|(_, value)| value.is_null()).map(|(key, _)| key.clone()).collect::<Vec<_>>()
    };
    assert_eq!(nulls(up), ["group", "healthy", "last_exit", "next_start_at", "paused_until"]);
    let never = [
        "cpu_seconds",
        "group",
        "healthy",
        "last_exit",
        "memory_bytes",
        "next_start_at",
        "paused_until",
        "pid",
        "started_at",
        "uptime_seconds",
    ];
    assert_eq!(
        (nulls(down), &down["state"], &down["incarnation"]),
        (never.map(str::to_owned).into(), &"stopped".into(), &0.into())
    );
    assert!(nulls(crashing).iter().all(|key| !["last_exit", "next_start_at"].contains(&key.as_str())));
    assert!(crashing["pid"].is_null() && crashing["cpu_seconds"].is_null() && crashing["ready"] == false);
    assert!(
        impossible["last_exit"].is_null() && impossible["why"].as_str().is_some_and(|why| !why.is_empty())
    );
}

#[test]
fn events_have_number_time_kind_service_and_pid() {
    let daemon = Daemon::start("[service.it]\ncommand = \"false\"\nrestart = { delays = [\"1h\"] }\n");
    daemon.wait_state("it", "retrying");
    let events = lines(&daemon.ask(&["events", "--json"]));
    let mut last = 0;
    for event in &events {
        for key in ["seq", "at", "kind", "service", "pid"] {
            assert!(event.get(key).is_some(), "no {key} in {event}");
        }
        assert_utc(&event["at"]);
        let seq = event["seq"].as_u64().expect("a number");
        assert!(seq > last, "{event}");
        last = seq;
    }
    for kind in ["state", "exit", "restart"] {
        assert!(events.iter().any(|event| event["kind"] == kind && event["service"] == "it"), "{kind}");
    }
    let third = events[2]["seq"].to_string();
    let rest = lines(&daemon.ask(&["events", "--json", "--after", &third]));
    assert_eq!(rest[..events.len() - 3], events[3..]);
    assert_said(&daemon.cli(&["events", "--service", "ti"]), 3, &["\"ti\"", "`defib status` lists them"]);
}

#[test]
fn whoever_follows_sees_every_event_once_until_the_daemon_leaves() {
    let mut daemon = Daemon::start(&format!("[service.it]\n{SLEEP}\n"));
    let before = daemon.wait_state("it", "running");
    let (out, err) = (daemon.path("followed"), daemon.path("complaints"));
    let mut follower = daemon
        .command(&["events", "--follow", "--json"])
        .stdin(Stdio::null())
        .stdout(File::create(&out).expect("a file"))
        .stderr(File::create(&err).expect("a file"))
        .spawn()
        .expect("the program starts");
    let read = || fs::read_to_string(&out).expect("a file");
    let seen = |what: &str, wanted: &dyn Fn(&Value) -> bool| {
        patiently(what, || {
            let text = read();
            // The last line may be half written.
            let whole = &text[..text.rfind('\n').map_or(0, |end| end + 1)];
            lines(whole).iter().any(wanted).then_some(())
        });
    };
    seen("the past", &|event| event["to"] == "running");
    let pid = pid(&before);
    signal(pid, libc::SIGKILL);
    seen("the crash", &|event| event["kind"] == "exit" && event["pid"] == pid && event["main"] == true);
    seen("the next life", &|event| event["incarnation"] == 2 && event["to"] == "running");
    daemon.wait_state("it", "running");
    let kept = lines(&daemon.ask(&["events", "--json"]));
    daemon.ask(&["daemon", "stop"]);
    assert_eq!(daemon.exit_code(), 0);
    let code = patiently("the follower's end", || follower.try_wait().expect("a child")).code();
    assert_eq!(code, Some(5));
    assert!(fs::read_to_string(&err).expect("a file").contains("has left"));

    let followed = lines(&read());
    let numbers: Vec<_> = followed.iter().map(|event| event["seq"].as_u64().expect("a number")).collect();
    assert!(numbers.windows(2).all(|pair| pair[0] + 1 == pair[1]), "{numbers:?}");
    assert_eq!(followed[..kept.len()], kept, "the same as without --follow");
    assert!(
        followed.iter().any(|event| event["kind"] == "exit" && event["by"] == "shutdown"),
        "what happened while the daemon left"
    );
}

#[test]
fn global_options_stand_on_either_side_of_the_verb() {
    let daemon = Daemon::start(&format!("[service.it]\n{SLEEP}\n"));
    daemon.wait_state("it", "running");
    let run = daemon.path("run").into_os_string().into_string().expect("UTF-8");
    let lines: [&[&str]; 5] = [
        &["--json", "--runtime-dir", &run, "status", "it"],
        &["status", "--json", "it", "--runtime-dir", &run],
        &["--runtime-dir", &run, "status", "it", "--json"],
        &["--runtime-dir", "/no/such/folder", "status", "--runtime-dir", &run, "--json"],
        &["status", "--color", "never", "--json", "--runtime-dir", &run],
    ];
    for line in lines {
        let said = defib(line);
        assert_eq!(said.code, 0, "{line:?}: {said:?}");
        assert_eq!(names(&parse(&said.out)), ["it"], "{line:?}");
    }
    let found = said(Command::new(program()).args(["status", "it"]).env("DEFIB_RUNTIME_DIR", &run));
    assert_said(&found, 0, &["it", "running"]);
    let beaten =
        said(Command::new(program()).args(["status", "--runtime-dir", &run]).env("DEFIB_RUNTIME_DIR", "/no"));
    assert_said(&beaten, 0, &["it"]);

    // Who names the configuration of a daemon asks that one, whatever else is wrong in the file by now.
    let file = daemon.path("elsewhere.toml");
    fs::write(&file, format!("[daemon]\nruntime_dir = {run:?}\n[service.it\n")).expect("a file");
    let file = file.into_os_string().into_string().expect("UTF-8");
    assert_said(&defib(&["status", "--config", &file]), 0, &["it", "running"]);
    let variable = said(Command::new(program()).args(["status", "it"]).env("DEFIB_CONFIG", &file));
    assert_said(&variable, 0, &["it", "running"]);
    assert_said(&defib(&["stop", "it", "--config", "/no/such/file"]), 2, &["/no/such/file: no such file"]);
    let decided = ["status", "it", "--config", "/no/such/file", "--runtime-dir", &run];
    assert_said(&defib(&decided), 0, &["it", "running"]);
}

#[test]
fn nothing_that_a_service_is_called_steers_the_terminal() {
    let daemon = Daemon::start(
        "[service.it]\ncommand = [\"/no/such/\\u001b[31mred\\nline\\u009b\\r\\u202eprogram\"]\n\
         restart = { delays = [\"1h\"] }\n[service.runs]\ncommand = \"{dir}/prog\"\nautostart = false\n",
    );
    daemon.wait_state("it", "retrying");
    for args in [&["status"][..], &["events"], &["events", "--service", "it"], &["status", "\x1b[2J"]] {
        let Said { code: _, out, err } = daemon.cli(args);
        assert_harmless(&out);
        assert_harmless(&err);
        assert!(!out.contains('\u{202e}'), "text must not run backwards: {out:?}");
    }
    assert!(daemon.ask(&["status", "it"]).contains("\\u{1b}[31mred\\nline"), "it is shown escaped");
    let said = daemon.cli(&["start", "it"]);
    assert_harmless(&said.err);
    assert_said(&said, 1, &["\\u{1b}[31mred"]);
    // In JSON it is what it was.
    let it = daemon.status("it");
    assert!(it["why"].as_str().is_some_and(|why| why.contains("\u{1b}[31mred\nline")), "{it:#}");
    assert_harmless(&daemon.ask(&["status", "--json"]));
    assert_harmless(&daemon.log());
    assert!(daemon.log().lines().all(|line| line.starts_with("20")), "nobody forges a line of the log");

    // A service that runs may choose the path that the kernel tells of.
    let program = daemon.path("\u{1b}[31mrun");
    install(Path::new("/bin/sleep"), &program);
    let script = format!("#!/bin/sh\nexec '{}' 1000\n", program.display());
    install_text(&script, 0o755, &daemon.path("prog"));
    daemon.ask(&["start", "runs"]);
    assert_harmless(&daemon.ask(&["events"]));
}

/// A pipe whose reader has gone.
fn closed() -> Stdio {
    let (reader, writer) = io::pipe().expect("a pipe");
    drop(reader);
    writer.into()
}

#[test]
fn a_reader_who_has_seen_enough_is_no_failure() {
    let daemon = Daemon::start(&format!("[service.it]\n{SLEEP}\n"));
    daemon.wait_state("it", "running");
    for args in [
        &["status"][..],
        &["status", "--json"],
        &["events"],
        &["events", "--json"],
        &["events", "--follow"],
        &["stop", "it"],
        &["--help"],
    ] {
        let mut command = daemon.command(args);
        let child = command.stdin(Stdio::null()).stdout(closed()).stderr(Stdio::piped()).spawn();
        let output = child.and_then(Child::wait_with_output).expect("it runs");
        let err = String::from_utf8_lossy(&output.stderr);
        assert_eq!((output.status.code(), err.as_ref()), (Some(0), ""), "{args:?}");
    }
    let words = "\"$0\" --runtime-dir \"$1\" events --json | head -1";
    let head = said(Command::new("sh").arg("-c").arg(words).arg(program()).arg(daemon.path("run")));
    assert_eq!((head.code, head.err.as_str(), head.out.lines().count()), (0, "", 1));
}

#[test]
fn the_socket_is_roots_and_other_users_are_told_so() {
    let daemon = Daemon::start(&format!("[service.it]\n{SLEEP}\n"));
    let socket = fs::metadata(daemon.path("run/defib.sock")).expect("a socket");
    let mode = socket.permissions().mode() & 0o777;
    assert!([0o600, 0o660].contains(&mode), "{mode:o}");
    assert_eq!(socket.uid(), 0);

    let ask = |verb: &[&str]| {
        let mut command = Command::new(AS_NOBODY[0]);
        command.args(&AS_NOBODY[1..]).arg(program()).arg("--runtime-dir").arg(daemon.path("run"));
        said(command.args(verb))
    };
    for verb in [&["status"][..], &["stop", "it"], &["events", "--follow"], &["daemon", "stop"]] {
        let said = ask(verb);
        assert!([4, 5].contains(&said.code), "{said:?}");
        assert!(said.err.contains("run/defib.sock") && said.err.contains("root"), "{said:?}");
    }
    daemon.wait_state("it", "running");
}

/// Whoever can put a socket where root looks for one could have root believe anything.
#[test]
fn root_does_not_listen_to_a_daemon_of_somebody_else() {
    let options =
        Options { before: AS_NOBODY.map(str::to_owned).into(), owner: Some(NOBODY), ..Options::default() };
    let daemon = Daemon::start_with(&format!("[service.it]\n{SLEEP}\n"), &options);
    let run = daemon.path("run").into_os_string().into_string().expect("UTF-8");
    for verb in ["status", "events"] {
        let said = defib(&["--runtime-dir", &run, verb]);
        assert_said(&said, 5, &["belongs to user 54321", "root trusts only root's"]);
        assert_eq!(said.out, "");
    }
    assert_eq!(daemon.status("it")["name"], "it", "its own user may ask it");
}
