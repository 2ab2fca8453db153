//! Which service is in which slot of the keeper, and what the keeper's reports mean to the core.

use std::collections::BTreeMap;
use std::sync::Arc;

use defib_core::Input;
use defib_core::model::{
    End, Incarnation, KernelEvent, KernelFact, ServiceName, ServiceSpec, Tick, WaitStatus, Witness,
};

use crate::effect::failure;
use crate::keeper::protocol::{LifeEnd, MAX_SLOTS, SlotState};
use crate::source::Life;

/// One supervised service.
#[derive(Debug)]
struct Tenant {
    slot: u32,
    spec: Arc<ServiceSpec>,
    /// The main process by its identity, as the source told it, and the one before: where the keeper follows an end by
    /// itself, the source tells of the next life before the keeper tells of the end.
    processes: [Option<(u32, u64)>; 2],
    /// The main process as the keeper told it, while it lives.
    life: Option<Life>,
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Slots {
    tenants: BTreeMap<ServiceName, Tenant>,
    names: BTreeMap<u32, ServiceName>,
    /// Where to look for a free slot: behind the last that was given away, so that none is used again soon. What is
    /// under way for its former tenant is then for nobody.
    next: u32,
}

impl Slots {
    /// Gives every service a slot: the one that it had, or a free one.
    /// A service that has one and is not among `specs` keeps it until it has been ended.
    pub(super) fn assign(specs: &[Arc<ServiceSpec>], known: &BTreeMap<ServiceName, u32>) -> Self {
        let mut slots = Self::default();
        for (service, slot) in known {
            slots.settle(*slot, Arc::new(ServiceSpec::unknown(service.clone())));
        }
        slots.next = known.values().max().map_or(0, |last| last + 1);
        slots.reload(specs);
        slots
    }

    /// Takes new specifications. Services that are not among them stay until they are forgotten.
    pub(super) fn reload(&mut self, specs: &[Arc<ServiceSpec>]) {
        for spec in specs {
            match self.tenants.get_mut(&spec.name) {
                Some(tenant) => tenant.spec = Arc::clone(spec),
                None => {
                    if let Some(slot) = self.free() {
                        self.settle(slot, Arc::clone(spec));
                    }
                }
            }
        }
    }

    /// The service is gone. The slot that it had.
    pub(super) fn forget(&mut self, service: &ServiceName) -> Option<u32> {
        let tenant = self.tenants.remove(service)?;
        self.names.remove(&tenant.slot);
        Some(tenant.slot)
    }

    fn settle(&mut self, slot: u32, spec: Arc<ServiceSpec>) {
        self.names.insert(slot, spec.name.clone());
        let name = spec.name.clone();
        self.tenants.insert(name, Tenant { slot, spec, processes: [None; 2], life: None });
    }

    /// A free slot. None is left only while a whole configuration of the largest size is being exchanged for another.
    fn free(&mut self) -> Option<u32> {
        let behind = (self.next..MAX_SLOTS).chain(0..self.next.min(MAX_SLOTS));
        let slot = behind.into_iter().find(|slot| !self.names.contains_key(slot))?;
        self.next = slot + 1;
        Some(slot)
    }

    /// The slot of a service.
    pub(super) fn slot(&self, service: &ServiceName) -> Option<u32> {
        self.tenants.get(service).map(|tenant| tenant.slot)
    }

    /// The specification of a service.
    pub(super) fn spec(&self, service: &ServiceName) -> Option<&Arc<ServiceSpec>> {
        self.tenants.get(service).map(|tenant| &tenant.spec)
    }

    /// The services by slot.
    pub(super) fn names(&self) -> &BTreeMap<u32, ServiceName> {
        &self.names
    }

    /// The service in a slot.
    pub(super) fn service(&self, slot: u32) -> Option<&ServiceName> {
        self.names.get(&slot)
    }

    /// All services.
    pub(super) fn services(&self) -> impl Iterator<Item = &ServiceName> {
        self.tenants.keys()
    }

