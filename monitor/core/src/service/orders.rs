//! Standing orders: what the keeper may do without asking, kept true after every transition.

use super::verbs::reply;
use super::{Report, Service, Turn};
use crate::effect::{Effect, Effects, Reply};
use crate::model::{By, Incarnation, Policy, Reason, RequestId, Standing, Tick, WaitStatus, Withdrawal};
use crate::phase::{Phase, Then};

/// A withdrawal that the keeper has not confirmed: until then it may act by the order.
#[derive(Debug, Default)]
pub(super) struct Unconfirmed {
    withdrawal: Option<Withdrawal>,
    /// Who is answered then.
    waiting: Vec<(RequestId, Reply)>,
}

impl Service {
    /// The order that ought to stand: while the present life is to be followed by another of the same plan.
    fn ought_to_stand(&self, now: Tick) -> Option<Standing> {
        match self.memo.phase {
            Phase::Spawning | Phase::Running(_) => {}
            Phase::Stopped
            | Phase::Preparing
            | Phase::Replacing(..)
            | Phase::Stopping { .. }
            | Phase::Emptying { .. }
            | Phase::Crashed { .. }
            | Phase::Retrying { .. }
            | Phase::Failed { .. }
            | Phase::Disabled => return None,
        }
        // A life that began when its sockets had been given up has them; the next one would not.
        let held_back = self.removed
            || self.memo.outdated
            || self.memo.unplanned
            || self.memo.paused.is_some()
            || self.lacks_sockets();
        if held_back || self.spec.restart.policy == Policy::Never {
            return None;
        }
        let standing = self.memo.series.ahead(&self.spec.restart, now);
        (standing.immediate > 0 || standing.renewed > 0).then_some(standing)
    }

    /// Gives the keeper a new order, or withdraws the one that stands, if that is what the last transition calls for.
    pub(crate) fn keep_order(&mut self, now: Tick, fx: &mut Effects) {
        let standing = self.ought_to_stand(now);
        // A daemon that has just come goes by the order that stands, until it is told what the keeper has: it may be a new one.
        let resumed = std::mem::take(&mut self.resumed) && standing.is_some();
        if resumed || standing == self.memo.standing {
            return;
        }
        self.memo.standing = standing;
        self.changed = true;
        let (service, incarnation) = (self.spec.name.clone(), self.memo.incarnation);
        fx.push(match standing {
            Some(standing) => Effect::Stand { service, incarnation, standing },
            None => {
                let withdrawal = self.memo.withdrawal.next();
                self.memo.withdrawal = withdrawal;
                self.unconfirmed.withdrawal = Some(withdrawal);
                Effect::Withdraw { service, withdrawal }
            }
        });
    }

    /// The keeper has confirmed a withdrawal.
    pub(crate) fn withdrawn(&mut self, turn: &mut Turn<'_>, withdrawal: Withdrawal) -> Report {
        if self.unconfirmed.withdrawal != Some(withdrawal) {
            return Report::Stale;
        }
        self.unconfirmed.withdrawal = None;
        self.answer_confirmed(turn.fx);
        Report::Fresh
    }

    /// Answers a request once the keeper does nothing by itself any more.
    pub(super) fn reply_confirmed(&mut self, turn: &mut Turn<'_>, id: RequestId, answer: Reply) {
        self.keep_order(turn.now, turn.fx);
        if self.unconfirmed.withdrawal.is_some() {
            self.unconfirmed.waiting.push((id, answer));
        } else {
            reply(turn, id, answer);
        }
    }

    /// Answers whoever waits for a confirmation: it has come, or there is nothing left to act upon.
    pub(crate) fn answer_confirmed(&mut self, fx: &mut Effects) {
        for (id, reply) in self.unconfirmed.waiting.drain(..) {
            fx.push(Effect::Reply { id, reply });
        }
    }

    /// The keeper has begun the life after this one. It did so by an order that stood when the end came, so that is
    /// how it is, whatever has been decided meanwhile.
    pub(crate) fn followed(
        &mut self,
        turn: &mut Turn<'_>,
        incarnation: Incarnation,
        status: Option<WaitStatus>,
        (started, seen): (Tick, Tick),
    ) -> Report {
        if incarnation != self.memo.incarnation {
            return Report::Stale;
        }
        let reason =
            if status.and_then(WaitStatus::signal).is_some() { Reason::Signal } else { Reason::Exit };
        let (crashed, then) = match &mut self.memo.phase {
            Phase::Crashed { then } => (true, std::mem::replace(then, Then::Stop)),
            Phase::Emptying { then } => (false, std::mem::replace(then, Then::Stop)),
            Phase::Stopped
            | Phase::Preparing
            | Phase::Spawning
            | Phase::Running(_)
            | Phase::Replacing(..)
            | Phase::Stopping { .. }
            | Phase::Retrying { .. }
            | Phase::Failed { .. }
            | Phase::Disabled => return Report::Stale,
        };
        self.memo.incarnation = self.memo.incarnation.next();
        if let Some(standing) = &mut self.memo.standing {
            standing.follow(status, seen.since(started));
        }
        match (crashed, then) {
            (true, Then::Spawn | Then::Restart { .. }) => self.enter(turn, Phase::Spawning),
            (true, Then::Fail { .. }) => {
                // What was owed to a pause has been done before that was answered.
                self.settle_debt();
                self.count_restart(turn, reason, 0, seen, seen);
                self.enter(turn, Phase::Spawning);
            }
            (true, Then::Prepare) => {
                self.prepare(turn);
                self.enter(turn, Phase::Replacing(None, Reason::Manual));
            }
            (true, then) => self.ask_to_end(turn, None, By::Stop, then),
            (false, then) => {
                // Nobody has decided it, and nobody else counts it.
                self.count_restart(turn, reason, 0, seen, seen);
                self.ask_to_end(turn, None, By::Stop, then);
            }
        }
        Report::Fresh
    }
}
