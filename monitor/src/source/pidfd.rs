//! The source that hears nothing by itself.
//!
//! The keeper holds a pidfd of each of its children and reports how they ended, which is enough to restart them. This
//! source adds no cause and no early warning: forks, execs and OOM kills stay unseen.

use std::future;

use defib_core::model::{WaitStatus, Witness};

use super::any::{Batch, Life};

/// Always there, on every kernel and without rights.
#[derive(Debug, Default)]
pub struct PidfdSource;

impl PidfdSource {
    /// The source, and what it cannot tell here.
    pub(super) fn open() -> (Self, Vec<String>) {
        (Self, Vec::new())
    }

    /// Never returns.
    pub(super) async fn wait(&mut self, _batch: &mut Batch) {
        future::pending().await
    }

    pub(super) fn drain(&mut self, _batch: &mut Batch) {}

    pub(super) fn settle(&mut self, _batch: &mut Batch) {}

    pub(super) fn take_end(&mut self, _life: &Life, _status: WaitStatus) -> Option<Witness> {
        None
    }

    pub(super) fn track(&mut self, _life: &Life) -> Option<u64> {
        None
    }
}
