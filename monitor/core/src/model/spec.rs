//! What a service is to be: the validated form of `[service.NAME]`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{LogSpec, ServiceName, Signal, SocketSpec, WhenDown};

/// Everything that the configuration says of one service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServiceSpec {
    /// Its name.
    pub name: ServiceName,
    /// One line for people; empty if there is none.
    pub description: String,
    /// How a process of it is made.
    pub launch: Launch,
    /// Whether it starts with the daemon.
    pub autostart: bool,
    /// The TCP ports that it is to listen on. At most [`ServiceSpec::MAX_PORTS`].
    pub ports: BTreeSet<u16>,
    /// What makes a running process a ready one.
    pub ready: ReadySpec,
    /// When and how often it is started again.
    pub restart: RestartSpec,
    /// How it is ended.
    pub stop: StopSpec,
    /// What happens to the rest of its tree when its main process ends.
    pub leftovers: Leftovers,
    /// What becomes of its output.
    pub log: LogSpec,
    /// The set of services that `--group` and the metrics' label `group` name; `service_group` in the file.
    pub service_group: Option<ServiceName>,
    /// A file that holds the number of its main process while that lives.
    pub pid_file: Option<PathBuf>,
    /// How long the wait for a restart may be for its sockets to be held meanwhile.
    pub hold_for: Duration,
    /// What becomes of them otherwise.
    pub when_down: WhenDown,
}

impl ServiceSpec {
    /// The most ports that a service may name.
    pub const MAX_PORTS: usize = 64;

    /// As long as that clients mostly wait.
    pub const HOLD_FOR: Duration = Duration::from_secs(5);

    /// A service of which only the command is given.
    pub fn new(name: ServiceName, command: Command) -> Self {
        Self {
            name,
            description: String::new(),
            launch: Launch::new(command),
            autostart: true,
            ports: BTreeSet::new(),
            ready: ReadySpec::default(),
            restart: RestartSpec::default(),
            stop: StopSpec::default(),
            leftovers: Leftovers::default(),
            log: LogSpec::default(),
            service_group: None,
            pid_file: None,
            hold_for: Self::HOLD_FOR,
            when_down: WhenDown::default(),
        }
    }

    /// A service that somebody remembers and nobody configures: to be ended.
    pub fn unknown(name: ServiceName) -> Self {
        Self { autostart: false, ..Self::new(name, Vec::new()) }
    }

    /// Whether a process made by this specification is as good as one made by `other`: everything else can change under
    /// a process that lives.
    pub fn same_process(&self, other: &Self) -> bool {
        self.launch == other.launch && self.leftovers == other.leftovers
    }

    /// The ports that matter: those it names, and the one that makes it ready.
    pub fn wanted_ports(&self) -> BTreeSet<u16> {
        let ready = match self.ready {
            ReadySpec::Exec => None,
            ReadySpec::Port(port) => Some(port),
        };
        self.ports.iter().copied().chain(ready).collect()
    }
}

/// `[service.X.ready]`: what makes a running process a ready one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum ReadySpec {
    /// That its program has been executed.
    #[default]
    Exec,
    /// That it listens on this TCP port.
    Port(u16),
}

/// A command line: never given to a shell.
pub type Command = Vec<String>;

/// What a process starts with. The core never looks inside; the planner turns it into a plan.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Launch {
    /// The program and its arguments; never empty.
    pub command: Command,
    /// The working directory; `/` unless set.
    pub cwd: PathBuf,
    /// Variables set over all others.
    pub env: BTreeMap<String, String>,
    /// A file of `NAME=value` lines, read before every planned start.
    pub env_file: Option<PathBuf>,
    /// The user by name or number; `None`: the user that the daemon runs as.
    pub user: Option<String>,
    /// The unix group by name or number; `None`: the user's own.
    pub group: Option<String>,
    /// Supplementary groups; `None`: those that the system's group database gives the user.
    pub groups: Option<Vec<String>>,
    /// Variables that it gets from defib's own environment, if they are set there.
    pub inherit_env: BTreeSet<String>,
    /// The file mode creation mask; 022 unless set.
    pub umask: u32,
    /// Files and folders that must be there before a start is tried.
    pub needs_files: Vec<PathBuf>,
    /// The sockets that are passed to it, in order. At most [`SocketSpec::MAX`].
    pub sockets: Vec<SocketSpec>,
    /// The ports among those of the service that it binds by itself, and that are held from one life to the next.
    #[serde(default)]
    pub hold_ports: BTreeSet<u16>,
}

