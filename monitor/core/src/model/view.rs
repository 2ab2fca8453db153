//! The read-only picture of a service that the surfaces show.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::{Ending, Incarnation, ServiceName, Tick};

/// The eight words for the state of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// No process, and none is wanted.
    Stopped,
    /// A start is under way.
    Starting,
    /// The process runs.
    Running,
    /// The process was asked to end.
    Stopping,
    /// The process ended unasked, and the rest of its tree is being ended.
    Crashed,
    /// No process; the next start has a date.
    Retrying,
    /// No process, and no further start by itself.
    Failed,
    /// No process, and every start is refused.
    Disabled,
}

impl State {
    /// All of them, in the order of the table.
    pub const ALL: [Self; 8] = [
        Self::Stopped,
        Self::Starting,
        Self::Running,
        Self::Stopping,
        Self::Crashed,
        Self::Retrying,
        Self::Failed,
        Self::Disabled,
    ];

    /// The word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stopped => "stopped",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Stopping => "stopping",
            Self::Crashed => "crashed",
            Self::Retrying => "retrying",
            Self::Failed => "failed",
            Self::Disabled => "disabled",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// Restarts by itself are paused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Paused {
    /// Until then, if not until somebody resumes them.
    pub until: Option<Tick>,
}

/// A socket of a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeldSocket {
    /// Its address, as in the configuration.
    pub listen: String,
    /// Its name.
    pub name: String,
    /// Whether it is open: while the service is down, clients wait at it.
    pub held: bool,
}

/// What is known of a service at one moment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ServiceView {
    /// Its name.
    pub name: ServiceName,
    /// One line for people.
    pub description: String,
    /// Its state.
    pub state: State,
    /// Why it is in that state, in words; empty where the state says it all.
    pub why: String,
    /// The main process.
    pub pid: Option<u32>,
    /// The present life, or the last one.
    pub incarnation: Incarnation,
    /// Whether it runs and is ready.
    pub ready: bool,
    /// Whether it is to run: nobody has stopped it, and it has not done what it was to do.
    pub wanted: bool,
    /// Whether it may be started.
    pub enabled: bool,
    /// Whether restarts by itself are paused, and until when if not for good.
    pub paused: Option<Paused>,
    /// The group that it belongs to.
    pub group: Option<ServiceName>,
    /// Whether the present life was begun by an earlier keeper, and is no child of this one.
    pub adopted: bool,
    /// When the present life began.
    pub started: Option<Tick>,
    /// Restarts since defib supervises it.
    pub restarts: u64,
    /// The TCP ports that it is to listen on.
    pub ports: Vec<u16>,
    /// The sockets that are passed to it.
    pub sockets: Vec<HeldSocket>,
    /// How the last life ended.
    pub last_exit: Option<Ending>,
    /// When the next start is due.
    pub next_start: Option<Tick>,
}
