//! What an onlooker remembers of a world: only what was told to somebody outside the core.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use defib_core::model::{
    Draft, Incarnation, Record, ServiceName, ServiceSpec, ServiceView, State, Tick, What,
};
use defib_core::{Effect, Input, Reply, Verb};

use super::world::{Answer, Order, Turn};

/// One life of one service.
pub(crate) type Life = (ServiceName, Incarnation);

/// The history so far. A turn whose orders were lost with its daemon has not happened, whoever heard of it.
#[derive(Debug, Default)]
pub(crate) struct Past {
    /// Lives whose end has been told.
    pub(crate) ended: BTreeSet<Life>,
    /// Lives whose failure to start has been told.
    pub(crate) unborn: BTreeSet<Life>,
    /// Lives whose tree has had SIGKILL.
    pub(crate) killed: BTreeSet<Life>,
    /// Services whose operator was told that they are down, and has not asked for a start since.
    pub(crate) down: BTreeSet<ServiceName>,
    /// When a delayed restart is due.
    pub(crate) due: BTreeMap<ServiceName, Tick>,
    /// When the tree of a service that is shown as stopping gets SIGKILL.
    pub(crate) kill_at: BTreeMap<ServiceName, Tick>,
    /// The draft by which the latest life was begun.
    pub(crate) begun_by: BTreeMap<ServiceName, Draft>,
    /// The deaths that were followed by a restart, since an operator last asked for something new.
    pub(crate) restarts: BTreeMap<ServiceName, Vec<Tick>>,
    /// Services whose next restart by itself is the first of a new series.
    pub(crate) new_series: BTreeSet<ServiceName>,
    /// Services that were disabled and not enabled since.
    pub(crate) disabled: BTreeSet<ServiceName>,
    /// Services whose restarts are paused, and until when if not for good.
    pub(crate) paused: BTreeMap<ServiceName, Option<Tick>>,
    /// Of those, the ones whose pause has been answered: the keeper knows.
    pub(crate) held_back: BTreeSet<ServiceName>,
    /// Services whose specification has ever been changed.
    pub(crate) reloaded: BTreeSet<ServiceName>,
    /// Services that an operator has ever asked something of.
    pub(crate) asked: BTreeSet<ServiceName>,
    /// On which ports of its specification a life was last seen to listen.
    pub(crate) listening: BTreeMap<Life, BTreeSet<u16>>,
    /// The views after the last turn of this daemon.
    pub(crate) views: Vec<ServiceView>,
}

/// A restart that the core decided by itself.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Restart<'a> {
    pub(crate) service: &'a ServiceName,
    pub(crate) died: Tick,
    pub(crate) attempt: u32,
    pub(crate) delay: Duration,
}

impl Turn {
    /// The records that somebody outside has heard.
    pub(crate) fn records(&self) -> impl Iterator<Item = &Record> {
        self.told().iter().filter_map(|effect| match effect {
            Effect::Record(record) => Some(record),
            _ => None,
        })
    }

    /// The services that begin a life.
    pub(crate) fn begun(&self) -> impl Iterator<Item = &ServiceName> {
        self.effects.iter().filter_map(|effect| match effect {
            Effect::Prepare { service, .. } | Effect::Spawn { service, .. } => Some(service),
            _ => None,
        })
    }

    /// Whether an operator asks for a life of `service`.
    pub(crate) fn asks_for(&self, service: &ServiceName) -> bool {
        matches!(self.asked(), Some((asked, Verb::Start | Verb::Restart)) if asked == service)
    }

    /// Whether what was to follow for `service` may change by somebody's will.
    pub(crate) fn concerns(&self, service: &ServiceName) -> bool {
        matches!(self.input, Input::Shutdown | Input::Hurry)
            || self.asked().is_some_and(|(asked, _)| asked == service)
            || self.changed.contains_key(service)
    }

    /// What was seen of a port.
    pub(crate) fn looked(&self) -> Option<(Life, u16, bool)> {
        match &self.input {
            Input::Port { service, incarnation, port, listening } => {
                Some(((service.clone(), *incarnation), *port, *listening))
            }
            _ => None,
        }
    }

    /// The answers by which an operator learns that a service is down.
    pub(crate) fn told_down(&self) -> impl Iterator<Item = &ServiceName> {
        self.answers.iter().flatten().filter_map(|answer| match (&answer.verb, &answer.reply) {
            (Verb::Stop | Verb::Disable, Reply::Done(_)) => Some(&answer.service),
            _ => None,
        })
    }

    /// Whether the keeper has followed an end by itself, for all that the core may have wanted.
    pub(crate) fn is_followed(&self) -> bool {
        matches!(self.input, Input::Ended { followed: true, .. })
    }

