//! The keeper and the kernel as the core knows them: one slot a service, whose present state is reported.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use defib_core::model::{
    Draft, End, Incarnation, Leftovers, ServiceName, ServiceSpec, Signal, Standing, StartFailure, Tick,
    Withdrawal,
};
use defib_core::{Effect, Memo};

use super::world::Letter;

/// What the keeper holds for a service.
#[derive(Clone, Debug)]
pub(crate) struct Seat {
    pub(crate) slot: Slot,
    pub(crate) memo: Option<Box<Memo>>,
    /// The present plan: which draft, and of what specification.
    pub(crate) plan: Option<(Draft, ServiceSpec)>,
    /// Whether the slot has changed since it was last reported.
    pub(crate) unreported: bool,
    /// The ends that the keeper has followed by itself, until they are acknowledged, oldest first.
    pub(crate) followed: Vec<(Process, End)>,
    /// How many of them the daemon has been told.
    pub(crate) told: usize,
    /// Withdrawals that are to be confirmed.
    pub(crate) withdrawn: VecDeque<Withdrawal>,
    /// The same of earlier keepers, as they wrote them down.
    pub(crate) unheard: Vec<(Process, End)>,
    /// Whether the daemon has forgotten it: it is not listened to any more.
    pub(crate) forgotten: bool,
    standing: Option<Standing>,
    /// Whether the next life begins, by the standing order, once the tree is empty.
    pending: bool,
    /// Whether its sockets are held.
    pub(crate) holds: bool,
    leftovers: Leftovers,
}

/// The state of the one place for a process of a service.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Slot {
    /// Nothing is left of the last life.
    Empty { last: Incarnation },
    /// The child has not executed its program yet.
    Starting(Process),
    /// The program has been executed.
    Living(Process),
    /// There is no child. Kept until it is acknowledged.
    Failed { incarnation: Incarnation, failure: StartFailure },
    /// The main process has been reaped. Kept until it is acknowledged and its tree is empty.
    Ended { process: Process, end: End, cleared: bool, acknowledged: bool },
}

/// A main process.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Process {
    pub(crate) incarnation: Incarnation,
    pub(crate) pid: u32,
    pub(crate) started: Tick,
    pub(crate) fate: Fate,
    /// The ports on which it listens.
    pub(crate) listening: BTreeSet<u16>,
}

impl Process {
    fn new(incarnation: Incarnation, pid: u32, started: Tick) -> Self {
        Self { incarnation, pid, started, fate: Fate::Obeys, listening: BTreeSet::new() }
    }
}

/// What a new keeper finds of a life.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Found {
    /// It lives.
    Lives(Process),
    /// It has ended; somebody may know how.
    Ended(Process, End),
}

/// What a process will do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// Live on, and end when a signal asks.
    Obeys,
    /// Live on, whatever signal comes but SIGKILL.
    Defies,
    /// It was asked to end, and will.
    Asked,
    /// SIGKILL is on its way.
    Killed,
}

impl Slot {
    /// The life that occupies it.
    pub(crate) fn incarnation(&self) -> Option<Incarnation> {
        match self {
            Self::Empty { .. } => None,
            Self::Starting(process) | Self::Living(process) | Self::Ended { process, .. } => {
                Some(process.incarnation)
            }
            Self::Failed { incarnation, .. } => Some(*incarnation),
        }
    }

    /// Whether nothing is in it.
    pub(crate) fn is_empty(&self) -> bool {
        matches!(self, Self::Empty { .. })
    }

    /// Whether nothing is in it but what the daemon knows, and is about to acknowledge.
    pub(crate) fn is_over(&self) -> bool {
        matches!(self, Self::Empty { .. } | Self::Failed { .. } | Self::Ended { cleared: true, .. })
    }

    fn process_mut(&mut self) -> Option<&mut Process> {
        match self {
            Self::Starting(process) | Self::Living(process) => Some(process),
            Self::Empty { .. } | Self::Failed { .. } | Self::Ended { .. } => None,
        }
    }
}

