//! The end of one stream in the writer's thread: what of its spool is in which file, and what came by the lane.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use defib_core::model::{LogLayout, Tick};
use jiff::Timestamp;

use super::lane::Lane;
use super::ledger::{FileId, Ledger};
use super::places;
use super::sink::{Account, Outcome, Place, Sink};
use super::stream::{Mark, Note, Stream};
use super::writer::Desk;
use crate::effect::clock;

/// So much of a spool is given back at once; less waits until there is nothing to do.
const FREE: u64 = 256 * 1024;

/// What is moved from the lane at once. The reader's thread hears of progress in between.
const STEP: usize = 256 * 1024;

/// What came of a look into a lent pipe.
#[derive(Clone, Copy, Debug)]
pub(super) enum Pulled {
    /// It is empty, or has been taken back.
    Nothing,
    /// So many bytes.
    Bytes(usize),
    /// What came before it was lent is not all in the file yet.
    More,
    /// Not by the lane before that time.
    Refused(Tick),
}

/// A stream's end in the writer's thread.
#[derive(Debug)]
pub(super) struct Drain {
    pub(super) stream: Arc<Stream>,
    pub(super) sink: Sink,
    pub(super) settled: bool,
    freed: u64,
    /// Bytes that were captured and never came to the spool: dropped before that, or moved by the lane.
    beside: u64,
    /// Whether the ledger says that all of the spool is done with, and names no file.
    forgotten: bool,
    pub(super) used: Tick,
}

/// Where the bytes of a stream from a position on go.
struct Entry<'a> {
    ledger: &'a Ledger,
    stream: &'a Stream,
    pos: u64,
}

impl Account for Entry<'_> {
    fn goes_to(&self, ahead: u64, file: FileId, offset: u64) {
        if self.stream.ledgered.load(Ordering::Acquire) {
            self.ledger.set(self.stream.index, self.pos + ahead, file, offset);
        }
    }
}

impl Drain {
    pub(super) fn new(stream: &Arc<Stream>) -> Self {
        Self {
            stream: Arc::clone(stream),
            sink: Sink::default(),
            settled: false,
            freed: stream.past.freed,
            beside: 0,
            forgotten: false,
            used: Tick(0),
        }
    }

    /// Finds out how much an earlier daemon has written of what is in the spool.
    pub(super) fn settle(&mut self, ledger: &Ledger, place: &Place<'_>, desk: &Desk) {
        let stream = &self.stream;
        let past = stream.past;
        let currents = places::currents(place.base, place.spec.layout, stream.kind);
        // Between a rotation and the first byte in the new file, the file is the first or second rotated one.
        let candidates = currents.iter().take(3).flat_map(|path| (0..4).map(|n| places::rotated(path, n)));
        let len = candidates.into_iter().find_map(|path| {
            let found = fs::symlink_metadata(path).ok()?;
            (found.dev() == past.file.device && found.ino() == past.file.inode).then_some(found.len())
        });
        let done = past.pos + len.map_or(0, |len| len.saturating_sub(past.offset));
        let done = done.max(past.freed).min(stream.filled());
        desk.backlog.fetch_sub(done - stream.written(), Ordering::AcqRel);
        stream.set_written(done);
        let left = stream.filled() - done;
        if left > 0 {
            tracing::info!(service = %stream.service.name, stream = %stream.kind, bytes = left, "output of before the daemon's end is written");
        }
        self.free(ledger);
    }

    pub(super) fn take(&mut self, note: Note, layout: LogLayout) {
        match note {
            Note::At(at) => self.sink.set_time(at),
            Note::Gap(bytes) => {
                self.beside += bytes;
                self.sink.miss(bytes, "the disk did not keep up");
            }
            Note::Life(life) => self.sink.begin(life, layout),
        }
    }