    /// Whether a service names ports.
    pub(super) fn wants_ports(&self, service: &ServiceName) -> bool {
        self.spec(service).is_some_and(|spec| !spec.wanted_ports().is_empty())
    }

    /// Learns from the fork of a main process when it started.
    pub(super) fn learn(&mut self, event: &KernelEvent) {
        if let (true, Some(slot), KernelFact::Fork { .. }) = (event.main, event.slot, &event.fact) {
            self.identify(slot, event.pid, event.start);
        }
    }

    /// The keeper tells who lives in a slot.
    pub(super) fn occupy(&mut self, slot: u32, life: Option<Life>) {
        if let Some(service) = self.names.get(&slot)
            && let Some(tenant) = self.tenants.get_mut(service)
        {
            tenant.life = life;
        }
    }

    /// All main processes that live.
    pub(super) fn lives(&self) -> Vec<Life> {
        self.tenants.values().filter_map(|tenant| tenant.life).collect()
    }

    /// The main process of a slot started at `start`.
    pub(super) fn identify(&mut self, slot: u32, pid: u32, start: u64) {
        if let Some(service) = self.names.get(&slot)
            && let Some(tenant) = self.tenants.get_mut(service)
        {
            let [latest, _] = tenant.processes;
            if latest != Some((pid, start)) {
                tenant.processes = [Some((pid, start)), latest];
            }
        }
    }

    /// When the main process of a slot started, if the source told.
    pub(super) fn start_of(&self, slot: u32, pid: u32) -> Option<u64> {
        let tenant = self.tenants.get(self.names.get(&slot)?)?;
        tenant.processes.into_iter().flatten().find(|(of, _)| *of == pid).map(|(_, start)| start)
    }

    /// What a report means to the core. `witness` is what the source knows of the end, if it is one.
    pub(super) fn inputs(&self, slot: u32, state: &SlotState, witness: Option<Witness>) -> Vec<Input> {
        let Some(service) = self.service(slot).cloned() else { return Vec::new() };
        match *state {
            SlotState::Empty { last } => vec![Input::Cleared { service, incarnation: Incarnation(last) }],
            SlotState::Starting { .. } => Vec::new(),
            SlotState::Living { incarnation, pid, started } => {
                let incarnation = Incarnation(incarnation);
                vec![Input::Spawned { service, incarnation, pid, at: Tick(started) }]
            }
            SlotState::Failed { incarnation, step, errno } => {
                let Some(spec) = self.spec(&service) else { return Vec::new() };
                let failure = failure::of_step(step, errno, &spec.launch);
                vec![Input::SpawnFailed { service, incarnation: Incarnation(incarnation), failure }]
            }
            SlotState::Ended { end, cleared } => {
                let incarnation = Incarnation(end.incarnation);
                let ended = ended(service.clone(), end, witness, false);
                let cleared = cleared.then_some(Input::Cleared { service, incarnation });
                std::iter::once(ended).chain(cleared).collect()
            }
        }
    }

    /// What it means to the core that an end was followed by the standing order.
    pub(super) fn followed(&self, slot: u32, end: LifeEnd, witness: Option<Witness>) -> Option<Input> {
        let service = self.service(slot).cloned()?;
        Some(ended(service, end, witness, true))
    }
}

fn ended(service: ServiceName, told: LifeEnd, witness: Option<Witness>, followed: bool) -> Input {
    let LifeEnd { incarnation, pid, started, at, status, usage } = told;
    let (incarnation, started, seen) = (Incarnation(incarnation), Tick(started), Tick(at));
    let witness = witness.unwrap_or_default();
    let end = End {
        // The keeper cannot read how one ended that was no child of its own: the kernel may have said it to the source.
        status: status.map(WaitStatus).or(witness.status),
        // Within the life, whatever the source says: delays are counted from it.
        at: witness.at.map_or(seen, |died| died.max(started).min(seen)),
        usage,
        oom: witness.oom,
        blame: witness.blame,
    };
    Input::Ended { service, incarnation, pid, started, end, seen, followed }
}
