//! A turn: the core takes inputs; its orders go to the keeper in one packet; then others are told.

use std::sync::Arc;
use std::time::Duration;

use defib_core::model::{Cause, ServiceName, UNWATCHED, What};
use defib_core::{Effect, Effects, Input};

use super::Daemon;
use crate::daemon::journal::Event;
use crate::daemon::kept;
use crate::daemon::link::LinkError;
use crate::effect::clock;
use crate::effect::planner::Job;
use crate::keeper::protocol::Order;

impl Daemon {
    /// Lets the core take inputs that belong together, and carries out what it wants.
    pub(in crate::daemon) fn turn(
        &mut self,
        inputs: impl IntoIterator<Item = Input>,
    ) -> Result<(), LinkError> {
        let rest = self.decide(inputs)?;
        self.tell_all(rest);
        Ok(())
    }

    /// Lets the core take inputs, and sends its orders to the keeper in one packet. Gives back what others are to know.
    pub(in crate::daemon) fn decide(
        &mut self,
        inputs: impl IntoIterator<Item = Input>,
    ) -> Result<Vec<Effect>, LinkError> {
        let rest = self.orders(inputs)?;
        self.link.send_turn()?;
        self.acted = clock::now();
        Ok(rest)
    }

    /// Lets the core take inputs, and adds its orders to the turn, which others may still add to.
    pub(in crate::daemon) fn orders(
        &mut self,
        inputs: impl IntoIterator<Item = Input>,
    ) -> Result<Vec<Effect>, LinkError> {
        let mut effects = Effects::new();
        for input in inputs {
            self.core.handle(clock::now(), input, &mut effects);
        }
        let mut wanted: Vec<Effect> = effects.drain().collect();
        // Before the first order goes out: the acknowledgement of an end is among them.
        wanted.retain(|effect| match effect {
            Effect::Record(record) => self.ends.take_in(record),
            _ => true,
        });
        let mut rest = Vec::new();
        for effect in wanted {
            if let Some(effect) = self.order(effect)? {
                rest.push(effect);
            }
        }
        Ok(rest)
    }

    pub(in crate::daemon) fn tell_all(&mut self, rest: Vec<Effect>) {
        // Views before replies: whoever gets an answer and looks must see what the answer says. And what an answer
        // promises is told to the state database before, so that the answer can wait until it is written.
        let (views, others): (Vec<_>, Vec<_>) =
            rest.into_iter().partition(|effect| matches!(effect, Effect::Publish { .. }));
        let (replies, others): (Vec<_>, Vec<_>) =
            others.into_iter().partition(|effect| matches!(effect, Effect::Reply { .. }));
        for effect in views.into_iter().chain(others) {
            self.tell(effect);
        }
        self.memory.flush();
        replies.into_iter().for_each(|reply| self.tell(reply));
    }

