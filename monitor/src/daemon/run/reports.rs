//! What the keeper reports, and what the source knows of it.

use std::time::Duration;

use defib_core::Input;
use defib_core::model::{KernelFact, Tick, WaitStatus, Withdrawal, Witness};

use super::Daemon;
use crate::daemon::journal::Event;
use crate::daemon::link::LinkError;
use crate::daemon::ports;
use crate::daemon::reload::ReloadAsk;
use crate::effect::clock;
use crate::keeper::protocol::{LifeEnd, Order, Report, SlotState};
use crate::source::{Batch, Life};

/// A second signal to end within this time is the first one again: timeout(1) and some init systems signal the process
/// and then its group. A later one means: hurry.
const ECHO: Duration = Duration::from_millis(500);

impl Daemon {
    /// A report of the keeper.
    pub(in crate::daemon) fn hear(&mut self, report: Report) -> Result<(), LinkError> {
        match report {
            Report::Slot { slot, state } => self.hear_slot(slot, &state),
            Report::Followed { slot, end, output } => self.hear_followed(slot, &end, output),
            Report::Withdrawn { slot, withdrawal } => {
                let withdrawal = Withdrawal(withdrawal);
                let service = self.slots.service(slot).cloned();
                self.turn(service.map(|service| Input::Withdrawn { service, withdrawal }))
            }
            Report::Signal(libc::SIGHUP) => {
                tracing::info!("SIGHUP: the configuration is read again");
                self.own_log.reopen();
                self.reloads.ask(ReloadAsk { dry_run: false, reply: None });
                Ok(())
            }
            Report::Signal(libc::SIGQUIT) => {
                tracing::info!("SIGQUIT: asked to leave, and the services alone");
                self.leave_alive();
                Ok(())
            }
            Report::Signal(signal) => {
                tracing::info!(signal, "asked to end");
                let hurry = self.leaving_since.is_some_and(|first| clock::now().since(first) > ECHO);
                self.leave(hurry)
            }
            Report::Ping => {
                self.link.order(Order::Pong, Vec::new())?;
                self.link.send_turn()
            }
            Report::Held { .. }
            | Report::Memo { .. }
            | Report::Pipes { .. }
            | Report::Sockets { .. }
            | Report::Restarted { .. }
            | Report::Synced => Ok(()),
            Report::Restart { refused } => {
                self.restart_answered(refused);
                Ok(())
            }
        }
    }

    fn hear_slot(&mut self, slot: u32, state: &SlotState) -> Result<(), LinkError> {
        let heard = clock::now();
        let life = life(slot, state);
        self.slots.occupy(slot, life.filter(|_| matches!(state, SlotState::Living { .. })));
        let batch = self.ask_source(life.as_ref());
        // Before the order for the next life: what comes then is that one's.
        if let Some(service) = self.slots.service(slot) {
            self.capture.hear(slot, service, state);
        }
        let end = match state {
            SlotState::Ended { end, .. } => Some(*end),
            SlotState::Empty { .. }
            | SlotState::Starting { .. }
            | SlotState::Living { .. }
            | SlotState::Failed { .. } => None,
        };
        let witness = end.and_then(|end| self.witness(slot, &end));
        let death = end.map(|end| Death::new(slot, &end, witness.as_ref(), heard));
        self.take_report(self.slots.inputs(slot, state, witness), death, batch)?;
        if let Some(service) = self.slots.service(slot) {
            self.memory.hear(service, state);
        }
        if let SlotState::Living { started, .. } = state {
            self.watch_ports(slot, *started);
        }
        Ok(())
    }

    /// A life has ended, and the keeper has begun the next one by the standing order.
    fn hear_followed(&mut self, slot: u32, end: &LifeEnd, output: [u64; 2]) -> Result<(), LinkError> {
        let heard = clock::now();
        self.slots.occupy(slot, None);
        let batch = self.ask_source(Some(&ended_life(slot, end)));
        if let Some(service) = self.slots.service(slot) {
            self.capture.followed(slot, service, end, output);
        }
        let witness = self.witness(slot, end);
        let death = Death::new(slot, end, witness.as_ref(), heard);
        self.take_report(self.slots.followed(slot, *end, witness), Some(death), batch)?;
        if let Some(service) = self.slots.service(slot) {
            self.memory.followed(service);
        }
        Ok(())
    }

