//! The configuration as an operator meets it: files in conf.d, `init`, `schema`, `check NAME`, and the keys that make a
//! process, all on the built program.
#![expect(clippy::disallowed_methods, reason = "tests start the program in ways of their own")]

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use defib_tests::{Daemon, Options, Said, defib, patiently, program, said, signal};
use nix::unistd::geteuid;
use serde_json::Value;
use tempfile::TempDir;

const SLEEP: &str = "command = \"sleep 1000\"\n";

fn folder() -> (TempDir, PathBuf) {
    let folder = tempfile::Builder::new().prefix("defib-test-").tempdir().expect("a folder");
    let path = folder.path().canonicalize().expect("a path");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("permissions");
    (folder, path)
}

fn write(folder: &Path, name: &str, text: &str, mode: u32) -> String {
    let path = folder.join(name);
    fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
    fs::write(&path, text).expect("a file");
    fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("permissions");
    path.into_os_string().into_string().expect("UTF-8")
}

fn json(said: &Said) -> Value {
    serde_json::from_str(&said.out).unwrap_or_else(|error| panic!("{error}: {said:?}"))
}

#[test]
fn files_of_conf_d_are_part_of_the_configuration() {
    let (_guard, folder) = folder();
    let config = write(&folder, "defib.toml", &format!("[service.a]\n{SLEEP}"), 0o644);
    let b = write(&folder, "conf.d/b.toml", &format!("[service.b]\n{SLEEP}"), 0o644);
    let options = Options { args: vec!["--config".into(), config.clone()], ..Options::default() };
    let daemon = Daemon::start_with("", &options);
    daemon.wait_state("a", "running");
    let pid = daemon.wait_state("b", "running")["pid"].clone();

    // A daemon that comes back has the texts that were accepted, whatever stands in the files by then.
    fs::write(&b, "[service.a]\ncommand = [\n").expect("a file");
    let old = daemon.daemon();
    signal(old, libc::SIGKILL);
    patiently("the daemon to come back", || (daemon.daemon() != old).then_some(()));
    assert_eq!(daemon.wait_state("b", "running")["pid"], pid);

    let said = defib(&["check", "--config", &config]);
    assert_eq!((said.code, said.out.as_str()), (1, ""), "{said:?}");
    assert!(said.err.starts_with(&format!("{b}:2: not valid TOML")), "{said:?}");
    write(&folder, "conf.d/b.toml", &format!("\n[service.a]\n{SLEEP}"), 0o644);
    let said = defib(&["check", "--config", &config]);
    let twice = format!("{b}:2: service.a: given already at {config}:1; remove one of the two\n");
    assert_eq!((said.code, said.err), (1, twice));
    fs::remove_file(&b).expect("a file");
    let said = defib(&["check", "--config", &config]);
    assert_eq!((said.code, said.out), (0, format!("{config}: ok, 1 service\n")));
}

#[test]
fn init_writes_a_configuration_that_holds() {
    let (_guard, folder) = folder();
    let path = folder.join("new/folder/defib.toml");
    let file = path.to_str().expect("UTF-8");
    let said = defib(&["init", "--config", file]);
    assert_eq!(said.code, 0, "{said:?}");
    assert!(said.out.contains(file) && said.out.contains("`defib check`"), "{said:?}");
    let modes =
        [&path, &folder.join("new")].map(|path| fs::metadata(path).expect("there").permissions().mode());
    assert_eq!(modes.map(|mode| mode & 0o7777), [0o644, 0o755]);
    assert_eq!(defib(&["check", "--config", file]).out, format!("{file}: ok, 0 services\n"));

    fs::write(&path, "mine").expect("a file");
    let said = defib(&["init", file]);
    assert_eq!((said.code, said.out.as_str()), (1, ""));
    assert!(said.err.contains("is there already") && said.err.contains("--force"), "{said:?}");
    assert_eq!(fs::read_to_string(&path).expect("a file"), "mine");

    // What is replaced is the link, not what it leads to.
    fs::rename(&path, folder.join("precious")).expect("renamed");
    symlink(folder.join("precious"), &path).expect("a link");
    assert_eq!(json(&defib(&["init", "--force", "--json", file]))["replaced"], true);
    assert_eq!(fs::read_to_string(folder.join("precious")).expect("a file"), "mine");
    assert!(fs::read_to_string(&path).expect("a file").contains("[defaults.restart]"));
    // No draft stays behind.
    assert_eq!(fs::read_dir(folder.join("new/folder")).expect("a folder").count(), 1);
    let said = defib(&["init", folder.to_str().expect("UTF-8")]);
    assert_eq!(said.code, 1, "{said:?}");
    assert!(said.err.contains("is a folder"), "{said:?}");
}