    /// Turns an effect into an order to the keeper or a job for the planner; gives back what is neither.
    fn order(&mut self, effect: Effect) -> Result<Option<Effect>, LinkError> {
        let slot_of = |service: &ServiceName| self.slots.slot(service);
        let order =
            match effect {
                Effect::Prepare { service, draft } => {
                    if let (Some(slot), Some(spec)) = (slot_of(&service), self.slots.spec(&service)) {
                        let plumbing = self.capture.plumbing(Some(slot));
                        let held = self.sockets.of(slot);
                        let (spec, of) = (Arc::clone(spec), (slot, draft));
                        self.planner.ask(Job::Plan { spec, of, plumbing, held });
                    }
                    return Ok(None);
                }
                Effect::CloseSockets { service } => {
                    if let Some(slot) = slot_of(&service) {
                        let deserted = self.sockets.close(slot, &mut self.link)?;
                        self.remove_paths(deserted);
                        self.link.order(Order::ClosePorts { slot }, Vec::new())?;
                    }
                    return Ok(None);
                }
                Effect::Forget { ref service } => {
                    if let Some(slot) = slot_of(service) {
                        self.link.order(Order::Forget { slot }, Vec::new())?;
                    }
                    return Ok(Some(effect));
                }
                Effect::Spawn { service, incarnation } => {
                    slot_of(&service).map(|slot| Order::Spawn { slot, incarnation: incarnation.0 })
                }
                Effect::Signal { service, incarnation, signal } => slot_of(&service)
                    .map(|slot| Order::Signal { slot, incarnation: incarnation.0, signal: signal.0 }),
                Effect::KillTree { service, incarnation } => {
                    slot_of(&service).map(|slot| Order::KillTree { slot, incarnation: incarnation.0 })
                }
                Effect::Stand { service, incarnation, standing } => {
                    slot_of(&service).map(|slot| Order::Stand { slot, incarnation: incarnation.0, standing })
                }
                Effect::Withdraw { service, withdrawal } => {
                    slot_of(&service).map(|slot| Order::Withdraw { slot, withdrawal: withdrawal.0 })
                }
                Effect::Acknowledge { service, incarnation, followed } => slot_of(&service)
                    .map(|slot| Order::Acknowledge { slot, incarnation: incarnation.0, followed }),
                Effect::Remember { service, memo } => slot_of(&service).and_then(|slot| {
                    let bytes = kept::write(&service, &memo);
                    self.memory.note(service, slot, memo);
                    // A memo is made of numbers and text: it can always be written.
                    bytes.ok().map(|memo| Order::Remember { slot, memo })
                }),
                Effect::Record(_) | Effect::Publish { .. } | Effect::Reply { .. } | Effect::Leave => {
                    return Ok(Some(effect));
                }
            };
        if let Some(order) = order {
            self.link.order(order, Vec::new())?;
        }
        Ok(None)
    }

    /// Lets others know.
    pub(in crate::daemon) fn tell(&mut self, effect: Effect) {
        match effect {
            Effect::Record(record) => {
                // From here on it is known to have been told: whoever has not got so far gets it from the next daemon.
                let place = self.ends.tell(&record, self.journal.next());
                log(&record.service, &record.what);
                self.count(&record);
                self.memory.record(&record, place);
                self.journal.tell(record.at, Event::Service(record));
            }
            Effect::Publish { service } => {
                if let Some(view) = self.core.view(&service) {
                    if let Some(spec) = self.slots.spec(&service) {
                        self.pid_files.tell(spec, view.pid);
                    }
                    self.views.send_modify(|views| {
                        Arc::make_mut(views).insert(service, Arc::new(view));
                    });
                }
            }
            Effect::Reply { id, reply } => {
                // The client may have given up.
                if let Some(waiting) = self.replies.remove(&id) {
                    waiting.send(reply).ok();
                }
            }
            Effect::Forget { service } => self.forget(&service),
            Effect::Leave => self.done = true,
            Effect::Prepare { .. }
            | Effect::Spawn { .. }
            | Effect::Stand { .. }
            | Effect::Withdraw { .. }
            | Effect::Signal { .. }
            | Effect::KillTree { .. }
            | Effect::Acknowledge { .. }
            | Effect::CloseSockets { .. }
            | Effect::Remember { .. } => {}
        }
    }
}

/// The daemon's own log of what happened to a service.
pub(in crate::daemon) fn log(service: &ServiceName, what: &What) {
    match what {
        What::State { from, to, why } => {
            tracing::info!(%service, %from, %to, why = why.as_str(), "state");
        }
        What::Exit { ending, .. } => {
            let end = &ending.end;
            let (cause, by) = (end.cause().map_or(UNWATCHED, Cause::as_str), ending.by.as_str());
            tracing::info!(%service, cause, by, code = end.code(),
                signal = end.signal().map(tracing::field::display), core = end.core(), "exit");
        }
        What::StartFailed { failure } => {
            // As a string, which the log escapes: the program may be called anything.
            tracing::warn!(%service, failure = failure.to_string(), "start failed");
        }
        What::PortTaken(taken) => tracing::warn!(%service, "{taken}"),
        What::Listen { port } => tracing::info!(%service, port, "listen"),
        What::Unlisten { port } => tracing::info!(%service, port, "unlisten"),
        What::Restart { reason, attempt, delay_ns } => {
            let delay = Duration::from_nanos(*delay_ns);
            tracing::info!(%service, reason = reason.as_str(), attempt, ?delay, "restart");
        }
    }
}