impl Seat {
    fn new() -> Self {
        let slot = Slot::Empty { last: Incarnation::default() };
        Self {
            slot,
            memo: None,
            plan: None,
            unreported: false,
            followed: Vec::new(),
            told: 0,
            withdrawn: VecDeque::new(),
            unheard: Vec::new(),
            forgotten: false,
            standing: None,
            pending: false,
            holds: false,
            leftovers: Leftovers::default(),
        }
    }

    /// A new daemon has been told nothing.
    pub(crate) fn forget_tales(&mut self) {
        self.told = 0;
        self.withdrawn.clear();
    }

    /// What the daemon is to be told now: the slot last.
    pub(crate) fn letters(&mut self) -> Vec<Letter> {
        self.unreported = false;
        let ends = self.followed[self.told..].iter().cloned();
        let mut letters: Vec<_> = ends.map(|(process, end)| Letter::Followed(process, end)).collect();
        self.told = self.followed.len();
        letters.extend(self.withdrawn.drain(..).map(Letter::Withdrawn));
        letters.push(Letter::Slot(self.slot.clone()));
        letters
    }

    /// The end of a life that the keeper has followed by itself.
    pub(crate) fn past_end(&self, incarnation: Incarnation) -> Option<&(Process, End)> {
        self.followed.iter().find(|(process, _)| process.incarnation == incarnation)
    }

    /// The keeper is gone: what it held is gone with it, but for the database's last memo, the ends that it has written
    /// down, and the process.
    pub(crate) fn orphan(&mut self) {
        let (slot, memo, leftovers) = (self.slot.clone(), self.memo.take(), self.leftovers);
        let mut unheard = std::mem::take(&mut self.unheard);
        unheard.append(&mut self.followed);
        *self = Self { slot, memo, leftovers, unheard, ..Self::new() };
    }

    /// The next keeper takes the life over that was found, or finds none. What ended meanwhile has no slot any more.
    pub(crate) fn take_over(&mut self) -> Option<Found> {
        let slot = self.slot.clone();
        self.unreported = true;
        match slot {
            // It executes its program before anybody looks.
            Slot::Starting(process) | Slot::Living(process) => {
                self.slot = Slot::Living(process.clone());
                Some(Found::Lives(process))
            }
            Slot::Ended { process, end, .. } => {
                self.slot = Slot::Empty { last: process.incarnation };
                // Whoever comes after a daemon that dies of it finds it too.
                self.unheard.push((process.clone(), end.clone()));
                Some(Found::Ended(process, end))
            }
            // It never lived: where the keeper had begun it by itself, nobody could be told of its number.
            Slot::Failed { incarnation, .. } => {
                let told =
                    self.memo.as_ref().map_or(incarnation, |memo| Incarnation(memo.gist().incarnation));
                let written = self.unheard.last().map_or(told, |(process, _)| process.incarnation);
                self.slot = Slot::Empty { last: incarnation.min(told.max(written)) };
                None
            }
            Slot::Empty { .. } => None,
        }
    }

    /// Begins the next life by the standing order.
    fn follow(&mut self, now: Tick, pid: u32) {
        let Slot::Ended { process, end, .. } = self.slot.clone() else { return };
        let incarnation = process.incarnation.next();
        self.followed.push((process, end));
        self.pending = false;
        self.change(Slot::Starting(Process::new(incarnation, pid, now)));
    }

    /// Takes a plan for the next life.
    pub(crate) fn provide(&mut self, draft: Draft, spec: ServiceSpec) {
        self.leftovers = spec.leftovers;
        self.holds = may_hold(&spec);
        self.plan = Some((draft, spec));
    }

    /// Changes the slot. The keeper will tell of it, unless nothing but an acknowledgement is new.
    fn change(&mut self, slot: Slot) {
        self.unreported |= !matches!(slot, Slot::Ended { acknowledged: true, cleared: false, .. });
        self.slot = match slot {
            Slot::Ended { process, cleared: true, acknowledged: true, .. } => {
                Slot::Empty { last: process.incarnation }
            }
            slot => slot,
        };
    }
}