#[test]
fn the_schema_in_the_repository_is_the_programs() {
    let said = defib(&["schema"]);
    let printed = json(&said);
    let file: Value = serde_json::from_str(include_str!("../../config/defib.schema.json")).expect("JSON");
    assert_eq!((said.code, printed), (0, file));
}

/// Runs `check` on one service of a configuration, and gives its exit code and its rows.
#[track_caller]
fn check(folder: &Path, keys: &str) -> (i32, Vec<Value>) {
    let logs = folder.join("log");
    let text = format!("[daemon]\nlog_dir = '{}'\n[service.a]\n{keys}\n", logs.display());
    let config = write(folder, "defib.toml", &text, 0o644);
    let said = defib(&["check", "a", "--json", "--config", &config]);
    let rows = json(&said)["checks"][0]["rows"].as_array().unwrap_or_else(|| panic!("{said:?}")).clone();
    (said.code, rows)
}

/// The row of a name: its verdict and what was found, with the remedy.
#[track_caller]
fn row(rows: &[Value], name: &str) -> (String, String) {
    let found = rows.iter().filter(|row| row["name"] == name);
    // Of several the worst.
    let worst =
        found.max_by_key(|row| ["ok", "warning", "error"].iter().position(|word| row["verdict"] == *word));
    let row = worst.unwrap_or_else(|| panic!("no row {name} in {rows:#?}"));
    let text = |key: &str| row[key].as_str().expect("a text").to_owned();
    (text("verdict"), format!("{} → {}", text("found"), text("remedy")))
}

#[track_caller]
fn assert_row(folder: &Path, keys: &str, name: &str, verdict: &str, words: &[&str]) {
    let (code, rows) = check(folder, keys);
    let (found, text) = row(&rows, name);
    assert_eq!(found, verdict, "{text}");
    assert_eq!(code, i32::from(verdict == "error"), "{rows:#?}");
    for word in words {
        assert!(text.contains(word), "{word:?} is not in {text}");
    }
}

#[test]
fn check_says_why_a_service_cannot_be_started() {
    let (_guard, folder) = folder();
    let path = |name: &str| folder.join(name).display().to_string();
    let script = write(&folder, "good", "#!/bin/sh\n", 0o755);
    assert_row(&folder, &format!("command = ['{script}']"), "program", "ok", &[&script]);
    assert_row(&folder, "command = 'no-such-program'", "program", "error", &["PATH", "install the program"]);
    let none = path("none");
    assert_row(&folder, &format!("command = '{none}'"), "program", "error", &["is not there", "make"]);
    let plain = write(&folder, "plain", "#!/bin/sh\n", 0o644);
    assert_row(
        &folder,
        &format!("command = '{plain}'"),
        "program",
        "error",
        &["may not execute", "mode 0644"],
    );
    let odd = write(&folder, "odd", "echo", 0o755);
    assert_row(&folder, &format!("command = '{odd}'"), "program", "warning", &["#!/bin/sh"]);
    let bad = write(&folder, "bad", "#!/no/such/shell -e\n", 0o755);
    assert_row(
        &folder,
        &format!("command = '{bad}'"),
        "interpreter",
        "error",
        &["/no/such/shell", "not there"],
    );
    let env = write(&folder, "env", "#!/usr/bin/env no-such-program\n", 0o755);
    assert_row(&folder, &format!("command = '{env}'"), "interpreter", "error", &["no-such-program"]);
    assert_row(&folder, &format!("{SLEEP}cwd = '{none}'"), "cwd", "error", &[&none, "`cwd`"]);
    assert_row(
        &folder,
        &format!("{SLEEP}needs_files = ['/', '{none}']"),
        "needs_files",
        "error",
        &[&none, "ENOENT"],
    );
    let env_file = write(&folder, "a.env", "A=1\nB\n", 0o644);
    assert_row(
        &folder,
        &format!("{SLEEP}env_file = '{env_file}'"),
        "env_file",
        "error",
        &["line 2", "`env_file`"],
    );
    assert_row(
        &folder,
        &format!("{SLEEP}user = 'no-such-user'"),
        "user",
        "error",
        &["no such user", "useradd"],
    );
    assert_row(&folder, &format!("{SLEEP}pid_file = '{none}/a.pid'"), "pid_file", "error", &["not there"]);
    assert_row(&folder, SLEEP, "log", "ok", &["made when it is needed"]);
    assert_row(&folder, SLEEP, "open-files", "ok", &[]);

    let config = path("defib.toml");
    let said = defib(&["check", "--config", &config, "nobody"]);
    assert_eq!(said.code, 3, "{said:?}");
    write(&folder, "defib.toml", &format!("[service.a]\n{SLEEP}[service.b]\ncommand = '{none}'\n"), 0o644);
    let said = defib(&["check", "--config", &config, "*"]);
    assert_eq!(said.code, 1, "{said:?}");
    assert!(said.out.starts_with("a\n  user ") && said.out.contains("\n\nb\n  user "), "{}", said.out);
    assert!(said.out.contains("  program     error    "), "{}", said.out);
    assert_eq!(defib(&["check", "--config", &config, "a"]).code, 0);
    // Without a name only the configuration is checked.
    assert_eq!(defib(&["check", "--config", &config]).code, 0);
}

