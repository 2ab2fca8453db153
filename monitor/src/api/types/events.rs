//! The JSON of events: what happened, to whom, and when.

use defib_core::model::{
    By, Cause, Holder, Incarnation, Reason, ServiceName, SourceName, StartFailureKind, State, Unknown,
};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// A process that sent a signal, as it was at that moment.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sender {
    /// The signal, as in `SIGTERM`.
    pub signal: String,
    /// Its pid.
    pub pid: u32,
    /// Its real user.
    pub uid: u32,
    /// Its name: at most 15 bytes, which it can choose.
    pub name: String,
}

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Event {
    /// Its place in the order of everything: grows with every event, and over restarts of the daemon. `null` of what
    /// is not kept: processes that are no main process of a service.
    pub seq: Option<u64>,
    /// When it happened.
    pub at: Timestamp,
    /// The service that it is about.
    pub service: Option<ServiceName>,
    /// The process that it is about.
    pub pid: Option<u32>,
    /// The name of that process, where it is told: of those that belong to no service.
    pub name: Option<String>,
    /// What happened, its `kind` first.
    #[serde(flatten)]
    pub what: What,
}

/// What happened, by `kind`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum What {
    /// A program was executed, or could not be: `"ok":false`.
    Exec(Exec),
    /// A process made another.
    Fork {
        /// The process that forked.
        parent: u32,
        /// Whether the new process is the main process of its service, not a descendant.
        main: bool,
    },
    /// A process ended.
    Exit(Box<Exit>),
    /// A process got a signal of which it will die.
    Signal {
        /// Whether it is the main process of its service, not a descendant.
        main: bool,
        /// The signal, as in `SIGSEGV`.
        signal: String,
        /// Who sent it; `null`: the kernel.
        sender: Option<Sender>,
        /// The address of the access or instruction that the kernel sent it for.
        address: Option<String>,
        /// What no source could tell.
        unknown: Vec<Unknown>,
    },
    /// The out-of-memory killer chose a process.
    Oom {
        /// Whether it is the main process of its service, not a descendant.
        main: bool,
    },
    /// A process of the service listens on a TCP port: clients can connect.
    Listen {
        /// The port.
        port: u16,
    },
    /// No process of the service listens on a TCP port any more.
    Unlisten {
        /// The port.
        port: u16,
    },
    /// A port that the service is to listen on is taken.
    Port {
        /// The port.
        port: u16,
        /// The process that holds it; `null`: it cannot be seen.
        holder: Option<Holder>,
    },
    /// A service went from one state to another.
    State {
        /// The life that it is about.
        incarnation: Incarnation,
        /// The state before.
        from: State,
        /// The state now.
        to: State,
        /// Why; empty where the states say it all.
        why: String,
    },
    /// A restart was decided.
    Restart {
        /// The life that ended, or could not begin.
        incarnation: Incarnation,
        /// Why.
        reason: Reason,
        /// Its number in the present series, from 1.
        attempt: u32,
        /// The delay from the death to the start.
        delay_seconds: f64,
    },
    /// The configuration was read again.
    Config {
        /// Whether it is in force; otherwise the old one is.
        ok: bool,
        /// What it changed, or what is wrong with it, a line each.
        detail: String,
    },
    /// Events are missing: the numbers up to this one's `seq`.
    Lost {
        /// The source that lost them; `null`: they were lost on the way to the reader, who was too slow or away.
        source: Option<SourceName>,
        /// How many; `null`: that is not known.
        count: Option<u64>,
    },
}

/// A program was executed, or could not be.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Exec {
    /// Whether it was.
    pub ok: bool,
    /// Whether it is the main process of its service, not a descendant.
    pub main: bool,
    /// The path as it was given to execve(2), cut to 63 bytes; `null` if the start failed, or the process was gone before
    /// its path could be read.
    pub filename: Option<String>,
    /// Why the start failed; without it these keys are not there.
    #[serde(flatten)]
    pub failure: Option<Failure>,
}

/// Why a start failed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Failure {
    /// The life that could not begin.
    pub incarnation: Incarnation,
    /// What kind of obstacle it was.
    pub reason: StartFailureKind,
    /// The system call or look-up, with what it failed on.
    pub call: String,
    /// The kernel's error number, if a system call failed.
    pub errno: Option<i32>,
    /// The error in words.
    pub error: String,
    /// What the operator can do.
    pub remedy: String,
}

/// A process ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Exit {
    /// Whether it is the main process of its service, not a descendant.
    pub main: bool,
    /// The life that ended with it; `null` for a descendant, as in all that only defib knows.
    pub incarnation: Option<Incarnation>,
    /// What ended it, from the kernel's side; `null` if nobody can tell.
    pub cause: Option<Cause>,
    /// Who at defib asked for it.
    pub by: Option<By>,
    /// The exit code, if it exited.
    pub code: Option<u8>,
    /// The signal that ended it, as in `SIGSEGV`.
    pub signal: Option<String>,
    /// Whether a core was dumped.
    pub core: bool,
    /// Whether the out-of-memory killer ended it.
    pub oom: Option<bool>,
    /// Who sent the signal that ended it, or the last that asked it to end; `null`: nobody, or `unknown` says so.
    pub sender: Option<Sender>,
    /// The address of the access or instruction that the kernel ended it for, as in `0x7f00dead`.
    pub address: Option<String>,
    /// How long it ran.
    pub ran_seconds: Option<f64>,
    /// The CPU time that it used, with that of the children it waited for.
    pub cpu_seconds: Option<f64>,
    /// The largest resident size.
    pub max_rss_bytes: Option<u64>,
    /// What no source could tell.
    pub unknown: Vec<Unknown>,
}
