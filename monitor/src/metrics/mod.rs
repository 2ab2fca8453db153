//! Metrics for Prometheus: what is counted, and the text that a scrape gets.
//!
//! - [`names`]: every family;
//! - `tally`, `counted`: what the supervisor thread counts as it happens;
//! - `recorder`, [`log_layer`]: what the daemon counts of itself;
//! - `services`, `usage`, `pipeline`, [`ports`], `own_process`: what is read and written at a scrape;
//! - `histogram`, `text`: how it is kept and written;
//! - [`scrape`]: all of it together.
//!
//! A scrape runs on the surfaces' thread. Of the supervisor thread it takes a lock for less than a microsecond a service,
//! and one answer out of its loop, for which it waits a bounded time and does without if it does not come.

mod counted;
mod histogram;
pub mod log_layer;
pub mod names;
mod own_process;
mod pipeline;
pub mod ports;
mod recorder;
pub mod scrape;
mod services;
mod tally;
mod text;
mod usage;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use defib_core::model::{SourceName, Tick};

use crate::effect::clock;
use histogram::{Histogram, LATENCY};
pub use log_layer::LogLayer;
pub use pipeline::{Host, OomKills, Pipeline, Program, Queue, Ring};
use recorder::Recorder;
pub use scrape::{Collector, Scrape};
pub use services::{OutputCounters, Stream};
pub use tally::Tally;
pub use text::Format;
use usage::Sums;

/// Everything that is counted, shared by all threads of the daemon.
#[derive(Debug)]
pub struct Metrics {
    recorder: Recorder,
    /// What the supervisor thread counts of services and events.
    pub tally: Tally,
    /// How the loading of configurations went.
    pub loads: ConfigLoads,
    /// Who captures the output of services, once there is somebody.
    pub output: OnceLock<Arc<dyn OutputCounters>>,
    /// Who keeps what outlives defib, once there is somebody.
    pub state: OnceLock<Arc<dyn StateCounters>>,
    /// How long answers took, by route. As many as there are routes. Used on the surfaces' thread only.
    answers: Mutex<BTreeMap<String, Histogram>>,
    /// What services have been told to have used. Used on the surfaces' thread only.
    sums: Mutex<Sums>,
    /// How many members a family may have.
    most: AtomicUsize,
    /// How many sets of labels were left out of each family. Used on the surfaces' thread only.
    left_out: Mutex<BTreeMap<&'static str, u64>>,
    /// When the daemon began.
    pub started: Tick,
}

impl Metrics {
    /// Nothing has been counted yet.
    pub fn new(started: Tick) -> Self {
        Self {
            recorder: Recorder::new(),
            tally: Tally::new(started),
            loads: ConfigLoads::default(),
            output: OnceLock::new(),
            state: OnceLock::new(),
            answers: Mutex::default(),
            sums: Mutex::default(),
            most: AtomicUsize::new(usize::MAX),
            left_out: Mutex::default(),
            started,
        }
    }

    /// A request was answered after `took`. `handler` is a route, never a path that a client chose.
    pub fn answered(&self, handler: &str, method: &'static str, code: u16, took: Duration) {
        self.recorder.answered(handler, method, code);
        let mut answers = self.answers.lock().unwrap_or_else(PoisonError::into_inner);
        match answers.get(handler) {
            Some(histogram) => histogram.observe(took),
            None => {
                let histogram = Histogram::new(&LATENCY);
                histogram.observe(took);
                answers.insert(handler.to_owned(), histogram);
            }
        }
    }

    /// Families that are about services, or whatever else the configuration names, have `most` of them from now on.
    pub fn limit(&self, most: usize) {
        self.most.store(most, Ordering::Relaxed);
    }

    /// The source in use is known: its counters stand at 0 from now on.
    pub fn source(&self, source: SourceName) {
        self.recorder.resynced(source, 0);
    }

    /// Everything was looked at again because the source has lost events.
    pub fn resynced(&self, source: SourceName) {
        self.recorder.resynced(source, 1);
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new(clock::now())
    }
}

/// Who keeps what outlives defib tells how that goes. Asked at each scrape on the surfaces' thread.
pub trait StateCounters: std::fmt::Debug + Send + Sync {
    /// Whether it can be written.
    fn works(&self) -> bool;
    /// What had no room while it could not.
    fn lost(&self) -> u64;
}

/// How the loading of configurations went. Whoever loads one tells.
#[derive(Debug, Default)]
pub struct ConfigLoads {
    successful: AtomicBool,
    /// The tick of the last success; 0: there was none.
    success_at: AtomicU64,
}

impl ConfigLoads {
    /// A configuration was loaded at `now`, or refused.
    pub fn told(&self, success: bool, now: Tick) {
        self.successful.store(success, Ordering::Relaxed);
        if success {
            self.success_at.store(now.0, Ordering::Relaxed);
        }
    }

    fn last(&self) -> (bool, Option<Tick>) {
        let at = Some(self.success_at.load(Ordering::Relaxed)).filter(|at| *at > 0).map(Tick);
        (self.successful.load(Ordering::Relaxed), at)
    }
}

/// A tick as Prometheus takes moments: seconds since 1970, by the wall clock.
fn wall_seconds(tick: Tick) -> f64 {
    clock::wall(tick).as_nanosecond() as f64 / 1e9
}
