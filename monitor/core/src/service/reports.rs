//! What planner, keeper and clock tell of a service.

use super::{Report, Service, Turn};
use crate::model::{
    By, Draft, End, Ending, GAVE_UP, GiveUp, Incarnation, Policy, Reason, StartFailure, TakenPort, Tick, What,
};
use crate::phase::{Life, Phase, Then};
use crate::series::{Decision, Failure};
use crate::waiters::Goal;

impl Service {
    /// The planner's answer.
    pub(crate) fn prepared(
        &mut self,
        turn: &mut Turn<'_>,
        draft: Draft,
        failure: Option<StartFailure>,
        taken: Vec<TakenPort>,
    ) -> Report {
        if draft != self.memo.draft {
            return Report::Stale;
        }
        if failure.is_none() {
            self.memo.outdated = false;
            self.memo.other_sockets = false;
        }
        // The first plan that a new keeper gets: from now on an order may stand.
        let first = failure.is_none() && std::mem::take(&mut self.memo.unplanned);
        self.changed |= first;
        match self.memo.phase {
            Phase::Preparing => {
                self.note_taken(turn, taken);
                match failure {
                    None => self.spawn(turn),
                    Some(failure) => self.start_failed(turn, failure),
                }
                Report::Fresh
            }
            Phase::Replacing(life, reason) => {
                self.note_taken(turn, taken);
                match failure {
                    None => {
                        self.count_restart(turn, reason, 0, turn.now, turn.now);
                        self.ask_to_end(turn, life, By::Stop, Then::Spawn);
                    }
                    Some(failure) => {
                        let text = format!("{failure}. The process that runs was left alone.");
                        self.waiters.refuse(turn.fx, Goal::Up, &text);
                        self.enter(turn, life.map_or(Phase::Spawning, Phase::Running));
                    }
                }
                Report::Fresh
            }
            Phase::Running(_) if first => Report::Fresh,
            Phase::Stopped
            | Phase::Spawning
            | Phase::Running(_)
            | Phase::Stopping { .. }
            | Phase::Emptying { .. }
            | Phase::Crashed { .. }
            | Phase::Retrying { .. }
            | Phase::Failed { .. }
            | Phase::Disabled => Report::Stale,
        }
    }

    /// The program has been executed.
    pub(crate) fn spawned(&mut self, turn: &mut Turn<'_>, incarnation: Incarnation, new: Life) -> Report {
        if incarnation != self.memo.incarnation {
            return Report::Stale;
        }
        match &mut self.memo.phase {
            Phase::Spawning => {
                self.enter(turn, Phase::Running(new));
                // A reload came after its plan was made.
                if self.memo.outdated {
                    self.replace(turn, new, Reason::Config);
                }
                Report::Fresh
            }
            Phase::Stopping { life: life @ None, .. } => {
                *life = Some(new);
                self.changed = true;
                Report::Fresh
            }
            Phase::Replacing(None, reason) => {
                let reason = *reason;
                self.enter(turn, Phase::Replacing(Some(new), reason));
                Report::Fresh
            }
            Phase::Stopped
            | Phase::Preparing
            | Phase::Running(_)
            | Phase::Replacing(..)
            | Phase::Stopping { .. }
            | Phase::Emptying { .. }
            | Phase::Crashed { .. }
            | Phase::Retrying { .. }
            | Phase::Failed { .. }
            | Phase::Disabled => Report::Stale,
        }
    }

    /// The keeper could not start the life.
    pub(crate) fn spawn_failed(
        &mut self,
        turn: &mut Turn<'_>,
        incarnation: Incarnation,
        failure: StartFailure,
    ) -> Report {
        self.acknowledge(turn, incarnation, false);
        if incarnation != self.memo.incarnation {
            return Report::Stale;
        }
        match &mut self.memo.phase {
            Phase::Spawning => {
                self.start_failed(turn, failure);
                Report::Fresh
            }
            Phase::Stopping { life: None, then, .. } => {
                let then = std::mem::replace(then, Then::Stop);
                self.record(turn, turn.now, What::StartFailed { failure });
                self.follow(turn, then);
                Report::Fresh
            }
            // The plan of its successor is under way.
            Phase::Replacing(None, _) => {
                self.record(turn, turn.now, What::StartFailed { failure });
                self.memo.incarnation = self.memo.incarnation.next();
                self.enter(turn, Phase::Preparing);
                Report::Fresh
            }
            Phase::Stopped
            | Phase::Preparing
            | Phase::Running(_)
            | Phase::Replacing(..)
            | Phase::Stopping { .. }
            | Phase::Emptying { .. }
            | Phase::Crashed { .. }
            | Phase::Retrying { .. }
            | Phase::Failed { .. }
            | Phase::Disabled => Report::Stale,
        }
    }

