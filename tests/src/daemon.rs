//! A real `defib daemon` in folders of its own, driven by the real command line.

use std::ffi::OsString;
use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;

/// How long anything may take that should be quick: machines are shared. `DEFIB_TEST_PATIENCE` sets other seconds, for
/// machines that are emulated.
pub fn patience() -> Duration {
    let seconds = std::env::var("DEFIB_TEST_PATIENCE").ok().and_then(|seconds| seconds.parse().ok());
    Duration::from_secs(seconds.unwrap_or(60))
}

/// How often a test looks. Tests may poll; defib may not.
const LOOK: Duration = Duration::from_millis(10);

/// Waits until `look` finds something. Panics with `what` if it never does.
#[track_caller]
pub fn patiently<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let (begun, patience) = (Instant::now(), patience());
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begun.elapsed() < patience, "waited {patience:?} in vain for {what}");
        std::thread::sleep(LOOK);
    }
}

/// What a program said.
#[derive(Debug)]
pub struct Said {
    /// Its exit code.
    pub code: i32,
    /// Its standard output.
    pub out: String,
    /// Its standard error.
    pub err: String,
}

/// The program that ends in every way there is, built beside the tests.
pub fn victim() -> PathBuf {
    beside("victim")
}

/// Another program that is built beside the tests.
pub fn beside(name: &str) -> PathBuf {
    let beside = program().with_file_name(name);
    assert!(beside.exists(), "{} is not built: run `cargo xtask test`", beside.display());
    beside
}

/// Runs the built program.
pub fn defib(args: &[&str]) -> Said {
    said(Command::new(program()).args(args))
}

