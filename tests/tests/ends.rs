//! An end is told once, whoever is killed while it is being told.

use std::collections::BTreeMap;
use std::fs;

use defib_tests::{Daemon, lives, patiently, signal};
use rusqlite::{Connection, OpenFlags};
use serde_json::Value;

/// Ends all the time, and notes that it lives.
const CRASHING: &str = r#"
[service.it]
command = ["sh", "-c", "echo $DEFIB_INCARNATION $$ >> {dir}/lives; sleep 0.05; exit 7"]
restart = { immediate = 256, max_restarts = "none", delays = ["10ms"] }
"#;

fn config(source: &str) -> String {
    format!("[daemon]\nsource = \"{source}\"\n{CRASHING}")
}

/// The lives that have begun, each with its process.
fn begun(daemon: &Daemon) -> Vec<(u64, u64)> {
    let text = fs::read_to_string(daemon.path("lives")).unwrap_or_default();
    let number = |word: Option<&str>| word.and_then(|word| word.parse().ok());
    let life = |line: &str| {
        let mut words = line.split(' ');
        Some((number(words.next())?, number(words.next())?))
    };
    text.lines().filter_map(life).collect()
}

/// Waits until another life has ended, and the next one has begun.
fn another(daemon: &Daemon) {
    let before = begun(daemon).len();
    patiently("another life", || (begun(daemon).len() > before).then_some(()));
}

/// How often the end of each life is in the state database.
fn history(daemon: &Daemon) -> BTreeMap<(u64, u64), usize> {
    let path = daemon.path("state/state.db");
    let db = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY).expect("a database");
    let mut ends = db.prepare("SELECT incarnation, pid FROM ended").expect("a table");
    let number = |row: &rusqlite::Row<'_>, at| row.get::<_, i64>(at).map(i64::unsigned_abs);
    let rows = ends.query_map([], |row| Ok((number(row, 0)?, number(row, 1)?))).expect("rows");
    count(rows.map(|row| row.expect("a row")))
}

fn count(lives: impl Iterator<Item = (u64, u64)>) -> BTreeMap<(u64, u64), usize> {
    lives.fold(BTreeMap::new(), |mut counts, life| {
        *counts.entry(life).or_default() += 1;
        counts
    })
}

/// The ends that the present daemon tells of, those included that earlier ones have told.
fn told(daemon: &Daemon) -> Vec<Value> {
    let exits = daemon.events_of("it", "exit").into_iter();
    exits.filter(|event| event["main"] == true).collect()
}

fn life(exit: &Value) -> (u64, u64) {
    let number = |key: &str| exit[key].as_u64().expect("a number");
    (number("incarnation"), number("pid"))
}

/// What is told of an end, and under which number.
fn tale(exit: &Value) -> [&Value; 4] {
    ["seq", "code", "signal", "by"].map(|key| &exit[key])
}

/// All lives that have begun have one end each: among the events and in the state database.
fn assert_told_once(daemon: &Daemon, what: &str) {
    daemon.ask(&["stop", "it"]);
    let told = told(daemon);
    let ends = count(told.iter().map(life));
    for life in begun(daemon) {
        assert_eq!(ends.get(&life), Some(&1), "{what}: the end of {life:?}\n{}", daemon.log());
    }
    assert!(ends.values().all(|times| *times == 1), "{what}: {ends:?}");
    let seqs: Vec<u64> = told.iter().filter_map(|exit| exit["seq"].as_u64()).collect();
    assert!(seqs.is_sorted_by(|a, b| a < b), "{what}: {seqs:?}");
    patiently("the history", || (history(daemon) == ends).then_some(()));
}

