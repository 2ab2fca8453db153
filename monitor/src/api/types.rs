//! The JSON of the API, for the server that writes it and the client that reads it.
//!
//! `null` stands where nothing is known, and no key is ever missing, but for those that say why a start failed. Times
//! are RFC 3339 in UTC, to the microsecond; spans are seconds, sizes bytes.

pub use crate::daemon::handle::inspect::{
    File, Inspection, Limit, Listed, Mapping, Memory, Process, Socket, Thread,
};
use std::collections::BTreeMap;

use defib_core::model::{By, Cause, HeldSocket, Incarnation, ServiceName, SourceName, State, Unknown};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

pub use crate::config::diff::Change;
mod events;
mod logs;
mod peers;
mod ports;

pub use events::*;
pub use logs::*;
pub use peers::*;
pub use ports::*;

/// All services.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// By name.
    pub services: Vec<Service>,
    /// The event source in use.
    pub source: SourceName,
    /// Whether what outlives defib can be kept.
    #[serde(default)]
    pub state_database: StateDatabase,
}

/// Whether the state database can be written.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StateDatabase {
    /// Why not, or nothing if it can.
    pub trouble: Option<String>,
    /// How many ends of lives had no room while it could not.
    pub lost: u64,
}

/// One service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Service {
    /// Its name.
    pub name: ServiceName,
    /// One of the eight words.
    pub state: State,
    /// The main process.
    pub pid: Option<u32>,
    /// The present life, or the last one; 0: it has never been started.
    pub incarnation: Incarnation,
    /// Whether it runs and is ready.
    pub ready: bool,
    /// Whether its checks succeed; `null`: it has none.
    pub healthy: Option<bool>,
    /// Whether defib took over a process that it had not started.
    pub adopted: bool,
    /// Whether it may be started.
    pub enabled: bool,
    /// Whether restarts by itself are paused.
    pub paused: bool,
    /// When the pause is over by itself.
    pub paused_until: Option<Timestamp>,
    /// The group that it belongs to.
    pub group: Option<ServiceName>,
    /// When the present life began.
    pub started_at: Option<Timestamp>,
    /// How long its process has been running.
    pub uptime_seconds: Option<f64>,
    /// Restarts since defib supervises it.
    pub restarts: u64,
    /// How the last life ended.
    pub last_exit: Option<LastExit>,
    /// When the next start is due.
    pub next_start_at: Option<Timestamp>,
    /// CPU time of the main process.
    pub cpu_seconds: Option<f64>,
    /// Resident memory of the main process.
    pub memory_bytes: Option<u64>,
    /// Its ports.
    pub ports: Vec<Port>,
    /// The sockets that are passed to it.
    pub sockets: Vec<HeldSocket>,
    /// One line for people; may be empty.
    pub description: String,
    /// Why it is in that state; empty where the state says it all.
    pub why: String,
}

/// What all services use.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct AllUsage {
    /// By name.
    pub services: Vec<Usage>,
}

/// What one service uses, with all its processes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Usage {
    /// Its name.
    pub name: ServiceName,
    /// When this was read, on a clock that only goes forward.
    pub clock_seconds: f64,
    /// CPU time. It counts up from a point of its own: only the difference of two looks means something.
    pub cpu_seconds: f64,
    /// Resident memory; what several of its processes share is counted for each.
    pub memory_bytes: u64,
    /// How many processes it has.
    pub processes: u64,
}

/// The body of `boot`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Boot {
    /// Whether the service starts with defib.
    pub start: bool,
}

/// Whether the daemon works.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Health {
    /// Whether the supervisor thread answers.
    pub healthy: bool,
    /// The process of the daemon.
    pub pid: u32,
    /// The event source in use.
    pub source: SourceName,
    /// How many events it has lost; `null`: nobody answered.
    pub events_lost: Option<u64>,
}

/// Whether every service that is to run does.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ready {
    /// Whether all are up.
    pub ready: bool,
    /// How many are to run.
    pub wanted: usize,
    /// Those that are to run and are not up.
    pub not_ready: Vec<NotReady>,
}

