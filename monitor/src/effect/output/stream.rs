//! One stream of one service, between its pipe and its file: what the reader's and the writer's thread share.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use defib_core::model::{LogLayout, Tick};
use jiff::Timestamp;
use rustix::fs::FallocateFlags;
use serde::{Deserialize, Serialize};

use super::counters::Counters;
use super::lane;
use super::ledger::{Entry, FileId};
use super::pipe::Inlet;
use super::places::Life;
use super::ring::Ring;
use super::service::Service;

/// The most notes that wait for the writer. When there are more, times get coarser and gaps add up.
const NOTES: usize = 1024;

/// At most one time for each 100 ms or so many bytes.
const TIME_EVERY: (i128, u64) = (100_000_000, 64 * 1024);

/// Which stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Standard output and error in one.
    Joined,
    /// Standard output alone.
    Stdout,
    /// Standard error alone.
    Stderr,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Joined, Self::Stdout, Self::Stderr];

    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Joined => "joined",
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What the writer must know at a position of the spool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Note {
    /// From here on the bytes came at this time.
    At(Timestamp),
    /// So many bytes were dropped here.
    Gap(u64),
    /// From here on it is the output of this life.
    Life(Life),
}

/// How far the file has come.
#[derive(Clone, Copy, Debug)]
pub(super) struct Mark {
    pub(super) file: FileId,
    pub(super) offset: u64,
    /// The bytes captured up to there, as [`Ring`] counts them.
    pub(super) captured: u64,
}

/// One stream.
#[derive(Debug)]
pub(super) struct Stream {
    /// Never used twice.
    pub(super) id: u64,
    pub(super) service: Arc<Service>,
    pub(super) kind: Kind,
    pub(super) inlet: Inlet,
    pub(super) counters: Arc<Counters>,
    /// Its entry in the ledger.
    pub(super) index: u64,
    /// Whether the ledger's entry is still about this stream, and not about one that has taken its place.
    pub(super) ledgered: AtomicBool,
    /// What an earlier daemon had written, as the ledger says.
    pub(super) past: Entry,
    /// How much was in the pipe at first, if nothing had been read since it began to go into the file: the head of it may be
    /// there already.
    pub(super) unread: Option<u64>,
    /// The length of the spool at first: what is before that was captured by an earlier daemon.
    pub(super) born: u64,
    /// The length of the spool. The reader's thread adds.
    filled: AtomicU64,
    /// How much of the spool is in files, or given up. The writer's thread adds.
    written: AtomicU64,
    /// Whether it waits for the writer.
    pub(super) queued: AtomicBool,
    /// Guards who moves bytes out of the pipe, so that they are moved in order; held for as long as one splice(2) between
    /// pipes takes.
    loan: Mutex<Loan>,
    /// Until then it is not lent, in ticks: its file would not take it.
    refused: AtomicU64,
    /// Guards what comes at which position; held for moments by both threads.
    notes: Mutex<Notes>,
    /// Guards the last lines; held by the reader's thread as it adds, and by whoever copies them.
    ring: Mutex<Ring>,
    /// Guards a few numbers, held for moments.
    mark: Mutex<Option<Mark>>,
}

/// Who empties the pipe.
#[derive(Debug, Default)]
struct Loan {
    /// The writer's thread, by its lane.
    lent: bool,
    /// So much at its head is on its way into the file.
    shown: usize,
    /// It was taken back meanwhile, and so much of that is in the spool.
    saved: Option<usize>,
    /// Whether that has it among those to look into. It may find that it was taken back.
    listed: bool,
}