    /// Whether a life is asked to end that its service was not shown to run: one that the keeper has begun by itself, or
    /// that a new keeper has taken over.
    pub(crate) fn asks_again(&self) -> bool {
        self.is_followed() || matches!(self.input, Input::Adopted { .. })
    }

    /// The restarts that were decided, with the death that each follows.
    pub(crate) fn restarts(&self) -> Vec<Restart<'_>> {
        let mut died = self.at;
        let mut restarts = Vec::new();
        for record in self.records() {
            match &record.what {
                What::Exit { ending, .. } => died = ending.end.at,
                What::StartFailed { .. } => died = record.at,
                // Number 0 is an operator's.
                What::Restart { attempt: attempt @ 1.., delay_ns, .. } => {
                    let (attempt, delay) = (*attempt, Duration::from_nanos(*delay_ns));
                    restarts.push(Restart { service: &record.service, died, attempt, delay });
                }
                What::Restart { .. }
                | What::State { .. }
                | What::PortTaken(_)
                | What::Listen { .. }
                | What::Unlisten { .. } => {}
            }
        }
        restarts
    }
}

impl Past {
    /// A new daemon has shown nothing yet.
    pub(crate) fn forget_views(&mut self) {
        self.views.clear();
    }

    /// The keeper is gone, and its plans with it.
    pub(crate) fn orphan(&mut self) {
        self.begun_by.clear();
    }

    /// Takes a turn into account.
    pub(crate) fn observe(&mut self, turn: Turn, specs: &BTreeMap<ServiceName, ServiceSpec>) {
        if !turn.sent {
            return;
        }
        // What is asked of a service that the daemon does not know, the answer to which says so, concerns none.
        let unknown = turn.answers.iter().flatten().any(|answer| answer.reply == Reply::NotFound);
        if let Some((service, verb)) = turn.asked().filter(|_| !unknown) {
            match verb {
                Verb::Start | Verb::Restart => {
                    self.down.remove(service);
                    self.restarts.remove(service);
                }
                Verb::Reset => {
                    self.restarts.remove(service);
                }
                Verb::Enable => {
                    self.disabled.remove(service);
                }
                Verb::Disable => {
                    self.disabled.insert(service.clone());
                }
                Verb::Pause(_) | Verb::Resume | Verb::Stop | Verb::Kill(_) => {}
            }
            let refused =
                |answer: &Answer| answer.service == *service && matches!(answer.reply, Reply::Failed(_));
            let refused = turn.answers.iter().flatten().any(refused);
            if self.begins_a_series(service, verb) && !refused {
                self.new_series.insert(service.clone());
            }
            self.asked.insert(service.clone());
        }
        self.reload(&turn, specs);
        self.paused = self.paused_after(&turn);
        if let Input::Adopted { service, incarnation, .. } = &turn.input {
            // Whatever was asked of it is asked again.
            self.killed.remove(&(service.clone(), *incarnation));
        }
        self.due.retain(|service, _| !turn.concerns(service) && !turn.begun().any(|begun| begun == service));
        if let Input::Ended { service, followed: true, .. } = &turn.input {
            // Begun by the rules of before, whatever has been decided meanwhile of the end that it follows.
            self.due.remove(service);
        }
        // Of a life that the core has not heard of yet nothing is kept: once it has, its ports are looked at.
        let known = |(service, incarnation): &Life| {
            self.views.iter().any(|view| view.name == *service && view.incarnation == *incarnation)
        };
        if let Some((life, port, listens)) = turn.looked().filter(|(life, ..)| known(life)) {
            let ports = self.listening.entry(life).or_default();
            if listens {
                ports.insert(port)
            } else {
                ports.remove(&port)
            };
        }
        for record in turn.records() {
            let life = (record.service.clone(), record.incarnation);
            match &record.what {
                What::Exit { .. } => {
                    self.due.remove(&record.service);
                    self.ended.insert(life);
                }
                What::StartFailed { .. } => {
                    self.due.remove(&record.service);
                    self.unborn.insert(life);
                }
                What::State { to: State::Stopping, .. } => {
                    let timeout = specs.get(&record.service).map(|spec| spec.stop.timeout);
                    self.kill_at.insert(record.service.clone(), record.at + timeout.unwrap_or_default());
                }
                What::State { .. }
                | What::Restart { .. }
                | What::PortTaken(_)
                | What::Listen { .. }
                | What::Unlisten { .. } => {}
            }
        }
        if let Input::Adopted { service, lost, .. } | Input::Deserted { service, lost } = &turn.input
            && !lost.is_empty()
        {
            self.new_series.remove(service);
        }
        for restart in turn.restarts() {
            self.restarts.entry(restart.service.clone()).or_default().push(restart.died);
            self.new_series.remove(restart.service);
            if !restart.delay.is_zero()
                && !turn.is_followed()
                && !turn.begun().any(|begun| begun == restart.service)
            {
                self.due.insert(restart.service.clone(), restart.died + restart.delay);
            }
        }
        for effect in &turn.effects {
            match effect {
                Effect::KillTree { service, incarnation } => {
                    self.killed.insert((service.clone(), *incarnation));
                }
                Effect::Signal { service, .. } if turn.asks_again() => {
                    let timeout = specs.get(service).map(|spec| spec.stop.timeout).unwrap_or_default();
                    self.kill_at.insert(service.clone(), turn.at + timeout);
                }
                _ => {}
            }
        }
        if let Some((service, Verb::Pause(_))) = turn.asked() {
            self.held_back.remove(service);
        }
        for answer in turn.answers.iter().flatten() {
            if let (Verb::Pause(_), Reply::Done(_)) = (answer.verb, &answer.reply)
                && self.paused.contains_key(&answer.service)
            {
                self.held_back.insert(answer.service.clone());
            }
        }
        let Self { held_back, paused, .. } = self;
        held_back.retain(|service| paused.contains_key(service));
        self.down.extend(turn.told_down().cloned());
        for effect in &turn.effects {
            if let Effect::Forget { service } = effect {
                self.forget(service);
            }
        }
        self.views = turn.views;
    }

