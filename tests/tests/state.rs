//! What outlives keeper and daemon: the state database.
#![expect(clippy::disallowed_methods, reason = "tests run programs")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use defib_tests::{Daemon, Options, lives, patiently, pid, said, signal};
use rusqlite::{Connection, OpenFlags};
use serde_json::Value;

const FOUR: &str = r#"
[service.a]
command = "sleep 1000"
restart = { immediate = 256, max_restarts = "none" }
[service.off]
command = "sleep 1000"
[service.held]
command = "sleep 1000"
[service.manual]
command = "sleep 1000"
autostart = false
"#;

/// How to start defib on the state directory of an earlier one, or on another.
fn on(state: &Path) -> Options {
    let state = state.to_str().expect("UTF-8").to_owned();
    // The last flag of a kind wins.
    Options { args: vec!["--state-dir".into(), state], ..Options::default() }
}

/// One number out of a database that may be in use.
fn number(state: &Path, query: &str) -> Option<i64> {
    let flags = OpenFlags::SQLITE_OPEN_READ_ONLY;
    let db = Connection::open_with_flags(state.join("state.db"), flags).ok()?;
    db.query_row(query, [], |row| row.get(0)).ok()
}

fn wait_number(state: &Path, query: &str, wanted: i64) {
    patiently(query, || (number(state, query) == Some(wanted)).then_some(()));
}

/// Kills keeper and daemon at once: a power cut, for what defib knows of it.
fn tear_away(daemon: &mut Daemon) {
    let pids = [daemon.keeper(), daemon.daemon()];
    pids.iter().for_each(|pid| signal(*pid, libc::SIGKILL));
    assert_eq!(daemon.exit_code(), -1);
    patiently("both to be gone", || (!pids.iter().any(|pid| lives(*pid))).then_some(()));
}

fn leave(daemon: &mut Daemon) {
    daemon.ask(&["daemon", "stop"]);
    assert_eq!(daemon.exit_code(), 0, "{}", daemon.log());
}

/// Lets the service `a` end by SIGKILL until it is in this life.
fn crash_until(daemon: &Daemon, life: u64) {
    loop {
        let now = daemon.wait_state("a", "running");
        if now["incarnation"].as_u64() >= Some(life) {
            return;
        }
        signal(pid(&now), libc::SIGKILL);
        daemon.wait("a", "in its next life", |it| it["incarnation"].as_u64() > now["incarnation"].as_u64());
    }
}

fn trouble(daemon: &Daemon) -> Value {
    let all: Value = serde_json::from_str(&daemon.ask(&["status", "--json"])).expect("JSON");
    all["state_database"]["trouble"].clone()
}

/// `disable`, `pause`, counters and the last end outlive a stop; what was started by hand does not; and no number of a life
/// comes twice.
#[test]
fn what_operators_decided_outlives_a_stop_of_defib() {
    let mut first = Daemon::start(FOUR);
    first.wait_state("a", "running");
    crash_until(&first, 2);
    first.ask(&["disable", "off"]);
    first.ask(&["pause", "held"]);
    first.ask(&["start", "manual"]);
    leave(&mut first);
    let state = first.path("state");
    assert_eq!(number(&state, "SELECT count(*) FROM ended WHERE service = 'a'"), Some(2));

    let second = Daemon::start_with(FOUR, &on(&state));
    let a = second.wait_state("a", "running");
    assert_eq!((&a["incarnation"], &a["restarts"]), (&3.into(), &1.into()), "{a}");
    assert_eq!(a["last_exit"]["by"], "shutdown", "{a}");
    assert_eq!(second.wait_state("off", "disabled")["enabled"], false);
    assert_eq!(second.cli(&["start", "off"]).code, 6);
    signal(pid(&second.wait_state("held", "running")), libc::SIGKILL);
    second.wait_state("held", "failed");
    second.wait_state("manual", "stopped");
    second.ask(&["enable", "off"]);
    second.ask(&["resume", "held"]);
    second.wait_state("held", "running");
}

