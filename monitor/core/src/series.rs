//! The series of restarts: how long to wait before the next one, and when to give up.

use std::collections::VecDeque;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::model::{Backoff, Delays, GiveUp, Left, Policy, RestartSpec, Standing, Tick};

/// The restarts since the last life that lasted, and those within the window.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Series {
    /// Restarts since the series began.
    restarts: u32,
    /// The times of the latest restarts, oldest first; no more than `max_restarts` of them matter.
    recent: VecDeque<Tick>,
    /// Too many: from now on one try each `retry_every`.
    gave_up: bool,
}

/// What the series says to another failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(crate) enum Decision {
    /// Start again this long after the death; the number of the restart in its series.
    Restart { delay: Duration, attempt: u32 },
    /// Start no more: so many restarts have been tried.
    GiveUp { restarts: u32 },
}

/// What failed: a start that fails is never repeated at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// A life that lasted so long.
    Life(Duration),
    /// A start.
    Start,
}

impl Series {
    /// Takes one more failure into account and says what follows. `dice` is a random number for the jitter.
    pub(crate) fn decide(&mut self, spec: &RestartSpec, now: Tick, failure: Failure, dice: u64) -> Decision {
        if let Failure::Life(lasted) = failure
            && lasted >= spec.reset_after
        {
            self.restarts = 0;
            self.gave_up = false;
        }
        let exhausted = self.gave_up || spec.max_restarts.is_some_and(|max| self.count(spec, now) >= max);
        let delay = match (exhausted, spec.give_up) {
            (true, GiveUp::Fail) => return Decision::GiveUp { restarts: self.restarts },
            (true, GiveUp::RetryEvery(every)) => {
                self.gave_up = true;
                every
            }
            (false, _) => delay(spec, self.restarts, failure, dice),
        };
        self.restarts = self.restarts.saturating_add(1);
        if let Some(max) = spec.max_restarts {
            self.recent.push_back(now);
            while self.recent.len() > max as usize {
                self.recent.pop_front();
            }
        }
        Decision::Restart { delay, attempt: self.restarts }
    }

    /// What may follow at once after the next ends, if all of them come at `now`: later there may be room for more.
    pub(crate) fn ahead(&self, spec: &RestartSpec, now: Tick) -> Standing {
        let max = spec.max_restarts.map_or(Left::Unlimited, Left::Restarts);
        Standing {
            spared: match spec.policy {
                Policy::Always => [&spec.never_codes].into_iter().collect(),
                Policy::OnFailure | Policy::Never => {
                    [&spec.never_codes, &spec.success_codes].into_iter().collect()
                }
            },
            immediate: if self.gave_up { 0 } else { spec.immediate.saturating_sub(self.restarts) },
            renewed: spec.immediate,
            reset_after: spec.reset_after,
            left: max.without(self.count(spec, now)),
            left_renewed: spec.window.is_none().then_some(max),
        }
    }

    /// Whether there were too many: there is only a try now and then.
    pub(crate) fn gave_up(&self) -> bool {
        self.gave_up
    }

    /// The restarts that count against the limit at `now`.
    fn count(&self, spec: &RestartSpec, now: Tick) -> u32 {
        let Some(window) = spec.window else { return self.restarts };
        let within = self.recent.iter().filter(|at| now.since(**at) < window).count();
        u32::try_from(within).unwrap_or(u32::MAX)
    }
}

/// The delay before a restart that `done` others of the series precede.
fn delay(spec: &RestartSpec, done: u32, failure: Failure, dice: u64) -> Duration {
    if done < spec.immediate && failure != Failure::Start {
        return Duration::ZERO;
    }
    let step = done.saturating_sub(spec.immediate);
    match &spec.delays {
        Delays::List(list) => {
            let last = list.len().saturating_sub(1);
            list.get((step as usize).min(last)).copied().unwrap_or_default()
        }
        Delays::Backoff(backoff) => grown(backoff, step).mul_f64(spread(backoff.jitter, dice)),
    }
}

/// `min(initial × factor^step, max)`.
fn grown(backoff: &Backoff, step: u32) -> Duration {
    let exponent = i32::try_from(step).unwrap_or(i32::MAX);
    let seconds = backoff.initial.as_secs_f64() * backoff.factor.powi(exponent);
    // An overflow to infinity, or the NaN of 0 × infinity, means the longest delay.
    if seconds < backoff.max.as_secs_f64() { Duration::from_secs_f64(seconds) } else { backoff.max }
}

/// A factor between `1 - jitter` and `1 + jitter`.
fn spread(jitter: f64, dice: u64) -> f64 {
    // 53 bits are what an f64 holds exactly.
    let unit = (dice >> 11) as f64 / (1_u64 << 53) as f64;
    (1.0 + jitter * (2.0 * unit - 1.0)).max(0.0)
}

