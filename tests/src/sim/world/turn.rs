//! One turn of the core: its effects, as far as they are carried out, and the invariants.

use std::collections::BTreeMap;

use defib_core::model::{Draft, ServiceName, ServiceSpec, ServiceView, Tick};
use defib_core::{Effect, Effects, Input, Reply, Verb};

use super::{Packet, World, by_name};
use crate::sim::invariants::{self, Violation};

/// The death of the daemon `turns` turns from now, after it has carried out so many effects of that turn.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fuse {
    pub(super) turns: u32,
    pub(super) effects: u32,
}

/// One input of the core and what came of it.
#[derive(Debug)]
pub(crate) struct Turn {
    pub(crate) at: Tick,
    pub(crate) input: Input,
    /// The services that a reload has changed or removed, as they were before.
    pub(crate) changed: BTreeMap<ServiceName, ServiceSpec>,
    /// What the core wanted.
    pub(crate) effects: Vec<Effect>,
    /// How many of the effects were carried out.
    pub(crate) reach: usize,
    /// Whether the orders among them arrived at the keeper: all do, or none.
    pub(crate) sent: bool,
    /// The requests that were answered; `None` for one that nobody waited for.
    pub(crate) answers: Vec<Option<Answer>>,
    /// The views of the core after the turn, and its deadline; none if the daemon died of it.
    pub(crate) views: Vec<ServiceView>,
    pub(crate) deadline: Option<Tick>,
}

/// What a client was told.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) service: ServiceName,
    pub(crate) verb: Verb,
    pub(crate) reply: Reply,
}

impl Turn {
    /// The effects that were carried out before the daemon died, if it did.
    pub(crate) fn told(&self) -> &[Effect] {
        &self.effects[..self.reach]
    }

    /// The service that a request of an operator was about.
    pub(crate) fn asked(&self) -> Option<(&ServiceName, Verb)> {
        match &self.input {
            Input::Request { service, verb, .. } => Some((service, *verb)),
            _ => None,
        }
    }
}

impl World {
    /// One input, its effects, and the invariants. A daemon that is dead takes no turn.
    pub(super) fn turn(&mut self, input: Input) -> Result<(), Violation> {
        self.turn_with(None, input)
    }

    /// The same; the orders are sent together with a plan.
    pub(super) fn turn_with(
        &mut self,
        plan: Option<(Draft, ServiceSpec)>,
        input: Input,
    ) -> Result<(), Violation> {
        let Some(daemon) = &mut self.daemon else { return Ok(()) };
        let mut fx = Effects::new();
        daemon.core.handle(self.now, input.clone(), &mut fx);
        let effects: Vec<_> = fx.drain().collect();

        let death = match self.fuse {
            Some(Fuse { turns: 0, effects }) => Some(effects as usize),
            Some(Fuse { turns, effects }) => {
                self.fuse = Some(Fuse { turns: turns - 1, effects });
                None
            }
            None => None,
        };
        // The orders of a turn are sent in one piece before anybody hears an answer.
        let last_word = |effect: &Effect| matches!(effect, Effect::Reply { .. } | Effect::Leave);
        let send_at = effects.iter().position(last_word).unwrap_or(effects.len());
        let reach = death.unwrap_or(effects.len()).min(effects.len());
        let sent = reach > send_at || reach == effects.len();
        let mut turn = Turn {
            at: self.now,
            input,
            changed: BTreeMap::new(),
            effects,
            reach,
            sent,
            answers: Vec::new(),
            views: Vec::new(),
            deadline: None,
        };
        self.reload(&mut turn);
        self.carry_out(&mut turn, plan);
        if death.is_some() {
            self.fuse = None;
            self.daemon = None;
        }
        if let Some(daemon) = &self.daemon {
            turn.views = daemon.core.views().collect();
            turn.deadline = daemon.core.next_deadline();
        }
        invariants::check(self, &turn)?;
        self.past.observe(turn, &self.specs);
        if self.left {
            self.daemon = None;
        }
        Ok(())
    }

    /// A configuration is accepted together with the orders that it leads to.
    fn reload(&mut self, turn: &mut Turn) {
        if let Input::Reload(services) = &turn.input {
            let new = by_name(services.iter().map(AsRef::as_ref));
            let other = |old: &&ServiceSpec| new.get(&old.name) != Some(*old);
            turn.changed = by_name(self.setup.services.iter().filter(other));
            if turn.sent {
                self.setup.services = new.values().cloned().collect();
                self.specs.extend(new);
            }
        }
    }

    fn carry_out(&mut self, turn: &mut Turn, plan: Option<(Draft, ServiceSpec)>) {
        let Some(daemon) = &mut self.daemon else { return };
        if turn.sent {
            let records = turn.records().cloned().collect();
            self.wire.push_back(Packet { effects: turn.effects.clone(), plan, records });
        }
        for effect in &turn.effects[..turn.reach] {
            match effect {
                Effect::Prepare { service, draft } => {
                    // A reload that is lost with its daemon has not brought the service into this world.
                    let spec = self.specs.get(service).cloned();
                    daemon.plans.extend(spec.map(|spec| (*draft, spec)));
                }
                // Answers and reports name the slot that they are for, which is not used again.
                Effect::Forget { service } => {
                    if turn.sent {
                        self.keeper.seat_mut(service).forgotten = true;
                    }
                    daemon.mailbox.retain(|(of, _)| of != service);
                    daemon.plans.retain(|(_, spec)| spec.name != *service);
                    daemon.looks.retain(|(of, ..)| of != service);
                }
                Effect::Reply { id, reply } => {
                    let asked = daemon.open.remove(id);
                    let reply = reply.clone();
                    turn.answers.push(asked.map(|(service, verb)| Answer { service, verb, reply }));
                }
                Effect::Leave => self.left = true,
                Effect::Spawn { .. }
                | Effect::Stand { .. }
                | Effect::Withdraw { .. }
                | Effect::Signal { .. }
                | Effect::KillTree { .. }
                | Effect::Acknowledge { .. }
                | Effect::Remember { .. }
                | Effect::CloseSockets { .. }
                | Effect::Record(_)
                | Effect::Publish { .. } => {}
            }
        }
    }
}
