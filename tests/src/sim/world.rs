//! A world for one supervisor: what there is, and what happens in it.

mod letters;
mod turn;

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use defib_core::model::{
    Blame, Draft, End, Incarnation, Record, RequestId, ServiceName, ServiceSpec, StartFailure,
    StartFailureKind, Tick, Usage, WaitStatus,
};
use defib_core::{Effect, Input, KnownLife, Lost, Supervisor, Verb};

use super::action::{Action, Setup};
use super::chance;
use super::invariants::{self, Violation};
use super::keeper::{Found, Keeper, Process, Slot, may_hold};
use super::past::Past;
pub(crate) use letters::Letter;
pub(crate) use turn::{Answer, Fuse, Turn};

/// How many actions it may take until nothing is pending any more.
const PATIENCE: usize = 5_000;

/// Everything there is.
#[derive(Debug)]
pub struct World {
    pub(crate) setup: Setup,
    /// The latest specification of every service that there ever was.
    pub(crate) specs: BTreeMap<ServiceName, ServiceSpec>,
    pub(crate) now: Tick,
    pub(crate) keeper: Keeper,
    /// The orders of turns that the keeper has not read yet: they outlive the daemon.
    pub(crate) wire: VecDeque<Packet>,
    /// `None` between its death and its next start, and after it has left.
    pub(crate) daemon: Option<Daemon>,
    pub(crate) past: Past,
    /// The daemon is to die soon.
    pub(crate) fuse: Option<Fuse>,
    /// Whether defib was asked to end. The keeper asks each new daemon again.
    pub(crate) shutting_down: bool,
    /// Whether a daemon has left.
    pub(crate) left: bool,
    last_request: RequestId,
    /// Whether the keeper is a new one, whose first daemon is still to come.
    pub(crate) orphaned: bool,
}

/// What dies with the daemon.
#[derive(Debug)]
pub(crate) struct Daemon {
    pub(crate) core: Supervisor,
    /// Reports that it has not read yet.
    pub(crate) mailbox: VecDeque<(ServiceName, Letter)>,
    /// Plans that are being made.
    pub(crate) plans: VecDeque<(Draft, ServiceSpec)>,
    /// What was seen of ports: the life that it was, the port, and whether it listened.
    pub(crate) looks: VecDeque<(ServiceName, Incarnation, u16, bool)>,
    /// Requests without an answer.
    pub(crate) open: BTreeMap<RequestId, (ServiceName, Verb)>,
    /// Whether it has been told all of the past.
    pub(crate) begun: bool,
    /// Whether it has been asked to leave.
    pub(crate) leaving: bool,
}

/// The orders of one turn.
#[derive(Debug)]
pub(crate) struct Packet {
    pub(crate) effects: Vec<Effect>,
    /// A plan that comes with them.
    plan: Option<(Draft, ServiceSpec)>,
    /// What was told in that turn.
    pub(crate) records: Vec<Record>,
}

/// An order as it arrived, with what the keeper held at that time.
#[derive(Debug)]
pub(crate) struct Order {
    pub(crate) effect: Effect,
    pub(crate) slot: Slot,
    pub(crate) plan: Option<(Draft, ServiceSpec)>,
    /// What it held of an earlier end that the order acknowledges.
    pub(crate) past: Option<(Process, End)>,
    /// Whether sockets were held.
    pub(crate) holds: bool,
}

impl World {
    /// A world in which nothing has happened yet.
    pub fn new(setup: Setup) -> Self {
        Self {
            now: Tick(1_000_000_000),
            keeper: Keeper::new(&setup.services),
            wire: VecDeque::new(),
            specs: by_name(&setup.services),
            daemon: None,
            past: Past::default(),
            fuse: None,
            shutting_down: false,
            left: false,
            last_request: RequestId(0),
            orphaned: false,
            setup,
        }
    }

    /// The specification of a service.
    pub(crate) fn spec(&self, service: &ServiceName) -> &ServiceSpec {
        self.specs.get(service).expect("a service of this world")
    }

