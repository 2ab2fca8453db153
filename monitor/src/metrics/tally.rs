//! What the supervisor thread counts, and a scrape copies.
//!
//! The supervisor thread counts each record at the moment at which it is told, so that no number depends on how often
//! somebody scrapes, or on a queue that may be full.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use defib_core::model::{Record, ServiceName, Tick, What};

use super::counted::Counted;
use super::histogram::{Histogram, LATENCY, WORK};

/// How long a service that was removed keeps its counters, so that a scraper sees how they ended.
const AFTERGLOW: Duration = Duration::from_secs(300);

/// The numbers of every service, and the spans of all together.
#[derive(Debug)]
pub struct Tally {
    /// Guards the list, and is held only to clone the `Arc`, or to add or remove a service.
    services: Mutex<Arc<Services>>,
    pub(super) spans: Spans,
    /// When the last event of the source was handled; 0: never.
    last_event: AtomicU64,
    refused: AtomicU64,
    since: Tick,
}

/// The mutex guards one service's numbers. The supervisor thread holds it to add to them, a scrape to copy them: less
/// than a microsecond each, so that neither waits for the other longer than that.
type Services = BTreeMap<ServiceName, Arc<Mutex<Counted>>>;

/// Histograms.
#[derive(Debug)]
pub(super) struct Spans {
    pub(super) detection: Histogram,
    pub(super) restart: Histogram,
    pub(super) ready: Histogram,
    pub(super) stop: Histogram,
    pub(super) event: Histogram,
}

impl Tally {
    /// Counts from `since` on.
    pub(super) fn new(since: Tick) -> Self {
        let spans = Spans {
            detection: Histogram::new(&LATENCY),
            restart: Histogram::new(&LATENCY),
            ready: Histogram::new(&WORK),
            stop: Histogram::new(&WORK),
            event: Histogram::new(&LATENCY),
        };
        let services = Mutex::default();
        Self { services, spans, last_event: AtomicU64::new(0), refused: AtomicU64::new(0), since }
    }

    /// A record is told. `acted` is when the orders that follow from it had been sent, `ready` whether its service is
    /// ready now.
    pub fn tell(&self, record: &Record, ready: bool, acted: Tick) {
        if let What::Exit { ending, .. } = &record.what {
            self.spans.detection.observe(acted.since(ending.end.at));
        }
        let service = self.service(&record.service);
        if locked(&service).tell(record, ready, self.since, &self.spans) {
            self.refused.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// The kernel has told of events, which are handled at `now`.
    pub fn heard(&self, stamps: impl IntoIterator<Item = Tick>, now: Tick) {
        for stamp in stamps {
            self.spans.event.observe(now.since(stamp));
            self.last_event.store(now.0, Ordering::Relaxed);
        }
    }

    /// The out-of-memory killer has chosen a descendant of a service's main process. That of a main process is told by
    /// the record of its end.
    pub fn descendant_killed(&self, service: &ServiceName) {
        locked(&self.service(service)).oom_kills += 1;
    }

    /// A service has left the configuration: what describes it goes with its view, its counters five minutes later.
    pub fn remove(&self, service: &ServiceName, now: Tick) {
        if let Some(counted) = locked(&self.services).get(service) {
            locked(counted).removed = Some(now);
        }
    }

    /// A copy of the numbers of every service that has any, one service after the other.
    pub(super) fn copy(&self, now: Tick) -> BTreeMap<ServiceName, Counted> {
        let services = Arc::clone(&locked(&self.services));
        let mut copies: BTreeMap<_, _> =
            services.iter().map(|(name, counted)| (name.clone(), locked(counted).clone())).collect();
        drop(services);
        let faded = |counted: &Counted| counted.removed.is_some_and(|at| now.since(at) >= AFTERGLOW);
        if copies.values().any(faded) {
            Arc::make_mut(&mut locked(&self.services)).retain(|_, counted| !faded(&locked(counted)));
            copies.retain(|_, counted| !faded(counted));
        }
        copies
    }

    /// When the last event of the source was handled.
    pub(super) fn last_event(&self) -> Option<Tick> {
        Some(self.last_event.load(Ordering::Relaxed)).filter(|at| *at > 0).map(Tick)
    }

    /// How many ends were counted under `other` because their service has ended in too many ways.
    pub(super) fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    fn service(&self, name: &ServiceName) -> Arc<Mutex<Counted>> {
        let mut services = locked(&self.services);
        if let Some(counted) = services.get(name) {
            return Arc::clone(counted);
        }
        Arc::clone(Arc::make_mut(&mut services).entry(name.clone()).or_default())
    }
}

/// What these mutexes guard is numbers only: a panic leaves them usable.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
