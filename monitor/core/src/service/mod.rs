//! One service: every row of the table as a function, every function a match over all columns.
//!
//! Here is what all rows share; [`verbs`] has the rows of operators, [`reports`] those of planner and keeper, [`orders`] what
//! the keeper does by itself, [`pause`] and [`reload`] those of pauses and reloads, [`recall`] what an earlier keeper left, [`ports`] what it listens on, [`sockets`]
//! what is held for it, [`adoption`] what a new keeper means to it.

mod adoption;
mod orders;
mod pause;
mod ports;
mod recall;
mod reload;
mod reports;
mod sockets;
mod verbs;

use std::sync::Arc;

pub use adoption::KnownLife;
use orders::Unconfirmed;
pub(crate) use pause::Pause;

use crate::effect::{Effect, Effects};
use crate::memo::Memo;
use crate::model::{
    Ending, Incarnation, Paused, Reason, Record, ServiceSpec, ServiceView, Signal, Tick, What,
};
use crate::phase::{Life, Phase, Then};
use crate::series::Dice;
use crate::waiters::Waiters;

/// What a transition is given besides its input.
#[derive(Debug)]
pub(crate) struct Turn<'a> {
    /// The time of the input.
    pub(crate) now: Tick,
    /// Where its effects go.
    pub(crate) fx: &'a mut Effects,
    /// Chance, for the jitter.
    pub(crate) dice: &'a mut Dice,
}

/// A supervised service.
#[derive(Debug)]
pub(crate) struct Service {
    /// Shared with whoever else needs it: there may be thousands.
    spec: Arc<ServiceSpec>,
    memo: Memo,
    waiters: Waiters,
    unconfirmed: Unconfirmed,
    /// Whether it is configured no longer, and to be forgotten when nothing is left of it.
    removed: bool,
    /// Whether the memo differs from what was last remembered and published.
    changed: bool,
    /// Whether it goes on where an earlier daemon was.
    goes_on: bool,
    /// Whether the memo is an earlier daemon's, and nothing has been told since.
    resumed: bool,
}

/// A report that was about another life, or came twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(crate) enum Report {
    /// It was taken into account.
    Fresh,
    /// It changed nothing.
    Stale,
}

impl Service {
    /// A service that has never been started.
    pub(crate) fn new(spec: Arc<ServiceSpec>) -> Self {
        Self {
            spec,
            memo: Memo::new(),
            waiters: Waiters::default(),
            unconfirmed: Unconfirmed::default(),
            removed: false,
            changed: true,
            goes_on: false,
            resumed: false,
        }
    }

    /// Its specification.
    pub(crate) fn spec(&self) -> &ServiceSpec {
        &self.spec
    }

    /// Its memo.
    pub(crate) fn memo(&self) -> &Memo {
        &self.memo
    }

    /// Its phase.
    pub(crate) fn phase(&self) -> &Phase {
        &self.memo.phase
    }

    /// When it wants to be looked at.
    pub(crate) fn due(&self) -> Option<Tick> {
        let pause = self.memo.paused.and_then(|pause| pause.until);
        [self.memo.phase.deadline(), pause].into_iter().flatten().min()
    }

    /// Whether its memo differs from what was last remembered.
    pub(crate) fn has_changed(&self) -> bool {
        self.changed
    }

    /// Whether it goes on where an earlier daemon was, and is not to be started because this one begins.
    pub(crate) fn goes_on(&self) -> bool {
        self.goes_on
    }

    /// Its memo, if that has changed since this was last asked.
    pub(crate) fn take_change(&mut self) -> Option<Memo> {
        std::mem::take(&mut self.changed).then(|| self.memo.clone())
    }

