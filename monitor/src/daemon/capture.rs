//! Which pipes there are for the output of services, and what the threads of the logs are told.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;

use defib_core::model::{ServiceName, ServiceSpec, Tick};

use super::link::{KeeperLink, LinkError};
use super::slots::Slots;
use crate::effect::clock;
use crate::effect::output::pipe::{Inlet, Pipes, Plumbing};
use crate::effect::output::{Count, Kind, Logs};
use crate::keeper::protocol::{LifeEnd, Order, SlotState};
use crate::metrics::{OutputCounters, Stream};

/// The name under which the keeper holds the pipe through which busy services write into their files.
pub(super) const LANE: &str = "log-lane";

/// What was captured, for the metrics.
#[derive(Debug)]
pub(super) struct Captured(pub(super) Logs);

impl OutputCounters for Captured {
    fn streams(&self) -> Vec<(ServiceName, Stream)> {
        let shown = |Count { service, stream, captured, dropped }| {
            (service, Stream { name: Kind::as_str(stream), bytes: captured, dropped })
        };
        self.0.counters().into_iter().map(shown).collect()
    }
}

/// The supervisor thread's side of the logs.
#[derive(Debug)]
pub(super) struct Capture {
    logs: Logs,
    /// By slot.
    pipes: BTreeMap<u32, Plumbing>,
    /// The lives that the logs were told of, by slot.
    told: BTreeMap<u32, u64>,
}

impl Capture {
    pub(super) fn new(logs: Logs) -> Self {
        Self { logs, pipes: BTreeMap::new(), told: BTreeMap::new() }
    }

    /// These are the keys of a service from now on.
    pub(super) fn configure(&self, spec: &ServiceSpec) {
        self.logs.configure(&spec.name, &spec.log);
    }

    /// A service is configured no longer, and its slot is free: its files stay.
    pub(super) fn forget(&mut self, slot: u32, service: &ServiceName) {
        self.pipes.remove(&slot);
        self.told.remove(&slot);
        self.logs.remove(service);
    }

    /// Takes over what an earlier daemon has left with the keeper.
    pub(super) fn adopt(&mut self, slots: &Slots, left: Vec<(u32, Vec<OwnedFd>)>) {
        for (slot, mut pipes) in left {
            let Some(service) = slots.service(slot) else { continue };
            let spools = pipes.split_off(pipes.len() / 2);
            let inlets: Vec<_> =
                pipes.into_iter().zip(spools).map(|(pipe, spool)| Inlet { pipe, spool }).collect();
            match Plumbing::of(&inlets) {
                Ok(plumbing) => {
                    self.pipes.insert(slot, plumbing);
                    self.logs.connect(service, slot, inlets, false);
                }
                Err(error) => {
                    tracing::error!(%service, %error, "its pipes are lost: it gets new ones at its next start");
                }
            }
        }
    }

    /// The pipes of a slot.
    pub(super) fn plumbing(&self, slot: Option<u32>) -> Option<Plumbing> {
        self.pipes.get(&slot?).copied()
    }

    /// Hands new pipes to the keeper and the logs.
    pub(super) fn connect(
        &mut self,
        slot: u32,
        service: &ServiceName,
        pipes: Pipes,
        link: &mut KeeperLink,
    ) -> Result<(), LinkError> {
        let Pipes { plumbing, service: mut fds, daemon } = pipes;
        for inlet in &daemon {
            fds.push(inlet.pipe.try_clone()?);
        }
        for inlet in &daemon {
            fds.push(inlet.spool.try_clone()?);
        }
        link.order(Order::Pipes { slot, streams: plumbing.count() }, fds)?;
        self.pipes.insert(slot, plumbing);
        self.logs.connect(service, slot, daemon, true);
        Ok(())
    }

    /// The keeper tells how a slot is: whose output comes from now on.
    pub(super) fn hear(&mut self, slot: u32, service: &ServiceName, state: &SlotState) {
        match *state {
            SlotState::Living { incarnation, started, .. } => {
                self.begin(slot, service, incarnation, started);
            }
            // Told twice where something of the tree was left: what that wrote is the same life's.
            SlotState::Ended { .. } | SlotState::Empty { .. } => self.logs.ended(service),
            SlotState::Starting { .. } | SlotState::Failed { .. } => {}
        }
    }

    /// A life has ended after so much of output, and the next one has begun. It may be the first that is heard of it.
    pub(super) fn followed(&mut self, slot: u32, service: &ServiceName, end: &LifeEnd, output: [u64; 2]) {
        self.begin(slot, service, end.incarnation, end.started);
        self.logs.followed(service, output);
    }

    fn begin(&mut self, slot: u32, service: &ServiceName, incarnation: u64, started: u64) {
        if self.told.insert(slot, incarnation) != Some(incarnation) {
            self.logs.began(service, incarnation, clock::wall(Tick(started)));
        }
    }
}
