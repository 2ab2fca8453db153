//! Which service wants to be looked at when.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::{ServiceName, Tick};

/// One deadline a service at most. Set anew with every change of phase, so none is ever stale.
#[derive(Debug, Default)]
pub(crate) struct Timers {
    by_service: BTreeMap<ServiceName, Tick>,
    by_time: BTreeSet<(Tick, ServiceName)>,
}

impl Timers {
    /// Replaces the deadline of a service.
    pub(crate) fn set(&mut self, service: &ServiceName, deadline: Option<Tick>) {
        let old = match deadline {
            Some(at) => self.by_service.insert(service.clone(), at),
            None => self.by_service.remove(service),
        };
        if old == deadline {
            return;
        }
        if let Some(at) = old {
            self.by_time.remove(&(at, service.clone()));
        }
        if let Some(at) = deadline {
            self.by_time.insert((at, service.clone()));
        }
    }

    /// The earliest deadline.
    pub(crate) fn next(&self) -> Option<Tick> {
        self.by_time.first().map(|(at, _)| *at)
    }

    /// A service whose deadline has passed.
    pub(crate) fn due(&self, now: Tick) -> Option<ServiceName> {
        self.by_time.first().filter(|(at, _)| *at <= now).map(|(_, service)| service.clone())
    }
}
