//! The bulk ring: every process of the host, while somebody listens.

use super::super::any::Batch;
use super::error::EbpfError;

/// The reader of the bulk ring.
#[derive(Debug)]
pub struct EbpfFeed;

#[expect(clippy::unused_async, clippy::unnecessary_wraps, reason = "stub")]
impl EbpfFeed {
    pub(in crate::source) fn start(&mut self) -> Result<(), EbpfError> {
        Ok(())
    }
    pub(in crate::source) async fn read(&mut self, _batch: &mut Batch) {
        std::future::pending().await
    }
    pub(in crate::source) fn stop(&mut self) {}
}
