//! The attached probes, seen from user space: the ring, the maps and the counters.

#![expect(unsafe_code, reason = "tokio takes the owner's word that a polled descriptor stays open")]

use std::fmt;
use std::os::fd::BorrowedFd;

use aya::maps::{MapData, RingBuf};
use defib_core::model::Witness;
use defib_ebpf::{EndKey, Stats, TRACKED_COARSE, TRACKED_EXECUTED, TRACKED_MAIN, Tracked, kind};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::super::any::Batch;
use super::super::procfs;
use super::super::stats::{KindStats, SourceStats};
use super::decode::{decode, witness};
use super::error::EbpfError;
use super::feed::EbpfFeed;
use super::load::{Loaded, ON_GENERATE, ON_STATE, PROBES, lines, load};
use super::maps::{FeedMaps, Maps, RestingRing, take_ring};
use super::misses::Misses;

/// Records that one turn reads at most, 20–130 µs of work: a flood must not hold the thread that restarts services.
const TURN: usize = 512;

/// Probes that hear of the keeper's children. Dropping it detaches them.
pub struct EbpfSource {
    ring: AsyncFd<RingBuf<MapData>>,
    pub(super) maps: Maps,
    tally: Tally,
    /// Ends that have been looked up and are still in EXITS.
    taken: Vec<EndKey>,
    misses: Misses,
    pub(super) probes: Loaded,
}

/// What this side has counted.
#[derive(Debug, Default)]
struct Tally {
    /// Whether the probes see who sends signals.
    hears_signals: bool,
    received: [u64; kind::COUNT],
    malformed: u64,
    /// Losses that a [`Batch`] has told already.
    told: u64,
    /// Skipped runs that a [`Batch`] has told already.
    told_skipped: u64,
}

impl fmt::Debug for EbpfSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EbpfSource").field("tally", &self.tally).finish_non_exhaustive()
    }
}

impl EbpfSource {
    /// Loads and attaches the probes. Also returns the feed that they can tell, and what came of each of them.
    pub(in crate::source) fn open(keeper: u32) -> Result<(Self, EbpfFeed, Vec<String>), EbpfError> {
        Self::over(load(keeper)?)
    }

    /// Takes hold of probes that are attached.
    pub(super) fn over(mut probes: Loaded) -> Result<(Self, EbpfFeed, Vec<String>), EbpfError> {
        let why = lines(&probes.reports);
        for report in &probes.reports {
            if let Err(error) = &report.outcome {
                let log = error.verifier_log().unwrap_or_default();
                tracing::debug!(probe = report.probe, log, "a probe is left out");
            }
        }
        let hears_signals = probes.has(ON_GENERATE);
        // A socket changes its state in interrupts too, so the probe there does meet itself. What it then skips is never
        // the begin or the end of listening, which happen in processes, one at a time on a CPU: no loss.
        let that_matter = PROBES.iter().filter(|probe| probe.name != ON_STATE);
        let misses = Misses::of(that_matter.filter_map(|probe| probes.probe(probe.name)));
        let ring = take_ring(&mut probes.object, "URGENT")?;
        let maps = Maps::take(&mut probes.object)?;
        let feed_ring = RestingRing::take(&mut probes.object, "BULK")?;
        let feed = EbpfFeed::new(feed_ring, FeedMaps::take(&mut probes.object)?, hears_signals);
        // SAFETY: the ring owns its descriptor, returns the same one each time and closes it when it is dropped.
        let ring = unsafe { AsyncFd::register_with_interest(ring, Interest::READABLE) };
        let ring = ring.map_err(|error| EbpfError::Poll(error.into()))?;
        let tally = Tally { hears_signals, ..Tally::default() };
        Ok((Self { ring, maps, tally, taken: Vec::new(), misses, probes }, feed, why))
    }

    pub(in crate::source) async fn wait(&mut self, batch: &mut Batch) {
        match self.ring.readable_mut().await {
            Ok(mut ready) => {
                // Readiness is an edge: it is given up only when the ring was seen empty.
                if self.tally.read(ready.get_inner_mut(), batch) {
                    ready.clear_ready();
                }
            }
            Err(error) => {
                // The runtime is shutting down.
                tracing::debug!(%error, "the ring is not polled any more");
                std::future::pending().await
            }
        }
        self.tell_losses(batch, 0);
    }