    /// Lets the core take what the keeper has reported; then tells, first what the kernel told.
    fn take_report(
        &mut self,
        inputs: impl IntoIterator<Item = Input>,
        death: Option<Death>,
        mut batch: Batch,
    ) -> Result<(), LinkError> {
        let rest = self.decide(inputs)?;
        if let Some(death) = death {
            death.log();
        }
        self.source.settle(&mut batch);
        self.tell_events(batch);
        self.tell_all(rest);
        Ok(())
    }

    /// What the source knows by now. The kernel's side of what the keeper tells was written before the keeper could know,
    /// so it is all there. It is told after the orders have gone out: see `tell_events`.
    fn ask_source(&mut self, life: Option<&Life>) -> Batch {
        let mut batch = Batch::default();
        if let Some(life) = life {
            self.catch_up(life, &mut batch);
            let before = batch.events.len();
            self.source.claim(life, &mut batch);
            batch.events[before..].iter().for_each(|event| self.slots.learn(event));
        }
        batch
    }

    /// What the source knows of an end that the keeper reports.
    fn witness(&mut self, slot: u32, end: &LifeEnd) -> Option<Witness> {
        let (life, status) = (ended_life(slot, end), end.status);
        let start = self.slots.start_of(slot, end.pid);
        // Of an end that the keeper could not read, the source is asked as of the one kind that it may know more of.
        let asked = WaitStatus(status.unwrap_or(libc::SIGKILL));
        let witness = self.source.take_end(&life, start, asked);
        let Some(status) = status else {
            let told = witness.as_ref().is_some_and(|witness| witness.status.is_some());
            let recorded = (!told).then(|| self.source.recorded_end(end.pid, end.started)).flatten();
            return recorded.or(witness);
        };
        let witness = witness?;
        match witness.status {
            // The keeper knows, so a source that says otherwise speaks of another death, or is wrong altogether.
            Some(WaitStatus(other)) if other != status => {
                tracing::error!(slot, keeper = status, source = other, "two statuses of one death");
                None
            }
            Some(_) | None => Some(witness),
        }
    }

    /// Tells of what the kernel told. Each tale may wake the surfaces' thread, so none is told between a death and the
    /// order for the next life.
    pub(super) fn tell_events(&mut self, batch: Batch) {
        self.count_events(&batch);
        for event in batch.events {
            // The record of an end is the core's, once it is complete.
            let told = matches!(event.fact, KernelFact::Exit(_)) && event.main;
            if let Some(service) = event.slot.and_then(|slot| self.slots.service(slot))
                && !told
            {
                let service = service.clone();
                match ports::hint(&event) {
                    Some((listener, begins)) => self.look_at_hint(&service, &event, listener, begins),
                    None => self.journal.tell(event.at, Event::Kernel { service, event }),
                }
            }
        }
        let count = batch.lost;
        if count > 0 {
            self.look_again(count);
            self.journal.tell(clock::now(), Event::Lost { source: self.source_name, count });
            self.look_at_ports();
        }
    }
}

/// The life that a slot's state is about.
fn life(slot: u32, state: &SlotState) -> Option<Life> {
    match state {
        SlotState::Living { pid, started, .. } => Some(Life { slot, pid: *pid, started: Tick(*started) }),
        SlotState::Ended { end, .. } => Some(ended_life(slot, end)),
        SlotState::Empty { .. } | SlotState::Starting { .. } | SlotState::Failed { .. } => None,
    }
}

fn ended_life(slot: u32, end: &LifeEnd) -> Life {
    Life { slot, pid: end.pid, started: Tick(end.started) }
}

/// When a death was told, for who looks where the time goes.
struct Death {
    slot: u32,
    died: Option<u64>,
    seen: u64,
    heard: u64,
}

impl Death {
    fn new(slot: u32, end: &LifeEnd, witness: Option<&Witness>, heard: Tick) -> Self {
        let died = witness.and_then(|witness| witness.at).map(|at| at.0);
        Self { slot, died, seen: end.at, heard: heard.0 }
    }

    /// The orders that follow it have been sent.
    fn log(self) {
        let Self { slot, died, seen, heard } = self;
        tracing::debug!(slot, died, seen, heard, ordered = clock::now().0, "a death was handled");
    }
}
