//! Starts under hard conditions: a keeper that holds thousands of descriptors, and programs whose file system hangs.
#![expect(clippy::disallowed_methods, reason = "tests run programs")]

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use defib_tests::{Daemon, Options, Said, children, lives, patiently, pid, said, signal};

/// The numbers of the open descriptors of a process.
fn numbers(pid: u32) -> Vec<u32> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).expect("a process").flatten();
    let mut numbers: Vec<u32> =
        entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    numbers.sort_unstable();
    numbers
}

/// Whoever started defib has left thousands of files open: they stay open in the keeper, as a lock has to, and reach no
/// service.
#[test]
fn a_keeper_with_thousands_of_descriptors_starts_services_with_three() {
    let open =
        "ulimit -n 8192 && for ((n = 10; n < 4000; n++)); do eval \"exec $n</dev/zero\"; done; exec \"$@\"";
    let before = ["bash", "-c", open, "bash"].map(String::from).to_vec();
    let config = "[service.a]\ncommand = \"sleep 1000\"\n[service.b]\ncommand = \"sleep 1000\"\nuser = \"nobody\"\n\
                  restart = { immediate = 256, max_restarts = \"none\" }\n[service.no]\ncommand = \"/no/such\"\n";
    let mut daemon = Daemon::start_with(config, &Options { before, ..Options::default() });
    let kept = |daemon: &Daemon| {
        let of = |number: &u32| fs::read_link(format!("/proc/{}/fd/{number}", daemon.keeper())).ok();
        numbers(daemon.keeper()).iter().filter_map(of).filter(|path| path == Path::new("/dev/zero")).count()
    };
    daemon.wait_state("b", "running");
    assert_eq!(kept(&daemon), 3990);
    let before = numbers(daemon.keeper()).len();
    for life in 1..20 {
        let now = daemon.wait("b", "in its life", |it| it["incarnation"] == life && it["state"] == "running");
        assert_eq!(numbers(pid(&now)), [0, 1, 2]);
        signal(pid(&now), libc::SIGKILL);
    }
    daemon.wait("b", "in its last life", |it| it["incarnation"] == 20 && it["state"] == "running");
    assert_eq!(numbers(pid(&daemon.wait_state("a", "running"))), [0, 1, 2]);
    // A failure is told as ever.
    let no = daemon.wait("no", "to fail", |it| it["why"].as_str().is_some_and(|why| why.contains("ENOENT")));
    assert!(no["why"].as_str().expect("text").contains("execve /no/such"), "{no}");
    // A start that is under way has a few; twenty that are over must have left none.
    let after = numbers(daemon.keeper()).len();
    assert!(after < before + 10, "{before} descriptors have become {after}");
    signal(daemon.keeper(), libc::SIGTERM);
    assert_eq!(daemon.exit_code(), 0);
}

/// A file system of which the server never answers: whoever looks into it hangs. Ended when this is dropped.
struct Hung {
    at: PathBuf,
    /// The server's end, which only this process holds: when it is closed, whoever waits gets an error.
    server: Option<File>,
}

impl Hung {
    /// Mounts one, or says why it cannot be.
    fn mount(at: PathBuf) -> Result<Self, String> {
        let server = File::options().read(true).write(true).open("/dev/fuse");
        let server = server.map_err(|error| format!("/dev/fuse: {error}"))?;
        fs::create_dir(&at).expect("a folder");
        let stdin = Stdio::from(server.try_clone().expect("a descriptor"));
        // As mount's descriptor 0.
        let options = "fd=0,rootmode=40000,user_id=0,group_id=0,allow_other";
        let mut mount = Command::new("mount");
        mount.args(["-i", "-t", "fuse", "-o", options, "defib-hung"]).arg(&at).stdin(stdin);
        let output = mount.output().expect("mount(8)");
        if !output.status.success() {
            return Err(String::from_utf8_lossy(&output.stderr).into_owned());
        }
        Ok(Self { at, server: Some(server) })
    }

    fn abort(&mut self) {
        self.server = None;
    }
}

impl Drop for Hung {
    fn drop(&mut self) {
        self.abort();
        let Said { code, err, .. } = said(Command::new("umount").args(["-l"]).arg(&self.at));
        assert!(code == 0 || std::thread::panicking(), "{err}");
    }
}

/// The start of a program on it never comes to an end, and holds up nobody else.
#[test]
fn a_program_on_a_file_system_that_hangs_holds_up_nobody_else() {
    let others = 20;
    let mut config = "[defaults]\nautostart = false\nstop = { timeout = \"300ms\" }\n\
                      restart = { immediate = 256, max_restarts = \"none\" }\n[service.good]\ncommand = \"sleep 1000\"\n"
        .to_owned();
    // More than there are parts in the window.
    for number in 0..others {
        config.push_str(&format!("[service.hung-{number}]\ncommand = \"{{dir}}/hung/{number}\"\n"));
    }
    let daemon = Daemon::start(&config);
    let mut hung = match Hung::mount(daemon.path("hung")) {
        Ok(hung) => hung,
        Err(why) if why.contains("/dev/fuse") || why.contains("permission denied") => {
            return eprintln!("skipped: no FUSE here: {why}");
        }
        Err(why) => panic!("{why}"),
    };
    daemon.ask(&["start", "good"]);
    let start = |number: usize| {
        let mut start = daemon.command(&["start", &format!("hung-{number}")]);
        start.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("defib")
    };
    let hang = |count: usize| {
        patiently("the children that hang", || {
            // The daemon and the good one are children too.
            (children(daemon.keeper()).len() == 2 + count).then_some(())
        });
    };
    // The first one waits for the server, and the others for the first one.
    let mut waiting = vec![start(0)];
    hang(1);
    waiting.extend((1..others).map(start));
    hang(others);

    for life in 1..10 {
        let now = daemon.wait("good", "alive", |it| it["incarnation"] == life && it["state"] == "running");
        assert_eq!(numbers(pid(&now)), [0, 1, 2]);
        signal(pid(&now), libc::SIGKILL);
    }
    daemon.wait("good", "alive", |it| it["incarnation"] == 10 && it["state"] == "running");
    assert_eq!(daemon.status("hung-0")["state"], "starting");

    // What waits for an answer of a server can be killed, and so be stopped; what waits for the lock of that one cannot.
    let stuck: Vec<u32> = children(daemon.keeper());
    daemon.ask(&["stop", "hung-0"]);
    assert_eq!(daemon.status("hung-0")["state"], "stopped");
    assert_eq!(stuck.iter().filter(|pid| !lives(**pid)).count(), 1);

    // The others fail when the file system does.
    hung.abort();
    let failed = daemon.wait("hung-1", "to fail", |it| it["why"].as_str().is_some_and(|why| !why.is_empty()));
    assert!(failed["why"].as_str().expect("text").contains("execve"), "{failed}");
    for number in 1..others {
        daemon.ask(&["stop", &format!("hung-{number}")]);
    }
    waiting.iter_mut().for_each(|start| drop(start.wait()));
}
