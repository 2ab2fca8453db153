//! The proc connector: the kernel's netlink broadcast of every fork, exec and exit.

use defib_core::model::{WaitStatus, Witness};

use super::any::{Batch, Life};
use super::stats::SourceStats;

/// Why the proc connector cannot be had.
#[derive(Debug, thiserror::Error)]
#[error("not built yet")]
pub struct ConnectorError;

/// The source.
#[derive(Debug)]
pub struct ConnectorSource;

/// The feed.
#[derive(Debug)]
pub struct ConnectorFeed;

#[expect(clippy::unused_async, reason = "stub")]
impl ConnectorSource {
    pub(super) fn open(_keeper: u32) -> Result<(Self, ConnectorFeed, Vec<String>), ConnectorError> {
        Err(ConnectorError)
    }
    pub(super) async fn wait(&mut self, _batch: &mut Batch) {}
    pub(super) fn drain(&mut self, _batch: &mut Batch) {}
    pub(super) fn claim(&mut self, _life: &Life, _batch: &mut Batch) {}
    pub(super) fn settle(&mut self, _batch: &mut Batch) {}
    pub(super) fn take_end(&mut self, _life: &Life, _status: WaitStatus) -> Option<Witness> {
        None
    }
    pub(super) fn track(&mut self, _life: &Life) -> Option<u64> {
        None
    }
    pub(super) fn follows(&self, _pid: u32) -> bool {
        true
    }
    pub(super) fn stats(&self) -> SourceStats {
        SourceStats::default()
    }
}

#[expect(clippy::unused_async, reason = "stub")]
impl ConnectorFeed {
    pub(super) fn start(&mut self) -> Result<(), ConnectorError> {
        Err(ConnectorError)
    }
    pub(super) async fn read(&mut self, _batch: &mut Batch) {}
    pub(super) fn stop(&mut self) {}
}
