//! Ports of services: what the source hears of them, and what looks have shown, on the way to the core.
//!
//! The supervisor thread only asks for looks, after the orders of a turn have gone out, and takes what comes back as one
//! more input. A look names the life that it is about, so one that comes late changes nothing.

use std::collections::VecDeque;

use defib_core::Input;
use defib_core::model::{
    Incarnation, KernelEvent, KernelFact, Leftovers, Listener, ServiceName, ServiceView, State,
};
use tokio::sync::mpsc;

use super::link::LinkError;
use super::run::Daemon;
use crate::effect::held::Duplicates;
use crate::effect::port_watch::{Found, Look, PortWatch, Subject};
use crate::keeper::protocol::Order;

/// How many hints are kept for lives of which the keeper has not told yet. When there are more, the ports of the next
/// life that it tells of are looked at instead.
const EARLY: usize = 256;

/// What the supervisor thread keeps of ports.
#[derive(Debug)]
pub(super) struct Ports {
    watch: PortWatch,
    found: mpsc::Receiver<Found>,
    early: Early,
}

/// The latest hints that somebody begins to listen: the kernel may tell of a life before the keeper does, which begins
/// lives by itself.
#[derive(Debug, Default)]
struct Early {
    hints: VecDeque<(u32, KernelEvent, Listener)>,
    overflown: bool,
}

impl Early {
    fn keep(&mut self, slot: u32, event: &KernelEvent, listener: Listener) {
        if self.hints.len() == EARLY {
            self.hints.pop_front();
            self.overflown = true;
        }
        self.hints.push_back((slot, event.clone(), listener));
    }

    /// The hints of processes of the life in a slot that began at `started`. All hints of that slot are dropped.
    fn take(&mut self, slot: u32, started: u64) -> Vec<Look> {
        let overflown = std::mem::take(&mut self.overflown);
        let mut looks = Vec::from_iter(overflown.then_some(Look::Ports { all: false, wait: false }));
        self.hints.retain(|(of, event, listener)| {
            if *of == slot && event.start >= started {
                looks.push(Look::Hint { pid: event.pid, listener: *listener, listening: true });
            }
            *of != slot
        });
        looks
    }
}

impl Ports {
    pub(super) fn new((watch, found): (PortWatch, mpsc::Receiver<Found>)) -> Self {
        Self { watch, found, early: Early::default() }
    }

    /// The next finding.
    pub(super) async fn found(&mut self) -> Option<Found> {
        self.found.recv().await
    }
}

/// Where the process of an event begins or ceases to listen, if that is what it tells.
pub(super) fn hint(event: &KernelEvent) -> Option<(Listener, bool)> {
    match event.fact {
        KernelFact::Listen(listener) => Some((listener, true)),
        KernelFact::Unlisten(listener) => Some((listener, false)),
        KernelFact::Fork { .. }
        | KernelFact::Exec { .. }
        | KernelFact::Signal { .. }
        | KernelFact::Exit(_)
        | KernelFact::Oom => None,
    }
}

impl Daemon {
    /// A process of a service begins or ceases to listen, says the kernel: somebody has to look.
    pub(super) fn look_at_hint(
        &mut self,
        service: &ServiceName,
        event: &KernelEvent,
        at: Listener,
        begins: bool,
    ) {
        let Some((subject, view)) = self.subject(service) else { return };
        if begins {
            self.ports.early.keep(subject.slot, event, at);
        }
        // A life that is only being made has nothing to close: that was its predecessor, by its death. What it opens is
        // looked at when it is there.
        if view.state != State::Starting {
            self.ports.watch.ask(subject, Look::Hint { pid: event.pid, listener: at, listening: begins });
        }
    }

    /// The keeper says that a life has begun, or that it goes on: what the kernel has told of it before is looked at, and
    /// a source that hears nothing of ports is helped.
    pub(super) fn watch_ports(&mut self, slot: u32, started: u64) {
        let early = self.ports.early.take(slot, started);
        let Some(service) = self.slots.service(slot).cloned() else { return };
        let Some((subject, view)) = self.subject(&service) else { return };
        for look in early {
            self.ports.watch.ask(subject.clone(), look);
        }
        let hears = self.source.hears_ports();
        // What is left of an earlier life may listen already, and nobody would hear of that.
        // And a socket that is passed has listened before.
        let inherits = subject.spec.leftovers == Leftovers::Keep || !subject.spec.launch.sockets.is_empty();
        if view.state == State::Running && !view.ports.is_empty() && (!hears || inherits) {
            self.ports.watch.ask(subject, Look::Ports { all: false, wait: !hears });
        }
    }

    /// What is known of ports may be wrong, by a loss or because another daemon knew it: every life is looked at.
    pub(super) fn look_at_ports(&self) {
        let wait = !self.source.hears_ports();
        for service in self.slots.services().filter(|service| self.slots.wants_ports(service)) {
            if let Some((subject, _)) = self.subject(service).filter(|(subject, _)| subject.main.is_some()) {
                self.ports.watch.ask(subject, Look::Ports { all: true, wait });
            }
        }
    }

    /// What a look has shown.
    pub(super) fn take_found(&mut self, found: Found) -> Result<(), LinkError> {
        let (service, slot, incarnation, port, listening) = match found {
            Found::Level { service, slot, incarnation, port, listening } => {
                (service, slot, incarnation, port, listening)
            }
            Found::Holdable { service, slot, incarnation, port, sockets } => {
                return self.hold_port(&service, slot, incarnation, port, sockets);
            }
            Found::Missed => {
                tracing::warn!("too many looks at ports at a time: every service is looked at again");
                self.look_at_ports();
                return Ok(());
            }
        };
        if self.slots.slot(&service) != Some(slot) {
            return Ok(());
        }
        if listening {
            self.connections.moved();
        }
        self.turn([Input::Port { service, incarnation, port, listening }])
    }

    /// The keeper holds what a life listens with for the next one, if the life goes on.
    fn hold_port(
        &mut self,
        service: &ServiceName,
        slot: u32,
        incarnation: Incarnation,
        port: u16,
        sockets: Duplicates,
    ) -> Result<(), LinkError> {
        let Some((subject, view)) = self.subject(service) else { return Ok(()) };
        let goes_on = matches!(view.state, State::Starting | State::Running);
        let present = subject.slot == slot && subject.incarnation == incarnation;
        if !goes_on || !present || !subject.spec.launch.hold_ports.contains(&port) {
            return Ok(());
        }
        let hold_ms = u64::try_from(subject.spec.hold_for.as_millis()).unwrap_or(u64::MAX);
        let (incarnation, pid, numbers) = (incarnation.0, sockets.pid, sockets.numbers.clone());
        tracing::info!(%service, port, pid, sockets = numbers.len(), migrates = sockets.migrates, "the port is held");
        let order = Order::HoldPort { slot, incarnation, port, pid, numbers, hold_ms };
        self.link.order(order, sockets.into_fds())?;
        self.link.send_turn()
    }

    /// The present life of a service.
    fn subject(&self, service: &ServiceName) -> Option<(Subject, ServiceView)> {
        let spec = self.slots.spec(service)?.clone();
        let (slot, view) = (self.slots.slot(service)?, self.core.view(service)?);
        Some((Subject { spec, slot, incarnation: view.incarnation, main: view.pid }, view))
    }
}
