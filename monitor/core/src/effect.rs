//! Everything that the core can want done. Whoever performs an effect decides nothing.

use serde::{Deserialize, Serialize};

use crate::memo::Memo;
use crate::model::{Draft, Incarnation, Record, RequestId, ServiceName, Signal, Standing, Withdrawal};

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Effect {
    /// Make the plan of a life anew: users, files and folders may have changed. Answered by `Prepared`.
    Prepare {
        /// The service.
        service: ServiceName,
        /// Which draft it is to be: one that is made for a specification that no longer holds comes too late.
        draft: Draft,
    },
    /// Start a life by the plan that the keeper holds. Answered by `Spawned`, `SpawnFailed` or `Ended`.
    Spawn {
        /// The service.
        service: ServiceName,
        /// The life.
        incarnation: Incarnation,
    },
    /// What may be done at the end of this life, and of those that the keeper begins by it, without asking. Takes the
    /// place of an earlier order.
    Stand {
        /// The service.
        service: ServiceName,
        /// The life.
        incarnation: Incarnation,
        /// The order.
        standing: Standing,
    },
    /// Nothing may be done without asking. Answered by `Withdrawn`.
    Withdraw {
        /// The service.
        service: ServiceName,
        /// Names the answer.
        withdrawal: Withdrawal,
    },
    /// Send a signal to the main process of a life.
    Signal {
        /// The service.
        service: ServiceName,
        /// The life.
        incarnation: Incarnation,
        /// The signal.
        signal: Signal,
    },
    /// SIGKILL to the whole tree of a life.
    KillTree {
        /// The service.
        service: ServiceName,
        /// The life.
        incarnation: Incarnation,
    },
    /// The end or the failed start of a life has been taken into account: the keeper may forget it.
    Acknowledge {
        /// The service.
        service: ServiceName,
        /// The life.
        incarnation: Incarnation,
        /// Whether it is known that the keeper has followed it by itself: who knows of the end alone may be told so later.
        followed: bool,
    },
    /// Keep this for the next daemon. Sent with the other orders of its turn: all of them or none arrive.
    Remember {
        /// The service.
        service: ServiceName,
        /// What to keep.
        memo: Box<Memo>,
    },
    /// Close the sockets and ports that are held for the service: nobody will serve those who connect.
    CloseSockets {
        /// The service.
        service: ServiceName,
    },
    /// The service has been removed and nothing is left of it.
    Forget {
        /// The service.
        service: ServiceName,
    },
    /// Tell the outside.
    Record(Record),
    /// The view of a service has changed.
    Publish {
        /// The service.
        service: ServiceName,
    },
    /// Answer a request.
    Reply {
        /// The request.
        id: RequestId,
        /// The answer.
        reply: Reply,
    },
    /// Every service has ended after `Shutdown`: the daemon may leave.
    Leave,
}

/// The answer to a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Reply {
    /// Done. The text says what was found or done where the verb alone does not: `already running`.
    Done(String),
    /// It could not be done; the text says why and what helps.
    Failed(String),
    /// There is no such service.
    NotFound,
    /// The service is disabled.
    Disabled,
}

/// The effects of one turn, in the order in which they are to be carried out: first all that the keeper and the
/// records are told, then the answers, and `Leave` last. So nobody hears of anything that could be lost with the
/// daemon.
#[derive(Debug, Default)]
pub struct Effects {
    first: Vec<Effect>,
    last: Vec<Effect>,
}

impl Effects {
    /// No effects yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds one.
    pub(crate) fn push(&mut self, effect: Effect) {
        let part = match effect {
            Effect::Reply { .. } | Effect::Leave => &mut self.last,
            Effect::Prepare { .. }
            | Effect::Spawn { .. }
            | Effect::Stand { .. }
            | Effect::Withdraw { .. }
            | Effect::Signal { .. }
            | Effect::KillTree { .. }
            | Effect::Acknowledge { .. }
            | Effect::Remember { .. }
            | Effect::CloseSockets { .. }
            | Effect::Forget { .. }
            | Effect::Record(_)
            | Effect::Publish { .. } => &mut self.first,
        };
        part.push(effect);
    }

    /// Takes all of them out, in order.
    pub fn drain(&mut self) -> impl Iterator<Item = Effect> {
        self.first.drain(..).chain(self.last.drain(..))
    }
}