    /// Lets something happen. What cannot happen now does not.
    pub fn apply(&mut self, action: &Action) -> Result<(), Violation> {
        match action {
            Action::Wait { ns } => self.now = self.now + Duration::from_nanos(*ns),
            Action::Boot => self.boot()?,
            Action::Ask { service, verb } => {
                if let Some(daemon) = &mut self.daemon {
                    let id = RequestId(self.last_request.0 + 1);
                    self.last_request = id;
                    daemon.open.insert(id, (service.clone(), *verb));
                    self.turn(Input::Request { id, service: service.clone(), verb: *verb })?;
                }
            }
            Action::Plan { fails } => {
                if let Some((draft, spec)) = self.daemon.as_mut().and_then(|it| it.plans.pop_front()) {
                    let service = spec.name.clone();
                    let failure = fails.then(|| failure(StartFailureKind::User, "getpwnam api"));
                    let plan = failure.is_none().then_some((draft, spec));
                    self.turn_with(plan, Input::Prepared { service, draft, failure, taken: Vec::new() })?;
                }
            }
            Action::Exec { service, defies } => self.keeper.exec(service, *defies),
            Action::Fail { service } => {
                self.keeper.fail(service, failure(StartFailureKind::Exec, "execve /usr/bin/api"));
            }
            Action::Bind { service, port, listens } => {
                if let Some(life) = self.keeper.bind(service, *port, *listens)
                    && let Some(daemon) = &mut self.daemon
                {
                    daemon.looks.push_back((service.clone(), life, *port, *listens));
                }
            }
            Action::Look => {
                let look = self.daemon.as_mut().and_then(|daemon| daemon.looks.pop_front());
                if let Some((service, incarnation, port, listening)) = look {
                    self.turn(Input::Port { service, incarnation, port, listening })?;
                }
            }
            Action::Die { service, status, oom, clean } => {
                let (status, usage) = (WaitStatus(*status), Usage::default());
                let end = End { status: Some(status), at: self.now, usage, oom: *oom, blame: Blame::Unknown };
                if self.keeper.die(service, end, *clean) {
                    invariants::check_followed(self, service)?;
                }
            }
            Action::Clear { service } => {
                if self.keeper.clear(self.now, service) {
                    invariants::check_followed(self, service)?;
                }
            }
            Action::Obey => self.obey()?,
            Action::Report { service } => {
                if let (Some(daemon), Some(seat)) = (&mut self.daemon, self.keeper.living_seat_mut(service)) {
                    for letter in seat.letters() {
                        daemon.mailbox.push_back((service.clone(), letter));
                    }
                }
            }
            Action::Deliver { overtakes, whole } => {
                if let Some((service, letter)) =
                    self.daemon.as_mut().and_then(|it| it.take_letter(*overtakes))
                {
                    self.deliver(&service, letter, *whole)?;
                }
            }
            Action::Reload { services } => {
                if self.daemon.as_ref().is_some_and(|daemon| !daemon.leaving) {
                    self.turn(Input::Reload(shared(services)))?;
                    self.look_at_ports();
                }
            }
            Action::Wake => self.turn(Input::Deadline)?,
            Action::Shutdown { hurry } => {
                if let Some(daemon) = &mut self.daemon {
                    daemon.leaving = true;
                    self.shutting_down = true;
                    self.turn(if *hurry { Input::Hurry } else { Input::Shutdown })?;
                }
            }
            Action::Doom { turns, effects } => self.fuse = Some(Fuse { turns: *turns, effects: *effects }),
            Action::Orphan => self.orphan(),
            Action::Rest => self.rest()?,
        }
        Ok(())
    }

    /// Nothing goes wrong any more until nothing happens any more.
    fn rest(&mut self) -> Result<(), Violation> {
        for _ in 0..PATIENCE {
            let Some(action) = chance::calm(self) else { break };
            self.apply(&action)?;
        }
        invariants::check_at_rest(self)
    }