/// Runs a command to its end.
pub fn said(command: &mut Command) -> Said {
    let output = command.stdin(Stdio::null()).output().expect("the program runs");
    Said {
        code: output.status.code().unwrap_or(-1),
        out: String::from_utf8_lossy(&output.stdout).into_owned(),
        err: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// The built program: what `cargo xtask test` says, or else the one beside the tests.
pub fn program() -> PathBuf {
    if let Some(path) = std::env::var_os("DEFIB_BIN") {
        return path.into();
    }
    let tests = std::env::current_exe().expect("the path of the test");
    let beside = tests.parent().and_then(Path::parent).expect("target/debug/deps").join("defib");
    assert!(beside.exists(), "{} is not built: run `cargo xtask test`", beside.display());
    beside
}

/// How to start a daemon.
#[derive(Debug, Default)]
pub struct Options {
    /// Put before the program: `setpriv --reuid 65534`, for one.
    pub before: Vec<String>,
    /// Arguments after `defib daemon`.
    pub args: Vec<String>,
    /// Environment variables.
    pub env: Vec<(String, String)>,
    /// Whom the folders belong to.
    pub owner: Option<u32>,
    /// The program; `None`: the built one.
    pub program: Option<PathBuf>,
}

impl Options {
    /// With this source.
    pub fn with_source(name: &str) -> Self {
        Self { args: vec!["--source".to_owned(), name.to_owned()], ..Self::default() }
    }
}

/// A running daemon. It is ended with all its services when this is dropped.
#[derive(Debug)]
pub struct Daemon {
    folder: TempDir,
    keeper: Child,
    /// What is put before the program.
    before: Vec<String>,
    /// The whole command line, and what is added to the environment.
    words: Vec<String>,
    env: Vec<(String, String)>,
}

impl Daemon {
    /// Starts one with this configuration, and waits until it answers.
    #[track_caller]
    pub fn start(config: &str) -> Self {
        Self::start_with(config, &Options::default())
    }

    /// Starts one in another way.
    #[track_caller]
    pub fn start_with(config: &str, options: &Options) -> Self {
        let mut daemon = Self::launch(config, options);
        daemon.wait_answer();
        daemon
    }

    /// Starts one that may fail.
    pub fn launch(config: &str, options: &Options) -> Self {
        let folder = tempfile::Builder::new().prefix("defib-test-").tempdir().expect("a folder");
        let path = |name: &str| folder.path().join(name).into_os_string().into_string().expect("UTF-8");
        fs::write(path("defib.toml"), config.replace("{dir}", folder.path().to_str().expect("UTF-8")))
            .expect("a file");
        // Services of other users write here, and a daemon of another user makes its folders here.
        fs::set_permissions(folder.path(), fs::Permissions::from_mode(0o1777)).expect("permissions");
        if options.owner.is_some() {
            std::os::unix::fs::chown(folder.path(), options.owner, options.owner).expect("root");
        }
        let program =
            options.program.clone().unwrap_or_else(program).into_os_string().into_string().expect("UTF-8");
        let mut words = options.before.clone();
        words.extend([program, "daemon".into(), "--config".into(), path("defib.toml")]);
        words.extend(["--state-dir".into(), path("state"), "--runtime-dir".into(), path("run")]);
        words.extend(["--log-dir".into(), path("log")]);
        if !config.contains("[listen]") {
            // Many daemons run at a time; only who asks for metrics over TCP gets them.
            words.extend(["--listen-metrics".into(), String::new()]);
        }
        words.extend(options.args.iter().cloned());
        let keeper = spawn(&words, &options.env, &folder.path().join("daemon.log"));
        Self { folder, keeper, before: options.before.clone(), words, env: options.env.clone() }
    }

    /// Starts another keeper in place of one that has ended, and waits until its daemon answers.
    #[track_caller]
    pub fn start_again(&mut self) {
        self.launch_again();
        self.wait_answer();
    }

    /// Waits until its daemon answers.
    #[track_caller]
    fn wait_answer(&mut self) {
        patiently("the daemon to answer", || {
            let ended = self.keeper.try_wait().expect("a child");
            assert_eq!(ended, None, "{}", self.log());
            (self.cli(&["status"]).code == 0).then_some(())
        });
    }

    /// The same with one that may fail: waits for nothing.
    #[track_caller]
    pub fn launch_again(&mut self) {
        self.exit_code();
        self.keeper = spawn(&self.words, &self.env, &self.path("daemon.log"));
    }

    /// Whether the keeper has ended.
    pub fn has_ended(&mut self) -> bool {
        self.keeper.try_wait().expect("a child").is_some()
    }

    /// Kills the keeper, and waits until its daemon has left.
    #[track_caller]
    pub fn kill_keeper(&mut self) {
        let daemon = self.daemon();
        signal(self.keeper(), libc::SIGKILL);
        self.exit_code();
        patiently("the daemon to leave", || (!lives(daemon)).then_some(()));
    }

    /// A path in its folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// What the daemon and the keeper have logged.
    pub fn log(&self) -> String {
        fs::read_to_string(self.path("daemon.log")).unwrap_or_default()
    }

    /// A verb of the command line.
    pub fn cli(&self, args: &[&str]) -> Said {
        said(&mut self.command(args))
    }

    /// The same, to be run in another way.
    pub fn command(&self, args: &[&str]) -> Command {
        let mut words: Vec<_> = self.before.iter().map(OsString::from).collect();
        words.extend([program().into(), "--runtime-dir".into(), self.path("run").into()]);
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]).args(args);
        command
    }

    /// A verb that must succeed.
    #[track_caller]
    pub fn ask(&self, args: &[&str]) -> String {
        let Said { code, out, err } = self.cli(args);
        assert_eq!(code, 0, "{args:?}: {out}{err}\n{}", self.log());
        out
    }

    /// `status --json` of one service.
    #[track_caller]
    pub fn status(&self, service: &str) -> Value {
        let all: Value = serde_json::from_str(&self.ask(&["status", "--json", service])).expect("JSON");
        all["services"][0].clone()
    }

    /// Waits until the status of a service is as wanted.
    #[track_caller]
    pub fn wait(&self, service: &str, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let mut last = Value::Null;
        let begun = Instant::now();
        loop {
            last = self.try_status(service).unwrap_or(last);
            if wanted(&last) {
                return last;
            }
            let waited = begun.elapsed();
            assert!(waited < patience(), "waited in vain for {service} {what}: {last:#}\n{}", self.log());
            std::thread::sleep(LOOK);
        }
    }

    fn try_status(&self, service: &str) -> Option<Value> {
        let Said { code: 0, out, .. } = self.cli(&["status", "--json", service]) else { return None };
        let all: Value = serde_json::from_str(&out).ok()?;
        Some(all["services"][0].clone())
    }

    /// Waits for a state.
    #[track_caller]
    pub fn wait_state(&self, service: &str, state: &str) -> Value {
        self.wait(service, &format!("to be {state}"), |status| status["state"] == state)
    }

    /// The events of a service so far, oldest first.
    #[track_caller]
    pub fn events(&self, service: &str) -> Vec<Value> {
        let lines = self.ask(&["events", "--json", "--service", service]);
        lines.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    }

    /// The events of a kind.
    #[track_caller]
    pub fn events_of(&self, service: &str, kind: &str) -> Vec<Value> {
        self.events(service).into_iter().filter(|event| event["kind"] == kind).collect()
    }

    /// The keeper.
    pub fn keeper(&self) -> u32 {
        self.keeper.id()
    }

    /// The daemon under the keeper.
    #[track_caller]
    pub fn daemon(&self) -> u32 {
        patiently("the daemon's process", || {
            children(self.keeper()).into_iter().find(|pid| {
                let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
                line.windows(14).any(|word| word == b"--under-keeper")
            })
        })
    }

    /// Waits for the keeper's end, and returns its exit code.
    #[track_caller]
    pub fn exit_code(&mut self) -> i32 {
        patiently("the keeper to end", || self.keeper.try_wait().expect("a child")).code().unwrap_or(-1)
    }
}

