//! The output of services, from the built program into files and back.
#![expect(
    clippy::disallowed_methods,
    clippy::print_stderr,
    reason = "tests start programs, and tell why they cannot"
)]

use std::fs;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use defib_tests::{Daemon, Said, patiently, said, signal, victim};
use serde_json::Value;

/// A service that writes numbered lines, and makes `{dir}/done`.
fn numbered(count: u32, log: &str) -> String {
    format!(
        "[service.n]\ncommand = [\"{}\", \"lines\", \"{count}\", \"{{dir}}/done\"]\nlog = {{ {log} }}\n",
        victim().display()
    )
}

/// The files of a log, the oldest first.
fn files(current: &Path) -> Vec<PathBuf> {
    let name = |number: u32| PathBuf::from(format!("{}.{number}", current.display()));
    let mut files: Vec<_> = (1..).map(name).take_while(|path| path.exists()).collect();
    files.reverse();
    files.push(current.to_owned());
    files
}

/// Every number once, in order, and nothing else.
#[track_caller]
fn assert_ledger(text: &str, count: u32) {
    let told: Vec<&str> = text.lines().filter(|line| line.starts_with("defib: ")).collect();
    assert!(told.is_empty(), "{told:?}");
    let mut expected = 0;
    for line in text.lines() {
        assert!(line.starts_with(&format!("{expected:09} the quick")), "line {expected}: {line:?}");
        expected += 1;
    }
    assert_eq!(expected, count);
}

fn read_all(files: &[PathBuf]) -> String {
    files.iter().map(|path| fs::read_to_string(path).unwrap_or_default()).collect()
}

#[test]
fn both_streams_keep_their_order_or_have_files_of_their_own() {
    let script = "for i in 1 2 3; do echo out $i; echo err $i >&2; done; sleep 1000";
    let service = |name: &str, log: &str| {
        format!("[service.{name}]\ncommand = [\"sh\", \"-c\", \"{script}\"]\nlog = {{ {log} }}\n")
    };
    let config = [
        service("joined", ""),
        service("apart", "streams = 'apart'"),
        service("path", "path = '{dir}/own/place.txt', streams = 'apart'"),
        service("none", "capture = false"),
    ];
    let daemon = Daemon::start(&config.concat());
    let read = |name: &str| fs::read_to_string(daemon.path(name)).unwrap_or_default();
    let wait = |name: &str, text: &str| patiently(name, || (read(name) == text).then_some(()));
    wait("log/joined.log", "out 1\nerr 1\nout 2\nerr 2\nout 3\nerr 3\n");
    wait("log/apart.stdout.log", "out 1\nout 2\nout 3\n");
    wait("log/apart.stderr.log", "err 1\nerr 2\nerr 3\n");
    wait("own/place.stderr.txt", "err 1\nerr 2\nerr 3\n");
    daemon.wait_state("none", "running");
    assert!(!daemon.path("log/none.log").exists());
    assert_eq!(daemon.ask(&["logs", "apart", "--stream", "stderr"]), "err 1\nerr 2\nerr 3\n");
    let Said { code, err, .. } = daemon.cli(&["logs", "joined", "--stream", "stderr"]);
    assert!(code == 1 && err.contains("log.streams"), "{code} {err}");
    assert_eq!(daemon.cli(&["logs", "nobody"]).code, 3);
}

#[test]
fn each_start_has_a_folder_and_old_ones_go() {
    let daemon = Daemon::start(
        "[service.s]\ncommand = ['sh', '-c', 'echo life $DEFIB_INCARNATION; sleep 1000']\n\
         log = { layout = 'per-start', max_files = 1 }",
    );
    let lives = || {
        let folders = fs::read_dir(daemon.path("log/s")).into_iter().flatten().flatten();
        let mut found: Vec<_> = folders
            .map(|folder| fs::read_to_string(folder.path().join("output.log")).unwrap_or_default())
            .collect();
        found.sort();
        found
    };
    patiently("the first life", || (lives() == ["life 1\n"]).then_some(()));
    daemon.ask(&["restart", "s"]);
    patiently("the second life", || (lives() == ["life 1\n", "life 2\n"]).then_some(()));
    daemon.ask(&["restart", "s"]);
    patiently("the third life", || (lives() == ["life 2\n", "life 3\n"]).then_some(()));
    assert_eq!(daemon.ask(&["logs", "s"]), "life 2\nlife 3\n");
}