    /// Keeper and daemon are gone, and with them whatever was on its way between them. What the daemon had decided is in
    /// its database.
    fn orphan(&mut self) {
        if self.left || self.shutting_down {
            return;
        }
        (self.daemon, self.fuse, self.orphaned) = (None, None, true);
        for packet in std::mem::take(&mut self.wire) {
            for effect in packet.effects {
                match &effect {
                    Effect::Remember { service, .. } | Effect::Forget { service } => {
                        let service = service.clone();
                        // It lives on, if it does, and nobody knows its name any more.
                        if matches!(effect, Effect::Remember { .. }) {
                            self.keeper.seat_mut(&service);
                        }
                        self.keeper.obey(self.now, &effect);
                    }
                    _ => {}
                }
            }
        }
        self.keeper.orphan();
        self.past.orphan();
    }

    /// The first daemon of a new keeper is told what was found of a service.
    fn take_over(&mut self, service: &ServiceName, found: Option<Found>) -> Result<(), Violation> {
        let known = self.keeper.seat(service).and_then(|seat| seat.memo.as_ref()?.life());
        let over = self.keeper.seat(service).and_then(|seat| Some(seat.memo.as_ref()?.over()));
        let (name, service) = (service, || service.clone());
        let now = self.now;
        // Every second death was recorded by the kernel; of the others nobody knows how they came.
        let lost = |life: KnownLife, end: Option<End>| {
            let unwatched =
                End { status: None, at: now, usage: Usage::default(), oom: None, blame: Blame::Unknown };
            let end = end.filter(|_| life.pid.is_multiple_of(2)).unwrap_or(unwatched);
            Lost { incarnation: life.incarnation, pid: life.pid, started: life.started, end }
        };
        let life = |process: &Process| KnownLife {
            incarnation: process.incarnation,
            pid: process.pid,
            started: process.started,
        };
        let mut ends: BTreeMap<Incarnation, Lost> =
            known.map(|known| (known.incarnation, lost(known, None))).into_iter().collect();
        // What a keeper has written down is exact.
        for (process, end) in self.keeper.seat(name).map(|seat| seat.unheard.clone()).unwrap_or_default() {
            let KnownLife { incarnation, pid, started } = life(&process);
            ends.insert(incarnation, Lost { incarnation, pid, started, end });
        }
        if let Some(Found::Ended(process, end)) = &found {
            ends.insert(process.incarnation, lost(life(process), Some(end.clone())));
        }
        ends.retain(|incarnation, _| Some(*incarnation) > over);
        match found {
            Some(Found::Lives(process)) => {
                let Process { incarnation, pid, started: at, .. } = process;
                let lost = ends.into_values().filter(|it| it.incarnation < incarnation).collect();
                self.turn(Input::Adopted { service: service(), incarnation, pid, at, lost, holds: false })
            }
            Some(Found::Ended(..)) | None => {
                self.turn(Input::Deserted { service: service(), lost: ends.into_values().collect() })
            }
        }
    }

    /// A new daemon: it learns what its predecessor knew, what the keeper holds, then begins.
    fn boot(&mut self) -> Result<(), Violation> {
        if self.daemon.is_some() || self.left {
            return Ok(());
        }
        // The keeper reads what has been written before it sees that the writer is gone.
        while !self.wire.is_empty() {
            self.obey()?;
        }
        self.past.forget_views();
        let orphaned = std::mem::take(&mut self.orphaned);
        self.daemon = Some(Daemon {
            core: Supervisor::new(self.setup.seed),
            mailbox: VecDeque::new(),
            plans: VecDeque::new(),
            looks: VecDeque::new(),
            open: BTreeMap::new(),
            begun: false,
            leaving: false,
        });
        let seats: Vec<_> = self.keeper.seats().map(|(name, seat)| (name.clone(), seat.clone())).collect();
        self.turn(Input::Configure(shared(&self.setup.services)))?;
        for (service, seat) in &seats {
            if let Some(memo) = seat.memo.clone() {
                // Of one that is configured no longer this daemon knows the name alone.
                if !self.setup.services.iter().any(|spec| spec.name == *service) {
                    self.specs.insert(service.clone(), ServiceSpec::unknown(service.clone()));
                }
                self.turn(Input::Resume { service: service.clone(), memo })?;
                if orphaned {
                    let found = self.keeper.seat_mut(service).take_over();
                    self.take_over(service, found)?;
                }
            }
        }
        for (service, _) in seats {
            let Some(seat) = self.keeper.living_seat_mut(&service) else { continue };
            seat.forget_tales();
            for letter in seat.letters() {
                self.deliver(&service, letter, true)?;
            }
        }
        self.look_at_ports();
        if let Some(daemon) = &mut self.daemon {
            daemon.begun = true;
            if orphaned {
                self.keeper.heard();
            }
            self.turn(Input::Begin)?;
        } else if orphaned {
            // A keeper whose first daemon has not come so far leaves with it.
            self.orphan();
        }
        if self.shutting_down
            && let Some(daemon) = &mut self.daemon
        {
            daemon.leaving = true;
            self.turn(Input::Shutdown)?;
        }
        Ok(())
    }