/// What was stopped stays so, and what ran is there again, however it had been started.
#[test]
fn what_was_so_stays_so_when_keeper_and_daemon_are_killed() {
    let mut first = Daemon::start(FOUR);
    first.wait_state("a", "running");
    first.ask(&["stop", "off"]);
    first.ask(&["start", "manual"]);
    let state = first.path("state");
    wait_number(&state, "SELECT count(*) FROM service WHERE life_pid IS NOT NULL", 3);
    wait_number(&state, "SELECT memo LIKE '%\"Stopped\"%' FROM service WHERE name = 'off'", 1);
    tear_away(&mut first);

    let second = Daemon::start_with(FOUR, &on(&state));
    second.wait_state("manual", "running");
    second.wait_state("a", "running");
    assert_eq!(second.status("off")["state"], "stopped", "nobody has asked for it since");
}

/// What was answered holds whoever is killed how soon after: the answer is all that an operator has.
#[test]
fn what_was_answered_holds_when_keeper_and_daemon_are_killed_at_once() {
    let mut daemon = Daemon::start(FOUR);
    daemon.wait_state("a", "running");
    // Of each the last verb is the last thing that is heard of before the end.
    let rounds: [(&[&str], _, _); 8] = [
        (&["stop"], "stopped", false),
        (&["start", "stop"], "stopped", false),
        (&["start", "disable"], "disabled", false),
        (&["enable"], "stopped", false),
        (&["start", "pause"], "running", true),
        (&["resume"], "running", false),
        (&["stop"], "stopped", false),
        (&["disable"], "disabled", false),
    ];
    for (verbs, state, paused) in rounds {
        verbs.iter().for_each(|verb| drop(daemon.ask(&[verb, "a"])));
        tear_away(&mut daemon);
        daemon.start_again();
        let a = daemon.status("a");
        assert_eq!((&a["state"], &a["paused"]), (&state.into(), &paused.into()), "{verbs:?}: {a:#}");
    }
}

/// The keeper alone is killed: the daemon writes what it knows, and leaves.
#[test]
fn a_daemon_that_loses_its_keeper_writes_what_it_knows() {
    let mut first = Daemon::start(FOUR);
    let daemon = first.daemon();
    first.wait_state("a", "running");
    first.ask(&["disable", "off"]);
    signal(first.keeper(), libc::SIGKILL);
    assert_eq!(first.exit_code(), -1);
    patiently("the daemon to leave", || (!lives(daemon)).then_some(()));
    let second = Daemon::start_with(FOUR, &on(&first.path("state")));
    second.wait_state("off", "disabled");
    second.wait_state("a", "running");
}

#[test]
fn a_reboot_keeps_what_was_decided_and_forgets_what_was_under_way() {
    let mut first = Daemon::start(FOUR);
    first.wait_state("a", "running");
    crash_until(&first, 3);
    first.ask(&["disable", "off"]);
    first.ask(&["pause", "held", "--for", "1h"]);
    first.ask(&["start", "manual"]);
    let state = first.path("state");
    wait_number(&state, "SELECT count(*) FROM service WHERE life_pid IS NOT NULL", 3);
    wait_number(&state, "SELECT disabled FROM service WHERE name = 'off'", 1);
    let before = first.status("a")["last_exit"]["at"].as_str().expect("a time").to_owned();
    let pids =
        ["a", "held", "manual"].map(|name| first.status(name)["pid"].as_u64().expect("it runs") as u32);
    tear_away(&mut first);
    for pid in pids {
        signal(pid, libc::SIGKILL);
        // A zombie is still taken over.
        patiently("its end", || (!Path::new(&format!("/proc/{pid}")).exists()).then_some(()));
    }
    // The same rows, written in a boot that began a thousand hours before this one.
    let hours = 3_600_000_000_000_000_i64;
    Connection::open(state.join("state.db"))
        .and_then(|db| db.execute("UPDATE service SET boot = 'earlier', zero = zero - ?", [hours]))
        .expect("a database");

    let second = Daemon::start_with(FOUR, &on(&state));
    let a = second.wait_state("a", "running");
    assert_eq!((&a["incarnation"], &a["restarts"]), (&4.into(), &2.into()), "{a}");
    let after = a["last_exit"]["at"].as_str().expect("a time");
    let age = |text: &str| text.parse::<jiff::Timestamp>().expect("a time");
    let earlier = age(&before).duration_since(age(after)).as_secs();
    assert!((earlier - 3_600_000).abs() <= 1, "{before} {after}");
    second.wait_state("off", "disabled");
    assert_eq!(second.wait_state("manual", "stopped")["incarnation"], 1);
    assert_eq!(second.wait_state("held", "running")["paused"], false, "that pause had an end");
}