#[test]
fn rotation_loses_no_byte_and_doubles_none() {
    const LINES: u32 = 200_000;
    let daemon = Daemon::start(&numbered(LINES, "max_size = '300k', max_files = 100"));
    patiently("the last line", || daemon.path("done").exists().then_some(()));
    let log = daemon.path("log/n.log");
    let last = format!("{:09} ", LINES - 1);
    patiently("the last line in the log", || read_all(&files(&log)).contains(&last).then_some(()));
    let files = files(&log);
    assert_ledger(&read_all(&files), LINES);
    assert!(files.len() > 30, "{files:?}");
    for file in &files {
        assert!(fs::metadata(file).expect("a file").len() <= 300 << 10, "{file:?}");
        assert!(fs::read(file).expect("a file").ends_with(b"\n"), "whole lines in {file:?}");
    }
    assert_eq!(daemon.ask(&["logs", "n", "--count"]), format!("{LINES}\n"));
    let some = daemon.ask(&["logs", "n", "-n", "3000"]);
    assert_eq!(some.lines().count(), 3000);
    assert!(some.ends_with("dog\n") && some.lines().last().is_some_and(|line| line.starts_with(&last)));
}

#[test]
fn a_killed_daemon_loses_no_line_and_doubles_none() {
    const LINES: u32 = 1_000_000;
    let daemon = Daemon::start(&numbered(LINES, "max_size = '2M', max_files = 100"));
    let log = daemon.path("log/n.log");
    let written =
        || files(&log).iter().map(|file| fs::metadata(file).map_or(0, |found| found.len())).sum::<u64>();
    for round in 1..=5 {
        patiently("some output", || (written() > round * 5_000_000).then_some(()));
        let old = daemon.daemon();
        signal(old, libc::SIGKILL);
        patiently("the next daemon", || Some(daemon.daemon()).filter(|pid| *pid != old));
    }
    patiently("the last line", || daemon.path("done").exists().then_some(()));
    let last = format!("{:09} ", LINES - 1);
    patiently("the last line in the log", || read_all(&files(&log)).contains(&last).then_some(()));
    assert_ledger(&read_all(&files(&log)), LINES);
    assert_eq!(daemon.status("n")["incarnation"], 1);
}

/// What is mounted for a test, and unmounted after it.
struct Mount(PathBuf);

impl Mount {
    fn new(words: &[&str], at: PathBuf) -> Option<Self> {
        fs::create_dir_all(&at).expect("a folder");
        let Said { code, err, .. } = said(Command::new("mount").args(words).arg(&at));
        if code != 0 {
            eprintln!("skipped: cannot mount: {err}");
            return None;
        }
        Some(Self(at))
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        said(Command::new("fsfreeze").arg("--unfreeze").arg(&self.0));
        said(Command::new("umount").arg("--lazy").arg(&self.0));
    }
}

/// The longest that a write of a service may take in milliseconds: one that waits for the disk takes as long as the test. A
/// busy machine lets a process wait for its turn for a second.
const MOST_MS: u64 = 10_000;

/// What `victim patient` tells of itself: its longest write in milliseconds, and how many bytes it has written.
fn report(daemon: &Daemon) -> Option<(u64, u64)> {
    let text = fs::read_to_string(daemon.path("report")).ok()?;
    let (longest, total) = text.split_once(' ')?;
    Some((longest.parse().ok()?, total.parse().ok()?))
}

/// The bytes that a log says are missing.
fn missing(text: &str) -> u64 {
    let notices = text
        .lines()
        .filter_map(|line| line.strip_prefix("defib: ")?.split_once(" bytes of output are missing"));
    notices.map(|(bytes, _)| bytes.parse::<u64>().expect("a number")).sum()
}

