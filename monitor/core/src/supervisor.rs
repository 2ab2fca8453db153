//! The set of services: finds the one that an input is about, and keeps its memo, view and deadline true.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::effect::{Effect, Effects, Reply};
use crate::input::{Input, Verb};
use crate::memo::Memo;
use crate::model::{RequestId, ServiceName, ServiceSpec, ServiceView, Tick};
use crate::phase::{Life, Phase};
use crate::series::Dice;
use crate::service::{Report, Service, Turn};
use crate::timers::Timers;

/// All services of a daemon.
#[derive(Debug)]
pub struct Supervisor {
    /// Each in an allocation of its own: the nodes of the map are two thirds full, and a service takes a kilobyte.
    services: BTreeMap<ServiceName, Box<Service>>,
    /// All that are configured. Those that do not go on where an earlier daemon was autostart at `Begin`.
    fresh: Vec<ServiceName>,
    /// Services that ran when the keeper was torn away: they start at `Begin`.
    torn: Vec<ServiceName>,
    timers: Timers,
    dice: Dice,
    leaving: Leaving,
    stale: u64,
}

/// Whether the daemon is to leave.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Leaving {
    No,
    /// `Shutdown` or `Hurry` came; not every service has ended.
    Asked,
    /// `Leave` has been said.
    Told,
}

impl Supervisor {
    /// No services yet. `seed` is where the jitter comes from.
    pub fn new(seed: u64) -> Self {
        Self {
            services: BTreeMap::new(),
            fresh: Vec::new(),
            torn: Vec::new(),
            timers: Timers::default(),
            dice: Dice(seed),
            leaving: Leaving::No,
            stale: 0,
        }
    }

    /// Takes one input at `now` and adds what is to be done to `fx`.
    pub fn handle(&mut self, now: Tick, input: Input, fx: &mut Effects) {
        match input {
            Input::Configure(specs) => {
                for spec in specs {
                    self.fresh.push(spec.name.clone());
                    self.services.insert(spec.name.clone(), Box::new(Service::new(spec)));
                }
            }
            Input::Resume { service, memo } => {
                let known = self.services.contains_key(&service);
                if !known {
                    let unknown = Service::new(Arc::new(ServiceSpec::unknown(service.clone())));
                    self.services.insert(service.clone(), Box::new(unknown));
                }
                self.with(now, &service, fx, |it, turn| {
                    it.resume(turn, *memo);
                    if known { Report::Fresh } else { it.remove(turn) }
                });
            }
            Input::Recall { service, memo, torn } => {
                let mut ran = false;
                self.with(now, &service, fx, |it, _| {
                    ran = it.recall(*memo, torn);
                    Report::Fresh
                });
                self.torn.extend(ran.then_some(service));
            }
            Input::Adopted { service, incarnation, pid, at, lost, holds } => {
                let life = Life { pid, started: at };
                self.with(now, &service, fx, |it, turn| it.adopted(turn, incarnation, life, lost, holds));
            }
            Input::Deserted { service, lost } => {
                self.with(now, &service, fx, |it, turn| it.deserted(turn, lost));
            }
            Input::Begin => {
                for name in std::mem::take(&mut self.torn) {
                    self.with(now, &name, fx, |it, turn| {
                        it.autostart(turn);
                        Report::Fresh
                    });
                }
                let goes_on = |name: &ServiceName| self.services.get(name).is_some_and(|it| it.goes_on());
                let mut fresh = std::mem::take(&mut self.fresh);
                fresh.retain(|name| !goes_on(name));
                for name in fresh {
                    self.with(now, &name, fx, |it, turn| {
                        if it.spec().autostart {
                            it.autostart(turn);
                        }
                        Report::Fresh
                    });
                }
            }
            Input::Reload(specs) => self.reload(now, specs, fx),
            Input::Request { id, service, verb } => self.request(now, id, &service, verb, fx),
            Input::Prepared { service, draft, failure, taken } => {
                self.with(now, &service, fx, |it, turn| {
                    if failure.is_none() {
                        it.sockets_came();
                    }
                    it.prepared(turn, draft, failure, taken)
                });
            }
            Input::Spawned { service, incarnation, pid, at } => {
                let life = Life { pid, started: at };
                self.with(now, &service, fx, |it, turn| it.spawned(turn, incarnation, life));
            }
            Input::SpawnFailed { service, incarnation, failure } => {
                self.with(now, &service, fx, |it, turn| it.spawn_failed(turn, incarnation, failure));
            }
            Input::Ended { service, incarnation, pid, started, end, seen, followed } => {
                let (life, status) = (Life { pid, started }, end.status);
                self.with(now, &service, fx, |it, turn| {
                    it.acknowledge(turn, incarnation, followed);
                    let report = it.ended(turn, incarnation, life, end, seen);
                    if followed { it.followed(turn, incarnation, status, (started, seen)) } else { report }
                });
            }
            Input::Withdrawn { service, withdrawal } => {
                self.with(now, &service, fx, |it, turn| it.withdrawn(turn, withdrawal));
            }
            Input::Cleared { service, incarnation } => {
                self.with(now, &service, fx, |it, turn| it.cleared(turn, incarnation));
            }
            Input::Port { service, incarnation, port, listening } => {
                self.with(now, &service, fx, |it, turn| it.port(turn, incarnation, port, listening));
            }
            Input::Deadline => {
                while let Some(service) = self.timers.due(now) {
                    self.with(now, &service, fx, |it, turn| {
                        it.deadline(turn);
                        Report::Fresh
                    });
                }
            }
            Input::Shutdown => self.shutdown(now, false, fx),
            Input::Hurry => self.shutdown(now, true, fx),
        }
        self.leave_when_empty(fx);
    }

