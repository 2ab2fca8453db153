//! Who listens.

use std::collections::{BTreeMap, BTreeSet};

use defib_core::model::{Holder, ServiceName};

use super::watched::Subject;
use crate::effect::holders::{self, Household};

/// A process that listens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The process: of several that share the socket the one with the lowest pid, and defib only if nobody else has it.
    pub process: Holder,
    /// The service that it is of.
    pub service: Option<ServiceName>,
}

/// The owners of some listeners.
#[derive(Debug, Default)]
pub(super) struct Owners {
    /// By inode.
    found: BTreeMap<u64, Owner>,
    /// The sockets that the keeper holds; `None`: nobody has looked.
    kept: Option<BTreeSet<u64>>,
}

impl Owners {
    /// Looks through all processes.
    pub(super) fn of(household: &Household, subjects: &[Subject], inodes: &BTreeSet<u64>) -> Self {
        let own = [household.keeper, std::process::id()];
        let mut services: BTreeMap<u32, Option<ServiceName>> = BTreeMap::new();
        let found = holders::holders_of(inodes).into_iter().filter(|(_, it)| !own.contains(&it.pid));
        let found = found.map(|(inode, process)| {
            let service = services.entry(process.pid);
            let service = service.or_insert_with(|| service_of(household, subjects, process.pid)).clone();
            (inode, Owner { process, service })
        });
        Self { found: found.collect(), kept: Some(holders::sockets_of(household.keeper)) }
    }

    /// The first of these that has one.
    pub(super) fn first(&self, inodes: impl IntoIterator<Item = u64>) -> Option<Owner> {
        inodes.into_iter().find_map(|inode| self.found.get(&inode).cloned())
    }

    /// Whether defib holds one of them open; `None`: nobody has looked.
    pub(super) fn held(&self, inodes: impl IntoIterator<Item = u64>) -> Option<bool> {
        let kept = self.kept.as_ref()?;
        Some(inodes.into_iter().any(|inode| kept.contains(&inode)))
    }
}

/// The service that a process is of.
fn service_of(household: &Household, subjects: &[Subject], pid: u32) -> Option<ServiceName> {
    if let Some(subject) = subjects.iter().find(|subject| subject.main == Some(pid)) {
        return Some(subject.service.clone());
    }
    // Its environment says of which service, and may lie: that service's processes are looked at. One that has cleared
    // it is found if its service names ports.
    let claimed = holders::claimed_service(pid);
    let named = subjects.iter().filter(|subject| !subject.ports.is_empty()).map(|subject| &subject.service);
    let candidates: Vec<&ServiceName> = claimed.iter().chain(named).collect();
    let main = |service: &ServiceName| {
        subjects.iter().find(|subject| subject.service == *service).and_then(|subject| subject.main)
    };
    let of = |service: &&ServiceName| {
        subjects.iter().any(|subject| subject.service == **service)
            && household.processes(service, main(service)).contains(&pid)
    };
    candidates.into_iter().find(of).cloned()
}
