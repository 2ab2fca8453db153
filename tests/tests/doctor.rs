//! `defib doctor` in the situations that it is for: as root, without rights, in namespaces, without /proc.
#![expect(clippy::disallowed_methods, reason = "tests start the program in ways of their own")]

use std::collections::BTreeSet;
use std::process::Command;

use defib_tests::{Daemon, Said, program, said};
use serde_json::Value;

const AS_NOBODY: [&str; 4] = ["setpriv", "--reuid=54321", "--regid=54321", "--clear-groups"];

const GROUPS: [&str; 7] = ["host", "sources", "trees", "state", "ports", "latency", "limits"];

/// Rows that are there wherever defib runs.
const ROWS: [&str; 30] = [
    "kernel",
    "user",
    "namespaces",
    "container",
    "config",
    "source",
    "daemon",
    "btf",
    "bpf-settings",
    "proc-connector",
    "pidfd",
    "pidfd-exit",
    "start",
    "kmsg",
    "cgroup",
    "state-dir",
    "state-db",
    "bpffs",
    "pins",
    "sock-diag",
    "connection-ends",
    "network",
    "pressure",
    "realtime",
    "ptrace",
    "bpf-release",
    "open-files",
    "pid-max",
    "tasks",
    "log-pipes",
];

/// The report of a doctor that is started by `before`, in folders in which no daemon is.
struct Report {
    whole: Value,
    code: i32,
}

impl Report {
    #[track_caller]
    fn new(before: &[&str]) -> Self {
        Self::of(&doctor(before, &["--json"]))
    }

    #[track_caller]
    fn of(said: &Said) -> Self {
        assert_eq!(said.err, "", "{}", said.out);
        let whole: Value =
            serde_json::from_str(&said.out).unwrap_or_else(|error| panic!("{error}: {said:?}"));
        let report = Self { whole, code: said.code };
        report.assert_whole();
        report
    }

    fn rows(&self) -> &[Value] {
        self.whole["rows"].as_array().expect("rows")
    }

    /// Every key is there, and every word is one that scripts know.
    #[track_caller]
    fn assert_whole(&self) {
        let keys = |value: &Value| value.as_object().expect("an object").keys().cloned().collect::<Vec<_>>();
        assert_eq!(keys(&self.whole), ["rows", "source"]);
        assert!(["ebpf", "proc-connector", "pidfd"].iter().any(|name| self.whole["source"] == **name));
        let mut names = BTreeSet::new();
        let mut group = 0;
        for row in self.rows() {
            assert_eq!(keys(row), ["found", "group", "name", "remedy", "verdict"], "{row}");
            assert!(row.as_object().expect("an object").values().all(Value::is_string), "{row}");
            assert!(["ok", "limited", "missing"].iter().any(|word| row["verdict"] == **word), "{row}");
            assert_ne!(row["found"], "", "{row}");
            let place = GROUPS.iter().position(|group| row["group"] == **group).expect("a known group");
            assert!(place >= group, "the groups are in order: {row}");
            group = place;
            assert!(names.insert(row["name"].as_str().expect("a name")), "twice: {row}");
        }
        for name in ROWS {
            assert!(names.contains(name), "no {name} in {names:?}");
        }
    }

    #[track_caller]
    fn row(&self, name: &str) -> &Value {
        self.rows().iter().find(|row| row["name"] == name).unwrap_or_else(|| panic!("no {name}"))
    }

    #[track_caller]
    fn assert(&self, name: &str, verdict: &str, found: &str) {
        let row = self.row(name);
        assert_eq!(row["verdict"], verdict, "{row}");
        assert!(row["found"].as_str().expect("text").contains(found), "{found:?} is not in {row}");
    }

    /// What no right and no namespace takes away: ends are heard of, and processes made.
    #[track_caller]
    fn assert_supervises(&self) {
        assert_eq!(self.code, 0, "{}", self.whole);
        self.assert("pidfd", "ok", "");
        self.assert("start", "ok", "clone3");
    }
}

fn doctor(before: &[&str], args: &[&str]) -> Said {
    let folder = tempfile::tempdir().expect("a folder");
    let program = program().into_os_string().into_string().expect("UTF-8");
    let words: Vec<&str> = before.iter().copied().chain([program.as_str(), "doctor"]).collect();
    let mut command = Command::new(words[0]);
    command.args(&words[1..]).args(args);
    command.env_remove("DEFIB_CONFIG").env_remove("DEFIB_SOURCE").env("HOME", "/");
    said(command.arg("--runtime-dir").arg(folder.path()))
}

#[test]
fn root_on_the_host_has_everything_that_the_kernel_has() {
    let report = Report::new(&[]);
    report.assert_supervises();
    report.assert("user", "ok", "root");
    report.assert("btf", "ok", "/sys/kernel/btf/vmlinux");
    report.assert("proc-connector", "ok", "30 %");
    report.assert("sock-diag", "ok", "");
    report.assert("connection-ends", "ok", "");
    report.assert("daemon", "ok", "none answers");
    let programs: Vec<_> = report
        .rows()
        .iter()
        .filter(|row| row["name"].as_str().expect("a name").starts_with("ebpf"))
        .collect();
    if report.whole["source"] == "ebpf" {
        assert!(programs.len() >= 4, "{programs:?}");
        assert!(programs.iter().all(|row| row["verdict"] == "ok"), "{programs:?}");
        report.assert("source", "ok", "auto takes ebpf");
    } else {
        report.assert("ebpf", "missing", "built without");
    }
}

