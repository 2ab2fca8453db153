//! The daemon's own log: where it goes, in what form, and that it holds up nobody.

use std::fs;
use std::io::Read;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};

use defib_tests::{Daemon, Options, patiently, pid, signal};
use serde_json::Value;

const ONE: &str = "[service.it]\ncommand = \"sleep 1000\"\n";

fn with(args: &[&str], env: &[(&str, &str)]) -> Options {
    Options {
        args: args.iter().map(|arg| (*arg).to_owned()).collect(),
        env: env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
        ..Options::default()
    }
}

#[test]
fn as_json_every_line_is_an_object_from_the_first_on() {
    let daemon = Daemon::start_with(ONE, &with(&[], &[("DEFIB_LOG_FORMAT", "json")]));
    daemon.wait_state("it", "running");
    let lines: Vec<Value> = patiently("a line of the service", || {
        let log = daemon.log();
        log.contains("running")
            .then(|| log.lines().map(|line| serde_json::from_str(line).expect(line)).collect())
    });
    for line in &lines {
        let object = line.as_object().expect("an object");
        let keys = ["fields", "level", "message", "module", "time"];
        assert!(keys.iter().all(|key| object.contains_key(*key)), "{line}");
        assert!(line["module"].as_str().is_some_and(|module| module.starts_with("defib")), "{line}");
    }
    let state = lines.iter().find(|line| line["fields"]["to"] == "running").expect("it runs");
    assert_eq!((&state["fields"]["service"], &state["level"]), (&"it".into(), &"info".into()));

    // What is wrong with the configuration is told in the form that was asked for, though it is not known yet.
    let mut broken = Daemon::launch("wrong = 1", &with(&["--log-format", "json"], &[]));
    assert_eq!(broken.exit_code(), 1);
    let error: Value = serde_json::from_str(broken.log().lines().next().expect("a line")).expect("JSON");
    assert_eq!(error["level"], "error");
    assert!(error["message"].as_str().is_some_and(|text| text.contains("wrong")), "{error}");
}

#[test]
fn a_file_is_made_with_its_folder_and_made_anew_when_it_was_rotated() {
    let config = format!("[daemon.log]\nto = \"{{dir}}/own/defib.log\"\nlevel = \"error\"\n{ONE}");
    // The flag decides over the file.
    let daemon = Daemon::start_with(&config, &with(&["--log-level", "info"], &[]));
    daemon.wait_state("it", "running");
    let path = daemon.path("own/defib.log");
    let read = || fs::read_to_string(&path).unwrap_or_default();
    patiently("the log", || read().contains("defib supervises").then_some(()));
    assert_eq!(fs::metadata(&path).expect("a file").permissions().mode() & 0o777, 0o640);
    assert!(!daemon.log().contains("defib supervises"), "{}", daemon.log());

    let old = daemon.path("own/defib.log.1");
    fs::rename(&path, &old).expect("as logrotate does");
    signal(daemon.keeper(), libc::SIGHUP);
    patiently("the new file", || path.exists().then_some(()));
    daemon.ask(&["stop", "it"]);
    patiently("lines in it", || read().contains("asked").then_some(()));
    assert!(!fs::read_to_string(&old).expect("the old one").contains("asked"));
}

#[test]
fn a_file_that_cannot_be_had_is_an_error_with_its_name() {
    let mut daemon = Daemon::launch(&format!("[daemon.log]\nto = \"{{dir}}\"\n{ONE}"), &Options::default());
    assert_eq!(daemon.exit_code(), 1);
    let log = daemon.log();
    let folder = daemon.path("").display().to_string();
    assert!(log.contains("daemon.log: open") && log.contains(folder.trim_end_matches('/')), "{log}");
}

#[test]
fn without_a_journal_it_is_standard_error_and_said() {
    if std::path::Path::new("/run/systemd/journal/socket").exists() {
        println!("skipped: this host has a journal; the test of the unit writes to one");
        return;
    }
    let daemon = Daemon::start_with(ONE, &with(&["--log-to", "journal"], &[]));
    patiently("the log", || daemon.log().contains("defib supervises").then_some(()));
    let log = daemon.log();
    assert!(log.contains(" WARN no journal: the log goes to standard error"), "{log}");
}

#[test]
fn the_level_holds_by_module() {
    let quiet = Daemon::start_with(ONE, &with(&[], &[("DEFIB_LOG", "error")]));
    quiet.wait_state("it", "running");
    let loud = Daemon::start_with(ONE, &with(&[], &[("DEFIB_LOG", "error,defib::daemon::run=debug")]));
    let it = loud.wait_state("it", "running");
    signal(pid(&it), libc::SIGKILL);
    patiently("a line", || loud.log().contains("a death was handled").then_some(()));
    assert!(loud.log().contains(" defib::daemon::run"), "{}", loud.log());
    assert!(!loud.log().contains("defib supervises"), "{}", loud.log());
    assert_eq!(quiet.log(), "");
}

/// Standard error is a pipe that nobody reads. Services are looked after all the same, and later the log says how many
/// of its lines are missing.
#[test]
fn a_reader_that_sleeps_holds_up_nobody() {
    let folder = tempfile::tempdir().expect("a folder");
    let pipe = folder.path().join("pipe");
    nix::unistd::mkfifo(&pipe, nix::sys::stat::Mode::S_IRWXU).expect("a pipe");
    // Open for both, so that there is a reader from the start.
    let mut reader = fs::File::options()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(&pipe)
        .expect("a pipe");
    let before = ["sh", "-c", &format!("exec \"$@\" 2> {}", pipe.display()), "sh"].map(str::to_owned);
    let options = Options { before: before.into(), ..with(&[], &[("DEFIB_LOG", "trace")]) };
    let daemon = Daemon::start_with(
        "[service.it]\ncommand = \"true\"\nrestart = { policy = \"always\", delays = [\"1ms\"], max_restarts = \"none\" }\n",
        &options,
    );
    for hundred in 1..=6 {
        daemon.wait("it", "in later lives", |it| it["incarnation"].as_u64() > Some(100 * hundred));
    }
    daemon.ask(&["stop", "it"]);
    let mut text = Vec::new();
    patiently("the number of lines", || {
        let mut bytes = [0; 65536];
        while let Ok(length) = reader.read(&mut bytes) {
            text.extend_from_slice(&bytes[..length]);
        }
        text.windows(6).any(|word| word == b" lost=").then_some(())
    });
    let text = String::from_utf8_lossy(&text);
    let line = text.lines().find(|line| line.contains(" lost=")).expect("a line");
    assert!(line.contains("lines of this log are missing"), "{line}");
}