    /// The main process has ended.
    pub(crate) fn ended(
        &mut self,
        turn: &mut Turn<'_>,
        incarnation: Incarnation,
        life: Life,
        end: End,
        seen: Tick,
    ) -> Report {
        if incarnation != self.memo.incarnation {
            return Report::Stale;
        }
        if self.memo.phase == Phase::Spawning {
            // It lived so shortly that the keeper told its beginning and its end at once.
            self.enter(turn, Phase::Running(life));
        }
        match &mut self.memo.phase {
            Phase::Running(life) => {
                let life = *life;
                self.ended_unasked(turn, life, end, seen);
                Report::Fresh
            }
            Phase::Replacing(known, reason) => {
                let (life, reason) = (known.unwrap_or(life), *reason);
                self.record_exit(turn, life, Ending { end: end.clone(), by: By::Itself });
                self.count_restart(turn, reason, 0, end.at, end.at);
                self.enter(turn, Phase::Crashed { then: Then::Prepare });
                Report::Fresh
            }
            Phase::Stopping { by, then, .. } => {
                let (by, then) = (*by, std::mem::replace(then, Then::Stop));
                self.record_exit(turn, life, Ending { end, by });
                self.enter(turn, Phase::Emptying { then });
                Report::Fresh
            }
            Phase::Stopped
            | Phase::Preparing
            | Phase::Spawning
            | Phase::Emptying { .. }
            | Phase::Crashed { .. }
            | Phase::Retrying { .. }
            | Phase::Failed { .. }
            | Phase::Disabled => Report::Stale,
        }
    }

    /// What follows an end that nobody asked for: the list in the crate's docs.
    fn ended_unasked(&mut self, turn: &mut Turn<'_>, life: Life, end: End, seen: Tick) {
        let (died, why) = (end.at, self.explain(life, &end));
        let reason = match (end.oom, end.signal()) {
            (Some(true), Some(_)) => Reason::Oom,
            (_, Some(_)) => Reason::Signal,
            (_, None) => Reason::Exit,
        };
        let code = end.code();
        let policy = &self.spec.restart;
        let well = code.is_some_and(|code| policy.success_codes.contains(&code));
        let never = code.is_some_and(|code| policy.never_codes.contains(&code));
        let policy = policy.policy;
        self.record_exit(turn, life, Ending { end, by: By::Itself });
        let next = match (never, policy, well) {
            (true, _, _) => {
                Phase::Crashed { then: Then::Fail { why: format!("{why}, which is in never_codes") } }
            }
            (false, Policy::Never, true) | (false, Policy::OnFailure, true) => {
                Phase::Emptying { then: Then::Stop }
            }
            (false, Policy::Never, false) => {
                Phase::Crashed { then: Then::Fail { why: format!("{why}; policy = \"never\"") } }
            }
            (false, Policy::OnFailure, false) | (false, Policy::Always, _) => {
                let failure = Failure::Life(seen.since(life.started));
                Phase::Crashed { then: self.retry(turn, died, failure, reason, why) }
            }
        };
        self.enter(turn, next);
    }

    /// The planner or the keeper could not start the life.
    fn start_failed(&mut self, turn: &mut Turn<'_>, failure: StartFailure) {
        let why = failure.to_string();
        self.record(turn, turn.now, What::StartFailed { failure });
        let then = if self.spec.restart.policy == Policy::Never {
            Then::Fail { why }
        } else {
            self.retry(turn, turn.now, Failure::Start, Reason::Exit, why)
        };
        self.follow(turn, then);
    }

    /// Asks the series what follows a failure at `died`.
    fn retry(
        &mut self,
        turn: &mut Turn<'_>,
        died: Tick,
        failure: Failure,
        reason: Reason,
        why: String,
    ) -> Then {
        if self.memo.paused.is_some() {
            return Then::Fail { why: self.hold_back(why) };
        }
        match self.memo.series.decide(&self.spec.restart, died, failure, turn.dice.roll()) {
            Decision::Restart { delay, attempt } => {
                let due = died + delay;
                self.count_restart(turn, reason, attempt, died, due);
                // What could not be started is planned anew, even where the delay is zero.
                if delay.is_zero() && failure != Failure::Start {
                    Then::Spawn
                } else {
                    Then::Restart { due, why }
                }
            }
            Decision::GiveUp { restarts } => {
                debug_assert_eq!(self.spec.restart.give_up, GiveUp::Fail);
                Then::Fail { why: format!("{GAVE_UP}{restarts} restarts; the last end: {why}") }
            }
        }
    }

    /// Nothing is left of the tree.
    pub(crate) fn cleared(&mut self, turn: &mut Turn<'_>, incarnation: Incarnation) -> Report {
        if incarnation != self.memo.incarnation {
            return Report::Stale;
        }
        match &mut self.memo.phase {
            Phase::Emptying { then } | Phase::Crashed { then } => {
                let then = std::mem::replace(then, Then::Stop);
                self.follow(turn, then);
                Report::Fresh
            }
            Phase::Stopped
            | Phase::Preparing
            | Phase::Spawning
            | Phase::Running(_)
            | Phase::Replacing(..)
            | Phase::Stopping { .. }
            | Phase::Retrying { .. }
            | Phase::Failed { .. }
            | Phase::Disabled => Report::Stale,
        }
    }

    /// A deadline of this service has passed.
    pub(crate) fn deadline(&mut self, turn: &mut Turn<'_>) {
        if self.memo.paused.and_then(|pause| pause.until).is_some_and(|until| until <= turn.now) {
            self.end_pause(turn);
        }
        if self.memo.phase.deadline().is_none_or(|due| due > turn.now) {
            return;
        }
        match self.memo.phase {
            Phase::Stopping { .. } => self.kill_tree(turn),
            Phase::Retrying { .. } => self.begin(turn),
            Phase::Stopped
            | Phase::Preparing
            | Phase::Spawning
            | Phase::Running(_)
            | Phase::Replacing(..)
            | Phase::Emptying { .. }
            | Phase::Crashed { .. }
            | Phase::Failed { .. }
            | Phase::Disabled => debug_assert!(false, "a deadline without a wait in {:?}", self.memo.phase),
        }
    }
}