/// SplitMix64 (Steele, Lea and Flood, 2014): one 64-bit state, handed in from outside, no bad seeds.
#[derive(Clone, Debug)]
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    /// The next random number.
    pub(crate) fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Failure = Failure::Life(Duration::from_millis(5));

    fn seconds(list: &[u64]) -> Delays {
        Delays::List(list.iter().map(|s| Duration::from_secs(*s)).collect())
    }

    /// The delays of `n` deaths in a row, each right after its start.
    fn delays(spec: &RestartSpec, n: usize) -> Vec<Option<Duration>> {
        let (mut series, mut now) = (Series::default(), Tick(1));
        let step = |_| match series.decide(spec, now, SHORT, u64::MAX / 2) {
            Decision::Restart { delay, .. } => {
                now = now + delay;
                Some(delay)
            }
            Decision::GiveUp { .. } => None,
        };
        (0..n).map(step).collect()
    }

    #[test]
    fn the_first_restart_is_immediate_and_the_next_ones_double() {
        let found = delays(&RestartSpec::default(), 6);
        let expected = [0, 100, 200, 400, 800, 1600];
        for (found, expected) in found.iter().zip(expected) {
            let ms = found.expect("a restart").as_secs_f64() * 1000.0;
            assert!((ms - f64::from(expected)).abs() < 1.0, "{ms} ms instead of {expected}");
        }
    }

    #[test]
    fn lists_are_followed_exactly_and_their_last_delay_repeats() {
        for (list, expected) in [
            (vec![5, 10, 20, 40, 80], vec![5, 10, 20, 40, 80, 80, 80]),
            (vec![1, 2, 5], vec![1, 2, 5, 5, 5, 5, 5]),
        ] {
            let spec = RestartSpec {
                immediate: 0,
                delays: seconds(&list),
                max_restarts: None,
                ..Default::default()
            };
            let expected: Vec<_> = expected.into_iter().map(|s| Some(Duration::from_secs(s))).collect();
            assert_eq!(delays(&spec, 7), expected);
        }
    }

    #[test]
    fn the_window_gives_up_and_forgets_what_is_older() {
        let spec = RestartSpec { max_restarts: Some(3), immediate: 9, ..Default::default() };
        assert_eq!(
            delays(&spec, 5),
            [Some(Duration::ZERO), Some(Duration::ZERO), Some(Duration::ZERO), None, None]
        );

        let mut series = Series::default();
        let window = spec.window.expect("a window");
        for round in 0..20 {
            let now = Tick(1) + window / 2 * round;
            let decision = series.decide(&spec, now, SHORT, 0);
            assert!(matches!(decision, Decision::Restart { .. }), "two in a window of three: {decision:?}");
        }
    }

    #[test]
    fn without_a_window_a_service_that_dies_every_four_minutes_is_given_up_too() {
        let spec = RestartSpec {
            window: None,
            max_restarts: Some(5),
            reset_after: Duration::from_secs(600),
            ..Default::default()
        };
        let mut series = Series::default();
        let life = Failure::Life(Duration::from_secs(240));
        for round in 0..5 {
            let decision = series.decide(&spec, Tick(1) + Duration::from_secs(240) * round, life, 0);
            assert!(matches!(decision, Decision::Restart { .. }));
        }
        assert_eq!(series.decide(&spec, Tick(0), life, 0), Decision::GiveUp { restarts: 5 });
    }

    #[test]
    fn after_giving_up_one_try_an_interval_until_a_life_lasts() {
        let every = Duration::from_secs(6 * 3600);
        let spec =
            RestartSpec { max_restarts: Some(1), give_up: GiveUp::RetryEvery(every), ..Default::default() };
        let mut series = Series::default();
        let mut delay = |now, failure| match series.decide(&spec, now, failure, 0) {
            Decision::Restart { delay, .. } => delay,
            Decision::GiveUp { .. } => panic!("it is to be retried"),
        };
        assert_eq!(delay(Tick(1), SHORT), Duration::ZERO);
        for round in 0..4 {
            assert_eq!(delay(Tick(2) + every * round, SHORT), every);
        }
        assert_eq!(delay(Tick(3) + every * 9, Failure::Life(spec.reset_after)), Duration::ZERO);
    }

    #[test]
    fn a_failed_start_is_never_repeated_at_once() {
        let spec = RestartSpec { immediate: 5, ..Default::default() };
        let Decision::Restart { delay, .. } = Series::default().decide(&spec, Tick(1), Failure::Start, 0)
        else {
            panic!("a restart")
        };
        assert!(delay >= Duration::from_millis(90), "{delay:?}");
    }

    #[test]
    fn no_setting_makes_a_delay_longer_than_its_maximum_and_jitter() {
        let backoff = Backoff { factor: 1e300, jitter: 1.0, ..Default::default() };
        let spec = RestartSpec {
            immediate: 0,
            delays: Delays::Backoff(backoff),
            max_restarts: None,
            ..Default::default()
        };
        let mut dice = Dice(7);
        let mut series = Series::default();
        for _ in 0..1000 {
            let Decision::Restart { delay, .. } = series.decide(&spec, Tick(1), SHORT, dice.roll()) else {
                panic!("no limit was set")
            };
            assert!(delay <= Duration::from_secs(120), "{delay:?}");
        }
    }
}