    /// An order has arrived at the keeper.
    pub(crate) fn arrived(&mut self, order: &Order) {
        if let (Effect::Spawn { service, .. }, Some((draft, _))) = (&order.effect, &order.plan) {
            self.begun_by.insert(service.clone(), *draft);
        }
    }

    /// What a new specification changes in what is to be expected.
    fn reload(&mut self, turn: &Turn, specs: &BTreeMap<ServiceName, ServiceSpec>) {
        for (service, old) in &turn.changed {
            self.asked.insert(service.clone());
            self.reloaded.insert(service.clone());
            // A new limit counts from now on; what fails is tried anew.
            self.restarts.remove(service);
            self.new_series.remove(service);
            self.down.remove(service);
            let wanted = specs.get(service).map(ServiceSpec::wanted_ports).unwrap_or_default();
            let kept: BTreeSet<u16> = wanted.intersection(&old.wanted_ports()).copied().collect();
            for ((of, _), ports) in &mut self.listening {
                if of == service {
                    ports.retain(|port| kept.contains(port));
                }
            }
        }
    }

    /// A service that comes back under the same name is another one.
    fn forget(&mut self, service: &ServiceName) {
        for lives in [&mut self.ended, &mut self.unborn, &mut self.killed] {
            lives.retain(|(of, _)| of != service);
        }
        for names in
            [&mut self.down, &mut self.new_series, &mut self.disabled, &mut self.asked, &mut self.held_back]
        {
            names.remove(service);
        }
        self.due.remove(service);
        self.kill_at.remove(service);
        self.begun_by.remove(service);
        self.paused.remove(service);
        self.restarts.remove(service);
        self.listening.retain(|(of, _), _| of != service);
    }

    /// The pauses as they should be after a turn: an operator begins and ends them, or their own date ends them.
    pub(crate) fn paused_after(&self, turn: &Turn) -> BTreeMap<ServiceName, Option<Tick>> {
        let mut paused = self.paused.clone();
        // It holds from the turn on in which it is asked for, and is answered when the keeper knows.
        let granted = turn.answers.iter().flatten().all(|answer| matches!(answer.reply, Reply::Done(_)));
        match turn.asked() {
            Some((service, Verb::Pause(span))) if granted => {
                let until = span.map(|ns| turn.at + Duration::from_nanos(ns));
                paused.insert(service.clone(), until);
            }
            Some((service, Verb::Resume)) => drop(paused.remove(service)),
            Some(_) | None => {}
        }
        if let Input::Reload(specs) = &turn.input {
            paused.retain(|service, _| {
                !turn.changed.contains_key(service) || specs.iter().any(|spec| spec.name == *service)
            });
        }
        if turn.input == Input::Deadline {
            paused.retain(|_, until| until.is_none_or(|until| until > turn.at));
        }
        paused
    }

    /// Whether a verb leads to a life that nobody was about to begin, or says so itself.
    fn begins_a_series(&self, service: &ServiceName, verb: Verb) -> bool {
        let Some(view) = self.views.iter().find(|view| view.name == *service) else { return false };
        match (verb, view.state) {
            (Verb::Reset, _) | (Verb::Restart, State::Running) => true,
            (Verb::Start, State::Running) | (_, State::Starting) => false,
            (Verb::Start | Verb::Restart, _) => view.enabled,
            (
                Verb::Stop | Verb::Enable | Verb::Disable | Verb::Kill(_) | Verb::Pause(_) | Verb::Resume,
                _,
            ) => false,
        }
    }
}