    /// When [`Input::Deadline`] is wanted next.
    pub fn next_deadline(&self) -> Option<Tick> {
        self.timers.next()
    }

    /// The view of one service.
    pub fn view(&self, service: &ServiceName) -> Option<ServiceView> {
        self.services.get(service).map(|it| it.view())
    }

    /// The views of all services, by name.
    pub fn views(&self) -> impl Iterator<Item = ServiceView> {
        self.services.values().map(|it| it.view())
    }

    /// The memos of all services, by name: for who has lost them.
    pub fn memos(&self) -> impl Iterator<Item = (&ServiceName, &Memo)> {
        self.services.iter().map(|(name, it)| (name, it.memo()))
    }

    /// How many reports were dropped because they were about another life, or came twice.
    pub fn stale_reports(&self) -> u64 {
        self.stale
    }

    fn request(&mut self, now: Tick, id: RequestId, service: &ServiceName, verb: Verb, fx: &mut Effects) {
        let Some(it) = self.services.get(service) else {
            return fx.push(Effect::Reply { id, reply: Reply::NotFound });
        };
        let refusal = match (self.leaving, it.removed(), verb) {
            (Leaving::Asked | Leaving::Told, _, Verb::Start | Verb::Restart) => {
                Some("defib is shutting down")
            }
            (Leaving::No, true, Verb::Start | Verb::Restart | Verb::Pause(_)) => {
                Some("it is configured no longer, and being ended")
            }
            (Leaving::No | Leaving::Asked | Leaving::Told, ..) => None,
        };
        if let Some(why) = refusal {
            return fx.push(Effect::Reply { id, reply: Reply::Failed(why.to_owned()) });
        }
        self.with(now, service, fx, |it, turn| {
            it.request(turn, id, verb);
            Report::Fresh
        });
    }

    /// What has not changed is not touched.
    fn reload(&mut self, now: Tick, specs: Vec<Arc<ServiceSpec>>, fx: &mut Effects) {
        if self.leaving != Leaving::No {
            return;
        }
        let mut gone: BTreeSet<ServiceName> = self.services.keys().cloned().collect();
        for spec in specs {
            let name = spec.name.clone();
            if gone.remove(&name) {
                self.with(now, &name, fx, |it, turn| it.reload(turn, spec));
            } else {
                self.services.insert(name.clone(), Box::new(Service::new(spec)));
                self.with(now, &name, fx, |it, turn| {
                    if it.spec().autostart {
                        it.autostart(turn);
                    }
                    Report::Fresh
                });
            }
        }
        for name in gone {
            self.with(now, &name, fx, |it, turn| it.remove(turn));
        }
    }

    fn shutdown(&mut self, now: Tick, hurry: bool, fx: &mut Effects) {
        if self.leaving == Leaving::No {
            self.leaving = Leaving::Asked;
        }
        self.fresh.clear();
        self.torn.clear();
        let names: Vec<_> = self.services.keys().cloned().collect();
        for name in names {
            self.with(now, &name, fx, |it, turn| {
                it.shutdown(turn, hurry);
                Report::Fresh
            });
        }
    }

    /// Lets one service take an input.
    fn with(
        &mut self,
        now: Tick,
        service: &ServiceName,
        fx: &mut Effects,
        take: impl FnOnce(&mut Service, &mut Turn<'_>) -> Report,
    ) {
        let Some(it) = self.services.get_mut(service) else {
            self.stale += 1;
            return;
        };
        let mut turn = Turn { now, fx, dice: &mut self.dice };
        if take(it, &mut turn) == Report::Stale {
            self.stale += 1;
        }
        it.settle_sockets(&mut turn);
        self.settle(now, service, fx);
    }

    /// After every transition: the standing order, the deadline, the memo and the view follow the phase.
    fn settle(&mut self, now: Tick, service: &ServiceName, fx: &mut Effects) {
        let Some(it) = self.services.get_mut(service) else { return };
        if it.has_changed() {
            it.keep_order(now, fx);
        }
        if let Some(memo) = it.take_change() {
            self.timers.set(service, it.due());
            fx.push(Effect::Remember { service: service.clone(), memo: Box::new(memo) });
            fx.push(Effect::Publish { service: service.clone() });
        }
        if it.removed() && !it.phase().occupied() {
            self.timers.set(service, None);
            it.answer_confirmed(fx);
            self.services.remove(service);
            fx.push(Effect::Forget { service: service.clone() });
        }
    }

    fn leave_when_empty(&mut self, fx: &mut Effects) {
        let idle = |it: &Service| !it.phase().occupied() && *it.phase() != Phase::Preparing;
        if self.leaving == Leaving::Asked && self.services.values().all(|it| idle(it)) {
            self.leaving = Leaving::Told;
            fx.push(Effect::Leave);
        }
    }
}
