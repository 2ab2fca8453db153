//! A new keeper: it holds no plan, no order and no end, and the lives of the one before are no children of its own.

use super::{Report, Service, Turn};
use crate::input::Lost;
use crate::memo::Memo;
use crate::model::{By, Ending, Incarnation, Reason, Tick};
use crate::phase::{Life, Phase, Then};
use crate::series::{Decision, Failure};

/// A life that a memo tells of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KnownLife {
    /// Which one.
    pub incarnation: Incarnation,
    /// Its main process.
    pub pid: u32,
    /// When the keeper made it.
    pub started: Tick,
}

impl Memo {
    /// The life that ran when this was written, as far as it was known.
    pub fn life(&self) -> Option<KnownLife> {
        let Life { pid, started } = self.phase.life()?;
        Some(KnownLife { incarnation: self.incarnation, pid, started })
    }

    /// Whether a life was under way when this was written, or about to be.
    pub fn may_live(&self) -> bool {
        self.phase.may_have_process() || self.phase == Phase::Preparing
    }

    /// The latest life that had ended when this was written: what lives of it, or of an earlier one, is left over.
    pub fn over(&self) -> Incarnation {
        Incarnation(self.incarnation.0.saturating_sub(u64::from(self.may_live())))
    }
}

impl Service {
    /// A life that an earlier keeper had begun was found, and is supervised again. `lost` are the ends of earlier ones, of
    /// which nobody was told. `holds`: whether its sockets were taken back from it.
    pub(crate) fn adopted(
        &mut self,
        turn: &mut Turn<'_>,
        incarnation: Incarnation,
        life: Life,
        lost: Vec<Lost>,
        holds: bool,
    ) -> Report {
        self.begin_anew();
        self.goes_on = true;
        if incarnation <= self.memo.over() {
            return Report::Stale;
        }
        self.memo.holds = holds;
        if incarnation > self.memo.incarnation {
            lost.into_iter().filter(|it| it.incarnation < incarnation).for_each(|it| self.lose(turn, it));
            self.memo.incarnation = incarnation;
            self.memo.listening.clear();
        }
        self.memo.adopted = Some(incarnation);
        match &mut self.memo.phase {
            // What was asked of it, and of the planner, is asked again.
            Phase::Stopping { by, then, .. } => {
                let (by, then) = (*by, std::mem::replace(then, Then::Stop));
                self.ask_to_end(turn, Some(life), by, then);
            }
            Phase::Replacing(known, _) => *known = Some(life),
            // The keeper had begun it before it heard what was to follow: that holds for this one too.
            Phase::Emptying { then: then @ (Then::Stop | Then::Disable) }
            | Phase::Crashed { then: then @ (Then::Stop | Then::Disable) } => {
                let then = std::mem::replace(then, Then::Stop);
                self.ask_to_end(turn, Some(life), By::Stop, then);
            }
            Phase::Emptying { then: Then::Prepare } | Phase::Crashed { then: Then::Prepare } => {
                self.replace(turn, life, Reason::Manual);
            }
            Phase::Stopped
            | Phase::Preparing
            | Phase::Spawning
            | Phase::Running(_)
            | Phase::Emptying { .. }
            | Phase::Crashed { .. }
            | Phase::Retrying { .. }
            | Phase::Failed { .. }
            | Phase::Disabled => {
                // What was owed to a pause has been done.
                self.settle_debt();
                self.enter(turn, Phase::Running(life));
                if self.memo.outdated {
                    self.replace(turn, life, Reason::Config);
                } else {
                    self.prepare(turn);
                }
            }
        }
        Report::Fresh
    }

    /// Nothing lives that an earlier keeper had begun. `lost` are the ends of its last lives, if nobody was told of them.
    pub(crate) fn deserted(&mut self, turn: &mut Turn<'_>, mut lost: Vec<Lost>) -> Report {
        self.begin_anew();
        let last = lost.pop();
        lost.into_iter().for_each(|it| self.lose(turn, it));
        if let Some(lost) = last.filter(|lost| lost.incarnation > self.memo.over()) {
            let later = lost.incarnation > self.memo.incarnation;
            if later {
                self.memo.incarnation = lost.incarnation;
                self.memo.listening.clear();
            }
            let life = Life { pid: lost.pid, started: lost.started };
            let begun = match &mut self.memo.phase {
                Phase::Preparing | Phase::Spawning => true,
                Phase::Running(known) | Phase::Replacing(Some(known), _) => {
                    if later {
                        *known = life;
                    }
                    false
                }
                Phase::Replacing(None, _) | Phase::Stopping { .. } => false,
                // Such a life is later than what is remembered. What was to follow then follows it.
                Phase::Emptying { then: Then::Stop | Then::Disable | Then::Prepare }
                | Phase::Crashed { then: Then::Stop | Then::Disable | Then::Prepare }
                | Phase::Disabled => {
                    self.record_exit(turn, life, Ending { end: lost.end.clone(), by: By::Itself });
                    false
                }
                Phase::Stopped
                | Phase::Emptying { .. }
                | Phase::Crashed { .. }
                | Phase::Retrying { .. }
                | Phase::Failed { .. } => true,
            };
            if begun {
                self.enter(turn, Phase::Running(life));
            }
            let (incarnation, seen) = (self.memo.incarnation, lost.end.at);
            // Whether it was one that could end is seen by what is left.
            let _seen: Report = self.ended(turn, incarnation, life, lost.end, seen);
        }
        match &mut self.memo.phase {
            Phase::Spawning => self.begin(turn),
            Phase::Stopping { then, .. } | Phase::Emptying { then } | Phase::Crashed { then } => {
                let then = std::mem::replace(then, Then::Stop);
                self.follow(turn, then);
            }
            // Its end is told whenever it is known that it ran: nobody knows of this one's.
            Phase::Running(_) | Phase::Replacing(..) => self.begin(turn),
            Phase::Stopped
            | Phase::Preparing
            | Phase::Retrying { .. }
            | Phase::Failed { .. }
            | Phase::Disabled => {}
        }
        Report::Fresh
    }

    /// What the keeper held is gone with it.
    fn begin_anew(&mut self) {
        self.memo.unplanned = true;
        // What is remembered to stand stays so until it has been withdrawn: a new order may have gone out meanwhile.
        self.memo.holds = false;
        self.memo.other_sockets = false;
        self.changed = true;
    }

    /// Tells of an end after which the keeper had begun the next life: a restart of the series, as if it had been decided here.
    fn lose(&mut self, turn: &mut Turn<'_>, lost: Lost) {
        let Lost { incarnation, pid, started, end } = lost;
        if incarnation > self.memo.over() && incarnation >= self.memo.incarnation {
            self.memo.incarnation = incarnation;
            let at = end.at;
            let reason = if end.signal().is_some() { Reason::Signal } else { Reason::Exit };
            self.record_exit(turn, Life { pid, started }, Ending { end, by: By::Itself });
            let lived = Failure::Life(at.since(started));
            let attempt = match self.memo.series.decide(&self.spec.restart, at, lived, turn.dice.roll()) {
                Decision::Restart { attempt, .. }
                    if self.memo.paused.is_none() && !self.memo.series.gave_up() =>
                {
                    attempt
                }
                // It has happened by rules from before a pause or a reload.
                Decision::Restart { .. } | Decision::GiveUp { .. } => 0,
            };
            self.count_restart(turn, reason, attempt, at, at);
        }
    }
}
