//! The one clock of all decisions.

use std::ops::{Add, Sub};
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Nanoseconds of `CLOCK_BOOTTIME`: it never jumps, goes on during suspend, and is what
/// `bpf_ktime_get_boot_ns` stamps kernel events with. Wall time is derived from it for display only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Tick(pub u64);

impl Tick {
    /// The time from `earlier` to this tick; zero if `earlier` is later.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

/// How much later than the keeper's look at the clock the process of a life may have been made: there is a clone between the
/// two, on a machine that may have other things to do. No pid comes again so soon.
pub const MADE_WITHIN: Duration = Duration::from_millis(500);

impl Add<Duration> for Tick {
    type Output = Self;

    /// Saturates: a delay of centuries means "never", not a panic.
    fn add(self, delay: Duration) -> Self {
        Self(self.0.saturating_add(u64::try_from(delay.as_nanos()).unwrap_or(u64::MAX)))
    }
}

impl Sub<Duration> for Tick {
    type Output = Self;

    fn sub(self, span: Duration) -> Self {
        Self(self.0.saturating_sub(u64::try_from(span.as_nanos()).unwrap_or(u64::MAX)))
    }
}
