//! How a process ended, and why one could not be started.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Signal, Tick};

/// The status that wait(2) reports, kept raw: shifting it would lose the signal or the core flag.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct WaitStatus(pub i32);

impl WaitStatus {
    /// The exit code of a process that exited by itself.
    pub fn code(self) -> Option<u8> {
        (self.0 & 0x7f == 0).then_some((self.0 >> 8 & 0xff) as u8)
    }

    /// The signal that ended the process.
    pub fn signal(self) -> Option<Signal> {
        match self.0 & 0x7f {
            0 => None,
            number => Some(Signal(number)),
        }
    }

    /// Whether a core was dumped.
    pub fn core(self) -> bool {
        self.0 & 0x80 != 0 && self.signal().is_some()
    }
}

/// What ended a process, from the kernel's side.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Cause {
    /// It called exit, or its `main` returned.
    Exit,
    /// A signal ended it.
    Signal,
    /// A signal ended it and a core was dumped.
    Core,
    /// The kernel's out-of-memory killer chose it.
    Oom,
}

impl Cause {
    /// The word for it in JSON, metrics and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Exit => "exit",
            Self::Signal => "signal",
            Self::Core => "core",
            Self::Oom => "oom",
        }
    }
}

/// Who at defib asked for an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum By {
    /// Nobody: the process ended by itself or by somebody else's signal.
    #[serde(rename = "self")]
    Itself,
    /// An operator's `stop`, `restart` or `disable`.
    Stop,
    /// The end of the whole daemon.
    Shutdown,
}

impl By {
    /// The word for it in JSON, metrics and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Itself => "self",
            Self::Stop => "stop",
            Self::Shutdown => "shutdown",
        }
    }
}

/// What a process used in its life, from the rusage that wait4(2) returns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Usage {
    /// CPU time in user mode, in microseconds, with that of children it waited for.
    pub user_us: u64,
    /// CPU time in the kernel, in microseconds, with that of children it waited for.
    pub system_us: u64,
    /// The largest resident size in KiB.
    pub max_rss_kib: u64,
    /// Bytes that it has caused to be read from storage, with those of children it waited for.
    pub read_bytes: u64,
    /// The same, written to storage.
    pub written_bytes: u64,
}

/// Who is to blame for an end.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Blame {
    /// No source could tell.
    #[default]
    Unknown,
    /// Nobody but the process itself: no signal had come.
    Nobody,
    /// The kernel, for something that the process did.
    Kernel {
        /// The memory address that it should not have touched, or the instruction that it should not have executed.
        address: Option<u64>,
    },
    /// A process, which sent a signal. If the end was an exit, the process had handled the signal and went.
    Process(Sender),
}

/// The process that sent a signal, as it was at that moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sender {
    /// The signal.
    pub signal: Signal,
    /// Its pid.
    pub pid: u32,
    /// Its real user.
    pub uid: u32,
    /// Its name: at most 15 bytes, which it can choose.
    pub name: String,
}

impl Sender {
    /// What is said of it behind the end of the process `pid`: ` from pid 812 (deploy)`, ` after SIGTERM from …`.
    fn in_words(&self, pid: u32, status: WaitStatus) -> String {
        let after = if status.signal() == Some(self.signal) {
            String::new()
        } else {
            format!(" after {}", self.signal)
        };
        match self.pid {
            itself if itself == pid => format!("{after} from itself"),
            other => format!("{after} from pid {other} ({})", self.name),
        }
    }
}

/// The end of a main process as the keeper reaped it, joined with what the event source knows of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// The keeper's wait status: exact, from wait4(2). `None`: it died while nobody watched, and nobody can tell how.
    #[serde(default)]
    pub status: Option<WaitStatus>,
    /// When it died: the kernel's own stamp if a source has it, else when the keeper saw it.
    pub at: Tick,
    /// What it used.
    pub usage: Usage,
    /// Whether the out-of-memory killer ended it; `None` if no source could tell.
    pub oom: Option<bool>,
    /// Who is to blame.
    pub blame: Blame,
}

/// What is said of an end whose status nobody knows.
pub const UNWATCHED: &str = "died while nobody watched";

/// Something about an end that no source could tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Unknown {
    /// The status of the process as a whole.
    Status,
    /// Whether the out-of-memory killer did it.
    Oom,
    /// Who sent the signal.
    Sender,
}

