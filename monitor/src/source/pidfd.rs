//! The source that hears nothing by itself.
//!
//! The keeper holds a pidfd of each of its children and reports how they ended, which is enough to restart them. This
//! source adds no cause and no early warning: forks, execs and OOM kills stay unseen.

use std::future;

/// Always there, on every kernel and without rights.
#[derive(Debug, Default)]
pub struct PidfdSource;

impl PidfdSource {
    /// Never returns.
    pub(super) async fn wait(&mut self) {
        future::pending().await
    }
}
