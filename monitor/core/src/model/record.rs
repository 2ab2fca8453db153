//! What is told to the outside: the event stream, and later history and alerts.

use serde::{Deserialize, Serialize};

use super::{Ending, Incarnation, ServiceName, StartFailure, State, TakenPort, Tick};

/// One thing that happened.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// When it happened.
    pub at: Tick,
    /// The service that it is about.
    pub service: ServiceName,
    /// The life that it is about.
    pub incarnation: Incarnation,
    /// The main process of that life, if it has or had one.
    pub pid: Option<u32>,
    /// What happened.
    pub what: What,
}

/// What happened, by kind.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum What {
    /// The service went from one state to another.
    State {
        /// The state before.
        from: State,
        /// The state now.
        to: State,
        /// Why, in words; empty where the states say it all.
        why: String,
    },
    /// The main process ended: the one record of its death.
    Exit {
        /// How, and who asked for it.
        ending: Ending,
        /// When this life began.
        started: Option<Tick>,
    },
    /// A start could not be carried out.
    StartFailed {
        /// What was tried and what came of it.
        failure: StartFailure,
    },
    /// A port that it is to listen on is taken, which was seen when its start was prepared.
    PortTaken(TakenPort),
    /// It listens on a port: clients can connect.
    Listen {
        /// The port.
        port: u16,
    },
    /// It listens on a port no longer.
    Unlisten {
        /// The port.
        port: u16,
    },
    /// A restart was decided.
    Restart {
        /// Why.
        reason: Reason,
        /// Its number in the present series, from 1.
        attempt: u32,
        /// The delay from the death to the start, in nanoseconds.
        delay_ns: u64,
    },
}

/// How the `why` of a service begins that was restarted too often.
pub const GAVE_UP: &str = "gave up after ";

/// The `reason` of a restart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// It exited, or could not be started.
    Exit,
    /// A signal ended it.
    Signal,
    /// The out-of-memory killer ended it.
    Oom,
    /// An operator asked.
    Manual,
    /// A reload brought another process.
    Config,
}

impl Reason {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Exit, Self::Signal, Self::Oom, Self::Manual, Self::Config];

    /// The word for it in JSON, metrics and logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Exit => "exit",
            Self::Signal => "signal",
            Self::Oom => "oom",
            Self::Manual => "manual",
            Self::Config => "config",
        }
    }
}
