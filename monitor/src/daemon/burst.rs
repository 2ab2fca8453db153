//! When the memory is given back that a burst of events took.
//!
//! The start of the daemon, of many services at once, and a configuration that is read again, leave free memory behind,
//! and pages of the program mapped of which nothing that follows makes use: more than the daemon keeps. It is for the
//! thread of the surfaces to give them back, which takes it some milliseconds. The timer is armed by a burst and
//! fires once after it: nothing ticks when nothing happens.

use std::time::Duration;

use defib_core::model::Tick;
use tokio::time::Instant;

use super::journal::{Entry, Event};

/// So many events are a burst, if none of them came later than [`CALM`] after the one before. What a service does that
/// crashes now and then is none.
const MANY: usize = 64;

/// How long nothing must have happened.
const CALM: Duration = Duration::from_secs(1);

/// What has happened lately.
#[derive(Debug)]
pub(super) struct Burst {
    /// How many events came close upon each other, up to the latest.
    close: usize,
    latest: Tick,
    /// When it is over, if nothing else happens; `None`: there is none.
    over: Option<Instant>,
}

impl Burst {
    /// There is one now.
    pub(super) fn of_the_start() -> Self {
        Self { close: 0, latest: Tick(0), over: Some(Instant::now() + CALM) }
    }

    /// Something has happened.
    pub(super) fn goes_on(&mut self, entry: &Entry) {
        // A source may tell of what is a little older than the event before.
        let close = entry.at.since(self.latest) <= CALM;
        self.latest = self.latest.max(entry.at);
        self.close = if close { self.close.saturating_add(1) } else { 1 };
        if self.over.is_some() || self.close >= MANY || matches!(entry.event, Event::Config { .. }) {
            self.over = Some(Instant::now() + CALM);
        }
    }

    /// Returns once it is over, and never if there is none. May be dropped and asked for again.
    pub(super) async fn over(&mut self) {
        match self.over {
            Some(at) => tokio::time::sleep_until(at).await,
            None => std::future::pending().await,
        }
        self.ended();
    }

    fn ended(&mut self) {
        (self.over, self.close) = (None, 0);
    }
}

#[cfg(test)]
mod tests {
    use defib_core::model::SourceName;

    use super::*;

    fn config(at: Tick) -> Entry {
        Entry { seq: 0, at, event: Event::Config { ok: true, detail: String::new() }, apart: false }
    }

    fn lost(at: u64) -> Entry {
        Entry {
            seq: 0,
            at: Tick(at),
            event: Event::Lost { source: SourceName::Pidfd, count: 1 },
            apart: false,
        }
    }

    fn none() -> Burst {
        let mut burst = Burst::of_the_start();
        burst.ended();
        burst
    }

    #[test]
    fn the_start_is_one_which_each_event_makes_longer() {
        let mut burst = Burst::of_the_start();
        let first = burst.over.expect("the start");
        burst.goes_on(&lost(1));
        assert!(burst.over.expect("the start") >= first);
        burst.ended();
        assert_eq!(burst.over, None);
        burst.goes_on(&lost(2));
        assert_eq!(burst.over, None);
    }

    #[test]
    fn many_events_are_one_and_few_are_not() {
        let mut burst = none();
        (1..MANY as u64).for_each(|tick| burst.goes_on(&lost(tick)));
        assert_eq!(burst.over, None);
        burst.goes_on(&lost(MANY as u64));
        assert!(burst.over.is_some());
    }

    #[test]
    fn many_events_far_between_are_none() {
        let mut burst = none();
        (1..3 * MANY as u64).for_each(|second| burst.goes_on(&lost(second * 1_100_000_000)));
        assert_eq!(burst.over, None);
    }

    #[test]
    fn a_configuration_is_one_by_itself() {
        let mut burst = none();
        burst.goes_on(&config(Tick(5)));
        assert!(burst.over.is_some());
    }
}