#[test]
fn check_asks_with_the_rights_of_the_services_user() {
    if !geteuid().is_root() {
        println!("skipped: needs root");
        return;
    }
    let (_guard, folder) = folder();
    let user = "user = 54321\ngroup = 54322\n";
    let private = folder.join("private");
    let script = write(&folder, "private/run", "#!/bin/sh\n", 0o755);
    fs::set_permissions(&private, fs::Permissions::from_mode(0o700)).expect("permissions");
    let keys = format!("command = '{script}'\n{user}");
    let shown = private.display().to_string();
    assert_row(&folder, &keys, "program", "error", &["54321 may not enter", &shown, "mode 0700", "chmod"]);
    let keys = format!("{SLEEP}{user}cwd = '{}'", private.display());
    assert_row(&folder, &keys, "cwd", "error", &["54321 may not enter", &shown]);
    // By the group that the service has, and by nothing else.
    std::os::unix::fs::chown(&private, None, Some(54322)).expect("root");
    fs::set_permissions(&private, fs::Permissions::from_mode(0o710)).expect("permissions");
    assert_row(&folder, &format!("command = '{script}'\n{user}"), "program", "ok", &[]);
    let keys = format!("command = '{script}'\nuser = 54321\ngroup = 54323\n");
    assert_row(&folder, &keys, "program", "error", &["may not enter"]);
    let keys = format!("command = '{script}'\nuser = 54321\ngroup = 54323\ngroups = [54322]\n");
    assert_row(&folder, &keys, "program", "ok", &[]);
    // A script is read by its interpreter, as the user.
    fs::set_permissions(&script, fs::Permissions::from_mode(0o711)).expect("permissions");
    assert_row(&folder, &keys, "interpreter", "error", &["may not read"]);
    assert_row(
        &folder,
        &format!("{SLEEP}{user}ports = [1023]"),
        "port 1023",
        "warning",
        &["CAP_NET_BIND_SERVICE"],
    );
}

/// A mount that is undone when it is dropped.
struct Mount(PathBuf);

impl Drop for Mount {
    fn drop(&mut self) {
        said(Command::new("umount").arg(&self.0));
    }
}

#[test]
fn check_sees_a_mount_that_executes_nothing() {
    if !geteuid().is_root() {
        println!("skipped: needs root");
        return;
    }
    let (_guard, folder) = folder();
    let point = folder.join("noexec");
    fs::create_dir(&point).expect("a folder");
    let mounted = said(Command::new("mount").args(["-t", "tmpfs", "-o", "noexec", "none"]).arg(&point));
    assert_eq!(mounted.code, 0, "{mounted:?}");
    let _mount = Mount(point);
    let script = write(&folder, "noexec/run", "#!/bin/sh\n", 0o755);
    assert_row(&folder, &format!("command = '{script}'"), "program", "error", &["noexec", "remount,exec"]);
}