#[test]
fn a_full_disk_does_not_stop_a_service_and_the_loss_is_told() {
    let folder = tempfile::tempdir().expect("a folder");
    let Some(small) = Mount::new(&["-t", "tmpfs", "-o", "size=1m", "small"], folder.path().join("small"))
    else {
        return;
    };
    let log = small.0.join("p.log");
    let config = format!(
        "[service.p]\ncommand = [\"{}\", \"patient\", \"{{dir}}/report\"]\nlog = {{ path = \"{}\", max_size = 0 }}\n",
        victim().display(),
        log.display()
    );
    let daemon = Daemon::start(&config);
    patiently("more than fits", || report(&daemon).filter(|(_, total)| *total > 3 << 20));
    said(Command::new("mount").args(["-o", "remount,size=64m"]).arg(&small.0));
    let text = patiently("the log to go on", || {
        let text = fs::read_to_string(&log).unwrap_or_default();
        (missing(&text) > 1 << 20 && text.ends_with("x\n")).then_some(text)
    });
    assert!(text.contains("No space left on device"), "the reason is told");
    let (longest, _) = report(&daemon).expect("a report");
    assert!(longest < MOST_MS, "a write took {longest} ms");
    // The end of the service settles the account: what is in the file, and what the file says is missing.
    daemon.ask(&["stop", "p"]);
    let (_, total) = report(&daemon).expect("a report");
    patiently("every byte", || {
        let text = fs::read_to_string(&log).unwrap_or_default();
        let notices: usize =
            text.lines().filter(|line| line.starts_with("defib: ")).map(|line| line.len() + 1).sum();
        // The newline before a notice is the notice's.
        let own = text.len() - notices;
        let sum = own as u64 + missing(&text);
        // A last write may have come after the last report.
        (sum >= total && sum <= total + 16 * 1024).then_some(())
    });
}

#[test]
fn a_stalled_disk_does_not_stop_a_service() {
    let folder = tempfile::tempdir().expect("a folder");
    let image = folder.path().join("image");
    fs::File::create(&image).and_then(|file| file.set_len(64 << 20)).expect("a file");
    let made = said(Command::new("mkfs.ext4").arg("-q").arg(&image));
    assert_eq!(made.code, 0, "{}", made.err);
    let image = image.display().to_string();
    let Some(disk) = Mount::new(&["-o", "loop", &image], folder.path().join("disk")) else { return };
    let log = disk.0.join("p.log");
    let config = format!(
        "[service.p]\ncommand = [\"{}\", \"patient\", \"{{dir}}/report\"]\nlog = {{ path = \"{}\" }}\n\
         [service.q]\ncommand = ['sh', '-c', 'while true; do echo here; sleep 0.1; done']\n",
        victim().display(),
        log.display()
    );
    let daemon = Daemon::start(&config);
    patiently("some output", || fs::metadata(&log).ok().filter(|found| found.len() > 100_000));
    assert_eq!(said(Command::new("fsfreeze").arg("--freeze").arg(&disk.0)).code, 0);
    let frozen = report(&daemon).expect("a report").1;
    // Far more than pipe and spool hold.
    patiently("output without a disk", || report(&daemon).filter(|(_, total)| *total > frozen + (6 << 20)));
    let (longest, _) = report(&daemon).expect("a report");
    // The last lines are in memory, and nothing else waits for the disk.
    assert_eq!(daemon.ask(&["logs", "p", "-n", "5"]).lines().count(), 5);
    assert_eq!(daemon.status("q")["state"], "running");
    assert_eq!(said(Command::new("fsfreeze").arg("--unfreeze").arg(&disk.0)).code, 0);
    assert!(longest < MOST_MS, "a write took {longest} ms");
    patiently("the loss to be told", || {
        (missing(&fs::read_to_string(&log).unwrap_or_default()) > 1 << 20).then_some(())
    });
    daemon.ask(&["stop", "--all"]);
}

