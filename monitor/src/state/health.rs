//! Whether the state database can be written: for the log, which hears of it once, and for whoever asks.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use defib_core::model::Tick;

use crate::effect::clock;

/// A disk that takes longer than this hangs, for who looks.
const HANGS: Duration = Duration::from_secs(3);

/// How it is. Shared by all threads.
#[derive(Debug, Default)]
pub struct Health {
    /// Why it cannot be opened or written now.
    failing: Mutex<Option<String>>,
    /// Since when the disk has been asked something that it has not answered; 0: nothing.
    busy: AtomicU64,
    /// Whether it has been said that it hangs.
    said: AtomicBool,
    /// Ends and memos that were dropped.
    lost: AtomicU64,
}

impl Health {
    /// Why nothing can be written now; `None` if all is well.
    pub fn trouble(&self) -> Option<String> {
        if let Some(took) = self.hangs() {
            return Some(format!("its disk has not answered for {} s", took.as_secs()));
        }
        self.failing.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// How many records could not be kept.
    pub fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// Says once that the disk hangs, if it does. Called where something is told, so that no timer has to tick.
    pub(super) fn look(&self) {
        if let Some(took) = self.hangs()
            && !self.said.swap(true, Ordering::Relaxed)
        {
            tracing::error!(
                seconds = took.as_secs(),
                "the disk of the state database hangs: services are supervised as ever, what cannot be kept is counted"
            );
        }
    }

    /// The disk is asked something.
    pub(super) fn begin(&self) {
        self.busy.store(clock::now().0, Ordering::Relaxed);
    }

    /// It has answered. Returns whether it had been said that it hangs.
    pub(super) fn answered(&self) -> bool {
        self.busy.store(0, Ordering::Relaxed);
        self.said.swap(false, Ordering::Relaxed)
    }

    /// It cannot be used, or can be again. Returns what was so before.
    pub(super) fn fails(&self, why: Option<String>) -> Option<String> {
        std::mem::replace(&mut *self.failing.lock().unwrap_or_else(PoisonError::into_inner), why)
    }

    pub(super) fn lose(&self, count: u64) {
        self.lost.fetch_add(count, Ordering::Relaxed);
    }

    fn hangs(&self) -> Option<Duration> {
        let since = Some(self.busy.load(Ordering::Relaxed)).filter(|since| *since > 0)?;
        Some(clock::now().since(Tick(since))).filter(|took| *took > HANGS)
    }
}
