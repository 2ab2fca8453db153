//! Ends of main processes: the map of those that nobody has taken yet.

use std::collections::VecDeque;
use std::time::Duration;

use defib_core::model::{Tick, Witness};
use defib_ebpf::{End, EndKey};
use tokio::time::Instant;

use super::super::clocks;
use super::decode::witness;
use super::live::EbpfSource;
use super::maps::Maps;

/// How long before its keeper looked at the clock, and how long after, a process may have started that it made then, in
/// nanoseconds: what was adopted is known by hundredths of a second, and a keeper may be preempted before it clones.
const EARLY: u64 = 50_000_000;
const LATE: u64 = 5_000_000_000;

/// Ends that nobody has claimed after this time are forgotten, but none before the daemon has run for as long as
/// [`SWEEP`]: it has asked for all that it knows of by then.
const UNCLAIMED: Duration = Duration::from_secs(600);
const SWEEP: Duration = Duration::from_secs(60);
/// How many are forgotten at a time, each at a microsecond or two.
const SWEPT: usize = 64;

/// An end that has been looked up stays in the map for so long: a daemon that is killed before it has told of it, and
/// written that down, leaves it to the next one.
const KEPT: Duration = Duration::from_secs(3);
/// Of more than so many the oldest go at once: a crash loop must not fill the map.
const MOST_KEPT: usize = 1024;

/// What the source knows of ends besides the map.
pub(super) struct Ends {
    /// Ends that have been looked up and are still in the map, oldest first, and when that was.
    taken: VecDeque<(EndKey, Tick)>,
    /// Ends that older probes had recorded.
    inherited: Vec<(EndKey, End)>,
    next_sweep: Instant,
}

impl Ends {
    pub(super) fn new(inherited: Vec<(EndKey, End)>) -> Self {
        Self { taken: VecDeque::new(), inherited, next_sweep: Instant::now() + SWEEP }
    }

    /// Takes what was looked up out of the map, and now and then what nobody will look up.
    /// True if it has been done with those of the past.
    pub(super) fn forget_taken(&mut self, maps: &mut Maps) -> bool {
        while let Some((key, at)) = self.taken.front().copied()
            && (self.taken.len() > MOST_KEPT || clocks::boottime().since(at) >= KEPT)
        {
            self.taken.pop_front();
            self.inherited.retain(|(of, _)| *of != key);
            forget(maps, key);
        }
        let now = Instant::now();
        let sweeps = now >= self.next_sweep;
        if sweeps {
            self.next_sweep = now + SWEEP;
            self.inherited.clear();
            let is_old = |at: u64| clocks::boottime().since(Tick(at)) > UNCLAIMED;
            let old = |key: &EndKey| maps.end(*key).ok().flatten().is_some_and(|end| is_old(end.at));
            let unclaimed: Vec<_> = maps.ends().take(SWEPT).filter(old).collect();
            unclaimed.into_iter().for_each(|key| forget(maps, key));
        }
        sweeps
    }

    fn inherited(&self, key: EndKey) -> Option<End> {
        self.inherited.iter().find(|(of, _)| *of == key).map(|(_, end)| *end)
    }
}

fn forget(maps: &mut Maps, key: EndKey) {
    if let Err(error) = maps.forget_end(key) {
        tracing::warn!(pid = key.tgid, error = %error.chain(), "an end stays recorded");
    }
}

impl EbpfSource {
    pub(in crate::source) fn take_end(&mut self, pid: u32, start: u64) -> Option<Witness> {
        let key = EndKey::new(pid, start);
        if self.ends.taken.iter().any(|(taken, _)| *taken == key) {
            return None;
        }
        let found = self.maps.end(key);
        match found.map(|end| end.or_else(|| self.ends.inherited(key))) {
            Ok(Some(end)) => {
                self.ends.taken.push_back((key, clocks::boottime()));
                return Some(witness(&end, self.tally.hears_signals));
            }
            Ok(None) => {}
            Err(error) => tracing::warn!(pid, error = %error.chain(), "an end cannot be looked up"),
        }
        // The probe missed it, and would have removed this too.
        if let Ok(Some(entry)) = self.maps.tracked(pid)
            && entry.start == start
            && let Err(error) = self.maps.untrack(pid)
        {
            tracing::warn!(pid, error = %error.chain(), "a process that has ended is still tracked");
        }
        None
    }

    /// The end of a process that its keeper had made at `started`, whose exact start this daemon never heard.
    pub(in crate::source) fn recorded_end(&mut self, pid: u32, started: u64) -> Option<Witness> {
        let inherited = self.ends.inherited.iter().map(|(key, _)| *key);
        let distance = |key: &EndKey| key.start.abs_diff(started);
        let near = |key: &EndKey| {
            key.start.saturating_add(EARLY) >= started && key.start <= started.saturating_add(LATE)
        };
        let key = self.maps.ends().chain(inherited).filter(|key| key.tgid == pid && near(key));
        let start = key.min_by_key(distance)?.start;
        self.take_end(pid, start)
    }
}
