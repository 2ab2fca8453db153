//! Waiting until what was told is written: for who is about to promise an operator something.

use std::sync::Arc;

use super::PATIENCE;
use super::health::Health;
use super::pending::Pending;

/// Says when all is written. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Commits {
    pub(super) pending: Arc<Pending>,
    pub(super) health: Arc<Health>,
}

impl Commits {
    /// Has all that was told until now written at once, and waits for it: not where nothing can be written, and for no
    /// longer than a second.
    pub async fn settle(&self) {
        if self.health.trouble().is_some() {
            return;
        }
        if let Some((told, mut written)) = self.pending.hurry() {
            // Late or not, there is an answer.
            tokio::time::timeout(PATIENCE, written.wait_for(|written| *written >= told)).await.ok();
        }
    }
}
