//! Ports of services: what the source hears of them, and what looks have shown, on the way to the core.
//!
//! The supervisor thread only asks for looks, after the orders of a turn have gone out, and takes what comes back as one
//! more input. A look names the life that it is about, so one that comes late changes nothing.

use defib_core::Input;
use defib_core::model::{KernelEvent, KernelFact, Leftovers, Listener, ServiceName, ServiceView, State};
use tokio::sync::mpsc;

use super::link::LinkError;
use super::run::Daemon;
use crate::effect::port_watch::{Found, Look, PortWatch, Subject};

/// What the supervisor thread keeps of ports.
#[derive(Debug)]
pub(super) struct Ports {
    watch: PortWatch,
    found: mpsc::Receiver<Found>,
}

impl Ports {
    pub(super) fn new((watch, found): (PortWatch, mpsc::Receiver<Found>)) -> Self {
        Self { watch, found }
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
        &self,
        service: &ServiceName,
        event: &KernelEvent,
        at: Listener,
        begins: bool,
    ) {
        let Some((subject, view)) = self.subject(service) else { return };
        // A life that is only being made has nothing to close: that was its predecessor, by its death.
        if begins || view.state != State::Starting {
            self.ports.watch.ask(subject, Look::Hint { pid: event.pid, listener: at, listening: begins });
        }
    }

    /// The keeper says that a life has begun, or that it goes on: a source that hears nothing of ports is helped.
    pub(super) fn watch_ports(&mut self, slot: u32) {
        let Some(service) = self.slots.service(slot).cloned() else { return };
        let Some((subject, view)) = self.subject(&service) else { return };
        let hears = self.source.hears_ports();
        // What is left of an earlier life may listen already, and nobody would hear of that.
        let inherits = subject.spec.leftovers == Leftovers::Keep;
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
        let Found::Level { service, slot, incarnation, port, listening } = found else {
            tracing::warn!("too many looks at ports at a time: every service is looked at again");
            self.look_at_ports();
            return Ok(());
        };
        if self.slots.slot(&service) != Some(slot) {
            return Ok(());
        }
        self.turn([Input::Port { service, incarnation, port, listening }])
    }

    /// The present life of a service.
    fn subject(&self, service: &ServiceName) -> Option<(Subject, ServiceView)> {
        let spec = self.slots.spec(service)?.clone();
        let (slot, view) = (self.slots.slot(service)?, self.core.view(service)?);
        Some((Subject { spec, slot, incarnation: view.incarnation, main: view.pid }, view))
    }
}