#[test]
fn a_service_that_is_configured_no_longer_is_forgotten() {
    let mut first = Daemon::start(FOUR);
    first.ask(&["disable", "off"]);
    leave(&mut first);
    let state = first.path("state");
    let mut second = Daemon::start_with("[service.a]\ncommand = \"sleep 1000\"\n", &on(&state));
    second.wait_state("a", "running");
    wait_number(&state, "SELECT count(*) FROM service", 1);
    leave(&mut second);
    let third = Daemon::start_with(FOUR, &on(&state));
    third.wait_state("off", "running");
}

/// Damaged before the start, removed and replaced while it runs.
#[test]
fn a_database_that_is_damaged_or_removed_is_made_anew() {
    let mut first = Daemon::start(FOUR);
    first.wait_state("a", "running");
    leave(&mut first);
    let state = first.path("state");
    fs::write(state.join("state.db"), "this is no database ".repeat(1000)).expect("a file");

    let second = Daemon::start_with(FOUR, &on(&state));
    second.wait_state("a", "running");
    assert!(second.log().contains("the state database is damaged"), "{}", second.log());
    let aside = fs::read_dir(&state).expect("a folder").flatten();
    assert!(aside.into_iter().any(|entry| entry.file_name().to_string_lossy().contains(".damaged-")));
    assert_eq!(trouble(&second), Value::Null);

    for name in ["state.db", "state.db-wal", "state.db-shm"] {
        fs::remove_file(state.join(name)).ok();
    }
    crash_until(&second, 3);
    // All services, not only the one of which there was something new.
    wait_number(&state, "SELECT count(*) FROM service", 4);
    wait_number(&state, "SELECT incarnation FROM service WHERE name = 'a'", 3);
}

/// No file can be opened there: everything works, it is said, and made good once it can be.
#[test]
fn without_a_database_services_are_supervised_and_it_is_said() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("state.db");
    fs::create_dir(&path).expect("a folder");
    let daemon = Daemon::start_with(FOUR, &on(folder.path()));
    daemon.wait_state("a", "running");
    crash_until(&daemon, 3);
    daemon.ask(&["disable", "off"]);
    assert!(trouble(&daemon).as_str().expect("a reason").contains("no regular file"));
    assert!(daemon.cli(&["status"]).err.contains("no regular file"));
    assert!(daemon.cli(&["doctor"]).out.contains("no regular file"));
    fs::remove_dir(&path).expect("an empty folder");
    wait_number(folder.path(), "SELECT disabled FROM service WHERE name = 'off'", 1);
    wait_number(folder.path(), "SELECT count(*) FROM service", 4);
    wait_number(folder.path(), "SELECT count(*) FROM gap", 1);
    patiently("the trouble to be over", || (trouble(&daemon) == Value::Null).then_some(()));
    assert_eq!(daemon.log().matches("the state database cannot be used").count(), 1, "{}", daemon.log());
}

/// A file system of its own for the state directory. Gone when this is dropped.
struct Mounted {
    folder: tempfile::TempDir,
    frozen: bool,
}

