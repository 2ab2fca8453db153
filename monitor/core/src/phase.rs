//! The steps in the life of a service, with what each of them must remember. See the table in the crate's docs.

use serde::{Deserialize, Serialize};

use crate::model::{By, Reason, State, Tick};

/// A column of the table.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum Phase {
    /// No process, none wanted.
    Stopped,
    /// The planner makes the plan of the present incarnation.
    Preparing,
    /// The keeper has been told to start the present incarnation.
    Spawning,
    /// The program has been executed.
    Running(Life),
    /// As `Running`, and the plan of the next incarnation is being made, for this reason. The life is `None` while the
    /// keeper has begun it by itself and not said more.
    Replacing(Option<Life>, Reason),
    /// The main process has been asked to end.
    Stopping {
        /// The life that ends; `None` while the keeper has not said that it began.
        life: Option<Life>,
        /// When the tree gets SIGKILL; `None` once it has got it.
        kill_at: Option<Tick>,
        /// Who asked.
        by: By,
        /// What follows.
        then: Then,
    },
    /// The main process has ended as it should; the rest of the tree is being ended.
    Emptying {
        /// What follows.
        then: Then,
    },
    /// The main process has ended unasked; the rest of the tree is being ended.
    Crashed {
        /// What follows.
        then: Then,
    },
    /// The next start has a date.
    Retrying {
        /// The date.
        due: Tick,
        /// What happened.
        why: String,
    },
    /// Given up.
    Failed {
        /// What happened.
        why: String,
    },
    /// Every start is refused.
    Disabled,
}

/// A life whose program has been executed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Life {
    /// The main process.
    pub(crate) pid: u32,
    /// When the keeper made it.
    pub(crate) started: Tick,
}

/// What follows once the tree of a life is empty.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) enum Then {
    /// `stopped`.
    Stop,
    /// `disabled`.
    Disable,
    /// A new life by a plan that is still to be made.
    Prepare,
    /// A new life by the plan that the keeper holds.
    Spawn,
    /// A restart at its date.
    Restart {
        /// The death plus the delay.
        due: Tick,
        /// What happened.
        why: String,
    },
    /// `failed`.
    Fail {
        /// What happened.
        why: String,
    },
}

impl Phase {
    /// The word that users see.
    pub(crate) fn state(&self) -> State {
        match self {
            Self::Stopped => State::Stopped,
            Self::Preparing | Self::Spawning | Self::Replacing(None, _) => State::Starting,
            Self::Running(_) | Self::Replacing(Some(_), _) => State::Running,
            Self::Stopping { .. } | Self::Emptying { .. } => State::Stopping,
            Self::Crashed { .. } => State::Crashed,
            Self::Retrying { .. } => State::Retrying,
            Self::Failed { .. } => State::Failed,
            Self::Disabled => State::Disabled,
        }
    }

    /// The life that runs now.
    pub(crate) fn life(&self) -> Option<Life> {
        match self {
            Self::Running(life) => Some(*life),
            Self::Stopping { life, .. } | Self::Replacing(life, _) => *life,
            Self::Stopped
            | Self::Preparing
            | Self::Spawning
            | Self::Emptying { .. }
            | Self::Crashed { .. }
            | Self::Retrying { .. }
            | Self::Failed { .. }
            | Self::Disabled => None,
        }
    }

    /// Whether a process is to run, now or after what is under way. What was given up is wanted all the same.
    pub(crate) fn wanted(&self) -> bool {
        match self {
            Self::Stopping { then, .. } | Self::Emptying { then } | Self::Crashed { then } => match then {
                Then::Stop | Then::Disable => false,
                Then::Prepare | Then::Spawn | Then::Restart { .. } | Then::Fail { .. } => true,
            },
            Self::Preparing
            | Self::Spawning
            | Self::Running(_)
            | Self::Replacing(..)
            | Self::Retrying { .. }
            | Self::Failed { .. } => true,
            Self::Stopped | Self::Disabled => false,
        }
    }

    /// When this phase wants to be looked at again.
    pub(crate) fn deadline(&self) -> Option<Tick> {
        match self {
            Self::Stopping { kill_at, .. } => *kill_at,
            Self::Retrying { due, .. } => Some(*due),
            Self::Stopped
            | Self::Preparing
            | Self::Spawning
            | Self::Running(_)
            | Self::Replacing(..)
            | Self::Emptying { .. }
            | Self::Crashed { .. }
            | Self::Failed { .. }
            | Self::Disabled => None,
        }
    }

    /// Whether the main process of the present incarnation may live.
    pub(crate) fn may_have_process(&self) -> bool {
        match self {
            Self::Spawning | Self::Running(_) | Self::Replacing(..) | Self::Stopping { .. } => true,
            Self::Stopped
            | Self::Preparing
            | Self::Emptying { .. }
            | Self::Crashed { .. }
            | Self::Retrying { .. }
            | Self::Failed { .. }
            | Self::Disabled => false,
        }
    }

    /// Whether the keeper may hold a process, or the rest of a tree, for the service.
    pub(crate) fn occupied(&self) -> bool {
        match self {
            Self::Spawning
            | Self::Running(_)
            | Self::Replacing(..)
            | Self::Stopping { .. }
            | Self::Emptying { .. }
            | Self::Crashed { .. } => true,
            Self::Stopped
            | Self::Preparing
            | Self::Retrying { .. }
            | Self::Failed { .. }
            | Self::Disabled => false,
        }
    }

    /// Why the service is where it is, in words; empty where the state says it all.
    pub(crate) fn why(&self) -> &str {
        match self {
            Self::Retrying { why, .. } | Self::Failed { why } => why,
            Self::Crashed { then: Then::Restart { why, .. } | Then::Fail { why } } => why,
            Self::Stopping { kill_at: None, .. } => "SIGKILL sent, waiting for the kernel",
            Self::Stopped
            | Self::Preparing
            | Self::Spawning
            | Self::Running(_)
            | Self::Replacing(..)
            | Self::Stopping { .. }
            | Self::Emptying { .. }
            | Self::Crashed { .. }
            | Self::Disabled => "",
        }
    }
}
