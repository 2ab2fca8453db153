//! The end of one stream in the writer's thread: what of its spool is in which file, and what came by the lane.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use defib_core::model::{LogLayout, Tick};
use jiff::Timestamp;

use super::lane::{self, Lane};
use super::ledger::{FileId, Ledger};
use super::places;
use super::sink::{Account, Outcome, Place, Sink};
use super::stream::{Mark, Note, Stream};
use super::writer::Desk;
use crate::effect::clock;

/// So much of a spool is given back at once; less waits until there is nothing to do.
const FREE: u64 = 256 * 1024;

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
    /// Whether it goes by the lane: nothing has come by the spool since.
    by_lane: bool,
    /// Whether its pipe was seen to tell that it has been read.
    proven: bool,
    pub(super) used: Tick,
}

/// Where the bytes of a stream from a position on go.
struct Entry<'a> {
    ledger: &'a Ledger,
    stream: &'a Stream,
    pos: u64,
    by_lane: bool,
}

impl Account for Entry<'_> {
    fn goes_to(&self, ahead: u64, file: FileId, offset: u64) {
        let Self { ledger, stream, pos, by_lane } = self;
        if !stream.ledgered.load(Ordering::Acquire) {
            return;
        }
        if *by_lane {
            ledger.set_lane(stream.index, pos + ahead, file, offset);
            // After that: the mark of the last bytes, which have been read, must not speak for these. It has been set before,
            // so it can be set.
            lane::mark(&stream.inlet.pipe).ok();
        } else {
            ledger.set(stream.index, pos + ahead, file, offset);
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
            by_lane: false,
            proven: false,
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
        let reached = past.pos + len.map_or(0, |len| len.saturating_sub(past.offset));
        let done = match stream.unread {
            _ if !past.lane => reached.min(stream.born),
            // It went by the lane, and has been read: it was never in the spool.
            None => 0,
            Some(unread) if reached <= stream.born + unread => reached,
            // Nobody has held the pipe, and what was in it is gone.
            Some(_) => stream.born,
        };
        let done = done.max(past.freed);
        if past.lane {
            let (file, len) = len.map_or_else(Default::default, |len| (past.file, len));
            if done > stream.born {
                ledger.set_lane(stream.index, done, file, len);
            } else {
                ledger.set(stream.index, done, file, len);
            }
        }
        desk.backlog.fetch_sub(signed(done) - signed(stream.written()), Ordering::AcqRel);
        stream.set_written(done);
        if let left @ 1.. = stream.born.saturating_sub(done) {
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
        self.by_lane = false;
        let stream = &self.stream;
        let pos = stream.written();
        buffer.resize(buffer.len().max(count), 0);
        let read = rustix::io::pread(&stream.inlet.spool, &mut buffer[..count], pos).unwrap_or(0);
        let account = Entry { ledger, stream: stream.as_ref(), pos, by_lane: false };
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
        if stream.is_ahead() {
            return Pulled::Refused(again);
        }
        if !self.by_lane {
            if let Err(error) = lane::mark(&stream.inlet.pipe) {
                tracing::debug!(service = %stream.service.name, %error, "its output goes by the spool");
                return Pulled::Refused(Tick(u64::MAX));
            }
            self.free(ledger);
            self.by_lane = true;
        }
        let limits = stream.service.limits();
        let pipe = &stream.inlet.pipe;
        let mut sum = 0;
        while sum < lane::SIZE {
            let count = stream.show(|| lane.show(pipe));
            if count == 0 {
                break;
            }
            let (at, pos) = (Timestamp::now(), stream.written());
            let account = Entry { ledger, stream: &stream, pos, by_lane: true };
            let Outcome { dropped, .. } = self.sink.pour(lane, count, at, place, &account, clock::now());
            stream.counters.add(0, dropped);
            desk.make_progress();
            let saved = stream.taken(|| {
                lane.take(pipe, count);
                stream.counters.add(count as u64, 0);
                // Whoever asks finds it in the file.
                stream.ring().push(at, count as u64, &[], limits);
            });
            sum += count;
            self.beside += (count - saved.unwrap_or(0)) as u64;
            if let Some(saved) = saved {
                stream.set_written(pos + saved as u64);
                desk.backlog.fetch_sub(saved as i64, Ordering::AcqRel);
                self.mark();
                break;
            }
            self.mark();
            if !self.proven && lane::is_marked(pipe) {
                tracing::warn!(service = %stream.service.name, "reading its pipe leaves no time (noatime): its output goes by the spool");
                ledger.set(stream.index, pos, FileId::default(), 0);
                return Pulled::Refused(Tick(u64::MAX));
            }
            self.proven = true;
            if count < lane::STEP {
                break;
            }
        }
        if sum == 0 { Pulled::Nothing } else { Pulled::Bytes(sum) }
    }

    pub(super) fn free(&mut self, ledger: &Ledger) {
        let written = self.stream.written().min(self.stream.filled());
        if written > self.freed {
            if self.stream.ledgered.load(Ordering::Acquire) {
                ledger.set_freed(self.stream.index, written);
            }
            self.stream.free(written);
            self.freed = written;
        }
    }
}

/// Positions are far from the largest.
fn signed(pos: u64) -> i64 {
    i64::try_from(pos).unwrap_or(i64::MAX)
}