    /// Moves so many bytes from the spool to the file.
    pub(super) fn move_on(&mut self, count: usize, place: &Place<'_>, ledger: &Ledger, buffer: &mut Vec<u8>) {
        self.forgotten = false;
        let stream = &self.stream;
        let pos = stream.written();
        buffer.resize(buffer.len().max(count), 0);
        let read = rustix::io::pread(&stream.inlet.spool, &mut buffer[..count], pos).unwrap_or(0);
        let account = Entry { ledger, stream, pos };
        let outcome = self.sink.write(&buffer[..read], place, &account, clock::now());
        // A spool that cannot be read is memory that is gone.
        let lost = (count - read) as u64;
        if outcome.dropped + lost > 0 {
            stream.counters.add(0, outcome.dropped + lost);
        }
        stream.set_written(pos + count as u64);
        if stream.written() - self.freed >= FREE {
            self.free(ledger);
        }
        self.mark();
    }

    /// Says how far the file has come.
    fn mark(&self) {
        if let Some((file, offset)) = self.sink.mark() {
            let captured = (self.stream.written() + self.beside).saturating_sub(self.stream.born);
            self.stream.set_mark(Mark { file, offset, captured });
        }
    }

    /// Moves what is in the pipe, which is lent, by the lane to the file; all of the spool must be done with. `again`: when
    /// to try it anew where it cannot be done now.
    pub(super) fn pull(
        &mut self,
        lane: &mut Lane,
        place: &Place<'_>,
        ledger: &Ledger,
        desk: &Desk,
        again: Tick,
    ) -> Pulled {
        match self.sink.takes_lanes(place, clock::now()) {
            Ok(true) => {}
            Ok(false) => return Pulled::Refused(Tick(u64::MAX)),
            // It is told where it is dropped.
            Err(_) => return Pulled::Refused(again),
        }
        let stream = Arc::clone(&self.stream);
        if !self.forgotten {
            // The file grows by what is in no spool. A daemon that found the old entry would take that for the spool's.
            self.free(ledger);
            ledger.set(stream.index, stream.written(), FileId::default(), 0);
            self.sink.forget();
            self.forgotten = true;
        }
        lane.belong_to(stream.index, ledger);
        let limits = stream.service.limits();
        let filled = stream.while_lent(|| {
            let at = Timestamp::now();
            let count = lane.fill(&stream.inlet.pipe).unwrap_or(0);
            stream.counters.add(count as u64, 0);
            if count > 0 {
                // Whoever asks finds it in the file.
                stream.ring().push(at, count as u64, &[], limits);
            }
            (count, at)
        });
        let Some((count @ 1.., at)) = filled else { return Pulled::Nothing };
        self.pour(lane, count, at, place, desk);
        self.beside += count as u64;
        self.mark();
        Pulled::Bytes(count)
    }

    /// Writes what an earlier daemon has left in the lane. It came before all that is in the spool.
    pub(super) fn take_over(&mut self, lane: &mut Lane, place: &Place<'_>, desk: &Desk) {
        let bytes = lane.len();
        let stream = &self.stream;
        tracing::info!(service = %stream.service.name, stream = %stream.kind, bytes, "output of before the daemon's end is written");
        self.pour(lane, bytes, Timestamp::now(), place, desk);
    }

    fn pour(&mut self, lane: &mut Lane, count: usize, at: Timestamp, place: &Place<'_>, desk: &Desk) {
        let mut left = count;
        while left > 0 {
            let step = left.min(STEP);
            let Outcome { dropped, .. } = self.sink.pour(lane, step, at, place, clock::now());
            if dropped > 0 {
                self.stream.counters.add(0, dropped);
            }
            left -= step;
            desk.make_progress();
        }
    }

    pub(super) fn free(&mut self, ledger: &Ledger) {
        let written = self.stream.written();
        if written > self.freed {
            if self.stream.ledgered.load(Ordering::Acquire) {
                ledger.set_freed(self.stream.index, written);
            }
            self.stream.free(written);
            self.freed = written;
        }
    }
}
