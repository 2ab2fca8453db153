//! The one place where clocks are read.

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use defib_core::model::Tick;
use jiff::Timestamp;
use nix::time::{ClockId, clock_gettime};

/// `CLOCK_BOOTTIME`, the clock of all decisions.
pub fn now() -> Tick {
    // The clock exists since Linux 2.6.39, so the call cannot fail; zero would only make everything look old.
    let time = clock_gettime(ClockId::CLOCK_BOOTTIME).map(Duration::from).unwrap_or_default();
    Tick(u64::try_from(time.as_nanos()).unwrap_or(u64::MAX))
}

/// How far the wall clock may move before ticks are shown by where it is now.
const MOVED: u64 = 1_000_000;

/// How far before the boot a tick may lie: a century.
const BEFORE: u64 = 100 * 365 * 86_400 * 1_000_000_000;

/// The wall time of tick 0 in nanoseconds, as it was last measured; 0: never.
static WALL_OF_ZERO: AtomicI64 = AtomicI64::new(0);

/// The wall time of a tick: for display only, and as right as the wall clock is. A tick is shown the same each time,
/// until the wall clock has been moved. A tick before the boot, of what is remembered from an earlier one, is a negative
/// number, as wrapping arithmetic makes it.
pub fn wall(tick: Tick) -> Timestamp {
    let (wall, now) = (Timestamp::now(), now());
    let measured = i64::try_from(wall.as_nanosecond() - i128::from(now.0)).unwrap_or_default();
    let known = WALL_OF_ZERO.load(Ordering::Relaxed);
    // Two clocks are never read at the same time, so no two measurements agree.
    let zero = if known != 0 && known.abs_diff(measured) < MOVED { known } else { measured };
    WALL_OF_ZERO.store(zero, Ordering::Relaxed);
    Timestamp::from_nanosecond(i128::from(zero) + since_boot(tick)).unwrap_or(wall)
}

/// A tick as a number with a sign. What is added to a tick stops at the largest one, which is that: never.
fn since_boot(tick: Tick) -> i128 {
    let before = tick.0.wrapping_neg();
    if tick.0 < u64::MAX && before < BEFORE { -i128::from(before) } else { i128::from(tick.0) }
}

/// A number that differs from run to run, for the jitter.
pub fn seed() -> u64 {
    now().0 ^ u64::from(std::process::id()).rotate_left(32)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tick_is_shown_the_same_each_time() {
        let tick = now();
        let shown = wall(tick);
        assert!((0..1000).all(|_| wall(tick) == shown));
        assert!(shown.duration_since(Timestamp::now()).abs().as_secs() < 1);
        assert_eq!(wall(tick + Duration::from_secs(5)).duration_since(shown).as_secs(), 5);
    }

    #[test]
    fn a_tick_before_the_boot_is_shown_where_it_was() {
        let before = Tick(0_u64.wrapping_sub(3_000_000_000));
        assert_eq!(wall(Tick(0)).duration_since(wall(before)).as_secs(), 3);
    }

    #[test]
    fn no_tick_is_too_far_away_to_be_shown() {
        assert!(wall(Tick(0)) < wall(now()) && wall(now()) < wall(Tick(u64::MAX)));
    }
}