#[test]
fn logs_are_followed_searched_counted_and_dated() {
    let daemon = Daemon::start(
        "[service.a]\ncommand = ['sh', '-c', 'echo first; echo needle 1; sleep 3; echo needle 2; sleep 1000']\n\
         [service.b]\ncommand = ['sh', '-c', 'echo other; sleep 1000']\n",
    );
    let mut follow =
        daemon.command(&["logs", "-f", "a", "b"]).stdout(Stdio::piped()).spawn().expect("a child");
    let mut lines = BufReader::new(follow.stdout.take().expect("a pipe")).lines();
    let mut seen: Vec<String> = Vec::new();
    while !seen.iter().any(|line| line.contains("needle 2")) {
        seen.push(lines.next().expect("a line").expect("text"));
    }
    follow.kill().ok();
    follow.wait().ok();
    for wanted in ["a | first", "a | needle 1", "b | other", "a | needle 2"] {
        assert_eq!(seen.iter().filter(|line| *line == wanted).count(), 1, "{wanted}: {seen:?}");
    }
    assert_eq!(daemon.ask(&["logs", "a", "--grep", "needle"]), "needle 1\nneedle 2\n");
    assert_eq!(daemon.ask(&["logs", "a", "--grep", "needle", "--count"]), "2\n");
    assert_eq!(daemon.ask(&["logs", "a", "-n", "1"]), "needle 2\n");
    let dated: Vec<Value> = daemon
        .ask(&["logs", "a", "--json"])
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"))
        .collect();
    let at = |index: usize| dated[index]["at"].as_str().expect("a time").to_owned();
    assert!(at(0) <= at(1) && at(1) < at(2), "{dated:?}");
    assert_eq!(daemon.ask(&["logs", "a", "--since", &at(2)]), "needle 2\n");
    assert_eq!(daemon.ask(&["logs", "a", "--until", &at(1)]), "first\nneedle 1\n");
    assert_eq!(daemon.ask(&["logs", "a", "--since", "1 hour ago", "--count"]), "3\n");
    assert_eq!(daemon.cli(&["logs", "a", "--since", "some day"]).code, 2);

    // What memory had is gone with the daemon; the files are not.
    let old = daemon.daemon();
    signal(old, libc::SIGKILL);
    patiently("the next daemon", || Some(daemon.daemon()).filter(|pid| *pid != old));
    patiently("an answer", || {
        (daemon.cli(&["logs", "a"]).out == "first\nneedle 1\nneedle 2\n").then_some(())
    });
    assert_eq!(daemon.ask(&["logs", "a", "--since", &at(2)]), "needle 2\n");
}

#[test]
fn disk_usage_is_told_and_vacuumed() {
    let daemon = Daemon::start(&numbered(40_000, "max_size = '200k', max_files = 100"));
    patiently("the last line", || daemon.path("done").exists().then_some(()));
    let usage =
        || -> Value { serde_json::from_str(&daemon.ask(&["logs", "--disk-usage", "--json"])).expect("JSON") };
    let before =
        patiently("the files", || Some(usage()).filter(|usage| usage[0]["bytes"].as_u64() > Some(2_000_000)));
    assert!(before[0]["files"].as_u64() > Some(8), "{before}");
    assert!(daemon.ask(&["logs", "--vacuum-time", "1d"]).starts_with("0 files removed"));
    daemon.ask(&["logs", "n", "--vacuum-size", "500k"]);
    let after = usage();
    assert!(after[0]["bytes"].as_u64() <= Some(500 << 10), "{after}");
    let text = read_all(&files(&daemon.path("log/n.log")));
    assert!(text.lines().last().is_some_and(|line| line.starts_with("000039999")), "the youngest stay");
}

#[test]
fn bytes_are_bytes_and_a_terminal_is_not_steered() {
    let script = r"printf 'nul \000 esc \033[2J bad \377\n'; head -c 10000000 /dev/zero | tr '\0' x; echo; echo end; sleep 1000";
    let daemon = Daemon::start(&format!(
        "[service.h]\ncommand = ['sh', '-c', '''{script}''']\nlog = {{ max_size = '4M' }}"
    ));
    let log = daemon.path("log/h.log");
    patiently("the end", || fs::read(&log).is_ok_and(|text| text.ends_with(b"\nend\n")).then_some(()));
    let raw = daemon.command(&["logs", "h", "-n", "1000000"]).output().expect("a program").stdout;
    let mut expected = b"nul \0 esc \x1b[2J bad \xff\n".to_vec();
    expected.extend(vec![b'x'; 10_000_000]);
    expected.extend(b"\nend\n");
    assert!(raw == expected, "{} bytes instead of {}", raw.len(), expected.len());
    // script(1) gives it a terminal.
    let command = daemon.command(&["logs", "h", "-n", "1000000", "--grep", "nul"]);
    let words: Vec<_> = std::iter::once(command.get_program())
        .chain(command.get_args())
        .map(|word| word.to_string_lossy())
        .collect();
    let shown = said(Command::new("script").args(["-qec", &words.join(" "), "/dev/null"])).out;
    assert!(shown.contains(r"nul \0 esc \u{1b}[2J bad") && !shown.contains('\x1b'), "{shown:?}");
}
