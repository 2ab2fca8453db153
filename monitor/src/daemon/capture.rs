//! Which pipes there are for the output of services, and what the threads of the logs are told.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use defib_core::model::{ServiceName, ServiceSpec, Tick};

use super::adoption::Residents;
use super::link::{KeeperLink, LinkError};
use super::slots::Slots;
use crate::effect::clock;
use crate::effect::output::folder::{Folder, NoFolder};
use crate::effect::output::pipe::{self, Inlet, Pipes, Plumbing};
use crate::effect::output::{Count, Kind, Logs};
use crate::keeper::protocol::{LifeEnd, MAX_SLOTS, Order, SlotState};
use crate::metrics::{OutputCounters, Stream};

/// The name under which the keeper holds the lock of the folder in which pipes have names.
pub(super) const LOCK: &str = "log-lock";

/// How long an earlier daemon whose keeper was killed may take to leave that folder.
const LEAVES: Duration = Duration::from_secs(5);

/// How often it is looked whether it has.
const LOOK: Duration = Duration::from_millis(20);

/// What keeper and daemon left that have both been killed.
#[derive(Debug, Default)]
pub(super) struct Names {
    /// Where pipes have names, if there is such a place.
    pub(super) folder: Option<Arc<Folder>>,
    /// What was found there.
    pub(super) found: BTreeMap<ServiceName, Pipes>,
}

impl Names {
    /// Opens the folder. `lock` is what an earlier daemon under this keeper held; `first`: there was none.
    pub(super) async fn open(
        runtime_dir: &Path,
        lock: Option<OwnedFd>,
        first: bool,
        link: &mut KeeperLink,
    ) -> Result<Self, LinkError> {
        if !first {
            // What there is, the keeper tells. A daemon that had no folder has left no names.
            let folder = lock.and_then(|lock| said(Folder::open(runtime_dir, Some(lock))));
            return Ok(Self { folder, found: BTreeMap::new() });
        }
        let begun = clock::now();
        let opened = loop {
            match Folder::open(runtime_dir, None) {
                Err(NoFolder::InUse(_)) if clock::now().since(begun) < LEAVES => {
                    tokio::time::sleep(LOOK).await;
                }
                opened => break opened,
            }
        };
        let Some(folder) = said(opened) else { return Ok(Self::default()) };
        link.order(Order::Hold { name: LOCK.to_owned() }, vec![folder.lock()?])?;
        let mut found = BTreeMap::new();
        for service in folder.services() {
            match pipe::find(&folder, &service) {
                Ok(Some(pipes)) => drop(found.insert(service, pipes)),
                Ok(None) => {
                    tracing::debug!(%service, "half of a pipe");
                    Kind::ALL.into_iter().for_each(|kind| folder.remove(&service, kind));
                }
                Err(error) => {
                    tracing::error!(%service, %error, "its pipes are lost: what was under way in them is not written");
                }
            }
        }
        Ok(Self { folder: Some(folder), found })
    }

    /// What those write into who were started by an earlier keeper and live: mostly what was found by its name, which is also
    /// what is left of one that has died meanwhile.
    pub(super) fn of_residents(&mut self, residents: &Residents) {
        for (service, resident) in residents {
            let pid = resident.life.pid;
            match pipe::of_process(pid, self.found.get(service)) {
                Ok(Some(pipes)) => drop(self.found.insert(service.clone(), pipes)),
                Ok(None) => {}
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => {
                    tracing::error!(%service, pid, %error, "its output is not read until it is started again");
                }
            }
        }
    }

    /// Where the ledger has the services that were found: those that are gone are behind all slots.
    pub(super) fn places(&self, slots: &Slots) -> Vec<(u32, &Pipes)> {
        let behind = MAX_SLOTS..;
        let place = |((service, pipes), behind)| (slots.slot(service).unwrap_or(behind), pipes);
        self.found.iter().zip(behind).map(place).collect()
    }
}

fn said(opened: Result<Folder, NoFolder>) -> Option<Arc<Folder>> {
    match opened {
        Ok(folder) => Some(Arc::new(folder)),
        Err(error) => {
            tracing::warn!(
                %error,
                "pipes of services have no names: output that is under way is lost if keeper and daemon are both killed"
            );
            None
        }
    }
}

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
                    self.logs.connect(service, slot, inlets);
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

    /// Takes over what was found by its names: hands it to the keeper and the logs. What is of a service that is gone is
    /// written, and goes.
    pub(super) fn take_over(
        &mut self,
        slots: &Slots,
        found: BTreeMap<ServiceName, Pipes>,
        link: &mut KeeperLink,
    ) -> Result<(), LinkError> {
        for ((service, pipes), behind) in found.into_iter().zip(MAX_SLOTS..) {
            match slots.slot(&service) {
                Some(slot) => self.connect(slot, &service, pipes, link)?,
                None => {
                    tracing::info!(%service, "is configured no longer: what was left of its output is written");
                    self.logs.connect(&service, behind, pipes.daemon);
                    self.logs.remove(&service);
                }
            }
        }
        Ok(())
    }

    /// Hands pipes to the keeper and the logs.
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
        self.logs.connect(service, slot, daemon);
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