    /// What happened to ports meanwhile nobody has seen, so all of them are looked at.
    fn look_at_ports(&mut self) {
        let services: Vec<_> = self.setup.services.iter().map(|spec| spec.name.clone()).collect();
        for service in &services {
            self.look_at_ports_of(service);
        }
    }

    fn look_at_ports_of(&mut self, service: &ServiceName) {
        let (Some(daemon), Some(spec)) = (&mut self.daemon, self.specs.get(service)) else { return };
        let Some(Slot::Living(process)) = self.keeper.seat(service).map(|seat| &seat.slot) else { return };
        for port in spec.wanted_ports() {
            let listens = process.listening.contains(&port);
            daemon.looks.push_back((service.clone(), process.incarnation, port, listens));
        }
    }

    /// Whether the keeper holds the sockets of a service once it has read its orders.
    pub(crate) fn will_hold(&self, service: &ServiceName) -> bool {
        let holds = self.keeper.seat(service).is_some_and(|seat| seat.holds);
        self.wire.iter().fold(holds, |holds, packet| {
            let plan = packet.plan.as_ref().filter(|(_, spec)| spec.name == *service);
            let opened = plan.map_or(holds, |(_, spec)| may_hold(spec));
            let closed =
                |effect: &Effect| matches!(effect, Effect::CloseSockets { service: of } if of == service);
            opened && !packet.effects.iter().any(closed)
        })
    }

    /// The keeper reads the orders of a turn.
    fn obey(&mut self) -> Result<(), Violation> {
        let Some(Packet { effects, plan, records }) = self.wire.pop_front() else { return Ok(()) };
        if let Some((draft, spec)) = plan {
            let service = spec.name.clone();
            self.keeper.seat_mut(&service).provide(draft, spec);
        }
        for effect in effects {
            let (Effect::CloseSockets { service }
            | Effect::Spawn { service, .. }
            | Effect::Stand { service, .. }
            | Effect::Withdraw { service, .. }
            | Effect::Signal { service, .. }
            | Effect::KillTree { service, .. }
            | Effect::Acknowledge { service, .. }
            | Effect::Remember { service, .. }
            | Effect::Forget { service }) = &effect
            else {
                continue;
            };
            let seat = self.keeper.seat_mut(service);
            let past = match &effect {
                Effect::Acknowledge { incarnation, followed: true, .. } => {
                    seat.past_end(*incarnation).cloned()
                }
                _ => None,
            };
            let (slot, plan, holds) = (seat.slot.clone(), seat.plan.clone(), seat.holds);
            let order = Order { effect, slot, plan, past, holds };
            invariants::check_order(self, &order, &records)?;
            self.past.arrived(&order);
            self.keeper.obey(self.now, &order.effect);
        }
        Ok(())
    }
}

/// As the daemon hands them to the core.
fn shared(specs: &[ServiceSpec]) -> Vec<Arc<ServiceSpec>> {
    specs.iter().cloned().map(Arc::new).collect()
}

fn by_name<'a>(specs: impl IntoIterator<Item = &'a ServiceSpec>) -> BTreeMap<ServiceName, ServiceSpec> {
    specs.into_iter().map(|spec| (spec.name.clone(), spec.clone())).collect()
}

fn failure(kind: StartFailureKind, call: &str) -> StartFailure {
    StartFailure {
        kind,
        call: call.to_owned(),
        errno: Some(2),
        error: "ENOENT".to_owned(),
        remedy: String::new(),
    }
}