/// The daemon is killed each time as it is about to tell of an end, or has just done so.
#[test]
fn no_end_dies_with_a_daemon_and_none_is_told_again() {
    let daemon = Daemon::start(&config("auto"));
    daemon.wait("it", "restarted", |it| it["restarts"].as_u64() > Some(2));
    for _ in 0..7 {
        another(&daemon);
        let killed = daemon.daemon();
        signal(killed, libc::SIGKILL);
        patiently("its end", || (!lives(killed)).then_some(()));
        daemon.wait("it", "restarted", |it| it["restarts"].as_u64() > Some(0));
        assert_ne!(daemon.daemon(), killed);
    }
    let log = daemon.log();
    assert_told_once(&daemon, "daemons");
    assert!(!log.contains("panicked"), "{log}");
    let status = daemon.status("it");
    let number = |key: &str| status[key].as_u64().expect("a number");
    assert_eq!(number("restarts") + 1, number("incarnation"), "{status}");
}

/// The keeper goes on alone while its daemon is stopped, or is killed again and again, and is killed too. What it alone
/// knew is told by the next keeper's daemon.
#[test]
fn what_only_the_keeper_knew_is_told_by_the_next_one() {
    for source in ["auto", "pidfd"] {
        let mut daemon = Daemon::start(&config(source));
        for round in 0..3 {
            daemon.wait("it", "restarted", |it| it["restarts"].as_u64() > Some(2));
            signal(daemon.daemon(), libc::SIGSTOP);
            for _ in 0..5 {
                another(&daemon);
            }
            let pids = [daemon.keeper(), daemon.daemon()];
            // The life that has just begun is given the time to be written down with the end before it.
            pids.iter().for_each(|pid| signal(*pid, libc::SIGKILL));
            patiently("both to be gone", || (!pids.iter().any(|pid| lives(*pid))).then_some(()));
            daemon.start_again();
            let told = told(&daemon);
            let (ends, begun) = (count(told.iter().map(life)), begun(&daemon));
            // Of the last that had begun before and those after it nothing is promised yet: they may live.
            for life in begun.iter().filter(|life| begun.iter().any(|later| later.0 > life.0 + 2)) {
                assert_eq!(
                    ends.get(life),
                    Some(&1),
                    "{source} {round}: the end of {life:?}\n{}",
                    daemon.log()
                );
            }
        }
        assert_told_once(&daemon, source);
        let (told, begun) = (told(&daemon), begun(&daemon));
        let by_itself = |exit: &&Value| exit["by"] == "self" && exit["signal"].is_null();
        let known = told.iter().filter(by_itself).filter(|exit| exit["code"] == 7).count();
        // Those that ended while nobody watched, and the last one.
        assert!(known + 7 >= begun.len(), "{source}: {known} of {}\n{}", begun.len(), daemon.log());
        let numbers: Vec<u64> = begun.iter().map(|life| life.0).collect();
        assert!(numbers.is_sorted_by(|a, b| a < b), "a number was used twice: {numbers:?}");
        assert!(!daemon.log().contains("panicked"));
    }
}

/// Keeper and daemon are killed together. Lives that end meanwhile are told by the next daemon, as well as it knows; what
/// the one before has told stays as it told it, and is not told again.
#[test]
fn what_was_told_is_not_told_again_by_the_next_keeper() {
    for source in ["ebpf", "pidfd"] {
        let mut daemon = Daemon::start(&config(source));
        for _ in 0..3 {
            daemon.wait("it", "restarted", |it| it["restarts"].as_u64() > Some(2));
            another(&daemon);
            let before = told(&daemon);
            let pids = [daemon.daemon(), daemon.keeper()];
            pids.iter().for_each(|pid| signal(*pid, libc::SIGKILL));
            patiently("both to be gone", || (!pids.iter().any(|pid| lives(*pid))).then_some(()));
            daemon.start_again();
            let after = told(&daemon);
            for exit in &before {
                let again: Vec<_> = after.iter().filter(|it| life(it) == life(exit)).map(tale).collect();
                assert_eq!(again, [tale(exit)], "{source}");
            }
        }
        daemon.ask(&["stop", "it"]);
        let ends = count(told(&daemon).iter().map(life));
        assert!(ends.values().all(|times| *times == 1), "{source}: {ends:?}");
        patiently("the history", || (history(&daemon) == ends).then_some(()));
    }
}