/// The folder in memory that belongs to a runtime folder on a disk.
struct Output(PathBuf);

impl Drop for Output {
    fn drop(&mut self) {
        let bytes = self.0.as_os_str().as_encoded_bytes().iter();
        let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
        });
        fs::remove_dir_all(format!("/dev/shm/defib-output-{hash:016x}")).ok();
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // After it has ended, of which a keeper that was killed leaves this behind.
        let _output = Output(self.path("run"));
        if std::thread::panicking() {
            eprintln!("--- the daemon's log ---\n{}", self.log());
        }
        match self.keeper.try_wait() {
            Ok(None) => {}
            // Killed: what it has pinned in the kernel would stay. Refused if another test's daemon uses it.
            Ok(Some(status)) if status.signal().is_some() => {
                let (state, run) = (self.path("state"), self.path("run"));
                let purged = Command::new(program())
                    .args(["--config", "/dev/null", "--state-dir"])
                    .arg(state)
                    .arg("--runtime-dir")
                    .arg(run)
                    .args(["daemon", "purge"])
                    .output();
                purged.ok();
                return;
            }
            Ok(Some(_)) | Err(_) => return,
        }
        signal(self.keeper(), libc::SIGTERM);
        let begun = Instant::now();
        while matches!(self.keeper.try_wait(), Ok(None)) {
            if begun.elapsed() > patience() {
                // It never should: what it leaves behind is for whoever looks into the failure.
                self.keeper.kill().ok();
                self.keeper.wait().ok();
            }
            std::thread::sleep(LOOK);
        }
    }
}

fn spawn(words: &[String], env: &[(String, String)], log: &Path) -> Child {
    let log = fs::File::options().create(true).append(true).open(log).expect("a log");
    Command::new(&words[0])
        .args(&words[1..])
        .envs(env.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .expect("the program starts")
}

/// Where a daemon whose `[listen]` leaves the port to the kernel serves its metrics.
#[track_caller]
pub fn metrics_address(daemon: &Daemon) -> SocketAddr {
    patiently("the address of the metrics", || {
        let log = daemon.log();
        let (_, rest) = log.split_once("metrics are served at http")?;
        let (_, rest) = rest.split_once("://")?;
        rest.split('/').next()?.parse().ok()
    })
}

/// Sends a signal to a process that this test made, or had made.
pub fn signal(pid: u32, signal: i32) {
    let pid = nix::unistd::Pid::from_raw(i32::try_from(pid).expect("a pid"));
    let signal = nix::sys::signal::Signal::try_from(signal).expect("a signal");
    nix::sys::signal::kill(pid, signal).ok();
}

/// The pid in the status of a service, or in an event.
#[track_caller]
pub fn pid(status: &Value) -> u32 {
    status["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok()).expect("a pid")
}

/// The children of a process.
pub fn children(pid: u32) -> Vec<u32> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let lists = tasks.map(|task| fs::read_to_string(task.path().join("children")).unwrap_or_default());
    lists
        .flat_map(|list| list.split_whitespace().map(|pid| pid.parse().expect("a pid")).collect::<Vec<_>>())
        .collect()
}

/// How many descriptors a process has.
#[track_caller]
pub fn descriptors(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).expect("a process").count()
}

/// Whether a process lives: a zombie does not.
pub fn lives(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| {
        let state = stat.rsplit_once(") ").map(|(_, rest)| rest.as_bytes()[0]);
        !matches!(state, Some(b'Z' | b'X'))
    })
}
