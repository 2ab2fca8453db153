//! What is known of one service: its keys, its streams, who follows it.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use defib_core::model::{LogSpec, ServiceName};
use tokio::sync::Notify;

use super::Kind;
use super::counters::Counters;
use super::places;
use super::ring::Limits;
use super::stream::Stream;

/// What is kept in memory at least while somebody follows.
const FOLLOWED: usize = 1 << 20;

/// One service.
#[derive(Debug)]
pub(super) struct Service {
    pub(super) name: ServiceName,
    /// Guards the keys and the streams; held for moments, by any thread but the supervisor's.
    inner: Mutex<Inner>,
    counters: [Arc<Counters>; 3],
    /// Something has come.
    pub(super) news: Notify,
    pub(super) followers: AtomicUsize,
}

#[derive(Debug)]
struct Inner {
    spec: Arc<LogSpec>,
    streams: Vec<Arc<Stream>>,
}

impl Service {
    pub(super) fn new(name: ServiceName, spec: LogSpec) -> Self {
        let inner = Mutex::new(Inner { spec: Arc::new(spec), streams: Vec::new() });
        Self {
            name,
            inner,
            counters: Default::default(),
            news: Notify::new(),
            followers: AtomicUsize::new(0),
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        // Nothing panics while it holds this.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn spec(&self) -> Arc<LogSpec> {
        Arc::clone(&self.inner().spec)
    }

    pub(super) fn set_spec(&self, spec: LogSpec) {
        self.inner().spec = Arc::new(spec);
    }

    /// The streams that are read: also earlier ones, while somebody still holds their ends.
    pub(super) fn streams(&self) -> Vec<Arc<Stream>> {
        self.inner().streams.clone()
    }

    pub(super) fn add(&self, stream: Arc<Stream>) {
        self.inner().streams.push(stream);
    }

    pub(super) fn remove(&self, id: u64) {
        self.inner().streams.retain(|stream| stream.id != id);
    }

    pub(super) fn counters(&self, kind: Kind) -> Arc<Counters> {
        Arc::clone(&self.counters[kind as usize])
    }

    /// How much of a stream is kept in memory.
    pub(super) fn limits(&self) -> Limits {
        let spec = self.spec();
        let memory = usize::try_from(spec.memory).unwrap_or(usize::MAX);
        let lines = spec.lines as usize;
        if self.followers.load(Ordering::Relaxed) > 0 {
            Limits { lines: usize::MAX, memory: memory.max(FOLLOWED) }
        } else if lines == 0 {
            Limits { lines: 0, memory: 0 }
        } else {
            Limits { lines, memory }
        }
    }

    /// Where its files are.
    pub(super) fn base(&self, log_dir: &Path) -> (PathBuf, Arc<LogSpec>) {
        let spec = self.spec();
        (places::base(log_dir, &self.name, &spec), spec)
    }
}
