//! Everything that can reach the core.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::memo::Memo;
use crate::model::{
    Draft, End, Incarnation, RequestId, ServiceName, ServiceSpec, Signal, StartFailure, TakenPort, Tick,
    Withdrawal,
};

/// One thing that the core is told. Whatever can come late names the life that it is about.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Input {
    /// The services to supervise, once, before everything else.
    Configure(Vec<Arc<ServiceSpec>>),
    /// What an earlier daemon remembered of a service. What the keeper knows of its process follows as the
    /// ordinary reports `Spawned`, `SpawnFailed`, `Ended`, `Cleared`.
    Resume {
        /// The service.
        service: ServiceName,
        /// What was remembered.
        memo: Box<Memo>,
    },
    /// What an earlier keeper's daemon remembered of a service. That keeper is gone, and no process of the service is
    /// left.
    Recall {
        /// The service.
        service: ServiceName,
        /// What was remembered.
        memo: Box<Memo>,
        /// Whether defib goes on where it was torn away in this boot. Otherwise it begins anew: it has left in order
        /// since, or the machine has.
        torn: bool,
    },
    /// The keeper is a new one, and this life that an earlier one had begun was found. Comes after `Resume`, if anything
    /// is remembered of the service.
    Adopted {
        /// The service.
        service: ServiceName,
        /// The life.
        incarnation: Incarnation,
        /// Its main process.
        pid: u32,
        /// When the earlier keeper made it.
        at: Tick,
        /// How the lives ended that came before it and are not known to have ended, oldest first: the one that is
        /// remembered, and those that the earlier keeper had begun after it.
        lost: Vec<Lost>,
        /// Whether the sockets of the service were taken back from the process.
        holds: bool,
    },
    /// The keeper is a new one, and nothing lives that an earlier one had begun. Comes after `Resume`.
    Deserted {
        /// The service.
        service: ServiceName,
        /// How the lives ended that are known of, as far as anybody can tell, oldest first.
        lost: Vec<Lost>,
    },
    /// All of the past has been told: start what is to start.
    Begin,
    /// All specifications anew.
    Reload(Vec<Arc<ServiceSpec>>),
    /// A client asks for something.
    Request {
        /// Names the reply.
        id: RequestId,
        /// The service it is about.
        service: ServiceName,
        /// What is asked.
        verb: Verb,
    },
    /// The planner has made the plan of a life, or could not.
    Prepared {
        /// The service.
        service: ServiceName,
        /// Which draft it is.
        draft: Draft,
        /// The obstacle, if there was one.
        failure: Option<StartFailure>,
        /// Ports of the service on which others listen. That may be meant so, and is no obstacle by itself.
        taken: Vec<TakenPort>,
    },
    /// The program of a life has been executed.
    Spawned {
        /// The service.
        service: ServiceName,
        /// The life.
        incarnation: Incarnation,
        /// Its main process.
        pid: u32,
        /// When the keeper made it.
        at: Tick,
    },
    /// The keeper could not start a life.
    SpawnFailed {
        /// The service.
        service: ServiceName,
        /// The life.
        incarnation: Incarnation,
        /// The obstacle.
        failure: StartFailure,
    },
    /// The main process of a life has ended and been reaped.
    Ended {
        /// The service.
        service: ServiceName,
        /// The life.
        incarnation: Incarnation,
        /// The process that ended.
        pid: u32,
        /// When the keeper made it.
        started: Tick,
        /// How it ended.
        end: End,
        /// When the keeper saw the end: up to then the life counts, here as there.
        seen: Tick,
        /// Whether the keeper has begun the next life already, by the standing order.
        followed: bool,
    },
    /// A standing order has been withdrawn: the keeper does nothing by itself any more.
    Withdrawn {
        /// The service.
        service: ServiceName,
        /// Which withdrawal it was.
        withdrawal: Withdrawal,
    },
    /// Nothing is left of the tree of a life that has ended.
    Cleared {
        /// The service.
        service: ServiceName,
        /// The life.
        incarnation: Incarnation,
    },
    /// The processes of a life listen on a port, or do so no longer: how it is, not what changed.
    Port {
        /// The service.
        service: ServiceName,
        /// The life.
        incarnation: Incarnation,
        /// The port.
        port: u16,
        /// Whether they listen.
        listening: bool,
    },
    /// A deadline may have passed.
    Deadline,
    /// End every service, then leave.
    Shutdown,
    /// The same, without waiting for anybody.
    Hurry,
}

/// The end of a life while there was no keeper, or of which its keeper could tell nobody any more.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Lost {
    /// The life.
    pub incarnation: Incarnation,
    /// Its main process.
    pub pid: u32,
    /// When the earlier keeper made it.
    pub started: Tick,
    /// How it ended.
    pub end: End,
}

/// What a client can ask of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Verb {
    /// Start it, and answer when it runs.
    Start,
    /// End it, and answer when nothing of it is left.
    Stop,
    /// Prepare a new life, then end the old one and begin the new.
    Restart,
    /// Forget its failures: a series of restarts begins anew, `failed` becomes `stopped`.
    Reset,
    /// Refuse starts again no longer.
    Enable,
    /// End it and refuse every start.
    Disable,
    /// No restarts by itself until `Resume`, or for so many nanoseconds.
    Pause(Option<u64>),
    /// Restarts by itself again, and at once if it has ended meanwhile.
    Resume,
    /// Send a signal to the main process. Its end, if it ends of it, is a crash like any other.
    Kill(Signal),
}

impl Verb {
    /// The word for it in the CLI, the API and the logs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Stop => "stop",
            Self::Restart => "restart",
            Self::Reset => "reset",
            Self::Enable => "enable",
            Self::Disable => "disable",
            Self::Pause(_) => "pause",
            Self::Resume => "resume",
            Self::Kill(_) => "kill",
        }
    }
}