#[test]
fn check_names_who_holds_a_port() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let (_guard, folder) = folder();
    let (keys, name) = (format!("{SLEEP}ports = [{port}]"), format!("port {port}"));
    let us = format!("taken by pid {}", std::process::id());
    assert_row(&folder, &keys, &name, "error", &[&us, "another port"]);
    drop(listener);
    assert_row(&folder, &keys, &name, "ok", &["free"]);

    // The service itself is no obstacle to it.
    let server = program().with_file_name("server");
    let text = format!(
        "[service.a]\ncommand = '{} {port}'\nports = [{port}]\nready = {{ port = {port} }}\n",
        server.display()
    );
    let daemon = Daemon::start(&text);
    let pid = daemon.wait("a", "to be ready", |status| status["ready"] == true)["pid"].clone();
    let config = daemon.path("defib.toml").display().to_string();
    let log = daemon.path("log").display().to_string();
    let said = defib(&["check", "a", "--json", "--config", &config, "--log-dir", &log]);
    let rows = json(&said)["checks"][0]["rows"].as_array().expect("rows").clone();
    let (verdict, found) = row(&rows, &name);
    assert_eq!(verdict, "ok", "{found}");
    assert!(found.contains(&format!("the service itself listens, pid {pid}")), "{found}");
}

#[test]
fn pid_files_name_the_life_that_there_is() {
    let (_guard, folder) = folder();
    let file = folder.join("own/a.pid");
    let stale = write(&folder, "own/b.pid", "8388608\n", 0o644);
    fs::create_dir(folder.join("pids")).expect("a folder");
    write(&folder, "pids/b.pid", "8388608\n", 0o644);
    let text = format!(
        "[daemon]\npid_dir = '{0}/pids'\n[service.a]\n{SLEEP}pid_file = '{0}/own/a.pid'\n\
         [service.b]\n{SLEEP}autostart = false\npid_file = '{stale}'\n",
        folder.display()
    );
    let mut daemon = Daemon::start(&text);
    let holds = |pid: u64| {
        let both = [file.clone(), folder.join("pids/a.pid")];
        patiently("the pid files", || {
            let texts = both.each_ref().map(|path| fs::read_to_string(path).unwrap_or_default());
            texts.iter().all(|text| *text == format!("{pid}\n")).then_some(())
        });
    };
    let pid = |status: &Value| status["pid"].as_u64().expect("a pid");
    let first = pid(&daemon.wait_state("a", "running"));
    holds(first);
    assert_eq!(fs::metadata(&file).expect("a file").permissions().mode() & 0o7777, 0o644);
    patiently("the stale files to go", || {
        (!Path::new(&stale).exists() && !folder.join("pids/b.pid").exists()).then_some(())
    });

    signal(u32::try_from(first).expect("a pid"), libc::SIGKILL);
    let next = |status: &Value| status["state"] == "running" && status["pid"] != first;
    let second = pid(&daemon.wait("a", "to be back", next));
    holds(second);
    // Another daemon, the same life.
    let old = daemon.daemon();
    signal(old, libc::SIGKILL);
    patiently("the daemon to come back", || (daemon.daemon() != old).then_some(()));
    assert_eq!(pid(&daemon.wait_state("a", "running")), second);
    holds(second);

    daemon.ask(&["stop", "a"]);
    patiently("the files to go", || (!file.exists()).then_some(()));
    daemon.ask(&["start", "a"]);
    holds(pid(&daemon.wait_state("a", "running")));
    daemon.ask(&["daemon", "stop"]);
    assert_eq!(daemon.exit_code(), 0);
    assert!(!file.exists() && !folder.join("pids/a.pid").exists());
    assert!(!daemon.log().contains("is not defib's"), "{}", daemon.log());
}

