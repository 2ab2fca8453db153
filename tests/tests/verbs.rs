//! The operator's verbs through the built program: whom they mean, pauses, what they show, boot.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Stdio;

use defib_tests::{
    Daemon, Options, assert_harmless, assert_said, defib, free_port, lives, patiently, pid, program, signal,
};
use serde_json::{Value, json};

/// Two groups, and a service that is in none.
const GROUPS: &str = "\
[service.api-1]\ncommand = \"sleep 1000\"\nservice_group = \"web\"\n\
[service.api-2]\ncommand = \"sleep 1000\"\nservice_group = \"web\"\n\
[service.db]\ncommand = \"sleep 1000\"\nservice_group = \"data\"\n\
[service.lone]\ncommand = \"sleep 1000\"\n";

fn parse(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

/// A port that nobody has just now.
fn names(status: &Value) -> Vec<&str> {
    status["services"].as_array().expect("a list").iter().filter_map(|it| it["name"].as_str()).collect()
}

/// The columns of a table's line.
fn words(line: &str) -> Vec<&str> {
    line.split_ascii_whitespace().collect()
}

#[test]
fn groups_and_patterns_mean_services() {
    let daemon = Daemon::start(GROUPS);
    let all = ["api-1", "api-2", "db", "lone"];
    for name in all {
        daemon.wait_state(name, "running");
    }
    let state = |name| daemon.status(name)["state"].as_str().map(str::to_owned).expect("a word");
    daemon.ask(&["stop", "web:*"]);
    assert_eq!(all.map(state), ["stopped", "stopped", "running", "running"]);
    daemon.ask(&["start", "--group", "web"]);
    daemon.ask(&["stop", "web:*-2", "-g", "data"]);
    assert_eq!(all.map(state), ["running", "stopped", "stopped", "running"]);
    daemon.ask(&["start", "--all"]);
    daemon.ask(&["restart", "*:*"]);
    assert_eq!(all.map(|name| daemon.status(name)["incarnation"].as_u64()), [3, 4, 3, 1].map(Some));

    for (choice, wanted) in [
        (&["--group", "web"][..], &all[..2]),
        (&["web:api-?", "lone"], &["api-1", "api-2", "lone"]),
        (&["-g", "data", "-g", "web"], &all[..3]),
        (&["--all"], &all),
    ] {
        let shown = parse(&daemon.ask(&[&["status", "--json"], choice].concat()));
        assert_eq!(names(&shown), wanted, "{choice:?}");
        let used =
            parse(&daemon.ask(&[&["stats", "--json", "--interval", "10ms", "-n", "1"], choice].concat()));
        assert_eq!(names(&used), wanted, "{choice:?}");
    }
    assert_eq!(daemon.status("db")["group"], "data");
    let table = daemon.ask(&["status"]);
    assert_eq!(words(table.lines().next().expect("a head"))[..2], ["NAME", "GROUP"]);
    let ungrouped = daemon.ask(&["status", "lone", "lon?"]);
    assert_eq!(
        words(ungrouped.lines().next().expect("a head"))[..2],
        ["NAME", "STATE"],
        "no column without use"
    );

    for verb in ["stop", "status", "stats"] {
        assert_said(
            &daemon.cli(&[verb, "-g", "wep"]),
            3,
            &["no group is named \"wep\"", "did you mean web?"],
        );
        assert_said(&daemon.cli(&[verb, "wep:*"]), 3, &["no group is named \"wep\"", "did you mean web?"]);
        let said = daemon.cli(&[verb, "web:apl-1"]);
        assert_said(&said, 3, &["no service of group \"web\" is named \"apl-1\"", "did you mean api-1"]);
        assert_said(&daemon.cli(&[verb, "web:zzz"]), 3, &["`defib status --group web` lists them"]);
        assert_said(&daemon.cli(&[verb, "--all", "db"]), 2, &["--all"]);
        assert_said(&daemon.cli(&[verb, "--all", "-g", "web"]), 2, &["--all"]);
    }
    assert!(all.iter().all(|name| daemon.status(name)["state"] == "running"), "nothing was meant by them");
}

#[test]
fn what_is_paused_stays_down_until_it_is_resumed() {
    let daemon = Daemon::start(GROUPS);
    let before = daemon.wait_state("db", "running");
    assert_eq!((&before["paused"], &before["paused_until"]), (&json!(false), &Value::Null));
    assert_said(&daemon.cli(&["pause", "data:*"]), 0, &["db: paused"]);
    let table = daemon.ask(&["status", "-g", "data", "--color", "always"]);
    assert!(table.contains("\x1b[33m●\x1b[0m db") && table.contains("  paused\n"), "{table}");

    signal(pid(&before), libc::SIGKILL);
    let failed = daemon.wait_state("db", "failed");
    let why = failed["why"].as_str().expect("a reason");
    assert!(why.contains("SIGKILL") && why.contains("not started again while it is paused"), "{why}");
    assert_eq!((&failed["paused"], &failed["paused_until"]), (&json!(true), &Value::Null));
    assert_eq!((&failed["next_start_at"], &failed["restarts"]), (&Value::Null, &json!(0)));
    assert_eq!(failed["last_exit"]["signal"], "SIGKILL");
    let table = daemon.ask(&["status", "-g", "data"]);
    assert!(table.contains("paused: ") && table.contains("SIGKILL"), "{table}");

    // The next daemon knows of it.
    let first = daemon.daemon();
    signal(first, libc::SIGKILL);
    patiently("the next daemon", || Some(daemon.daemon()).filter(|pid| *pid != first));
    let after = daemon.wait_state("db", "failed");
    assert_eq!((&after["paused"], &after["why"]), (&json!(true), &failed["why"]));

    assert_said(
        &daemon.cli(&["resume", "--all"]),
        0,
        &["db: resumed: it is started again", "lone: it was not paused"],
    );
    let resumed = daemon.wait_state("db", "running");
    assert_eq!((&resumed["paused"], &resumed["restarts"]), (&json!(false), &json!(1)));
    let restarts = daemon.events_of("db", "restart");
    assert_eq!(restarts.iter().map(|it| it["reason"].as_str()).collect::<Vec<_>>(), [Some("manual")]);
}

#[test]
fn a_pause_ends_by_itself_at_its_date() {
    let daemon = Daemon::start(GROUPS);
    let before = daemon.wait_state("lone", "running");
    daemon.ask(&["pause", "lone", "--for", "6s"]);
    let paused = daemon.status("lone");
    let until = paused["paused_until"].as_str().expect("a date").to_owned();
    signal(pid(&before), libc::SIGKILL);
    let resumed =
        daemon.wait("lone", "in its second life", |it| it["incarnation"] == 2 && it["state"] == "running");
    assert_eq!((&resumed["paused"], &resumed["paused_until"]), (&json!(false), &Value::Null));
    let restart = &daemon.events_of("lone", "restart")[0];
    // Both are RFC 3339 in UTC, of which the fraction may be cut: they compare as texts up to the second.
    let at = restart["at"].as_str().expect("a date");
    assert!(at[..19] >= until[..19], "restarted at {at}, paused until {until}");
    assert_said(&daemon.cli(&["pause", "lone", "--for", "soon"]), 2, &["soon", "unit"]);
}

#[test]
fn one_service_is_shown_in_detail() {
    let daemon = Daemon::start(
        "[service.it]\ncommand = \"sleep 1000\"\nservice_group = \"web\"\ndescription = \"Does it\"\nports = [1]\n\
         restart = { delays = [\"1h\"], immediate = 0 }\n[service.other]\ncommand = \"sleep 1000\"\n",
    );
    let it = daemon.wait_state("it", "running");
    let text = daemon.ask(&["status", "it"]);
    let pid = pid(&it);
    for wanted in
        ["● it: Does it\n", "running, ready", "group      web", "1! does not listen", "restarts   0"]
    {
        assert!(text.contains(wanted), "{wanted:?} is not in {text}");
    }
    assert!(text.contains(&format!("pid        {pid}, life 1")), "{text}");
    assert_eq!(daemon.ask(&["status", "it*"]).lines().count(), 2, "a pattern makes a table");
    signal(pid, libc::SIGKILL);
    daemon.wait_state("it", "retrying");
    daemon.ask(&["pause", "it", "--for", "1h"]);
    let text = daemon.ask(&["status", "it"]);
    for wanted in
        ["● it: Does it\n", "failed", "while it is paused", "paused     for 59m", "last exit  SIGKILL"]
    {
        assert!(text.contains(wanted), "{wanted:?} is not in {text}");
    }
    assert_harmless(&text);
}

#[test]
fn what_starts_with_defib_is_kept_beside_the_configuration() {
    let folder = tempfile::tempdir().expect("a folder");
    let state = folder.path().join("state").into_os_string().into_string().expect("UTF-8");
    let options = Options { args: vec!["--state-dir".into(), state.clone()], ..Options::default() };
    let config = "[service.a]\ncommand = \"sleep 1000\"\n[service.b]\ncommand = \"sleep 1000\"\nautostart = false\n\
                  [service.c]\ncommand = \"sleep 1000\"\n";
    let file = Path::new(&state).join("boot.json");

    let daemon = Daemon::start_with(config, &options);
    let a = daemon.wait_state("a", "running");
    assert_said(&daemon.cli(&["disable", "--boot", "a"]), 0, &["a: does not start with defib"]);
    let said = daemon.cli(&["enable", "b", "nosuch", "--boot", "--json"]);
    assert_said(&said, 3, &["\"nosuch\""]);
    assert_eq!(parse(&said.out)["results"][1]["result"], "done", "{}", said.out);
    assert_eq!(parse(&fs::read_to_string(&file).expect("a file")), json!({ "a": false, "b": true }));
    assert_eq!(fs::metadata(&file).expect("a file").permissions().mode() & 0o777, 0o644);
    assert!(daemon.ask(&["inspect", "a"]).contains("does not start with defib"));
    // Nothing has changed for what runs and what does not, also for a daemon that comes back.
    let first = daemon.daemon();
    signal(first, libc::SIGKILL);
    patiently("the next daemon", || Some(daemon.daemon()).filter(|pid| *pid != first));
    assert_eq!(daemon.wait_state("a", "running")["pid"], a["pid"]);
    assert_eq!(daemon.status("b")["state"], "stopped");
    assert_eq!(daemon.status("a")["enabled"], true);
    drop(daemon);

    let daemon = Daemon::start_with(config, &options);
    for name in ["b", "c"] {
        daemon.wait_state(name, "running");
    }
    assert_eq!(daemon.status("a")["state"], "stopped");
    drop(daemon);

    // What is damaged is no reason not to start.
    fs::write(&file, "{ \"a\": ").expect("a file");
    let daemon = Daemon::start_with(config, &options);
    for name in ["a", "c"] {
        daemon.wait_state(name, "running");
    }
    assert_eq!(daemon.status("b")["state"], "stopped");
    assert!(daemon.log().contains("boot.json") && daemon.log().contains("damaged"), "{}", daemon.log());
    assert_eq!(fs::read_to_string(file.with_file_name("boot.json.damaged")).expect("set aside"), "{ \"a\": ");
    // What cannot be kept is told.
    fs::create_dir_all(file.with_file_name("boot.json.new")).expect("a folder in the way");
    assert_said(&daemon.cli(&["disable", "--boot", "c"]), 1, &["cannot disable --boot c", "boot.json.new"]);
}

#[test]
fn a_service_is_inspected_with_all_its_parts() {
    let server = program().with_file_name("server");
    assert!(server.exists(), "{} is not built: run `cargo xtask test`", server.display());
    let port = free_port();
    let daemon = Daemon::start(&format!(
        "[service.it]\ncommand = [\"sh\", \"-c\", \"sh -c 'sleep 1000; :' \\\"$1\\\" & exec \\\"$0\\\" {port}\", \"{}\", \
         \"\\u001b[2J\\n\"]\nports = [{port}]\nready = {{ port = {port} }}\n[service.it.env]\nSECRET_NAME = \"secret-value\"\n\
         [service.off]\ncommand = \"sleep 1000\"\nautostart = false\n",
        server.display()
    ));
    let it = daemon.wait("it", "to be ready", |it| it["ready"] == true);
    let main = pid(&it);
    let found = patiently("its family to be complete", || {
        let found = parse(&daemon.ask(&["inspect", "it", "--json"]));
        let last = &found["processes"]["items"][2];
        (last["name"] == "sleep" && last["state"] == "S").then_some(found)
    });
    assert_eq!((found["service"].as_str(), found["pid"].as_u64()), (Some("it"), Some(main.into())));
    assert_eq!(found["notes"], json!([]));
    let list = |kind: &str| found[kind]["items"].as_array().expect("a list").clone();
    let processes = list("processes");
    assert_eq!(processes.len(), 3, "{processes:?}");
    assert_eq!((processes[0]["pid"].as_u64(), &processes[0]["depth"]), (Some(main.into()), &json!(0)));
    assert_eq!((&processes[1]["parent"], &processes[1]["depth"]), (&json!(main), &json!(1)));
    assert_eq!(processes[1]["command"], json!(["sh", "-c", "sleep 1000; :", "\u{1b}[2J\n"]));
    assert_eq!((&processes[2]["parent"], &processes[2]["depth"]), (&processes[1]["pid"], &json!(2)));
    assert_eq!((&processes[2]["state"], &processes[2]["command"]), (&json!("S"), &json!(["sleep", "1000"])));
    let user = nix::unistd::User::from_uid(nix::unistd::geteuid()).expect("a look-up").expect("a user");
    assert_eq!(processes[0]["user"], user.name);
    assert_eq!(list("threads")[0]["tid"].as_u64(), Some(main.into()));
    let listens = json!({
        "fd": list("sockets")[0]["fd"], "protocol": "tcp", "state": "LISTEN",
        "local": format!("127.0.0.1:{port}"), "remote": null,
    });
    assert_eq!(list("sockets"), [listens]);
    assert!(list("files").iter().any(|it| it["target"] == "/dev/null"), "{found}");
    assert!(found["memory"]["rss_bytes"].as_u64() > Some(100_000), "{found}");
    let mapped = found["memory"]["mappings"]["items"].as_array().expect("a list");
    assert!(mapped.iter().any(|it| it["name"].as_str().is_some_and(|name| name.ends_with("/server"))));
    assert!(found["limits"].as_array().expect("a list").iter().any(|it| it["name"] == "Max open files"));
    assert!(list("environment").contains(&json!("SECRET_NAME")));

    let text = daemon.ask(&["inspect", "it", "--most", "2"]);
    assert_harmless(&text);
    for part in ["PROCESSES", "THREADS", "SOCKETS", "FILES", "MEMORY", "LIMITS", "ENVIRONMENT", "and 1 more"]
    {
        assert!(text.contains(part), "{part} is not in {text}");
    }
    assert!(text.contains("  sh -c 'sleep 1000; :' '\\u{1b}[2J\\n'\n"), "{text}");
    assert!(
        !text.contains("secret-value") && !found.to_string().contains("secret-value"),
        "values are not told"
    );

    assert!(daemon.ask(&["inspect", "off"]).contains("off: it has no main process"));
    assert_said(&daemon.cli(&["inspect", "of"]), 3, &["did you mean off?"]);
    assert_said(&daemon.cli(&["inspect", "it", "--most", "0"]), 2, &["1..=4096"]);
}

#[test]
fn statistics_are_of_the_whole_tree() {
    let daemon = Daemon::start(
        "[service.busy]\ncommand = [\"sh\", \"-c\", \"yes > /dev/null & wait\"]\n\
         [service.idle]\ncommand = \"sleep 1000\"\n[service.off]\ncommand = \"sleep 1000\"\nautostart = false\n",
    );
    for name in ["busy", "idle"] {
        daemon.wait_state(name, "running");
    }
    // On a machine that is busy with other tests it gets less than a processor, but not nothing for long.
    let used = patiently("busy to use the processor", || {
        let used =
            parse(&daemon.ask(&["stats", "--json", "busy", "idle", "off", "--interval", "300ms", "-n", "1"]));
        let busy = used["services"][0]["cpu_percent"].as_f64().expect("a share");
        (busy > 10.0).then_some(used)
    });
    let services = used["services"].as_array().expect("a list");
    assert_eq!(services[0]["processes"], 2, "{used}");
    let own = daemon.status("busy");
    assert!(own["cpu_seconds"].as_f64() < Some(0.1), "its child works, it waits: {own}");
    assert!(services[0]["memory_bytes"].as_u64() > own["memory_bytes"].as_u64(), "{used}");
    assert!(services[1]["cpu_percent"].as_f64() < Some(10.0), "{used}");
    assert!(services[1]["uptime_seconds"].as_f64() > Some(0.0), "{used}");
    assert_eq!((&services[2]["cpu_percent"], &services[2]["processes"]), (&Value::Null, &json!(0)), "{used}");

    let table = daemon.ask(&["stats", "--interval", "20ms", "--count", "2"]);
    assert_eq!(table.lines().filter(|line| line.starts_with("NAME")).count(), 2, "{table}");
    let lines = daemon.ask(&["stats", "idle", "--csv", "--interval", "20ms", "--count", "3"]);
    let lines: Vec<Vec<&str>> = lines.lines().map(|line| line.split(',').collect()).collect();
    assert_eq!(lines.len(), 4, "{lines:?}");
    assert_eq!(lines[0][..5], ["time", "name", "state", "pid", "cpu_percent"]);
    assert!(lines[1..].iter().all(|line| line.len() == lines[0].len() && line[1] == "idle"), "{lines:?}");
    assert!(lines[1][0] < lines[3][0] && lines[1][0].ends_with('Z'), "{lines:?}");
    for bad in [&["--csv", "--json"][..], &["--count", "0"], &["--interval", "1"]] {
        assert_eq!(daemon.cli(&[&["stats"], bad].concat()).code, 2, "{bad:?}");
    }
    assert!(lives(pid(&daemon.status("busy"))), "nothing was done to it");
}

/// Reads what a command writes on a terminal.
fn on_a_terminal(daemon: &Daemon, args: &[&str], env: &[(&str, &str)]) -> String {
    let pty = nix::pty::openpty(None, None).expect("a terminal");
    let mut command = daemon.command(args);
    for name in ["NO_COLOR", "CLICOLOR", "CLICOLOR_FORCE"] {
        command.env_remove(name);
    }
    command.env("TERM", "xterm").envs(env.iter().copied());
    let other = pty.slave.try_clone().expect("a descriptor");
    command.stdin(Stdio::null()).stdout(pty.slave).stderr(other);
    let mut child = command.spawn().expect("it starts");
    // It holds the ends of the terminal: with it and the child nobody does.
    drop(command);
    let (mut text, mut buffer) = (Vec::new(), [0; 4096]);
    let mut master = File::from(pty.master);
    // A terminal whose other end is closed reads as EIO.
    while let Ok(length @ 1..) = master.read(&mut buffer) {
        text.extend_from_slice(&buffer[..length]);
    }
    child.wait().expect("a child");
    String::from_utf8_lossy(&text).into_owned()
}

#[test]
fn colour_is_for_terminals_and_for_who_asks() {
    let daemon = Daemon::start(GROUPS);
    daemon.wait_state("db", "running");
    // A table, an error of the program, an error of the command line, and the help.
    for line in [&["status"][..], &["status", "db"], &["status", "nosuch"], &["nosuch"], &["stop", "--help"]]
    {
        let colour = |text: &str| text.contains("\x1b[");
        let with = |more: &[&'static str]| [line, more].concat();
        let piped = daemon.cli(line);
        assert!(!colour(&piped.out) && !colour(&piped.err), "{line:?}: {piped:?}");
        let always = daemon.cli(&with(&["--color", "always"]));
        assert!(colour(&always.out) || colour(&always.err), "{line:?}: {always:?}");
        let text = on_a_terminal(&daemon, line, &[]);
        assert!(colour(&text), "{line:?}: {text:?}");
        for env in [("NO_COLOR", "1"), ("TERM", "dumb")] {
            // A build server's variable changes nothing about what a terminal can show.
            let text = on_a_terminal(&daemon, line, &[env, ("CI", "true")]);
            assert!(!colour(&text) && !text.is_empty(), "{line:?} {env:?}: {text:?}");
        }
        let text = on_a_terminal(&daemon, &with(&["--color=never"]), &[]);
        assert!(!colour(&text) && !text.is_empty(), "{line:?}: {text:?}");
        let forced = daemon.command(line).env("CLICOLOR_FORCE", "1").output().expect("it runs");
        assert!(colour(&String::from_utf8_lossy(&[forced.stdout, forced.stderr].concat())), "{line:?}");
    }
    let said = defib(&["--color", "always", "--runtime-dir", "/nowhere", "status"]);
    assert!(said.err.starts_with("\x1b[1;31mdefib:\x1b[0m no daemon answers"), "{said:?}");
}
