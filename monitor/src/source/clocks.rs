//! The two clocks of the kernel's stamps, and the way from one to the other.

use defib_core::model::Tick;
use rustix::time::{ClockId, Timespec, clock_gettime};

/// Differences of the two clocks that are taken for the noise of reading them one after the other.
const NOISE: u64 = 1_000_000;

/// `CLOCK_BOOTTIME`, the clock of everything that defib says.
pub(super) fn boottime() -> Tick {
    Tick(nanoseconds(clock_gettime(ClockId::Boottime)))
}

/// `CLOCK_MONOTONIC`, which stands still while the machine is suspended. The connector's stamps are of it.
pub(super) fn monotonic() -> u64 {
    nanoseconds(clock_gettime(ClockId::Monotonic))
}

/// By how much `CLOCK_BOOTTIME` is ahead of `CLOCK_MONOTONIC`: the time that the machine was suspended.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ahead(u64);

impl Ahead {
    /// As it is now.
    pub(super) fn measure() -> Self {
        let monotonic = monotonic();
        Self(boottime().0.saturating_sub(monotonic))
    }

    /// Measures again. Only a suspension changes it, so that two stamps keep their order whatever the noise.
    pub(super) fn refresh(&mut self) {
        let measured = Self::measure();
        if measured.0.abs_diff(self.0) > NOISE {
            *self = measured;
        }
    }

    /// A stamp of `CLOCK_MONOTONIC` on the other clock.
    pub(super) fn tick(self, stamp: u64) -> Tick {
        Tick(stamp.saturating_add(self.0))
    }

    /// The way back.
    pub(super) fn stamp(self, tick: Tick) -> u64 {
        tick.0.saturating_sub(self.0)
    }
}

fn nanoseconds(time: Timespec) -> u64 {
    let seconds = u64::try_from(time.tv_sec).unwrap_or_default();
    seconds.saturating_mul(1_000_000_000).saturating_add(u64::try_from(time.tv_nsec).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_comes_back_as_it_went() {
        let mut ahead = Ahead::measure();
        let before = ahead.0;
        ahead.refresh();
        assert!(ahead.0.abs_diff(before) == 0 || ahead.0.abs_diff(before) > NOISE);
        let stamp = monotonic();
        assert_eq!(ahead.stamp(ahead.tick(stamp)), stamp);
        assert!(boottime().0.abs_diff(ahead.tick(stamp).0) < 1_000_000_000);
    }
}