    /// What the surfaces show of it.
    pub(crate) fn view(&self) -> ServiceView {
        let phase = &self.memo.phase;
        ServiceView {
            name: self.spec.name.clone(),
            description: self.spec.description.clone(),
            state: phase.state(),
            why: phase.why().to_owned(),
            pid: phase.life().map(|life| life.pid),
            incarnation: self.memo.incarnation,
            ready: self.ready(),
            wanted: phase.wanted(),
            enabled: !self.disabling(),
            paused: self.memo.paused.map(|pause| Paused { until: pause.until }),
            group: self.spec.service_group.clone(),
            adopted: phase.life().is_some() && self.memo.adopted == Some(self.memo.incarnation),
            started: phase.life().map(|life| life.started),
            restarts: self.memo.restarts,
            ports: self.spec.wanted_ports().into_iter().collect(),
            sockets: self.spec.launch.sockets.iter().map(|socket| self.held_socket(socket)).collect(),
            last_exit: self.memo.last_exit.clone(),
            next_start: match phase {
                Phase::Retrying { due, .. } | Phase::Crashed { then: Then::Restart { due, .. } } => {
                    Some(*due)
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
                | Phase::Disabled => None,
            },
        }
    }

    /// Goes on from what an earlier daemon remembered. What was asked of the planner is asked again; what was
    /// asked of the keeper has arrived there, and its reports follow.
    pub(crate) fn resume(&mut self, turn: &mut Turn<'_>, memo: Memo) {
        self.memo = memo;
        (self.changed, self.resumed, self.goes_on) = (true, true, true);
        match self.memo.phase {
            Phase::Preparing | Phase::Replacing(..) => self.prepare(turn),
            Phase::Running(_) if self.memo.unplanned => self.prepare(turn),
            Phase::Stopped
            | Phase::Spawning
            | Phase::Running(_)
            | Phase::Stopping { .. }
            | Phase::Emptying { .. }
            | Phase::Crashed { .. }
            | Phase::Retrying { .. }
            | Phase::Failed { .. }
            | Phase::Disabled => {}
        }
    }

    /// Goes where the end of a life leads.
    fn follow(&mut self, turn: &mut Turn<'_>, then: Then) {
        match then {
            Then::Stop => self.enter(turn, Phase::Stopped),
            Then::Disable => self.enter(turn, Phase::Disabled),
            Then::Prepare => self.begin(turn),
            // Its plan was made before a reload, or died with the keeper, or its sockets have been given up meanwhile.
            Then::Spawn if self.memo.outdated || self.memo.unplanned || self.lacks_sockets() => {
                self.begin(turn);
            }
            Then::Spawn => {
                self.memo.incarnation = self.memo.incarnation.next();
                self.spawn(turn);
            }
            Then::Restart { due, .. } if due <= turn.now => self.begin(turn),
            Then::Restart { due, why } => self.enter(turn, Phase::Retrying { due, why }),
            Then::Fail { why } => self.enter(turn, Phase::Failed { why }),
        }
    }

    /// Begins a new life with a new plan.
    fn begin(&mut self, turn: &mut Turn<'_>) {
        self.memo.incarnation = self.memo.incarnation.next();
        self.prepare(turn);
        self.enter(turn, Phase::Preparing);
    }

    /// Asks for a plan. The answer to an earlier question is stale from now on.
    fn prepare(&mut self, turn: &mut Turn<'_>) {
        self.memo.draft = self.memo.draft.next();
        self.changed = true;
        turn.fx.push(Effect::Prepare { service: self.spec.name.clone(), draft: self.memo.draft });
    }

    /// Begins to replace the life that runs: its successor's plan first.
    fn replace(&mut self, turn: &mut Turn<'_>, life: Life, reason: Reason) {
        self.prepare(turn);
        self.enter(turn, Phase::Replacing(Some(life), reason));
    }

    fn spawn(&mut self, turn: &mut Turn<'_>) {
        let effect = Effect::Spawn { service: self.spec.name.clone(), incarnation: self.memo.incarnation };
        turn.fx.push(effect);
        self.enter(turn, Phase::Spawning);
    }

    fn signal(&self, turn: &mut Turn<'_>, signal: Signal) {
        let (service, incarnation) = (self.spec.name.clone(), self.memo.incarnation);
        turn.fx.push(Effect::Signal { service, incarnation, signal });
    }

    /// SIGKILL to what is being stopped.
    fn kill_tree(&mut self, turn: &mut Turn<'_>) {
        if let Phase::Stopping { kill_at, .. } = &mut self.memo.phase {
            *kill_at = None;
            self.changed = true;
            let (service, incarnation) = (self.spec.name.clone(), self.memo.incarnation);
            turn.fx.push(Effect::KillTree { service, incarnation });
        }
    }

    pub(crate) fn acknowledge(&self, turn: &mut Turn<'_>, incarnation: Incarnation, followed: bool) {
        turn.fx.push(Effect::Acknowledge { service: self.spec.name.clone(), incarnation, followed });
    }

    /// Changes the phase, tells of it where users see a difference, and answers whoever waited for it.
    fn enter(&mut self, turn: &mut Turn<'_>, phase: Phase) {
        let from = self.memo.phase.state();
        self.memo.phase = phase;
        self.changed = true;
        if !self.memo.phase.may_have_process() {
            self.memo.listening.clear();
        }
        let (to, why) = (self.memo.phase.state(), self.memo.phase.why().to_owned());
        if from != to {
            self.record(turn, turn.now, What::State { from, to, why });
        }
        self.answer_waiters(turn);
    }

    /// Answers whoever waited for what is reached now.
    fn answer_waiters(&mut self, turn: &mut Turn<'_>) {
        self.waiters.settle(turn.now, turn.fx, &self.memo.phase, self.ready());
    }

    fn record(&self, turn: &mut Turn<'_>, at: Tick, what: What) {
        let pid = self.memo.phase.life().map(|life| life.pid);
        let (service, incarnation) = (self.spec.name.clone(), self.memo.incarnation);
        turn.fx.push(Effect::Record(Record { at, service, incarnation, pid, what }));
    }

    fn record_exit(&mut self, turn: &mut Turn<'_>, life: Life, ending: Ending) {
        let what = What::Exit { ending: ending.clone(), started: Some(life.started) };
        let (service, incarnation) = (self.spec.name.clone(), self.memo.incarnation);
        let record = Record { at: ending.end.at, service, incarnation, pid: Some(life.pid), what };
        turn.fx.push(Effect::Record(record));
        self.memo.last_exit = Some(ending);
    }

    fn count_restart(&mut self, turn: &mut Turn<'_>, reason: Reason, attempt: u32, died: Tick, due: Tick) {
        self.memo.restarts += 1;
        let delay_ns = due.0.saturating_sub(died.0);
        self.record(turn, turn.now, What::Restart { reason, attempt, delay_ns });
    }

    /// Whether it is disabled, or will be once its tree is empty.
    fn disabling(&self) -> bool {
        match &self.memo.phase {
            Phase::Disabled => true,
            Phase::Stopping { then, .. } | Phase::Emptying { then } | Phase::Crashed { then } => {
                *then == Then::Disable
            }
            Phase::Stopped
            | Phase::Preparing
            | Phase::Spawning
            | Phase::Running(_)
            | Phase::Replacing(..)
            | Phase::Retrying { .. }
            | Phase::Failed { .. } => false,
        }
    }
}
