//! Pause: no restarts by itself while an operator debugs. Ends are recorded as ever.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::verbs::reply;
use super::{Service, Turn};
use crate::effect::Reply;
use crate::model::{Reason, RequestId, Tick};
use crate::phase::{Phase, Then};
use crate::waiters::Goal;

/// What is remembered of a pause.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Pause {
    /// When it is over by itself.
    pub(crate) until: Option<Tick>,
    /// Whether a restart was held back, and no operator has decided otherwise since.
    pub(crate) owed: bool,
}

impl Service {
    pub(super) fn pause(&mut self, turn: &mut Turn<'_>, id: RequestId, for_ns: Option<u64>) {
        let until = for_ns.map(|ns| turn.now + Duration::from_nanos(ns));
        let owed = self.memo.paused.is_some_and(|pause| pause.owed);
        self.memo.paused = Some(Pause { until, owed });
        self.changed = true;
        match &mut self.memo.phase {
            Phase::Retrying { why, .. } => {
                let why = std::mem::take(why);
                let why = self.hold_back(why);
                self.enter(turn, Phase::Failed { why });
            }
            // Somebody has asked for it meanwhile.
            Phase::Crashed { then: Then::Spawn } if self.waiters.any(Goal::Up) => {}
            Phase::Crashed { then: then @ (Then::Restart { .. } | Then::Spawn) } => {
                let why = match then {
                    Then::Restart { why, .. } => std::mem::take(why),
                    Then::Spawn | Then::Stop | Then::Disable | Then::Prepare | Then::Fail { .. } => {
                        "it ended".to_owned()
                    }
                };
                let why = self.hold_back(why);
                self.memo.phase = Phase::Crashed { then: Then::Fail { why } };
            }
            Phase::Stopped
            | Phase::Preparing
            | Phase::Spawning
            | Phase::Running(_)
            | Phase::Replacing(..)
            | Phase::Stopping { .. }
            | Phase::Emptying { .. }
            | Phase::Crashed { .. }
            | Phase::Failed { .. }
            | Phase::Disabled => {}
        }
        self.reply_confirmed(turn, id, Reply::Done("paused: it is not restarted by itself".to_owned()));
    }

    pub(super) fn resume_restarts(&mut self, turn: &mut Turn<'_>, id: RequestId) {
        let text = match self.memo.paused {
            None => "it was not paused",
            Some(Pause { owed: true, .. }) => "resumed: it is started again",
            Some(Pause { owed: false, .. }) => "resumed",
        };
        self.end_pause(turn);
        reply(turn, id, Reply::Done(text.to_owned()));
    }

    /// What would have been restarted is started now.
    pub(super) fn end_pause(&mut self, turn: &mut Turn<'_>) {
        let Some(pause) = self.memo.paused.take() else { return };
        self.changed = true;
        if !pause.owed {
            return;
        }
        match &mut self.memo.phase {
            Phase::Failed { .. } => {
                self.count_restart(turn, Reason::Manual, 0, turn.now, turn.now);
                self.begin(turn);
            }
            Phase::Crashed { then: then @ Then::Fail { .. } } => {
                *then = Then::Prepare;
                self.count_restart(turn, Reason::Manual, 0, turn.now, turn.now);
            }
            Phase::Stopped
            | Phase::Preparing
            | Phase::Spawning
            | Phase::Running(_)
            | Phase::Replacing(..)
            | Phase::Stopping { .. }
            | Phase::Emptying { .. }
            | Phase::Crashed { .. }
            | Phase::Retrying { .. }
            | Phase::Disabled => {}
        }
    }

    /// An operator has decided what is to be: nothing is owed any more.
    pub(super) fn settle_debt(&mut self) {
        if let Some(pause) = &mut self.memo.paused {
            self.changed |= pause.owed;
            pause.owed = false;
        }
    }

    /// A restart is owed; why it does not follow, in words.
    pub(super) fn hold_back(&mut self, why: String) -> String {
        if let Some(pause) = &mut self.memo.paused {
            pause.owed = true;
        }
        format!("{why}; not started again while it is paused")
    }
}