/// A service that is to run and is not up.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NotReady {
    /// Its name.
    pub service: ServiceName,
    /// Its state.
    pub state: State,
}

/// The daemon in a few numbers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Summary {
    /// Another one with each start of the daemon.
    #[serde(rename = "instanceId")]
    pub instance_id: String,
    /// The process of the daemon.
    pub pid: u32,
    /// How long it has been running, in seconds.
    pub uptime: f64,
    /// The daemon that watches this one; `null`: none does.
    pub partner: Option<String>,
    /// Its version.
    pub version: String,
    /// How many services are in each of the eight states.
    pub services: BTreeMap<State, usize>,
}

/// A port of a service.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Port {
    /// Its number.
    pub port: u16,
    /// Whether a process of the service listens on it; `null`: that cannot be known.
    pub listening: Option<bool>,
    /// Connections that are open; `null`: that cannot be known.
    pub connections: Option<u64>,
}

/// How the last life of a service ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LastExit {
    /// What ended it, from the kernel's side; `null` if nobody can tell.
    pub cause: Option<Cause>,
    /// Who at defib asked for it.
    pub by: By,
    /// The exit code, if it exited.
    pub code: Option<u8>,
    /// The signal that ended it, as in `SIGSEGV`.
    pub signal: Option<String>,
    /// Whether a core was dumped.
    pub core: bool,
    /// Who sent the signal that ended it, or the last that asked it to end; `null`: nobody, or `unknown` says so.
    pub sender: Option<Sender>,
    /// The address of the access or instruction that the kernel ended it for, as in `0x7f00dead`.
    pub address: Option<String>,
    /// When it died.
    pub at: Timestamp,
    /// What no source could tell.
    pub unknown: Vec<Unknown>,
}

/// The body of `kill`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kill {
    /// By name, with or without SIG, or by number.
    pub signal: String,
}

/// The body of `pause`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pause {
    /// How long, as in `30m`; without it, until `resume`.
    #[serde(rename = "for")]
    pub span: Option<String>,
}

/// What came of a reload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reloaded {
    /// Whether it is in force now; otherwise it was only a question.
    pub applied: bool,
    /// What it changes.
    pub changes: Vec<Change>,
    /// What is allowed but unwise.
    pub warnings: Vec<String>,
}

/// The body of `shutdown`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Shutdown {
    /// End everything by SIGKILL instead of waiting for it.
    #[serde(default)]
    pub hurry: bool,
    /// End nothing: the services run on, and the next start of defib takes them over. Then `hurry` means nothing.
    #[serde(default)]
    pub leave: bool,
}

/// Who runs: defib itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The version of keeper and daemon.
    pub version: String,
    /// The daemon's process.
    pub daemon: u32,
    /// The keeper's process: that of the unit or the container.
    pub keeper: u32,
    /// Why the last `defib daemon restart` was rolled back; `null`: it was not, or there was none.
    pub restart_failure: Option<String>,
}

/// The answer to a verb that succeeded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Answer {
    /// The service.
    pub service: ServiceName,
    /// The verb.
    pub verb: String,
    /// How far it is.
    pub result: Progress,
    /// What was found or done where the verb alone does not say it: `already running`.
    pub detail: String,
}

/// How far a verb is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Progress {
    /// It is done.
    Done,
    /// It will be done.
    Accepted,
}

/// An error: the problem details of RFC 9457.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Problem {
    /// Always `about:blank`: the status and the `code` say what kind of problem it is.
    #[serde(rename = "type")]
    pub kind: String,
    /// The status in words.
    pub title: String,
    /// The HTTP status.
    pub status: u16,
    /// What is wrong with this request, and what helps.
    pub detail: String,
    /// What went wrong, in one word that does not change.
    pub code: Code,
    /// Services with names like the one that was not found.
    pub nearest: Vec<ServiceName>,
}

/// The `code` of a [`Problem`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Code {
    /// There is no such service, verb or route.
    NotFound,
    /// The verb was tried and failed.
    Failed,
    /// The service is disabled.
    Disabled,
    /// The user may not do that.
    Denied,
    /// Too much is asked at once, or the daemon is leaving.
    Busy,
    /// The request makes no sense.
    BadRequest,
}
