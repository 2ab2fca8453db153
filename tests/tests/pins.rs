//! What the daemon has pinned in the kernel outlives it, is taken up by the next, and goes when defib leaves.
#![expect(
    clippy::disallowed_methods,
    clippy::print_stderr,
    reason = "tests start programs, and say what is not there"
)]

use std::fs;
use std::path::{Path, PathBuf};

use defib_tests::{Daemon, Options, Said, lives, patiently, program, said, signal};
use serde_json::Value;

const ROOT: &str = "/sys/fs/bpf/defib";

const ONE: &str = "[service.it]\ncommand = \"sleep 1000\"\n";

/// Whether this host can pin at all; says so if not.
fn can_pin(daemon: &Daemon) -> bool {
    let can = place(daemon).is_some();
    if !can {
        eprintln!("skipped: needs root, eBPF and bpffs\n{}", daemon.log());
    }
    can
}

/// Where a daemon says that its probes are pinned.
fn place(daemon: &Daemon) -> Option<PathBuf> {
    let log = daemon.log();
    let (_, rest) = log.split_once("pinned in ")?;
    rest.split(':').next().map(PathBuf::from)
}

/// All that is pinned for the state directory of this daemon.
fn pins(daemon: &Daemon) -> Vec<PathBuf> {
    let Some(place) = place(daemon) else { return Vec::new() };
    let name = place.file_name().expect("a name");
    let versions = fs::read_dir(ROOT).into_iter().flatten().flatten();
    versions.map(|version| version.path().join(name)).filter(|place| place.exists()).collect()
}

/// `defib daemon purge` of one daemon, whether it runs or not.
fn purge(folder: &Path, before: &[String]) -> Said {
    let path = |name: &str| folder.join(name).into_os_string().into_string().expect("UTF-8");
    let mut words = before.to_vec();
    words.push(program().into_os_string().into_string().expect("UTF-8"));
    words.extend(["--config".into(), path("defib.toml"), "--state-dir".into(), path("state")]);
    words.extend(["--runtime-dir".into(), path("run"), "--log-dir".into(), path("log")]);
    words.extend(["daemon", "purge"].map(str::to_owned));
    said(std::process::Command::new(&words[0]).args(&words[1..]))
}

/// Kills keeper and daemon, and waits until both are gone.
fn kill_both(daemon: &mut Daemon) {
    let child = daemon.daemon();
    signal(daemon.keeper(), libc::SIGKILL);
    signal(child, libc::SIGKILL);
    daemon.exit_code();
    patiently("the daemon's end", || (!lives(child)).then_some(()));
}

/// What is left when a test fails.
struct Cleanup(PathBuf);

impl Drop for Cleanup {
    fn drop(&mut self) {
        // Refused while a daemon runs, which then cleans up itself.
        purge(&self.0, &[]);
    }
}

#[test]
fn a_later_daemon_takes_the_probes_up_and_a_stop_removes_them() {
    let daemon = Daemon::start(ONE);
    let _cleanup = Cleanup(daemon.path(""));
    if !can_pin(&daemon) {
        return;
    }
    daemon.wait_state("it", "running");
    let [place] = &pins(&daemon)[..] else { panic!("{:?}", pins(&daemon)) };
    let doctor = pins_row(&daemon);
    assert!(doctor.contains("9 programs and 15 maps") && doctor.contains("0 ends wait"), "{doctor}");

    let first = daemon.daemon();
    signal(first, libc::SIGKILL);
    patiently("the next daemon", || Some(daemon.daemon()).filter(|pid| *pid != first));
    patiently("the probes", || daemon.log().contains("9 pinned probes go on").then_some(()));
    // It hears as well as the first.
    let pid = daemon.wait_state("it", "running")["pid"].as_u64().expect("a pid");
    signal(u32::try_from(pid).expect("a pid"), libc::SIGKILL);
    let after =
        daemon.wait("it", "in its second life", |it| it["incarnation"] == 2 && it["state"] == "running");
    assert_eq!(after["last_exit"]["signal"], "SIGKILL");

    let refused = purge(&daemon.path(""), &[]);
    assert_eq!(refused.code, 1, "{refused:?}");
    assert!(refused.err.contains(&format!("pid {}", daemon.keeper())), "{refused:?}");
    assert!(place.exists());
    daemon.ask(&["daemon", "stop"]);
    patiently("the pins to go", || pins(&daemon).is_empty().then_some(()));
}

/// The row of `defib doctor` about the pins of this daemon.
fn pins_row(daemon: &Daemon) -> String {
    let state = daemon.path("state").display().to_string();
    let report: Value =
        serde_json::from_str(&daemon.cli(&["doctor", "--json", "--state-dir", &state]).out).expect("JSON");
    let rows = report["rows"].as_array().expect("rows");
    let row = rows.iter().find(|row| row["name"] == "pins").expect("a row");
    row["found"].as_str().expect("text").to_owned()
}