#[test]
fn without_rights_it_says_what_would_be_gained_by_them() {
    let report = Report::new(&AS_NOBODY);
    report.assert_supervises();
    report.assert("user", "limited", "54321");
    assert_ne!(report.whole["source"], "ebpf");
    report.assert("source", "limited", "ebpf");
    let ebpf = report.row("ebpf");
    assert_eq!(ebpf["verdict"], "missing");
    assert_ne!(ebpf["remedy"], "");
    report.assert("realtime", "missing", "CAP_SYS_NICE");
}

#[test]
fn a_pid_namespace_hides_the_host_from_the_kernel_sources() {
    let report = Report::new(&["unshare", "--pid", "--fork", "--mount-proc"]);
    report.assert_supervises();
    report.assert("namespaces", "limited", "its own: pid");
    assert!(report.row("namespaces")["remedy"].as_str().expect("text").contains("--pid=host"));
    report.assert("proc-connector", "missing", "pid namespace");
    assert_eq!(report.whole["source"], "pidfd");
}

#[test]
fn the_rights_of_a_user_namespace_end_at_its_border() {
    let report = Report::new(&["unshare", "--user", "--map-root-user"]);
    report.assert_supervises();
    report.assert("user", "limited", "user namespace");
    report.assert("namespaces", "limited", "user");
    report.assert("realtime", "missing", "");
    assert_eq!(report.whole["source"], "pidfd");
}

#[test]
fn a_net_namespace_has_no_connector_but_ebpf() {
    let report = Report::new(&["unshare", "--net"]);
    report.assert_supervises();
    report.assert("proc-connector", "missing", "network namespace");
    report.assert("sock-diag", "ok", "");
    report.assert("connection-ends", "ok", "");
    assert_eq!(report.whole["source"], Report::new(&[]).whole["source"]);
}

#[test]
fn it_gets_by_without_proc_and_sys() {
    let report = Report::new(&[
        "unshare",
        "--mount",
        "sh",
        "-c",
        "umount -l /sys; umount -l /proc; exec \"$@\"",
        "sh",
    ]);
    report.assert_supervises();
    report.assert("btf", "missing", "no such file");
    report.assert("namespaces", "limited", "/proc");
    report.assert("cgroup", "limited", "none");
    report.assert("pressure", "limited", "");
}

#[test]
fn a_source_that_was_asked_for_and_cannot_be_had_is_a_failure() {
    let namespace = ["unshare", "--pid", "--fork", "--mount-proc"];
    let report = Report::of(&doctor(&namespace, &["--json", "--source", "ebpf"]));
    assert_eq!(report.code, 1, "{}", report.whole);
    report.assert("source", "missing", "asks for ebpf");
    let report = Report::of(&doctor(&namespace, &["--json", "--source", "pidfd"]));
    report.assert_supervises();
    report.assert("source", "ok", "pidfd");
}

#[test]
fn a_configuration_that_cannot_be_read_is_told_and_no_failure() {
    let report = Report::of(&doctor(&[], &["--json", "--config", "/no/such/file.toml"]));
    report.assert_supervises();
    report.assert("config", "limited", "/no/such/file.toml");
}

#[test]
fn the_daemon_that_answers_is_compared_with_what_is_found() {
    let daemon = Daemon::start("");
    let report = Report::of(&daemon.cli(&["doctor", "--json"]));
    report.assert("daemon", "ok", &format!("pid {}, ", daemon.daemon()));
    report.assert("daemon", "ok", report.whole["source"].as_str().expect("a source"));

    let other = if report.whole["source"] == "pidfd" { "auto" } else { "pidfd" };
    let options = defib_tests::Options::with_source(other);
    let daemon = Daemon::start_with("", &options);
    let report = Report::of(&daemon.cli(&["doctor", "--json"]));
    if other == "pidfd" {
        report.assert("daemon", "limited", "has used pidfd");
    }
}

#[test]
fn people_get_a_line_a_row_with_the_remedy_beneath() {
    let shown = doctor(&AS_NOBODY, &[]);
    assert_eq!((shown.code, shown.err.as_str()), (0, ""));
    let lines: Vec<&str> = shown.out.lines().collect();
    for group in GROUPS {
        assert!(lines.contains(&group), "no heading {group} in {}", shown.out);
    }
    for name in ROWS {
        let begin = format!("  {name} ");
        assert_eq!(lines.iter().filter(|line| line.starts_with(&begin)).count(), 1, "{name}: {}", shown.out);
    }
    assert!(shown.out.contains("→ "), "a remedy");
    assert!(!shown.out.contains('\x1b'), "no colour where there is no terminal");
    assert!(shown.out.chars().all(|c| !c.is_control() || c == '\n'), "{:?}", shown.out);
    let wide: Vec<_> = lines.iter().filter(|line| line.chars().count() > 100).collect();
    assert!(wide.is_empty(), "{wide:?}");
    let colored = doctor(&[], &["--color", "always"]);
    assert!(colored.out.contains("\x1b[32mok     \x1b[0m"), "{}", colored.out);
}
