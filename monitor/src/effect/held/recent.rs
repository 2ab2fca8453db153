//! What has been opened, for plans that were asked for before that was known: two may be on their way at a time.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Weak};

use defib_core::model::SocketSpec;

use super::Held;

/// The sockets that the latest plan of each slot has opened, for as long as somebody has them open.
#[derive(Debug, Default)]
pub struct Recent(BTreeMap<u32, Vec<(SocketSpec, Weak<OwnedFd>)>>);

impl Recent {
    /// What is open for a slot: what was when the plan was asked for, then what has been opened since.
    pub fn with(&self, slot: u32, mut held: Vec<Held>) -> Vec<Held> {
        let since = self.0.get(&slot).into_iter().flatten();
        held.extend(since.filter_map(|(spec, fd)| Some(Held { spec: spec.clone(), fd: fd.upgrade()? })));
        held
    }

    /// A plan for this slot has these.
    pub fn note(&mut self, slot: u32, sockets: &[Held]) {
        self.0.remove(&slot);
        if sockets.is_empty() {
            return;
        }
        // At most one entry for each service that has any.
        self.0.retain(|_, all| all.iter().any(|(_, fd)| fd.strong_count() > 0));
        let noted = sockets.iter().map(|held| (held.spec.clone(), Arc::downgrade(&held.fd)));
        self.0.insert(slot, noted.collect());
    }
}
