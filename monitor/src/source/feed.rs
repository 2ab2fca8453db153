//! Every process of the host, while somebody wants to hear of all.
//!
//! A feed is apart from the source that it came with: another ring, another socket, on another thread. However much the
//! host does, the thread that restarts services hears nothing of it.

use super::any::{Batch, SourceError};
use super::connector::ConnectorFeed;
use super::ebpf::EbpfFeed;

/// Hears of every process of the host, main processes of services excepted where it can tell them.
#[derive(Debug)]
#[allow(
    clippy::large_enum_variant,
    reason = "there is one, and it is moved once, to the thread that reads it"
)]
pub enum Feed {
    /// A ring of its own that eBPF programs write.
    Ebpf(EbpfFeed),
    /// A socket of its own on the proc connector.
    ProcConnector(ConnectorFeed),
}

impl Feed {
    /// Begins to hear. To be called on the tokio runtime that will read.
    pub fn start(&mut self) -> Result<(), SourceError> {
        match self {
            Self::Ebpf(feed) => Ok(feed.start()?),
            Self::ProcConnector(feed) => Ok(feed.start()?),
        }
    }

    /// Waits for events and adds a bounded number of them, with what was lost. Cancelling it loses nothing.
    pub async fn read(&mut self, batch: &mut Batch) {
        match self {
            Self::Ebpf(feed) => feed.read(batch).await,
            Self::ProcConnector(feed) => feed.read(batch).await,
        }
    }

    /// Ceases to hear: the kernel does no more work for it.
    pub fn stop(&mut self) {
        match self {
            Self::Ebpf(feed) => feed.stop(),
            Self::ProcConnector(feed) => feed.stop(),
        }
    }
}