/// Neither keeper nor daemon lives: the kernel goes on recording, and what is left can be removed.
#[test]
fn what_ends_without_keeper_and_daemon_is_recorded() {
    let mut daemon = Daemon::start(
        "[service.seven]\ncommand = [\"sh\", \"-c\", \"until [ -e {dir}/go ]; do sleep 0.05; done; exit 7\"]\n\
         [service.it]\ncommand = \"sleep 1000\"\n",
    );
    let _cleanup = Cleanup(daemon.path(""));
    if !can_pin(&daemon) {
        return;
    }
    let pids = ["seven", "it"].map(|name| {
        let pid = daemon.wait_state(name, "running")["pid"].as_u64().expect("a pid");
        u32::try_from(pid).expect("a pid")
    });
    kill_both(&mut daemon);
    assert_eq!(pins(&daemon).len(), 1);
    fs::write(daemon.path("go"), "").expect("a file");
    signal(pids[1], libc::SIGSEGV);
    for pid in pids {
        patiently("its end", || (!lives(pid)).then_some(()));
    }
    let row = pins_row(&daemon);
    assert!(row.contains("2 ends wait to be taken"), "{row}");

    let done = purge(&daemon.path(""), &[]);
    assert_eq!(done.code, 0, "{done:?}");
    for name in ["state", "run"] {
        let path = daemon.path(name);
        assert!(!path.exists() && done.out.contains(&format!("removed {}\n", path.display())), "{done:?}");
    }
    assert!(done.out.contains(ROOT) && pins(&daemon).is_empty(), "{done:?}");
    assert!(daemon.path("log").exists(), "logs stay");
    assert_eq!(purge(&daemon.path(""), &[]).out, "there was nothing to remove\n");
}

/// The next daemon under another keeper goes on with the same probes.
#[test]
fn another_keeper_uses_the_same_probes() {
    let mut first = Daemon::start(ONE);
    let _cleanup = Cleanup(first.path(""));
    if !can_pin(&first) {
        return;
    }
    first.wait_state("it", "running");
    kill_both(&mut first);
    let state = first.path("state").display().to_string();
    let options = Options { args: vec!["--state-dir".into(), state], ..Options::default() };
    let second = Daemon::start_with(ONE, &options);
    assert!(second.log().contains("9 pinned probes go on"), "{}", second.log());
    let pid = second.wait_state("it", "running")["pid"].as_u64().expect("a pid");
    signal(u32::try_from(pid).expect("a pid"), libc::SIGKILL);
    // Only the probes know who sent it.
    let ended = || second.events_of("it", "exit").into_iter().find(|exit| exit["signal"] == "SIGKILL");
    let exit = patiently("the end", ended);
    assert!(exit.to_string().contains(&std::process::id().to_string()), "{exit:#}");
    second.ask(&["daemon", "stop"]);
    patiently("the pins to go", || pins(&first).is_empty().then_some(()));
}

/// A bpffs of the test's own, in a mount namespace of its own, prepared by a line of shell.
fn apart(prepare: &str) -> Vec<String> {
    let script = format!("{prepare}; exec \"$@\"");
    ["unshare", "--mount", "--propagation", "private", "sh", "-c", &script, "sh"].map(str::to_owned).to_vec()
}

/// Starts a daemon in such a namespace; `None` where there can be none.
fn start_apart(prepare: &str) -> Option<Daemon> {
    let daemon = Daemon::launch(ONE, &Options { before: apart(prepare), ..Options::default() });
    // Clients need not be there.
    let run = daemon.path("run").display().to_string();
    patiently("the daemon to answer", || {
        let answer = defib_tests::defib(&["--runtime-dir", &run, "status"]);
        (answer.code == 0).then_some(())
    });
    if !daemon.log().contains("source=ebpf") {
        eprintln!("skipped: needs root and eBPF\n{}", daemon.log());
        return None;
    }
    Some(daemon)
}

#[test]
fn without_a_bpffs_one_is_mounted_for_root_alone() {
    let Some(daemon) = start_apart("while umount /sys/fs/bpf 2>/dev/null; do :; done") else { return };
    let log = daemon.log();
    assert!(log.contains("mounted bpffs at /sys/fs/bpf, for root alone"), "{log}");
    assert!(log.contains("pinned in /sys/fs/bpf/defib/"), "{log}");
    let mounts = fs::read_to_string(format!("/proc/{}/mounts", daemon.keeper())).expect("it runs");
    assert!(
        mounts.lines().any(|line| line.contains(" /sys/fs/bpf bpf ") && line.contains("mode=700")),
        "{mounts}"
    );
}

#[test]
fn what_others_could_change_is_not_used() {
    for (prepare, why) in [
        ("mkdir -m 0700 /sys/fs/bpf/defib; chown 65534 /sys/fs/bpf/defib", "owner 65534"),
        ("mkdir -m 0755 /sys/fs/bpf/defib", "mode 0755"),
        ("chmod 0777 /sys/fs/bpf", "others could exchange"),
    ] {
        let Some(daemon) = start_apart(&format!("mount -t bpf none /sys/fs/bpf; {prepare}")) else { return };
        let log = daemon.log();
        let told: Vec<_> = log.lines().filter(|line| line.contains("not pinned")).collect();
        assert!(told.len() == 1 && told[0].contains(why) && told[0].contains("INFO"), "{prepare}: {log}");
        assert!(!log.contains("pinned in"), "{log}");
    }
}
