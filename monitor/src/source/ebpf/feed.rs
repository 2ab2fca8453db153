//! The bulk ring: every process of the host, while somebody listens.

use std::fmt;
use std::time::Duration;

use aya::maps::{MapData, RingBuf};
use defib_ebpf::FeedStats;
use tokio::io::unix::AsyncFd;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::super::any::Batch;
use super::super::{clocks, watch};
use super::decode::decode;
use super::error::EbpfError;
use super::maps::{FeedMaps, RestingRing};

/// Records that one turn reads at most, about a millisecond of work.
const TURN: usize = 4096;

/// After it was woken the reader looks again by itself, and later than the probes stay quiet: see the kernel half's
/// `feed`. So what was written without a wake-up is never left lying.
const AGAIN: Duration = Duration::from_millis(10);

/// How long the probes tell of every process after the reader has said that it listens: they may outlive it.
const LEASE_NS: u64 = 30_000_000_000;

/// How often it says so.
const RENEWAL: Duration = Duration::from_secs(10);

/// The reader of the bulk ring. It ends with the source that it came with: nothing is heard after that.
pub struct EbpfFeed {
    ring: RestingRing,
    /// The ring while it is read.
    polled: Option<AsyncFd<RingBuf<MapData>>>,
    maps: FeedMaps,
    hears_signals: bool,
    /// When to look without having been woken.
    look: Option<Instant>,
    /// When to tell the probes again that somebody listens.
    renew: Instant,
    counts: FeedCounts,
    /// Losses that a [`Batch`] has told already.
    told: u64,
}

/// What has been counted. After the ring was read to its end, `emitted` is `received` and `lost` together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct FeedCounts {
    /// Events that the probes were to tell.
    pub(super) emitted: u64,
    /// Records that arrived here.
    pub(super) received: u64,
    /// Events for which the ring had no room.
    pub(super) lost: u64,
    /// Records among the received that made no sense and were dropped.
    pub(super) malformed: u64,
}

impl fmt::Debug for EbpfFeed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EbpfFeed").field("counts", &self.counts).finish_non_exhaustive()
    }
}

impl EbpfFeed {
    pub(super) fn new(ring: RestingRing, maps: FeedMaps, hears_signals: bool) -> Self {
        let (look, renew, counts) = (None, Instant::now(), FeedCounts::default());
        Self { ring, polled: None, maps, hears_signals, look, renew, counts, told: 0 }
    }

    /// Goes on where a reader that is gone has stopped, whatever it left unread.
    pub(super) fn resume(&mut self) -> Result<(), EbpfError> {
        let mut ring = self.ring.map()?;
        while ring.next().is_some() {}
        let FeedStats { emitted, lost } = self.maps.stats()?;
        self.counts.received = emitted.saturating_sub(lost);
        self.told = lost;
        Ok(())
    }

    pub(in crate::source) fn start(&mut self) -> Result<(), EbpfError> {
        if self.polled.is_none() {
            let mut ring = self.ring.map()?;
            // A probe that ran when the feed was stopped may have written one more.
            self.counts.discard(&mut ring);
            self.polled = Some(watch::readable_ring(ring).map_err(EbpfError::Poll)?);
        }
        // The first look needs no wake-up: the last one may have been spent on what was thrown away.
        self.look = Some(Instant::now() + AGAIN);
        self.listen()
    }

    /// Tells the probes that somebody listens, for a while.
    fn listen(&mut self) -> Result<(), EbpfError> {
        self.renew = Instant::now() + RENEWAL;
        self.maps.switch(clocks::monotonic() + LEASE_NS)
    }

    pub(in crate::source) async fn read(&mut self, batch: &mut Batch) {
        loop {
            if self.polled.is_some()
                && Instant::now() >= self.renew
                && let Err(error) = self.listen()
            {
                tracing::warn!(error = %error.chain(), "the feed will fall silent");
            }
            let renew = self.renew;
            let Some(ring) = &mut self.polled else { return std::future::pending().await };
            let woken = match self.look {
                Some(when) => {
                    sleep_until(when).await;
                    false
                }
                None => match timeout_at(renew, ring.readable_mut()).await {
                    Ok(Ok(mut ready)) => {
                        ready.clear_ready();
                        true
                    }
                    Err(_elapsed) => continue,
                    Ok(Err(error)) => {
                        // The runtime is shutting down.
                        tracing::debug!(%error, "the ring is not polled any more");
                        return std::future::pending().await;
                    }
                },
            };
            let found = self.counts.read(ring.get_mut(), self.hears_signals, batch);
            self.look = match found {
                TURN.. => Some(Instant::now()),
                1.. => Some(Instant::now() + AGAIN),
                // A record that is just being written hides what is behind it.
                0 if woken => Some(Instant::now() + AGAIN),
                0 => None,
            };
            self.tell_losses(batch);
            if !batch.events.is_empty() || batch.lost > 0 {
                return;
            }
        }
    }

    pub(in crate::source) fn stop(&mut self) {
        if let Err(error) = self.maps.switch(0) {
            tracing::warn!(error = %error.chain(), "the feed cannot be switched off");
        }
        if let Some(polled) = self.polled.take() {
            self.counts.discard(&mut polled.into_inner());
        }
    }

    /// What has been counted so far.
    pub(super) fn counts(&self) -> FeedCounts {
        let kernel = self.maps.stats().unwrap_or_else(|error| {
            tracing::warn!(error = %error.chain(), "the feed's counters cannot be read");
            FeedStats::default()
        });
        FeedCounts { emitted: kernel.emitted, lost: kernel.lost, ..self.counts }
    }

    fn tell_losses(&mut self, batch: &mut Batch) {
        let FeedCounts { lost, malformed, .. } = self.counts();
        let lost = lost + malformed;
        batch.lost += lost.saturating_sub(self.told);
        self.told = lost.max(self.told);
    }
}

impl FeedCounts {
    /// Takes out what nobody will read.
    fn discard(&mut self, ring: &mut RingBuf<MapData>) {
        while ring.next().is_some() {
            self.received += 1;
        }
    }

    /// Reads up to [`TURN`] records and returns how many it found.
    fn read(&mut self, ring: &mut RingBuf<MapData>, hears_signals: bool, batch: &mut Batch) -> usize {
        for found in 0..TURN {
            let Some(record) = ring.next() else { return found };
            self.received += 1;
            match decode(&record, hears_signals) {
                Some(decoded) => batch.events.push(decoded.event),
                None => self.malformed += 1,
            }
        }
        TURN
    }
}

impl Drop for EbpfFeed {
    fn drop(&mut self) {
        self.stop();
    }
}
