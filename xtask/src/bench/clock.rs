//! The clock that bench and victims share, and waiting that leaves the machine alone.

use std::thread;
use std::time::Duration;

use anyhow::Result;
use rustix::time::{ClockId, clock_gettime};

/// How often a wait looks. Each look costs microseconds, so that two cores stay free for what is measured.
const LOOK: Duration = Duration::from_millis(1);

/// Nanoseconds of `CLOCK_MONOTONIC`, as a victim stamps them.
pub(super) fn now() -> u64 {
    let time = clock_gettime(ClockId::Monotonic);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Leaves the machine to the others.
pub(super) fn sleep(time: Duration) {
    thread::sleep(time);
}

/// Looks every millisecond until `look` finds something; `None` if it has not within `limit`.
pub(super) fn wait<T>(limit: Duration, mut look: impl FnMut() -> Result<Option<T>>) -> Result<Option<T>> {
    let begin = now();
    loop {
        sleep(LOOK);
        let found = look()?;
        if found.is_some() || u128::from(now() - begin) >= limit.as_nanos() {
            return Ok(found);
        }
    }
}
