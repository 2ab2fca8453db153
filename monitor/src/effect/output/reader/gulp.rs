//! What is in a pipe goes into its spool, as much of it as there is room for.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use defib_core::model::LogLayout;
use jiff::Timestamp;
use rustix::io::Errno;
use rustix::pipe::SpliceFlags;

use super::{BETWEEN, GULP, Note, Reader, SIZES, SPOOL, SPOOLS, STALLED, Stream};
use crate::effect::clock;

/// What a stream may have in its spool in any case: a quiet service loses nothing because others are loud.
const LITTLE: u64 = 4096;

/// What came of a gulp.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Gulp {
    /// There was something, and may be more.
    More,
    /// There is no room.
    Full,
    /// The pipe is empty.
    Nothing,
}

impl Reader {
    /// Moves what is in a pipe, at most so much.
    pub(super) fn gulp(&mut self, id: u64, most: usize) -> Gulp {
        let now = clock::now();
        let stalled = now.since(self.shared.desk.beat()) >= STALLED;
        let Some(tap) = self.taps.get_mut(&id) else { return Gulp::Nothing };
        if tap.stream.service.spec().layout == LogLayout::PerStart {
            // The message that says where the life ends that this thread knows of is on its way.
            let ahead = (self.shared.ledger.followed(tap.stream.index), tap.begun);
            if ahead.0 > ahead.1 && ahead != tap.ahead {
                (tap.ahead, tap.between) = (ahead, Some(now));
            }
        }
        if tap.between.is_some_and(|since| now.since(since) < BETWEEN) {
            return Gulp::Full;
        }
        tap.between = None;
        let stream = Arc::clone(&tap.stream);
        let backlog = stream.backlog();
        let allowed = if self.shared.desk.backlog.load(Ordering::Acquire) < SPOOLS { SPOOL } else { LITTLE };
        let room = allowed.saturating_sub(backlog);
        let room = usize::try_from(room).unwrap_or(usize::MAX).min(most);
        if room == 0 {
            return if stalled { self.discard(&stream, most) } else { Gulp::Full };
        }
        let (pipe, spool) = stream.fds();
        let mut offset = stream.filled();
        match rustix::pipe::splice(pipe, None, spool, Some(&mut offset), room, SpliceFlags::NONBLOCK) {
            Ok(0) | Err(Errno::AGAIN) => Gulp::Nothing,
            Ok(count) => {
                (tap.used, tap.warm) = (now, true);
                if tap.large.is_none() {
                    // Who may not (pipe-user-pages-soft) gets no more than was there.
                    tap.large = Some(rustix::pipe::fcntl_setpipe_size(pipe, SIZES.0).is_ok());
                }
                self.took(&stream, count);
                Gulp::More
            }
            Err(Errno::INTR) => Gulp::More,
            // No memory for the spool.
            Err(_) => self.discard(&stream, most),
        }
    }

    /// So many bytes are new in the spool.
    pub(super) fn took(&mut self, stream: &Arc<Stream>, count: usize) {
        let at = Timestamp::now();
        let from = stream.filled();
        stream.add_filled(count as u64, at);
        stream.counters.add(count as u64, 0);
        self.shared.desk.backlog.fetch_add(count as i64, Ordering::AcqRel);
        let limits = stream.service.limits();
        // Of a flood, what comes next would push it out again. Whoever asks finds it in the file.
        let flood = count == GULP && stream.service.followers.load(Ordering::Relaxed) == 0;
        let kept = if flood { 0 } else { count.min(limits.memory) };
        let skipped = count - kept;
        self.scratch.resize(self.scratch.len().max(kept), 0);
        let read = rustix::io::pread(&stream.inlet.spool, &mut self.scratch[..kept], from + skipped as u64);
        let read = read.unwrap_or(0);
        let missed = (count - read) as u64;
        stream.ring().push(at, missed, &self.scratch[..read], limits);
        self.shared.desk.put_stream(stream);
        stream.service.news.notify_waiters();
    }

    /// Takes what nobody can write to a file. Memory has it for a while.
    fn discard(&mut self, stream: &Arc<Stream>, most: usize) -> Gulp {
        match self.read_away(stream, most) {
            Ok(0) | Err(_) => Gulp::Nothing,
            Ok(count) => {
                let limits = stream.service.limits();
                let kept = count.min(limits.memory);
                let skipped = (count - kept) as u64;
                stream.note(Note::Gap(count as u64));
                stream.counters.add(count as u64, count as u64);
                stream.ring().push(Timestamp::now(), skipped, &self.scratch[count - kept..count], limits);
                stream.service.news.notify_waiters();
                Gulp::More
            }
        }
    }

    /// Takes what is in a pipe, at most so much, and leaves it where the next read goes; how much it was.
    pub(super) fn read_away(&mut self, stream: &Stream, most: usize) -> Result<usize, Errno> {
        self.scratch.resize(self.scratch.len().max(SIZES.1), 0);
        rustix::io::read(&stream.inlet.pipe, &mut self.scratch[..SIZES.1.min(most)])
    }
}
