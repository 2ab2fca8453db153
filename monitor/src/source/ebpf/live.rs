//! The attached probes, seen from user space: the ring, the maps and the counters.

use std::fmt;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use aya::maps::{MapData, RingBuf};
use defib_core::model::{MADE_WITHIN, Tick};
use defib_ebpf::{
    COARSE_NS, Stats, TRACKED_COARSE, TRACKED_EXECUTED, TRACKED_MAIN, Tracked, ctrl, ending, kind,
};
use tokio::io::unix::AsyncFd;

use super::super::any::{Batch, Life, chain};
use super::super::clocks;
use super::super::procfs;
use super::super::stats::{EndStats, KindStats, RingStats, SourceStats};
use super::control::Control;
use super::cost;
use super::decode::decode;
use super::ends::Ends;
use super::error::EbpfError;
use super::feed::EbpfFeed;
use super::load::{Loaded, ON_GENERATE, ON_STATE, ON_STATE_AGAIN, ON_TASK};
use super::maps::{FeedMaps, Maps, RestingRing, take_ring};
use super::misses::Misses;
use super::open::{Opened, Past, open};
use super::pins::Folder;
use super::ports::{PortRounds, PortTables};
use super::shape::URGENT_BYTES;
use super::tasks::{Holder, TaskLook};

/// Records that one turn reads at most, 20–130 µs of work: a flood must not hold the thread that restarts services.
const TURN: usize = 512;

/// Probes that hear of the keeper's children. Dropping it detaches them, unless they are pinned.
pub struct EbpfSource {
    ring: AsyncFd<RingBuf<MapData>>,
    pub(super) maps: Maps,
    pub(super) control: Control,
    pub(super) tally: Tally,
    pub(super) ends: Ends,
    /// What was tracked under the keeper before, whose slots may have had other numbers.
    earlier: Vec<(u32, Tracked)>,
    misses: Misses,
    pub(super) probes: Loaded,
    /// The counters of connections, until somebody takes them.
    pub(super) ports: Option<(PortTables, PortRounds)>,
    /// Where the probes are pinned.
    folder: Option<Folder>,
    /// Whether the pins are to outlive this: not those of a daemon that never began.
    keep: bool,
}