#[test]
fn umask_inherited_variables_and_needed_files_reach_the_process() {
    let text = "[service.a]\ncommand = [\"sh\", \"-c\", \"umask > {dir}/said; env >> {dir}/said; sleep 1000\"]\n\
                umask = \"027\"\ninherit_env = [\"TEST_HERE\", \"TEST_SET\", \"TEST_NOT_THERE\"]\n\
                env = { TEST_SET = \"own\" }\n\
                [service.b]\ncommand = \"sleep 1000\"\nautostart = false\nneeds_files = [\"/\", \"{dir}/needed\"]\n\
                restart = { policy = \"never\" }\n";
    let set = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    let options = Options {
        env: vec![set("TEST_HERE", "inherited"), set("TEST_SET", "defib's"), set("TEST_OTHER", "private")],
        ..Options::default()
    };
    let daemon = Daemon::start_with(text, &options);
    let said = patiently("the service to speak", || {
        fs::read_to_string(daemon.path("said")).ok().filter(|text| text.contains("DEFIB_SERVICE=a"))
    });
    assert!(said.starts_with("0027\n"), "{said}");
    assert!(said.contains("\nTEST_HERE=inherited\n") && said.contains("\nTEST_SET=own\n"), "{said}");
    assert!(!said.contains("TEST_OTHER") && !said.contains("TEST_NOT_THERE"), "{said}");

    let refused = daemon.cli(&["start", "b"]);
    assert_eq!(refused.code, 1, "{refused:?}");
    let needed = daemon.path("needed").display().to_string();
    assert!(refused.err.contains(&needed) && refused.err.contains("`needs_files`"), "{refused:?}");
    assert_eq!(daemon.events_of("b", "fork"), [] as [Value; 0]);
    fs::create_dir(&needed).expect("a folder");
    daemon.ask(&["start", "b"]);
    daemon.wait_state("b", "running");
}

#[test]
fn flags_and_variables_decide_and_bad_ones_are_named() {
    let (_guard, folder) = folder();
    let config = write(&folder, "defib.toml", &format!("[service.a]\n{SLEEP}"), 0o644);
    let said = defib(&["check", "--config", &config, "--max-restarts", "0", "--backend", "systemd"]);
    assert_eq!(said.code, 1);
    assert_eq!(
        said.err,
        "--backend: found \"systemd\", which is not built yet, wanted \"direct\"\n\
         --max-restarts: found \"0\", wanted a whole number from 1 to 256 or \"none\"\n"
    );
    let daemon = Daemon::start_with(
        "[service.a]\ncommand = \"false\"\nrestart = { delays = [\"0s\"], max_restarts = 200 }\n",
        &Options { args: vec!["--max-restarts=2".into()], ..Options::default() },
    );
    assert_eq!(daemon.wait_state("a", "failed")["restarts"], 2);
}

/// Nobody's own folders, not those of root: they must not be there before.
#[test]
fn a_first_start_makes_its_folders_and_says_so() {
    if !geteuid().is_root() {
        println!("skipped: needs root");
        return;
    }
    let (_guard, folder) = folder();
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o1777)).expect("permissions");
    let log = fs::File::create(folder.join("daemon.log")).expect("a log");
    let mut daemon = Command::new("setpriv")
        .args(["--reuid=54321", "--regid=54321", "--clear-groups"])
        .arg(program())
        .args(["daemon", "--listen-metrics", ""])
        .env("HOME", &folder)
        .env("XDG_RUNTIME_DIR", folder.join("run"))
        .env_remove("XDG_CONFIG_HOME")
        .env_remove("XDG_STATE_HOME")
        .stderr(log)
        .spawn()
        .expect("the program starts");
    let log = || fs::read_to_string(folder.join("daemon.log")).unwrap_or_default();
    patiently("the daemon to supervise", || log().contains("defib supervises").then_some(()));
    signal(daemon.id(), libc::SIGTERM);
    assert!(daemon.wait().expect("a child").success(), "{}", log());
    let text = log();
    for made in [".local/state/defib", "run/defib", ".local/state/defib/log"] {
        let path = folder.join(made);
        assert!(path.is_dir(), "{made}: {text}");
        let told = format!("made, for it was not there folder={}\n", path.display());
        assert!(text.contains(&told), "{told:?} is not in {text}");
    }
    assert!(text.contains("there is no configuration") && text.contains("`defib init` writes one"), "{text}");
}