impl Mounted {
    /// `mount` with these words before the folder.
    fn new(words: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let mount = said(Command::new("mount").args(words).arg(folder.path()));
        assert_eq!(mount.code, 0, "mount {words:?}: {}", mount.err);
        Self { folder, frozen: false }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().to_owned()
    }

    /// Nothing is written until it is thawed: whoever tries waits, and cannot be killed.
    fn freeze(&mut self, frozen: bool) {
        let word = if frozen { "-f" } else { "-u" };
        let froze = said(Command::new("fsfreeze").arg(word).arg(self.folder.path()));
        assert_eq!(froze.code, 0, "fsfreeze {word}: {}", froze.err);
        self.frozen = frozen;
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if self.frozen {
            self.freeze(false);
        }
        let umount = said(Command::new("umount").arg("-l").arg(self.folder.path()));
        assert!(umount.code == 0 || std::thread::panicking(), "{}", umount.err);
    }
}

#[test]
fn a_full_disk_costs_no_restart_and_nothing_that_counts() {
    let disk = Mounted::new(&["-t", "tmpfs", "-o", "size=1m", "defib-test-full"]);
    let daemon = Daemon::start_with(FOUR, &on(&disk.path()));
    daemon.wait_state("a", "running");
    let filler = disk.path().join("filler");
    // As much as there is room for.
    fs::write(&filler, vec![0; 2 << 20]).expect_err("it is too small for that");
    let mut life = 1;
    while trouble(&daemon) == Value::Null {
        life += 1;
        crash_until(&daemon, life);
    }
    crash_until(&daemon, life + 20);
    daemon.ask(&["disable", "off"]);
    fs::remove_file(&filler).expect("a file");
    let lives = i64::try_from(life).expect("few") + 20;
    wait_number(&disk.path(), "SELECT incarnation FROM service WHERE name = 'a'", lives);
    wait_number(&disk.path(), "SELECT disabled FROM service WHERE name = 'off'", 1);
    wait_number(&disk.path(), "SELECT count(*) FROM gap WHERE ended > began AND lost = 0", 1);
    wait_number(&disk.path(), "SELECT count(*) FROM ended WHERE service = 'a'", lives - 1);
    assert_eq!(daemon.log().matches("the state database cannot be used").count(), 1, "{}", daemon.log());
}

/// A disk that does not answer holds up neither restarts nor the end of defib.
#[test]
fn a_disk_that_hangs_holds_up_nobody() {
    let folder = tempfile::tempdir().expect("a folder");
    let image = folder.path().join("image");
    fs::File::create(&image).and_then(|file| file.set_len(16 << 20)).expect("a file");
    let made = said(Command::new("mkfs.ext4").arg("-q").arg(&image));
    assert_eq!(made.code, 0, "mkfs.ext4 (e2fsprogs) is needed for this test: {}", made.err);
    let mut disk = Mounted::new(&["-o", "loop", image.to_str().expect("UTF-8")]);

    let mut daemon = Daemon::start_with(FOUR, &on(&disk.path()));
    daemon.wait_state("a", "running");
    disk.freeze(true);
    let mut life = 1;
    while trouble(&daemon) == Value::Null {
        life += 1;
        crash_until(&daemon, life);
    }
    life += 5;
    crash_until(&daemon, life);
    patiently("it to be said", || {
        daemon.log().contains("the disk of the state database hangs").then_some(())
    });
    disk.freeze(false);
    wait_number(
        &disk.path(),
        "SELECT incarnation FROM service WHERE name = 'a'",
        i64::try_from(life).expect("few"),
    );
    assert_eq!(daemon.log().matches("the disk of the state database hangs").count(), 1);

    disk.freeze(true);
    crash_until(&daemon, life + 1);
    leave(&mut daemon);
    assert!(daemon.log().contains("every service has ended"), "{}", daemon.log());
}
