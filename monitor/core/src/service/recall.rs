//! What is remembered of a service when the keeper that had its process is gone: the section *What an earlier keeper left*
//! of the crate's docs.

use super::Service;
use crate::memo::Memo;
use crate::phase::{Phase, Then};
use crate::series::Series;

impl Service {
    /// Takes what is remembered, without the process. `torn`: defib goes on where it was torn away, in this boot. Returns
    /// whether it ran then, or was about to.
    pub(crate) fn recall(&mut self, memo: Memo, torn: bool) -> bool {
        let disabled = memo.gist().disabled;
        let phase = match (memo.phase, torn) {
            _ if disabled => Ok(Phase::Disabled),
            (_, false) => Ok(Phase::Stopped),
            (phase @ (Phase::Stopped | Phase::Retrying { .. } | Phase::Failed { .. }), true) => Ok(phase),
            (Phase::Stopping { then, .. } | Phase::Emptying { then } | Phase::Crashed { then }, true) => {
                match then {
                    Then::Stop | Then::Disable => Ok(Phase::Stopped),
                    Then::Fail { why } => Ok(Phase::Failed { why }),
                    Then::Restart { due, why } => Ok(Phase::Retrying { due, why }),
                    Then::Prepare | Then::Spawn => Err(Ran),
                }
            }
            (
                Phase::Preparing
                | Phase::Spawning
                | Phase::Running(_)
                | Phase::Replacing(..)
                | Phase::Disabled,
                true,
            ) => Err(Ran),
        };
        let ran = phase.is_err();
        let mut paused = memo.paused;
        if let (Some(pause), false) = (&mut paused, torn) {
            // What starts now is decided anew.
            pause.owed = false;
        }
        // The rest is of processes, or of what a keeper held.
        self.memo = Memo {
            phase: phase.unwrap_or(Phase::Stopped),
            incarnation: memo.incarnation,
            draft: memo.draft,
            withdrawal: memo.withdrawal,
            series: if torn { memo.series } else { Series::default() },
            restarts: memo.restarts,
            last_exit: memo.last_exit,
            paused,
            ..Memo::new()
        };
        (self.changed, self.goes_on) = (true, torn);
        ran
    }
}

/// It ran, or was about to.
struct Ran;