/// What this side has counted.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// Whether the probes see who sends signals.
    pub(super) hears_signals: bool,
    /// Records from before this are another daemon's, and counted as received by it.
    since: Tick,
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
    /// Opens the pinned probes of that name, or loads, attaches and pins them; without a name they are not pinned. Also
    /// returns the feed that they can tell, and what came of each of them.
    pub(in crate::source) fn open(
        keeper: u32,
        name: Option<&str>,
    ) -> Result<(Self, EbpfFeed, Vec<String>), EbpfError> {
        Self::over(open(keeper, name)?)
    }

    /// Takes hold of probes that are attached.
    pub(super) fn over(mut opened: Opened) -> Result<(Self, EbpfFeed, Vec<String>), EbpfError> {
        let why = std::mem::take(&mut opened.why);
        for report in &opened.loaded.reports {
            if let Err(error) = &report.outcome {
                let log = error.verifier_log().unwrap_or_default();
                tracing::debug!(probe = report.probe, log, "a probe is left out");
            }
        }
        let since = clocks::boottime();
        let shelf = &mut opened.loaded.maps;
        let control = Control::of(shelf)?;
        let ring = take_ring(shelf, "URGENT")?;
        let mut maps = Maps::take(shelf)?;
        let feed_ring = RestingRing::take(shelf, "BULK")?;
        let feed_maps = FeedMaps::take(shelf)?;
        let ports = PortTables::take(&mut opened.loaded)?;
        let inherited = opened.inherit(&mut maps);
        let Opened { loaded: probes, folder, past, .. } = opened;

        let hears_signals = probes.has(ON_GENERATE);
        // A socket changes its state in interrupts too, so the probe there does meet itself. What it then skips is never
        // the begin or the end of listening, which happen in processes, one at a time on a CPU: no loss. What it skips of
        // connections is `connections`' business.
        let misses = Misses::of(probes.programs_but(&[ON_STATE, ON_STATE_AGAIN]));
        let mut feed = EbpfFeed::new(feed_ring, feed_maps, hears_signals);
        let mut tally = Tally { hears_signals, since, ..Tally::default() };
        let (mut ring, mut earlier) = (ring, Vec::new());
        if past != Past::New {
            feed.resume()?;
            tally.received = maps.stats()?.emitted;
            (tally.told, tally.told_skipped) = (control.get(ctrl::TOLD)?, control.get(ctrl::TOLD_SKIPPED)?);
        }
        if past == Past::Keeper {
            // Told by the slots of the keeper before. What counts of it is in the maps, too.
            while ring.next().is_some() {}
            earlier = maps.all_tracked().collect();
        }
        let ring = super::super::watch::readable_ring(ring).map_err(EbpfError::Poll)?;
        let (ends, keep) = (Ends::new(inherited), past != Past::New);
        let source = Self { ring, maps, control, tally, ends, earlier, misses, probes, ports, folder, keep };
        Ok((source, feed, why))
    }

    pub(in crate::source) async fn wait(&mut self, batch: &mut Batch) {
        self.keep = true;
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
        if self.ends.forget_taken(&mut self.maps) {
            self.earlier = Vec::new();
        }
        let skipped = self.misses.known();
        self.tell_losses(batch, skipped);
    }

    pub(in crate::source) fn track(&mut self, life: &Life) -> Result<Option<u64>, EbpfError> {
        let Life { pid, slot, started: made } = *life;
        let known = self.maps.tracked(pid)?.filter(Tracked::is_main);
        // The keeper has told of it while these probes ran, which forget it with its end: no look into `/proc` for each of
        // a thousand services.
        if let Some(entry) = known.filter(Tracked::is_reported)
            && entry.slot == slot
            && Duration::from_nanos(entry.start.abs_diff(made.0)) < MADE_WITHIN
        {
            return Ok(Some(entry.start));
        }
        let Some(start) = started(pid) else { return Ok(None) };
        // An earlier daemon's probes know it better than `/proc` does.
        if let Some(entry) = known.filter(|entry| entry.start - entry.start % COARSE_NS == start) {
            if entry.slot != slot {
                self.renumber(entry.slot, slot)?;
            }
            return Ok(Some(entry.start));
        }
        self.maps
            .track(pid, Tracked { start, slot, flags: TRACKED_MAIN | TRACKED_COARSE | TRACKED_EXECUTED })?;
        // It may have ended in between. An entry for a zombie stays until `take_end` removes it.
        if started(pid) != Some(start) {
            self.maps.untrack(pid)?;
            return Ok(None);
        }
        Ok(Some(start))
    }

    /// A service that had the slot `was` under the keeper before has another now.
    fn renumber(&mut self, was: u32, now: u32) -> Result<(), EbpfError> {
        for (tgid, then) in self.earlier.iter().filter(|(_, entry)| entry.slot == was) {
            // It may have ended, and the number may be another's.
            if let Some(entry) = self.maps.tracked(*tgid)?
                && entry.start == then.start
            {
                self.maps.track(*tgid, Tracked { slot: now, ..entry })?;
            }
        }
        Ok(())
    }

    /// Ends the source's work: detaches the probes and removes their pins, or leaves them to go on without a daemon.
    pub(in crate::source) fn leave(&mut self, keep: bool) {
        self.keep = keep;
        if !keep {
            self.detach();
        }
    }

    fn detach(&mut self) {
        if let Some(folder) = self.folder.take()
            && let Err(error) = folder.remove()
        {
            tracing::warn!(error = %chain(&error), "pins stay; `defib daemon purge` removes them");
        }
        self.probes.programs.clear();
    }

    pub(in crate::source) fn follows(&self, pid: u32, start: u64) -> bool {
        matches!(self.maps.tracked(pid), Ok(Some(entry)) if entry.start == start)
    }

    pub(in crate::source) fn hears_ports(&self) -> bool {
        self.probes.has(ON_STATE)
    }

    pub(in crate::source) fn take_ports(&mut self) -> Option<(PortTables, PortRounds)> {
        self.ports.take()
    }

    pub(in crate::source) fn take_tasks(&mut self) -> Option<TaskLook> {
        if !self.probes.has(ON_TASK) {
            return None;
        }
        let program = match self.probes.tasks.take() {
            Some(program) => Holder::Pin(Box::new(program)),
            None => Holder::Object(self.probes.object.take()?),
        };
        let control = Control::of(&self.probes.maps).ok()?;
        Some(TaskLook::new(program, control))
    }

    pub(in crate::source) fn next_slot(&self) -> BorrowedFd<'_> {
        self.maps.next_slot()
    }

    pub(in crate::source) fn stats(&self) -> SourceStats {
        let counted = self.counted();
        let ends = EndStats {
            exit: counted.ends[ending::EXIT],
            signal: counted.ends[ending::SIGNAL],
            core: counted.ends[ending::CORE],
        };
        let of_kind = |index: usize| KindStats {
            kind: kind::NAMES[index],
            emitted: counted.emitted[index],
            received: self.tally.received[index],
            lost: counted.lost[index],
            host: if index == usize::from(kind::EXIT) { ends.total() } else { counted.host[index] },
        };
        SourceStats {
            kinds: (0..kind::COUNT).map(of_kind).collect(),
            ends: Some(ends),
            descendant_exits: counted.descendant_exits,
            suppressed: counted.suppressed,
            untracked: counted.tracked_full,
            unrecorded: counted.exits_full,
            unblamed: counted.blows_full,
            unfollowed: counted.listeners_full,
            malformed: self.tally.malformed,
            skipped: self.misses.count(),
            rings: vec![RingStats {
                name: "urgent",
                used: cost::waiting(&counted.emitted, &self.tally.received, self.tally.malformed),
                capacity: URGENT_BYTES.into(),
            }],
            programs: cost::runs(self.probes.programs.iter().map(|it| (it.name, it.fd.as_fd()))),
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
        let Tally { told, told_skipped, .. } = &mut self.tally;
        for (lost, told, index) in [(lost, told, ctrl::TOLD), (skipped, told_skipped, ctrl::TOLD_SKIPPED)] {
            let news = lost.saturating_sub(*told);
            batch.lost += news;
            *told = lost.max(*told);
            if news > 0
                && let Err(error) = self.control.set(index, *told)
            {
                tracing::warn!(error = %error.chain(), "the next daemon will tell of the same losses");
            }
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
                    if decoded.event.at >= self.since {
                        self.received[usize::from(decoded.kind)] += 1;
                    }
                    batch.events.push(decoded.event);
                }
                None => self.malformed += 1,
            }
        }
        false
    }
}

impl Drop for EbpfSource {
    fn drop(&mut self) {
        if !self.keep {
            self.detach();
        }
    }
}

/// When a process that ran before the probes were attached started, as roughly as `/proc` tells.
fn started(pid: u32) -> Option<u64> {
    procfs::stat(pid).map(|stat| stat.start)
}