#[derive(Debug, Default)]
struct Notes {
    waiting: VecDeque<(u64, Note)>,
    last_time: Option<(u64, Timestamp)>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics while it holds one of them.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Stream {
    /// How many bytes will have been captured once what is in the pipe now is.
    pub(super) fn end(&self) -> u64 {
        let captured = || self.counters.captured.load(Ordering::Acquire);
        let mut before = captured();
        // What is being moved is in neither count for some microseconds.
        for _ in 0..3 {
            let waiting = rustix::io::ioctl_fionread(&self.inlet.pipe).unwrap_or_default();
            let after = captured();
            if after == before {
                return before + waiting;
            }
            before = after;
        }
        before
    }

    /// One whose spool may hold something already.
    pub(super) fn new(
        id: u64,
        service: Arc<Service>,
        kind: Kind,
        inlet: Inlet,
        index: u64,
        past: Entry,
    ) -> io::Result<Self> {
        let filled = rustix::fs::fstat(&inlet.spool)?.st_size.unsigned_abs();
        let counters = service.counters(kind);
        let marked = past.lane && lane::is_marked(&inlet.pipe);
        let unread = marked.then(|| rustix::io::ioctl_fionread(&inlet.pipe)).transpose()?;
        Ok(Self {
            id,
            service,
            kind,
            inlet,
            counters,
            index,
            ledgered: AtomicBool::new(true),
            past,
            unread,
            born: filled,
            filled: AtomicU64::new(filled),
            written: AtomicU64::new(past.freed.min(filled)),
            queued: AtomicBool::new(false),
            loan: Mutex::default(),
            refused: AtomicU64::new(0),
            notes: Mutex::default(),
            ring: Mutex::default(),
            mark: Mutex::default(),
        })
    }

    pub(super) fn filled(&self) -> u64 {
        self.filled.load(Ordering::Acquire)
    }

    pub(super) fn written(&self) -> u64 {
        self.written.load(Ordering::Acquire)
    }

    pub(super) fn set_written(&self, pos: u64) {
        self.written.store(pos, Ordering::Release);
    }

    /// Leaves the pipe to the writer's thread; whether that is to be told of it.
    pub(super) fn lend(&self) -> bool {
        let mut loan = lock(&self.loan);
        loan.lent = true;
        !std::mem::replace(&mut loan.listed, true)
    }

    /// Takes the pipe back: when this returns, the writer's thread moves nothing out of it any more. `save` moves so much
    /// into the spool, of which that thread does not know yet when it will be in the file, and says how much it was.
    pub(super) fn take_back(&self, save: impl FnOnce(usize) -> usize) {
        let mut loan = lock(&self.loan);
        loan.lent = false;
        if let shown @ 1.. = std::mem::take(&mut loan.shown) {
            loan.saved = Some(save(shown));
        }
    }

    /// The writer's thread has done with it.
    pub(super) fn give_back(&self) {
        *lock(&self.loan) = Loan::default();
    }

    pub(super) fn is_lent(&self) -> bool {
        lock(&self.loan).lent
    }

    /// Has the writer's thread look at the head of the pipe, if that is lent to it and nothing that came before waits in the
    /// spool; how much it has seen.
    pub(super) fn show(&self, look: impl FnOnce() -> usize) -> usize {
        let mut loan = lock(&self.loan);
        if !loan.lent || !self.is_settled() || self.is_ahead() {
            return 0;
        }
        loan.shown = look();
        loan.shown
    }

    /// What the writer's thread has seen is in the file: `take` takes it out of the pipe. If that was taken back
    /// meanwhile, nothing is taken, and the answer is how much of it is in the spool.
    pub(super) fn taken(&self, take: impl FnOnce()) -> Option<usize> {
        let mut loan = lock(&self.loan);
        if let Some(saved) = loan.saved.take() {
            return Some(saved);
        }
        loan.shown = 0;
        take();
        None
    }

    /// Whether the next bytes of the pipe are in the file already: an earlier daemon was killed before it took them out.
    pub(super) fn is_ahead(&self) -> bool {
        self.written() > self.filled()
    }

    /// Says until when it is not to be lent again.
    pub(super) fn refuse_until(&self, tick: Tick) {
        self.refused.store(tick.0, Ordering::Relaxed);
    }

    /// Whether the pipe may be left to the writer's thread: for a busy stream in one file, whose last lines nobody waits
    /// for. Where each life has a file, the reader's thread must find its end.
    pub(super) fn may_be_lent(&self, now: Tick) -> bool {
        now.0 >= self.refused.load(Ordering::Relaxed)
            && self.service.followers.load(Ordering::Relaxed) == 0
            && self.ledgered.load(Ordering::Acquire)
            && !self.is_ahead()
            && self.service.spec().layout == LogLayout::Single
    }

    /// What waits in the spool.
    pub(super) fn backlog(&self) -> u64 {
        self.filled().saturating_sub(self.written())
    }

    /// The reader's thread has added to the spool.
    pub(super) fn add_filled(&self, bytes: u64, at: Timestamp) {
        let pos = self.filled();
        let mut notes = lock(&self.notes);
        let due = notes.last_time.is_none_or(|(last, then)| {
            (at.as_nanosecond() - then.as_nanosecond()).abs() >= TIME_EVERY.0 || pos - last >= TIME_EVERY.1
        });
        if due && notes.waiting.len() < NOTES {
            notes.waiting.push_back((pos, Note::At(at)));
            notes.last_time = Some((pos, at));
        }
        drop(notes);
        self.filled.store(pos + bytes, Ordering::Release);
    }

    /// The reader's thread tells of something at a place of the spool, which may have been read, or even written, already:
    /// then it holds from where the writer is.
    pub(super) fn note_at(&self, pos: u64, note: Note) {
        let mut notes = lock(&self.notes);
        let at = notes.waiting.iter().rposition(|(of, _)| *of <= pos).map_or(0, |before| before + 1);
        notes.waiting.insert(at, (pos, note));
    }

    /// The reader's thread tells of something at the end of the spool.
    pub(super) fn note(&self, note: Note) {
        let pos = self.filled();
        let mut notes = lock(&self.notes);
        match (notes.waiting.back_mut(), note) {
            (Some((at, Note::Gap(bytes))), Note::Gap(more)) if *at == pos => *bytes += more,
            // Lives and gaps are few: gaps at one position are one, and no bytes come between two at a full spool.
            _ => notes.waiting.push_back((pos, note)),
        }
    }

    /// The next thing for the writer: a note at its position, or else up to which position the bytes belong together.
    pub(super) fn next(&self) -> (Option<Note>, u64) {
        let written = self.written();
        let mut notes = lock(&self.notes);
        match notes.waiting.front() {
            Some((pos, note)) if *pos <= written => {
                let note = *note;
                notes.waiting.pop_front();
                (Some(note), written)
            }
            Some((pos, _)) => (None, (*pos).min(self.filled())),
            None => (None, self.filled()),
        }
    }

    /// Whether the writer has nothing to do for it.
    pub(super) fn is_settled(&self) -> bool {
        self.backlog() == 0 && lock(&self.notes).waiting.is_empty()
    }

    /// Gives the whole pages of the spool before a position back to the kernel. Not the page of that position: the
    /// reader's thread may be adding to it.
    pub(super) fn free(&self, before: u64) {
        self.punch(before / PAGE * PAGE);
    }

    /// Gives the last page back, too, if everything has been written. For the reader's thread, which alone adds.
    pub(super) fn free_last(&self) -> bool {
        let settled = self.is_settled();
        if settled {
            self.punch(self.filled().next_multiple_of(PAGE));
        }
        settled
    }

    fn punch(&self, end: u64) {
        let from = self.past.freed / PAGE * PAGE;
        let mode = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        let start = end.saturating_sub(FREE_SPAN).max(from).min(end) / PAGE * PAGE;
        if start == end {
            return;
        }
        // What is not freed now is freed with the spool.
        rustix::fs::fallocate(&self.inlet.spool, mode, start, end - start).ok();
    }

    pub(super) fn ring(&self) -> MutexGuard<'_, Ring> {
        lock(&self.ring)
    }

    pub(super) fn mark(&self) -> Option<Mark> {
        *lock(&self.mark)
    }

    pub(super) fn set_mark(&self, mark: Mark) {
        *lock(&self.mark) = Some(mark);
    }

    /// The pipe's descriptor and the spool's.
    pub(super) fn fds(&self) -> (&OwnedFd, &OwnedFd) {
        (&self.inlet.pipe, &self.inlet.spool)
    }
}

const PAGE: u64 = 4096;

/// More than a spool ever holds: what is before that was freed earlier.
const FREE_SPAN: u64 = 64 << 20;
