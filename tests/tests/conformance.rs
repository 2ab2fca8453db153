//! Every way for a process to end, told by every source: the same event with the same meaning, or `unknown` in exactly
//! the cells where a source cannot know.
//!
//! One daemon for each source runs a service for each row, all at once.
#![expect(
    clippy::disallowed_methods,
    clippy::print_stderr,
    reason = "tests wait, make processes that defib does not know, and say what cannot run"
)]

use std::collections::BTreeMap;
use std::fs;
use std::process::{Child, Command};

use defib_core::model::Signal;
use defib_tests::{Daemon, Ear, Hunger, Options, patiently, pid, signal, victim};
use serde_json::{Value, json};

/// What a source knows beyond the wait status.
#[derive(Clone, Copy)]
struct Source {
    name: &'static str,
    /// Who sent a signal, for what address, and that it will be the end.
    signals: bool,
    /// The fork and the programs of a main process.
    beginnings: bool,
}

const SOURCES: [Source; 3] = [
    Source { name: "ebpf", signals: true, beginnings: true },
    Source { name: "proc-connector", signals: false, beginnings: true },
    Source { name: "pidfd", signals: false, beginnings: false },
];

/// How a main process ends.
#[derive(Clone, Copy, Debug)]
enum End {
    Exit(u8),
    Signal(i32),
    Core(i32),
    Oom,
}