/// All seats.
#[derive(Debug)]
pub(crate) struct Keeper {
    seats: BTreeMap<ServiceName, Seat>,
    last_pid: u32,
}

impl Keeper {
    pub(crate) fn new(services: &[ServiceSpec]) -> Self {
        let seats = services.iter().map(|spec| (spec.name.clone(), Seat::new())).collect();
        Self { seats, last_pid: 100 }
    }

    pub(crate) fn seats(&self) -> impl Iterator<Item = (&ServiceName, &Seat)> {
        self.seats.iter()
    }

    pub(crate) fn seat(&self, service: &ServiceName) -> Option<&Seat> {
        self.seats.get(service)
    }

    /// The seat, made if it is new.
    pub(crate) fn seat_mut(&mut self, service: &ServiceName) -> &mut Seat {
        self.seats.entry(service.clone()).or_insert_with(Seat::new)
    }

    /// The seat of a service that the daemon knows.
    pub(crate) fn living_seat_mut(&mut self, service: &ServiceName) -> Option<&mut Seat> {
        self.seats.get_mut(service).filter(|seat| !seat.forgotten)
    }

    /// Carries out an order, or does nothing if it is about another life.
    pub(crate) fn obey(&mut self, now: Tick, order: &Effect) {
        match order {
            Effect::Spawn { service, incarnation } => {
                self.last_pid += 1;
                let (incarnation, pid) = (*incarnation, self.last_pid);
                let seat = self.seat_mut(service);
                if seat.slot.is_empty() {
                    seat.change(Slot::Starting(Process::new(incarnation, pid, now)));
                }
            }
            Effect::Stand { service, incarnation, standing } => {
                let seat = self.seat_mut(service);
                let mut standing = *standing;
                let latest = seat.slot.incarnation().unwrap_or(*incarnation);
                standing.skip(latest.0.saturating_sub(incarnation.0));
                seat.standing = Some(standing);
            }
            Effect::Withdraw { service, withdrawal } => {
                let seat = self.seat_mut(service);
                seat.standing = None;
                seat.pending = false;
                seat.withdrawn.push_back(*withdrawal);
                seat.unreported = true;
            }
            Effect::Signal { service, incarnation, signal } => {
                let fate = if *signal == Signal::KILL { Fate::Killed } else { Fate::Asked };
                self.doom(service, *incarnation, fate);
            }
            Effect::KillTree { service, incarnation } => self.doom(service, *incarnation, Fate::Killed),
            Effect::Acknowledge { service, incarnation, followed: true } => {
                let seat = self.seat_mut(service);
                if let Some(at) = seat.followed.iter().position(|(it, _)| it.incarnation == *incarnation) {
                    seat.followed.remove(at);
                    seat.told = seat.told.saturating_sub(1);
                }
            }
            Effect::Acknowledge { service, incarnation, followed: false } => {
                let seat = self.seat_mut(service);
                if seat.slot.incarnation() != Some(*incarnation) {
                    return;
                }
                match seat.slot.clone() {
                    Slot::Failed { incarnation, .. } => seat.change(Slot::Empty { last: incarnation }),
                    Slot::Ended { process, end, cleared, acknowledged: _ } => {
                        seat.change(Slot::Ended { process, end, cleared, acknowledged: true });
                    }
                    Slot::Empty { .. } | Slot::Starting(_) | Slot::Living(_) => {}
                }
            }
            Effect::Remember { service, memo } => self.seat_mut(service).memo = Some(memo.clone()),
            Effect::CloseSockets { service } => self.seat_mut(service).holds = false,
            Effect::Forget { service } => drop(self.seats.remove(service)),
            Effect::Prepare { .. }
            | Effect::Record(_)
            | Effect::Publish { .. }
            | Effect::Reply { .. }
            | Effect::Leave => {}
        }
    }