    pub(in crate::source) fn drain(&mut self, batch: &mut Batch) {
        self.tally.read(self.ring.get_mut(), batch);
    }

    pub(in crate::source) fn settle(&mut self, batch: &mut Batch) {
        for key in std::mem::take(&mut self.taken) {
            if let Err(error) = self.maps.forget_end(key) {
                tracing::warn!(pid = key.tgid, error = %error.chain(), "an end stays recorded");
            }
        }
        let skipped = self.misses.known();
        self.tell_losses(batch, skipped);
    }

    pub(in crate::source) fn take_end(&mut self, pid: u32, start: u64) -> Option<Witness> {
        let key = EndKey::new(pid, start);
        if self.taken.contains(&key) {
            return None;
        }
        match self.maps.end(key) {
            Ok(Some(end)) => {
                self.taken.push(key);
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

    pub(in crate::source) fn track(&mut self, pid: u32, slot: u32) -> Result<Option<u64>, EbpfError> {
        let Some(start) = started(pid) else { return Ok(None) };
        self.maps
            .track(pid, Tracked { start, slot, flags: TRACKED_MAIN | TRACKED_COARSE | TRACKED_EXECUTED })?;
        // It may have ended in between. An entry for a zombie stays until `take_end` removes it.
        if started(pid) != Some(start) {
            self.maps.untrack(pid)?;
            return Ok(None);
        }
        Ok(Some(start))
    }

    pub(in crate::source) fn follows(&self, pid: u32, start: u64) -> bool {
        matches!(self.maps.tracked(pid), Ok(Some(entry)) if entry.start == start)
    }

    pub(in crate::source) fn hears_ports(&self) -> bool {
        self.probes.has(ON_STATE)
    }

    pub(in crate::source) fn next_slot(&self) -> BorrowedFd<'_> {
        self.maps.next_slot()
    }

    pub(in crate::source) fn stats(&self) -> SourceStats {
        let counted = self.counted();
        let of_kind = |index: usize| KindStats {
            kind: kind::NAMES[index],
            emitted: counted.emitted[index],
            received: self.tally.received[index],
            lost: counted.lost[index],
            host: counted.host[index],
        };
        SourceStats {
            kinds: (0..kind::COUNT).map(of_kind).collect(),
            descendant_exits: counted.descendant_exits,
            suppressed: counted.suppressed,
            untracked: counted.tracked_full,
            unrecorded: counted.exits_full,
            unblamed: counted.blows_full,
            unfollowed: counted.listeners_full,
            malformed: self.tally.malformed,
            skipped: self.misses.count(),
        }
    }

    fn counted(&self) -> Stats {
        self.maps.stats().unwrap_or_else(|error| {
            tracing::warn!(error = %error.chain(), "the probes' counters cannot be read");
            Stats::default()
        })
    }

    /// Adds what was lost since this was last asked; `skipped` runs are known only now and then.
    fn tell_losses(&mut self, batch: &mut Batch, skipped: u64) {
        let counted = self.counted();
        let unkept = counted.tracked_full + counted.exits_full + counted.blows_full + counted.listeners_full;
        let lost = counted.lost.iter().sum::<u64>() + unkept + self.tally.malformed;
        for (lost, told) in [(lost, &mut self.tally.told), (skipped, &mut self.tally.told_skipped)] {
            batch.lost += lost.saturating_sub(*told);
            *told = lost.max(*told);
        }
    }
}

impl Tally {
    /// Reads up to [`TURN`] records; true if the ring is empty now.
    fn read(&mut self, ring: &mut RingBuf<MapData>, batch: &mut Batch) -> bool {
        for _ in 0..TURN {
            let Some(record) = ring.next() else { return true };
            match decode(&record, self.hears_signals) {
                Some(decoded) => {
                    self.received[usize::from(decoded.kind)] += 1;
                    batch.events.push(decoded.event);
                }
                None => self.malformed += 1,
            }
        }
        false
    }
}

/// When a process that ran before the probes were attached started, as roughly as `/proc` tells.
fn started(pid: u32) -> Option<u64> {
    procfs::stat(pid).map(|stat| stat.start)
}
