//! What a reload means to a service: a new specification, or none any more.

use std::sync::Arc;

use super::{Report, Service, Turn};
use crate::model::{By, Reason, ServiceSpec};
use crate::phase::{Phase, Then};
use crate::series::Series;

impl Service {
    /// Takes a new specification.
    pub(crate) fn reload(&mut self, turn: &mut Turn<'_>, spec: Arc<ServiceSpec>) -> Report {
        if self.spec == spec && !self.removed {
            return Report::Fresh;
        }
        let other_process = !self.spec.same_process(&spec);
        let (old, new) = (&self.spec.launch, &spec.launch);
        self.memo.other_sockets |= old.sockets != new.sockets || old.hold_ports != new.hold_ports;
        let wanted = spec.wanted_ports();
        self.memo.listening.retain(|port| wanted.contains(port));
        self.spec = spec;
        self.changed = true;
        if std::mem::take(&mut self.removed) {
            self.stay();
        }
        if other_process {
            self.memo.outdated = true;
            // A plan that is under way, and that nobody waits for any more, is not one of this specification either.
            self.memo.draft = self.memo.draft.next();
            self.renew(turn);
        }
        // What makes it ready may have changed.
        self.answer_waiters(turn);
        Report::Fresh
    }

    /// Whether it is to be forgotten once nothing is left of it.
    pub(crate) fn removed(&self) -> bool {
        self.removed
    }

    /// Ends it, to be forgotten.
    pub(crate) fn remove(&mut self, turn: &mut Turn<'_>) -> Report {
        if !std::mem::replace(&mut self.removed, true) {
            self.changed = true;
            self.memo.paused = None;
            self.bring_down(turn, By::Stop, Then::Stop);
        }
        Report::Fresh
    }

    /// It was being removed, and is configured again.
    fn stay(&mut self) {
        if !self.spec.autostart {
            return;
        }
        match &mut self.memo.phase {
            Phase::Stopping { then: then @ Then::Stop, .. }
            | Phase::Emptying { then: then @ Then::Stop }
            | Phase::Crashed { then: then @ Then::Stop } => *then = Then::Prepare,
            // Nothing is left of it: it would have been forgotten.
            Phase::Stopped
            | Phase::Preparing
            | Phase::Spawning
            | Phase::Running(_)
            | Phase::Replacing(..)
            | Phase::Stopping { .. }
            | Phase::Emptying { .. }
            | Phase::Crashed { .. }
            | Phase::Retrying { .. }
            | Phase::Failed { .. }
            | Phase::Disabled => {}
        }
    }

    /// Its process is to be another one.
    fn renew(&mut self, turn: &mut Turn<'_>) {
        match self.memo.phase {
            Phase::Running(life) => self.replace(turn, life, Reason::Config),
            Phase::Preparing | Phase::Replacing(..) => self.prepare(turn),
            // A pause holds for the new process too.
            Phase::Failed { .. } if self.memo.paused.is_some() => {}
            Phase::Retrying { .. } | Phase::Failed { .. } => {
                self.memo.series = Series::default();
                self.begin(turn);
            }
            Phase::Stopped
            | Phase::Spawning
            | Phase::Stopping { .. }
            | Phase::Emptying { .. }
            | Phase::Crashed { .. }
            | Phase::Disabled => {}
        }
    }
}
