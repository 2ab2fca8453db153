//! How much output there was, and how much of it is in no file.

use std::sync::atomic::{AtomicU64, Ordering};

use defib_core::model::ServiceName;

use super::Kind;

/// Of one stream, since this daemon started.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) captured: AtomicU64,
    pub(super) dropped: AtomicU64,
}

impl Counters {
    pub(super) fn add(&self, captured: u64, dropped: u64) {
        self.captured.fetch_add(captured, Ordering::Relaxed);
        self.dropped.fetch_add(dropped, Ordering::Relaxed);
    }
}

/// A look at the counters of one stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Count {
    /// The service.
    pub service: ServiceName,
    /// Which of its streams.
    pub stream: Kind,
    /// Bytes that it wrote and defib read, those that were dropped among them.
    pub captured: u64,
    /// Bytes that are in no file, because files could not be written.
    pub dropped: u64,
}