impl Launch {
    /// Only the command is given.
    pub fn new(command: Command) -> Self {
        Self {
            command,
            cwd: PathBuf::from("/"),
            env: BTreeMap::new(),
            env_file: None,
            user: None,
            group: None,
            groups: None,
            inherit_env: BTreeSet::new(),
            umask: 0o022,
            needs_files: Vec::new(),
            sockets: Vec::new(),
            hold_ports: BTreeSet::new(),
        }
    }
}

/// Which ends lead to another start.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Policy {
    /// Every end but one that was asked for.
    Always,
    /// Every end but a success and one that was asked for.
    OnFailure,
    /// None.
    Never,
}

/// `[service.X.restart]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct RestartSpec {
    /// Which ends lead to another start.
    pub policy: Policy,
    /// Exit codes that mean success.
    pub success_codes: BTreeSet<u8>,
    /// Exit codes after which the service is not started again, whatever the policy.
    pub never_codes: BTreeSet<u8>,
    /// How many restarts of a series happen without any delay.
    pub immediate: u32,
    /// The delays after those.
    pub delays: Delays,
    /// How many restarts are allowed within the window; `None`: any number.
    pub max_restarts: Option<u32>,
    /// The window; `None`: the restarts of the present series are counted.
    pub window: Option<Duration>,
    /// What follows when there were more.
    pub give_up: GiveUp,
    /// A life at least this long ends the series.
    pub reset_after: Duration,
}

impl RestartSpec {
    /// The largest `max_restarts`: the core remembers the time of each of them.
    pub const MAX_RESTARTS: u32 = 256;
}

impl Default for RestartSpec {
    fn default() -> Self {
        Self {
            policy: Policy::OnFailure,
            success_codes: BTreeSet::from([0]),
            never_codes: BTreeSet::new(),
            immediate: 1,
            delays: Delays::Backoff(Backoff::default()),
            max_restarts: Some(10),
            window: Some(Duration::from_secs(300)),
            give_up: GiveUp::Fail,
            reset_after: Duration::from_secs(10),
        }
    }
}

/// How long to wait before a restart that is not immediate.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Delays {
    /// Growing by a factor.
    Backoff(Backoff),
    /// One after the other; the last repeats. Never empty.
    List(Vec<Duration>),
}

/// Exponential backoff: `min(initial × factor^n, max)`, spread by ± `jitter` of itself.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Backoff {
    /// The first delay.
    pub initial: Duration,
    /// The growth, at least 1.
    pub factor: f64,
    /// The longest delay before the jitter.
    pub max: Duration,
    /// The spread as a share of the delay, 0 to 1.
    pub jitter: f64,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { initial: Duration::from_millis(100), factor: 2.0, max: Duration::from_secs(60), jitter: 0.1 }
    }
}

/// What follows when a service has been restarted too often.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum GiveUp {
    /// It stays down in state `failed`.
    Fail,
    /// One more try each time this has passed.
    RetryEvery(Duration),
}

/// `[service.X.stop]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StopSpec {
    /// The signal that asks the main process to end.
    pub signal: Signal,
    /// How long it may take before the whole tree gets SIGKILL.
    pub timeout: Duration,
}

impl Default for StopSpec {
    fn default() -> Self {
        Self { signal: Signal::TERM, timeout: Duration::from_secs(10) }
    }
}

/// What happens to the rest of a tree when its main process ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Leftovers {
    /// It is ended before a new life begins.
    #[default]
    Kill,
    /// It is left alone.
    Keep,
}
