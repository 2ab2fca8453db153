//! The clock that harness, services and defib share.

use rustix::time::{ClockId, clock_gettime};

/// Nanoseconds of `CLOCK_BOOTTIME`.
pub(super) fn now() -> u64 {
    let time = clock_gettime(ClockId::Boottime);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

/// Seconds since `begun`, as a diary has them. Sorted as text they are in order for a day.
pub(super) fn since(begun: u64, at: u64) -> String {
    format!("{:9.3}", at.saturating_sub(begun) as f64 / 1e9)
}