impl End {
    /// The exit code, if it exited by itself.
    pub fn code(&self) -> Option<u8> {
        self.status.and_then(WaitStatus::code)
    }

    /// The signal that ended it.
    pub fn signal(&self) -> Option<Signal> {
        self.status.and_then(WaitStatus::signal)
    }

    /// Whether a core was dumped.
    pub fn core(&self) -> bool {
        self.status.is_some_and(WaitStatus::core)
    }

    /// The cause in one word, if it is known.
    pub fn cause(&self) -> Option<Cause> {
        Some(match (self.status?.signal(), self.oom, self.core()) {
            (None, _, _) => Cause::Exit,
            (Some(_), Some(true), _) => Cause::Oom,
            (Some(_), _, true) => Cause::Core,
            (Some(_), _, false) => Cause::Signal,
        })
    }

    /// The end of the process `pid` in a few words, as in `SIGSEGV at address 0xdead, core dumped`.
    pub fn in_words(&self, pid: u32) -> String {
        let Some(status) = self.status else { return UNWATCHED.to_owned() };
        let how = match (status.code(), status.signal()) {
            (Some(code), _) => format!("exit code {code}"),
            (None, Some(signal)) => signal.to_string(),
            (None, None) => format!("wait status {:#x}", status.0),
        };
        if self.cause() == Some(Cause::Oom) {
            return format!("{how} by the out-of-memory killer");
        }
        let why = match &self.blame {
            Blame::Process(sender) => sender.in_words(pid, status),
            Blame::Kernel { address: Some(address) } => format!(" at address {address:#x}"),
            Blame::Kernel { address: None } | Blame::Nobody | Blame::Unknown => String::new(),
        };
        format!("{how}{why}{}", if status.core() { ", core dumped" } else { "" })
    }

    /// What stays open: where the answer follows from the status, no source is needed. Only SIGKILL can be the work of
    /// the out-of-memory killer, and only a signal has a sender who must be named.
    pub fn unknowns(&self) -> Vec<Unknown> {
        if self.status.is_none() {
            return vec![Unknown::Status];
        }
        let Some(signal) = self.signal() else { return Vec::new() };
        let mut open = Vec::new();
        if self.oom.is_none() && signal == Signal::KILL {
            open.push(Unknown::Oom);
        }
        if self.blame == Blame::Unknown && self.oom != Some(true) {
            open.push(Unknown::Sender);
        }
        open
    }
}

/// The end of a life, as it is remembered and shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ending {
    /// How it ended.
    pub end: End,
    /// Who asked for it.
    pub by: By,
}

/// What kind of obstacle kept a process from starting; the `reason` label of start failures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StartFailureKind {
    /// No process could be made: out of pids, memory or rights.
    Fork,
    /// The program could not be executed.
    Exec,
    /// The user, the group or the environment file could not be had.
    User,
    /// A file that the service needs is not there.
    File,
    /// The working directory could not be entered.
    Directory,
    /// A resource limit could not be set.
    Limit,
    /// The cgroup could not be made or entered.
    Cgroup,
    /// The output file could not be opened.
    Output,
    /// A socket could not be opened.
    Socket,
}

impl StartFailureKind {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Fork,
        Self::Exec,
        Self::User,
        Self::File,
        Self::Directory,
        Self::Limit,
        Self::Cgroup,
        Self::Output,
        Self::Socket,
    ];

    /// The word for it in JSON, metrics and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Fork => "fork",
            Self::Exec => "exec",
            Self::User => "user",
            Self::File => "file",
            Self::Directory => "directory",
            Self::Limit => "limit",
            Self::Cgroup => "cgroup",
            Self::Output => "output",
            Self::Socket => "socket",
        }
    }
}

/// Why a start failed: what was tried, on what, the kernel's answer, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartFailure {
    /// What kind of obstacle it was.
    pub kind: StartFailureKind,
    /// The system call or the look-up that failed, with what it failed on: `execve /usr/bin/api`.
    pub call: String,
    /// The kernel's error number; `None` where no system call failed, as for an unknown user.
    pub errno: Option<i32>,
    /// The error in words, with its symbol: `No such file or directory (ENOENT)`.
    pub error: String,
    /// What the operator can do.
    pub remedy: String,
}

impl fmt::Display for StartFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}; {}", self.call, self.error, self.remedy)
    }
}
