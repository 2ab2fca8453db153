//! Keeping sight of the main processes: after a start of the daemon, and after a loss of events.

use super::run::Daemon;
use crate::source::{Batch, Life};

/// Rounds of reading that may pass until the beginning of a life is found among what else happened. A round is some
/// hundred events; more than so many rounds do not fit into the kernel's ring.
const ROUNDS: usize = 16;

impl Daemon {
    /// Makes the source hear of a process whose beginning it has not seen.
    pub(super) fn follow(&mut self, life: &Life) {
        let Life { slot, pid, .. } = *life;
        match self.source.track(life) {
            Ok(Some(start)) => self.slots.identify(slot, pid, start),
            Ok(None) => {}
            Err(error) => tracing::warn!(slot, pid, %error, "the source hears nothing of a process"),
        }
    }

    /// Reads on until the beginning of a life has been read, or all that there is: the kernel tells of it before the
    /// keeper can, but other processes may have filled the ring before it.
    pub(super) fn catch_up(&mut self, life: &Life, batch: &mut Batch) {
        for _ in 0..ROUNDS {
            let before = batch.events.len();
            self.source.drain(batch);
            batch.events[before..].iter().for_each(|event| self.slots.learn(event));
            if batch.events.len() == before || self.slots.start_of(life.slot, life.pid).is_some() {
                return;
            }
        }
    }

    /// Events were lost, and with them, perhaps, the beginning of a process whose end is to be told: looks at every
    /// process whether it is still heard of. Ends need no look: the keeper tells of every one.
    pub(super) fn look_again(&mut self, lost: u64) {
        let lives = self.slots.lives();
        let out_of_sight: Vec<Life> = lives
            .iter()
            .filter(|life| !self.source.follows(life.pid, self.slots.start_of(life.slot, life.pid)))
            .copied()
            .collect();
        out_of_sight.iter().for_each(|life| self.follow(life));
        let (processes, refound) = (lives.len(), out_of_sight.len());
        let (source, so_far) = (self.source_name.as_str(), self.source.stats().losses());
        tracing::warn!(
            source,
            lost,
            so_far,
            processes,
            refound,
            "events lost; every process was looked at again"
        );
    }
}
