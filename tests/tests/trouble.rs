//! Starts that cannot work, and machines that do not give what defib would like: the service says why, the daemon goes
//! on.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use defib_tests::{Daemon, Options, install, install_text, patiently, pid, signal};
use serde_json::Value;

/// Starts `it` with these keys beside a service that must not be disturbed; returns the failed start as it was told.
fn failed_start(keys: &str, prepare: impl FnOnce(&Daemon)) -> (Daemon, Value) {
    let daemon = Daemon::start(&format!(
        "[service.bystander]\ncommand = \"sleep 1000\"\n[service.it]\n{keys}\nautostart = false\n\
         restart = {{ delays = [\"1h\"] }}\n"
    ));
    prepare(&daemon);
    let said = daemon.cli(&["start", "it"]);
    assert_eq!(said.code, 1, "{said:?}");
    let it = daemon.wait_state("it", "retrying");
    assert!(it["next_start_at"].is_string());
    daemon.wait_state("bystander", "running");
    let failure = daemon
        .events_of("it", "exec")
        .into_iter()
        .find(|event| event["ok"] == false)
        .expect("a failed start");
    (daemon, failure)
}

#[test]
fn every_obstacle_is_told_with_call_error_and_remedy() {
    let script = |text: &'static str, mode: u32| {
        move |daemon: &Daemon| install_text(text, mode, &daemon.path("script"))
    };
    let nothing = |_: &Daemon| {};
    type Prepare = Box<dyn FnOnce(&Daemon)>;
    let cases: Vec<(&str, Prepare, &str, &str, &str)> = vec![
        ("command = \"/no/such/program\"", Box::new(nothing), "execve /no/such/program", "ENOENT", "install"),
        ("command = \"no-such-program\"", Box::new(nothing), "find no-such-program", "no executable", "PATH"),
        (
            "command = \"{dir}/script\"",
            Box::new(script("#!/bin/sh\n", 0o644)),
            "execve",
            "EACCES",
            "chmod +x",
        ),
        (
            "command = \"{dir}/script\"",
            Box::new(script("#!/no/such/shell\n", 0o755)),
            "execve",
            "ENOENT",
            "/no/such/shell",
        ),
        (
            "command = \"{dir}/script\"",
            Box::new(script("no first line\n", 0o755)),
            "execve",
            "ENOEXEC",
            "#!/bin/sh",
        ),
        (
            "command = \"true\"\nuser = \"nobody-at-all\"",
            Box::new(nothing),
            "user nobody-at-all",
            "no such user",
            "useradd",
        ),
        (
            "command = \"true\"\ngroup = \"nobody-at-all\"",
            Box::new(nothing),
            "group nobody-at-all",
            "no such group",
            "groupadd",
        ),
        (
            "command = \"true\"\ncwd = \"/no/such/folder\"",
            Box::new(nothing),
            "chdir /no/such/folder",
            "ENOENT",
            "create",
        ),
        (
            "command = \"true\"\nenv_file = \"/no/such/file\"",
            Box::new(nothing),
            "env_file /no/such/file",
            "No such file",
            "env_file",
        ),
        (
            "command = \"true\"\ncwd = \"{dir}/private\"\nuser = \"nobody\"",
            Box::new(|daemon: &Daemon| {
                fs::create_dir(daemon.path("private")).expect("a folder");
                fs::set_permissions(daemon.path("private"), fs::Permissions::from_mode(0o700))
                    .expect("permissions");
            }),
            "chdir",
            "EACCES",
            "right to enter",
        ),
    ];
    for (keys, prepare, call, error, remedy) in cases {
        let (daemon, failure) = failed_start(keys, prepare);
        for (field, wanted) in [("call", call), ("error", error), ("remedy", remedy)] {
            let text = failure[field].as_str().unwrap_or_default();
            assert!(
                text.contains(wanted),
                "{keys}: {field} is {text:?}, without {wanted:?}\n{}",
                daemon.log()
            );
        }
        let why = daemon.status("it")["why"].as_str().unwrap_or_default().to_owned();
        assert!(why.contains(call) && why.contains(remedy), "{why}");
    }
}