/// Who is to blame.
#[derive(Clone, Copy, Debug)]
enum Blame {
    /// It exited by itself.
    Nobody,
    /// The kernel, with or without the address that was touched.
    Kernel(Option<&'static str>),
    /// The kernel, for an instruction whose address is not known beforehand.
    KernelSomewhere,
    /// It sent the signal to itself.
    Itself,
    /// This test sent that signal.
    Test(i32),
}

/// What the test does to a process that has begun.
#[derive(Clone, Copy, Debug)]
enum Act {
    Nothing,
    Send(i32),
    /// Stops it first.
    SendStopped(i32),
}

/// A row of the table.
struct Row {
    name: String,
    way: Vec<String>,
    act: Act,
    end: End,
    blame: Blame,
}

fn row(name: &str, way: &str, act: Act, end: End, blame: Blame) -> Row {
    let way = way.split(' ').map(str::to_owned).collect();
    Row { name: name.to_owned(), way, act, end, blame }
}

/// Signals whose default action ends a process.
const DEADLY: [i32; 25] = [
    libc::SIGHUP,
    libc::SIGINT,
    libc::SIGQUIT,
    libc::SIGILL,
    libc::SIGTRAP,
    libc::SIGABRT,
    libc::SIGBUS,
    libc::SIGFPE,
    libc::SIGKILL,
    libc::SIGUSR1,
    libc::SIGSEGV,
    libc::SIGUSR2,
    libc::SIGPIPE,
    libc::SIGALRM,
    libc::SIGTERM,
    libc::SIGSTKFLT,
    libc::SIGXCPU,
    libc::SIGXFSZ,
    libc::SIGVTALRM,
    libc::SIGPROF,
    libc::SIGIO,
    libc::SIGPWR,
    libc::SIGSYS,
    34,
    64,
];

fn table(own: &Hunger, parents: &Hunger) -> Vec<Row> {
    use Act::{Nothing, Send, SendStopped};
    use Blame::{Itself, Kernel, KernelSomewhere, Nobody, Test};
    use End::{Core, Exit, Oom, Signal};
    let group = |folder: &std::path::Path| format!("eat {}", folder.display());
    let mut rows = vec![
        row("exit-0", "exit 0", Nothing, Exit(0), Nobody),
        row("exit-7", "exit 7", Nothing, Exit(7), Nobody),
        row("exit-255", "exit 255", Nothing, Exit(255), Nobody),
        row("segfault", "segfault none", Nothing, Signal(libc::SIGSEGV), Kernel(Some("0xdead"))),
        row("segfault-core", "segfault core", Nothing, Core(libc::SIGSEGV), Kernel(Some("0xdead"))),
        row("abort", "abort", Nothing, Signal(libc::SIGABRT), Itself),
        row("abort-handled", "abort-handled", Nothing, Signal(libc::SIGABRT), Itself),
        row("killed", "sleep", Send(libc::SIGKILL), Signal(libc::SIGKILL), Test(libc::SIGKILL)),
        row("terminated", "sleep", Send(libc::SIGTERM), Signal(libc::SIGTERM), Test(libc::SIGTERM)),
        row("segv-sent", "sleep", Send(libc::SIGSEGV), Signal(libc::SIGSEGV), Test(libc::SIGSEGV)),
        row("quit-sent", "sleep", Send(libc::SIGQUIT), Signal(libc::SIGQUIT), Test(libc::SIGQUIT)),
        row("term-handled", "on-term 3", Send(libc::SIGTERM), Exit(3), Test(libc::SIGTERM)),
        row(
            "killed-stopped",
            "sleep",
            SendStopped(libc::SIGKILL),
            Signal(libc::SIGKILL),
            Test(libc::SIGKILL),
        ),
        row("stopped-itself", "stop-itself", Send(libc::SIGKILL), Signal(libc::SIGKILL), Test(libc::SIGKILL)),
        row("oom-own", &group(own.folder()), Nothing, Oom, Kernel(None)),
        row("oom-parents", &group(parents.child()), Nothing, Oom, Kernel(None)),
        row("leader-returns", "leader-first return", Nothing, Exit(0), Nobody),
        row("leader-exits", "leader-first exit 9", Nothing, Exit(9), Nobody),
        row("leader-aborts", "leader-first abort", Nothing, Signal(libc::SIGABRT), Itself),
        row("thread-exec", "thread-exec 5", Nothing, Exit(5), Nobody),
        row("threads", "threads 8 6", Nothing, Exit(6), Nobody),
        row("seccomp-strict", "seccomp-strict", Nothing, Signal(libc::SIGKILL), Kernel(None)),
        row("seccomp-filter", "seccomp-filter", Nothing, Signal(libc::SIGSYS), KernelSomewhere),
        row("traced", "traced 3", Nothing, Exit(3), Nobody),
        row("leaves-a-child", "leave-a-child 4", Nothing, Exit(4), Nobody),
        row("double-fork", "double-fork", Nothing, Exit(0), Nobody),
        row("burst", "burst 1000 6", Nothing, Exit(6), Nobody),
    ];
    rows.extend(DEADLY.map(|number| {
        row(&format!("raises-{number}"), &format!("raise {number}"), Nothing, Signal(number), Itself)
    }));
    rows
}

/// The services of the table. Cores are small and go to the folder of the test; only one row wants one.
fn config(rows: &[Row]) -> String {
    let victim = victim();
    let victim = victim.to_str().expect("UTF-8");
    let service = |row: &Row| {
        let command: Vec<&str> = std::iter::once(victim).chain(row.way.iter().map(String::as_str)).collect();
        format!(
            "[service.{}]\ncommand = {command:?}\nautostart = false\ncwd = \"{{dir}}\"\nrestart = {{ policy = \"never\" }}\n",
            row.name
        )
    };
    rows.iter().map(service).collect()
}

/// The end of the main process of a service, once it has been told.
#[track_caller]
fn end(ear: &Ear, service: &str) -> Value {
    let main = |exit: &Value| exit["main"] == true;
    patiently(&format!("the end of {service}"), || ear.of(service, "exit").into_iter().find(main))
}

/// Does to a process what the row says, once it is there.
fn act(ear: &Ear, row: &Row) {
    let (Act::Send(number) | Act::SendStopped(number)) = row.act else { return };
    let runs = |event: &Value| event["to"] == "running";
    let main = patiently("the victim to run", || ear.of(&row.name, "state").into_iter().find(runs));
    let main = pid(&main);
    let stat = || fs::read_to_string(format!("/proc/{main}/stat")).unwrap_or_default();
    let state = || stat().rsplit_once(") ").map(|(_, rest)| rest.as_bytes()[0]);
    // Its program sleeps once it has set itself up.
    let wanted = if row.way == ["stop-itself"] { b'T' } else { b'S' };
    patiently("the victim to be ready", || (state() == Some(wanted)).then_some(()));
    if let Act::SendStopped(_) = row.act {
        signal(main, libc::SIGSTOP);
        patiently("it to stop", || (state() == Some(b'T')).then_some(()));
    }
    signal(main, number);
}

/// The cells of a row that differ between sources.
fn check(source: Source, row: &Row, exit: &Value) {
    let of = format!("{} of {}: {exit:#}", row.name, source.name);
    let name = |number: i32| json!(Signal(number).to_string());
    if source.signals && skips_runs() && exit["unknown"] != json!([]) {
        // The probe was skipped at this very end. Then the keeper's word stands, and what it does not know is said.
        let code = matches!(row.end, End::Exit(_));
        assert_eq!((exit["code"].is_u64(), exit["signal"].is_string()), (code, !code), "{of}");
        eprintln!("incomplete, for a skipped run: {of}");
        return;
    }
    let (cause, code, signal, core) = match row.end {
        End::Exit(code) => ("exit", json!(code), Value::Null, false),
        End::Signal(number) => ("signal", Value::Null, name(number), false),
        End::Core(number) => ("core", Value::Null, name(number), true),
        End::Oom => ("oom", Value::Null, name(libc::SIGKILL), false),
    };
    assert_eq!(
        (&exit["cause"], &exit["code"], &exit["signal"], &exit["core"], &exit["by"]),
        (&json!(cause), &code, &signal, &json!(core), &json!("self")),
        "{of}"
    );
    assert_eq!(exit["oom"], json!(matches!(row.end, End::Oom)), "{of}");
    let by_signal = matches!(row.end, End::Signal(_) | End::Core(_));
    let unknown = if by_signal && !source.signals { json!(["sender"]) } else { json!([]) };
    assert_eq!(exit["unknown"], unknown, "{of}");
    let (sender, address) = match row.blame {
        _ if !source.signals => (None, None),
        Blame::Nobody => (None, None),
        Blame::Kernel(address) => (None, address),
        Blame::KernelSomewhere if has_no_signal(row) => (None, None),
        Blame::KernelSomewhere => (None, exit["address"].as_str().or(Some("an address"))),
        Blame::Itself => (Some((signal, exit["pid"].clone())), None),
        Blame::Test(number) => (Some((name(number), json!(std::process::id()))), None),
    };
    let told = &exit["sender"];
    match sender {
        None => assert_eq!(*told, Value::Null, "{of}"),
        Some((signal, pid)) => {
            assert_eq!((&told["signal"], &told["pid"]), (&signal, &pid), "{of}");
            assert_eq!(told["uid"], 0, "{of}");
            assert!(told["name"].as_str().is_some_and(|name| !name.is_empty()), "{of}");
        }
    }
    assert_eq!(exit["address"], json!(address), "{of}");
}

/// What is told of a life besides its end.
fn check_life(source: Source, row: &Row, ear: &Ear, exit: &Value) {
    let of = format!("{} of {}", row.name, source.name);
    let main = |kind: &str| -> Vec<Value> {
        ear.of(&row.name, kind).into_iter().filter(|event| event["main"] == true).collect()
    };
    assert_eq!(main("exit").len(), 1, "one end: {of}");
    if source.signals && skips_runs() {
        return;
    }
    let programs = if !source.beginnings {
        0
    } else if row.name == "thread-exec" {
        2
    } else {
        1
    };
    let (forks, execs) = (main("fork"), main("exec"));
    assert_eq!(
        (forks.len(), execs.len()),
        (usize::from(source.beginnings), programs),
        "{of}: {forks:#?} {execs:#?}"
    );
    assert!(forks.iter().chain(&execs).all(|event| event["pid"] == exit["pid"]), "{of}");
    // The connector does not say which program it was; that is looked up, and the process may be gone by then.
    let named = |exec: &&Value| source.signals || !exec["filename"].is_null();
    let victim = |exec: &Value| exec["filename"].as_str().is_some_and(|file| file.ends_with("victim"));
    assert!(execs.iter().filter(named).all(victim), "{of}: {execs:#?}");

    let deaths = main("signal");
    let by_signal = !matches!(row.end, End::Exit(_));
    if source.signals && by_signal && !has_no_signal(row) {
        let [death] = &deaths[..] else { panic!("{of}: {deaths:#?}") };
        assert_eq!((&death["pid"], &death["signal"]), (&exit["pid"], &exit["signal"]), "{of}");
        assert_eq!((&death["sender"], &death["address"]), (&exit["sender"], &exit["address"]), "{of}");
    } else if source.beginnings && by_signal {
        // The connector tells of a core signal before the death, and which one it is only /proc can tell in time.
        assert!(deaths.len() <= 1, "{of}: {deaths:#?}");
        for death in &deaths {
            assert_eq!((&death["signal"], &death["unknown"]), (&exit["signal"], &json!(["sender"])), "{of}");
        }
    } else {
        assert_eq!(deaths, [Value::Null; 0], "{of}");
    }
    if source.signals && matches!(row.end, End::Oom) {
        assert_eq!(main("oom").len(), 1, "{of}");
    }
}

/// Processes that are none of defib's, as many as a quick machine makes in a few seconds.
fn strangers() -> Child {
    let count = std::env::var("DEFIB_TEST_STRANGERS").unwrap_or_else(|_| "20000".to_owned());
    Command::new(victim()).args(["churn", &count]).spawn().expect("the victim starts")
}

/// Runs strangers until one of them has this pid, and has ended. `false` if that cannot be had here.
fn reuse(pid: u32) -> bool {
    for _ in 0..200 {
        if fs::write("/proc/sys/kernel/ns_last_pid", (pid - 1).to_string()).is_err() {
            return false;
        }
        let mut stranger = Command::new(victim()).args(["raise", "9"]).spawn().expect("the victim starts");
        let same = stranger.id() == pid;
        stranger.wait().expect("our child");
        if same {
            return true;
        }
    }
    false
}

/// The release of the kernel.
fn release() -> (u32, u32) {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").expect("/proc");
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map_while(|number| number.parse().ok());
    (numbers.next().expect("a number"), numbers.next().unwrap_or(0))
}

/// Whether the kernel skips runs of probes, as 7.2 was seen to under load: one that is interrupted by another process
/// which comes to the same tracepoint on the same CPU is not run for that one. It is counted as a loss.
fn skips_runs() -> bool {
    release() >= (7, 0)
}

/// Whether a row's process is ended without any signal: by strict seccomp on every kernel, and by a filter before 5.17.
fn has_no_signal(row: &Row) -> bool {
    row.name == "seccomp-strict" || row.name == "seccomp-filter" && release() < (5, 17)
}

fn conforms(source: Source) {
    let (own, parents) =
        (Hunger::new(&format!("{}-own", source.name)), Hunger::new(&format!("{}-parents", source.name)));
    let rows = table(&own, &parents);
    let options = Options::with_source(source.name);
    let daemon = Daemon::start_with(&config(&rows), &options);
    let ear = Ear::new(&daemon, &[]);
    let mut strangers = strangers();

    let names = rows.iter().map(|row| row.name.as_str());
    let all: Vec<&str> = ["start", "--no-wait"].into_iter().chain(names).collect();
    daemon.ask(&all);
    rows.iter().for_each(|row| act(&ear, row));
    let ends: BTreeMap<&str, Value> =
        rows.iter().map(|row| (row.name.as_str(), end(&ear, &row.name))).collect();
    for row in &rows {
        check(source, row, &ends[row.name.as_str()]);
    }

    // A stranger with the pid of a service that has ended, and a second life of that service.
    let before = daemon.status("exit-7");
    let old = pid(&ends["exit-7"]);
    if !reuse(old) {
        eprintln!("the row `pid reuse` cannot run: /proc/sys/kernel/ns_last_pid does not give pid {old}");
    }
    assert_eq!(daemon.status("exit-7"), before, "the end of a stranger is nobody's");

    assert!(strangers.wait().expect("our child").success());
    for row in &rows {
        check_life(source, row, &ear, &ends[row.name.as_str()]);
    }
    let lost: Vec<_> = ear.all().into_iter().filter(|event| event["kind"] == "lost").collect();
    if !skips_runs() {
        assert_eq!(lost, [Value::Null; 0], "{}", daemon.log());
    } else if !lost.is_empty() {
        eprintln!("lost, and looked at again: {}", lost.len());
        assert!(daemon.log().contains("every process was looked at again"), "{}", daemon.log());
    }
    let stranger = |event: &&Value| event["service"].is_null() && event["kind"] != "lost";
    assert_eq!(ear.all().iter().filter(stranger).count(), 0, "strangers are not told of");
    assert!(!daemon.log().contains("two statuses"), "{}", daemon.log());
}

#[test]
fn every_way_to_end_is_told_by_ebpf() {
    conforms(SOURCES[0]);
}

#[test]
fn every_way_to_end_is_told_by_the_proc_connector() {
    conforms(SOURCES[1]);
}

#[test]
fn every_way_to_end_is_told_by_pidfd() {
    conforms(SOURCES[2]);
}
