//! A standing order: what the keeper may do by itself when a life ends, decided before it does.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::WaitStatus;

/// Start the next life at once, by the plan that is there, so many times. Keeper and core count it down by the same
/// function, each for itself; the keeper never counts higher than the core.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// After an exit with one of these codes nothing follows by itself.
    pub spared: Codes,
    /// How many restarts of the present series may still happen at once.
    pub immediate: u32,
    /// How many after a life that ends the series.
    pub renewed: u32,
    /// Such a life lasts at least so long.
    pub reset_after: Duration,
    /// How many restarts are left before it is given up.
    pub left: Left,
    /// How many after a life that ends the series, where the limit is one of the series.
    pub left_renewed: Option<Left>,
}

impl Standing {
    /// Takes an end into account; one of which nobody knows how is a failure. Returns whether the next life is to be started at once.
    pub fn follow(&mut self, status: Option<WaitStatus>, lasted: Duration) -> bool {
        if status.and_then(WaitStatus::code).is_some_and(|code| self.spared.contains(code)) {
            return false;
        }
        if lasted >= self.reset_after {
            self.immediate = self.renewed;
            self.left = self.left_renewed.unwrap_or(self.left);
        }
        let follows = self.immediate > 0 && self.left != Left::Restarts(0);
        if follows {
            self.immediate -= 1;
            self.left = self.left.without(1);
        }
        follows
    }

    /// Takes lives into account that began before the order came, of which nothing else is known.
    pub fn skip(&mut self, lives: u64) {
        let lives = u32::try_from(lives).unwrap_or(u32::MAX);
        self.immediate = self.immediate.saturating_sub(lives);
        self.left = self.left.without(lives);
    }
}

/// How many restarts are left. It is written as a number, of which the largest means that there is no limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "u32", into = "u32")]
pub enum Left {
    /// There is no limit.
    Unlimited,
    /// So many.
    Restarts(u32),
}

impl Left {
    /// What is left of it after so many restarts.
    #[must_use]
    pub fn without(self, restarts: u32) -> Self {
        match self {
            Self::Unlimited => Self::Unlimited,
            Self::Restarts(left) => Self::Restarts(left.saturating_sub(restarts)),
        }
    }
}

impl From<u32> for Left {
    fn from(number: u32) -> Self {
        if number == u32::MAX { Self::Unlimited } else { Self::Restarts(number) }
    }
}

impl From<Left> for u32 {
    fn from(left: Left) -> Self {
        match left {
            Left::Unlimited => Self::MAX,
            Left::Restarts(number) => number,
        }
    }
}

/// A set of exit codes: a bit for each.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Codes([u64; 4]);

impl Codes {
    /// Whether a code is in the set.
    pub fn contains(&self, code: u8) -> bool {
        self.0[usize::from(code / 64)] & (1 << (code % 64)) != 0
    }
}

impl<'a> FromIterator<&'a BTreeSet<u8>> for Codes {
    fn from_iter<I: IntoIterator<Item = &'a BTreeSet<u8>>>(sets: I) -> Self {
        let mut all = Self::default();
        for code in sets.into_iter().flatten() {
            all.0[usize::from(code / 64)] |= 1 << (code % 64);
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CRASH: Option<WaitStatus> = Some(WaitStatus(11));
    const SHORT: Duration = Duration::from_millis(5);

    fn order() -> Standing {
        Standing {
            spared: [&BTreeSet::from([0, 255])].into_iter().collect(),
            immediate: 2,
            renewed: 3,
            reset_after: Duration::from_secs(10),
            left: Left::Unlimited,
            left_renewed: None,
        }
    }

    #[test]
    fn it_follows_so_often_and_again_after_a_life_that_lasted() {
        let mut order = order();
        let follows: Vec<_> = (0..3).map(|_| order.follow(CRASH, SHORT)).collect();
        assert_eq!(follows, [true, true, false]);
        let lasted = order.reset_after;
        let follows: Vec<_> =
            [lasted, SHORT, SHORT, SHORT].map(|lasted| order.follow(CRASH, lasted)).to_vec();
        assert_eq!(follows, [true, true, true, false]);
    }

    #[test]
    fn codes_are_spared_and_signals_never() {
        let mut order = order();
        assert!(
            !order.follow(Some(WaitStatus(0)), SHORT) && !order.follow(Some(WaitStatus(255 << 8)), SHORT)
        );
        assert!(order.follow(Some(WaitStatus(1 << 8)), SHORT) && order.follow(None, SHORT));
    }

    #[test]
    fn what_is_left_is_written_as_a_number() {
        for (left, written) in [(Left::Unlimited, "4294967295"), (Left::Restarts(7), "7")] {
            assert_eq!(serde_json::to_string(&left).unwrap(), written);
            assert_eq!(serde_json::from_str::<Left>(written).unwrap(), left);
        }
    }

    #[test]
    fn a_limit_is_renewed_only_where_it_is_one_of_the_series() {
        let limited = Standing { left: Left::Restarts(1), immediate: 9, renewed: 9, ..order() };
        let mut of_window = limited;
        assert!(of_window.follow(CRASH, SHORT) && !of_window.follow(CRASH, limited.reset_after));
        let mut of_series = Standing { left_renewed: Some(limited.left), ..limited };
        assert!(of_series.follow(CRASH, SHORT) && of_series.follow(CRASH, limited.reset_after));
        let mut late = Standing { left: Left::Restarts(5), immediate: 9, ..order() };
        late.skip(4);
        assert!(late.follow(CRASH, SHORT) && !late.follow(CRASH, SHORT));
    }
}