    /// The first daemon has told of all that earlier keepers had written down.
    pub(crate) fn heard(&mut self) {
        self.seats.values_mut().for_each(|seat| seat.unheard.clear());
    }

    /// The keeper is gone.
    pub(crate) fn orphan(&mut self) {
        self.seats.retain(|_, seat| !seat.forgotten && seat.memo.is_some());
        self.seats.values_mut().for_each(Seat::orphan);
    }

    fn doom(&mut self, service: &ServiceName, incarnation: Incarnation, fate: Fate) {
        let slot = &mut self.seat_mut(service).slot;
        if slot.incarnation() != Some(incarnation) {
            return;
        }
        if let Some(process) = slot.process_mut() {
            process.fate = match (process.fate, fate) {
                (Fate::Killed, _) | (_, Fate::Killed) => Fate::Killed,
                (Fate::Defies, _) => Fate::Defies,
                (Fate::Obeys | Fate::Asked, fate) => fate,
            };
        }
    }

    /// The child executes its program, which may ignore SIGTERM. One that has had SIGKILL never gets there.
    pub(crate) fn exec(&mut self, service: &ServiceName, defies: bool) {
        let seat = self.seat_mut(service);
        if let Slot::Starting(process) = &seat.slot
            && process.fate != Fate::Killed
        {
            let mut process = process.clone();
            if defies && process.fate == Fate::Obeys {
                process.fate = Fate::Defies;
            }
            seat.change(Slot::Living(process));
        }
    }

    /// A main process listens on a port, or ceases to. The life that it was, if there is one.
    pub(crate) fn bind(&mut self, service: &ServiceName, port: u16, listens: bool) -> Option<Incarnation> {
        // The keeper knows nothing of ports, so it has nothing to report.
        let Slot::Living(process) = &mut self.seat_mut(service).slot else { return None };
        if listens {
            process.listening.insert(port)
        } else {
            process.listening.remove(&port)
        };
        Some(process.incarnation)
    }

    /// The child could not execute its program.
    pub(crate) fn fail(&mut self, service: &ServiceName, failure: StartFailure) {
        let seat = self.seat_mut(service);
        if let Slot::Starting(process) = &seat.slot {
            let incarnation = process.incarnation;
            seat.change(Slot::Failed { incarnation, failure });
        }
    }

    /// The main process ends; `clean` says that it leaves nobody behind. Returns whether the keeper follows it by itself.
    pub(crate) fn die(&mut self, service: &ServiceName, end: End, clean: bool) -> bool {
        self.last_pid += 1;
        let pid = self.last_pid;
        let seat = self.seat_mut(service);
        let (Slot::Starting(process) | Slot::Living(process)) = &seat.slot else { return false };
        let (process, cleared) = (process.clone(), clean || seat.leftovers == Leftovers::Keep);
        let (status, now) = (end.status, end.at);
        let lasted = now.since(process.started);
        seat.pending = seat.standing.as_mut().is_some_and(|standing| standing.follow(status, lasted));
        seat.change(Slot::Ended { process, end, cleared, acknowledged: false });
        let follows = cleared && seat.pending;
        if follows {
            seat.follow(now, pid);
        }
        follows
    }

    /// The last of those whom a main process left behind ends. Returns whether the keeper begins the next life.
    pub(crate) fn clear(&mut self, now: Tick, service: &ServiceName) -> bool {
        self.last_pid += 1;
        let pid = self.last_pid;
        let seat = self.seat_mut(service);
        let Slot::Ended { process, end, cleared: false, acknowledged } = seat.slot.clone() else {
            return false;
        };
        let follows = seat.pending;
        seat.slot = Slot::Ended { process, end, cleared: true, acknowledged };
        if follows {
            seat.follow(now, pid);
        } else {
            seat.change(seat.slot.clone());
        }
        follows
    }
}

/// Whether something is held for a service between two of its lives.
pub(crate) fn may_hold(spec: &ServiceSpec) -> bool {
    !spec.launch.sockets.is_empty() || !spec.launch.hold_ports.is_empty()
}