/// The program is installed while the service waits: the next try makes a new plan and works.
#[test]
fn a_start_that_failed_works_once_its_obstacle_is_gone() {
    let daemon = Daemon::start(
        "[service.it]\ncommand = [\"{dir}/late\", \"1000\"]\nrestart = { delays = [\"50ms\"], max_restarts = \"none\" }\n",
    );
    daemon.wait("it", "to try twice", |it| it["restarts"].as_u64() >= Some(2));
    install(Path::new("/bin/sleep"), &daemon.path("late"));
    daemon.wait_state("it", "running");
}

#[test]
fn out_of_processes_is_retried_until_there_is_room() {
    let daemon = Daemon::start(
        "[service.it]\ncommand = \"sleep 1000\"\nautostart = false\n\
         restart = { delays = [\"50ms\"], max_restarts = \"none\" }\n",
    );
    // The pids controller lets a group have one process more than it has: none.
    let Some(limit) = PidsLimit::around(daemon.keeper()) else {
        panic!("no pids controller on this machine: mount the cgroup controller `pids` to run this test")
    };
    let said = daemon.cli(&["start", "it"]);
    assert_eq!(said.code, 1, "{said:?}");
    assert!(
        said.err.contains("clone3") && said.err.contains("EAGAIN") && said.err.contains("pids.max"),
        "{}",
        said.err
    );
    daemon.wait("it", "to try again", |it| it["restarts"].as_u64() >= Some(2));
    drop(limit);
    daemon.wait_state("it", "running");
}

/// A pids cgroup (version 1) around the keeper, for as long as this lives.
struct PidsLimit {
    folder: std::path::PathBuf,
    origin: std::path::PathBuf,
    pid: u32,
}

impl PidsLimit {
    fn around(pid: u32) -> Option<Self> {
        let root = Path::new("/sys/fs/cgroup/pids");
        let membership = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
        let origin = membership.lines().find_map(|line| line.split_once(":pids:"))?.1;
        let origin = root.join(origin.trim_start_matches('/'));
        let folder = root.join(format!("defib-test-{pid}"));
        fs::create_dir(&folder).ok()?;
        fs::write(folder.join("cgroup.procs"), pid.to_string()).ok()?;
        fs::write(folder.join("pids.max"), "1").ok()?;
        Some(Self { folder, origin, pid })
    }
}

impl Drop for PidsLimit {
    fn drop(&mut self) {
        let back = |pid: &str| fs::write(self.origin.join("cgroup.procs"), pid).ok();
        back(&self.pid.to_string());
        for pid in fs::read_to_string(self.folder.join("cgroup.procs")).unwrap_or_default().lines() {
            back(pid);
        }
        fs::remove_dir(&self.folder).ok();
    }
}

/// Neither root nor BPF nor cgroups: everything works, by pidfd, and says so.
#[test]
#[expect(clippy::disallowed_methods, reason = "asks for setpriv")]
fn without_any_right_defib_falls_back_and_says_so() {
    let setpriv = Command::new("setpriv").arg("--version").output();
    assert!(setpriv.is_ok(), "setpriv (util-linux) is needed for this test");
    let options = Options {
        before: ["setpriv", "--reuid=54321", "--regid=54321", "--clear-groups"].map(str::to_owned).to_vec(),
        owner: Some(54321),
        ..Options::default()
    };
    let daemon = Daemon::start_with(
        "[service.it]\ncommand = [\"sh\", \"-c\", \"setsid sleep 4321 & echo $! > {dir}/leftover; exec sleep 1000\"]\n",
        &options,
    );
    let before = daemon.wait_state("it", "running");
    let log = daemon.log();
    assert!(log.contains("ebpf") && log.contains("no cgroups"), "{log}");
    let all: Value = serde_json::from_str(&daemon.ask(&["status", "--json"])).expect("JSON");
    assert_eq!(all["source"], "pidfd");
    assert!(log.contains("has to be asked for"), "the proc connector is for administrators: {log}");

    let leftover: u32 =
        patiently("its pid", || fs::read_to_string(daemon.path("leftover")).ok()?.trim().parse().ok());
    fs::remove_file(daemon.path("leftover")).expect("a file");
    signal(pid(&before), libc::SIGKILL);
    let after =
        daemon.wait("it", "in its second life", |it| it["incarnation"] == 2 && it["state"] == "running");
    assert_eq!(after["last_exit"]["signal"], "SIGKILL");
    assert!(!defib_tests::lives(leftover), "leftovers are found by their environment");
    let exits = daemon.events_of("it", "exit");
    assert_eq!(exits[0]["unknown"], serde_json::json!(["oom", "sender"]), "what no source can tell is said");
}
