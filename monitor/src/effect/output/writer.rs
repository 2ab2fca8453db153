//! The thread that writes files. A disk that stalls holds up this thread and nothing else: the reader's thread sees that
//! it makes no progress.
//!
//! Streams take turns, so that one that writes a lot does not hold up the others. With nothing to do the thread sleeps;
//! once after each time of work it wakes to give memory back.

use std::collections::{BTreeMap, VecDeque};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use defib_core::model::{LogLayout, Tick};
use tokio::sync::oneshot;

use super::ledger::{FileId, Ledger};
use super::places;
use super::service::Service;
use super::sink::{Account, Place, Sink};
use super::stream::{Mark, Note, Stream};
use super::usage::{self, Vacuum};
use crate::effect::clock;

/// What one stream may write until it is another's turn.
const TURN: usize = 256 * 1024;

/// So much of a spool is given back at once; less waits until there is nothing to do.
const FREE: u64 = 256 * 1024;

/// How long there must be nothing to do until memory is given back.
const IDLE: Duration = Duration::from_secs(1);

/// How many files are open at a time; the others are closed after their turn. Each takes two descriptors.
const OPEN: usize = 512;

/// How often rotated files are looked at whether they are too old, if any service asks for that.
const AGES: Duration = Duration::from_secs(600);

/// Work for the thread.
#[derive(Debug)]
pub(super) enum Job {
    /// A stream has bytes or notes.
    Stream(Arc<Stream>),
    /// A stream is over.
    Close(u64),
    /// Files are to be removed; the answer is how many, and how many bytes.
    Vacuum(Vec<Arc<Service>>, Vacuum, oneshot::Sender<(u64, u64)>),
    /// Everything has been handed over.
    Stop,
}

/// The work that waits. Bounded by what fills it: each stream waits at most once, and the API asks for one vacuum at a
/// time.
#[derive(Debug, Default)]
pub(super) struct Desk {
    /// Guards the work; held for moments by all who put and by the one who takes.
    jobs: Mutex<Jobs>,
    come: Condvar,
    /// The bytes in all spools that are in no file yet.
    pub(super) backlog: AtomicU64,
    /// When the writer's thread has last made progress, in ticks.
    beat: AtomicU64,
    /// Whether the reader's thread waits for room.
    pub(super) wanted: AtomicBool,
    /// Whether files have an age that is to be looked at.
    pub(super) ages: AtomicBool,
}

#[derive(Debug, Default)]
struct Jobs {
    queue: VecDeque<Job>,
    /// Whether the writer's thread waits for work.
    idle: bool,
}

impl Desk {
    pub(super) fn new() -> Self {
        let desk = Self::default();
        // A thread that has only just begun is not stalled, however full the spools are that it finds.
        desk.make_progress();
        desk
    }

    pub(super) fn put(&self, job: Job) {
        let mut jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        jobs.queue.push_back(job);
        // Who has had nothing to do has made no progress and is not stalled.
        if std::mem::take(&mut jobs.idle) {
            self.make_progress();
        }
        drop(jobs);
        self.come.notify_one();
    }

    /// Hands a stream over, unless it waits already.
    pub(super) fn put_stream(&self, stream: &Arc<Stream>) {
        if !stream.queued.swap(true, Ordering::AcqRel) {
            self.put(Job::Stream(Arc::clone(stream)));
        }
    }

    /// When the writer's thread has last made progress.
    pub(super) fn beat(&self) -> Tick {
        Tick(self.beat.load(Ordering::Relaxed))
    }

    fn make_progress(&self) {
        self.beat.store(clock::now().0, Ordering::Relaxed);
    }

    /// The next job; `None` when `patience` is over.
    fn take(&self, patience: Option<Duration>) -> Option<Job> {
        let mut jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        jobs.idle = jobs.queue.is_empty();
        let idle = |jobs: &mut Jobs| jobs.queue.is_empty();
        let mut jobs = match patience {
            Some(patience) => {
                self.come.wait_timeout_while(jobs, patience, idle).unwrap_or_else(PoisonError::into_inner).0
            }
            None => self.come.wait_while(jobs, idle).unwrap_or_else(PoisonError::into_inner),
        };
        jobs.queue.pop_front()
    }
}

/// What the thread owns.
#[derive(Debug)]
pub(super) struct Writer {
    desk: Arc<Desk>,
    ledger: Arc<Ledger>,
    log_dir: PathBuf,
    /// Wakes the reader's thread.
    wake: Arc<std::os::fd::OwnedFd>,
    sinks: BTreeMap<u64, Drain>,
    buffer: Vec<u8>,
}

/// A stream's end in the writer's thread.
#[derive(Debug)]
struct Drain {
    stream: Arc<Stream>,
    sink: Sink,
    settled: bool,
    freed: u64,
    /// Bytes that were dropped before they came to the spool.
    gaps: u64,
    used: Tick,
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

impl Writer {
    pub(super) fn new(
        desk: Arc<Desk>,
        ledger: Arc<Ledger>,
        log_dir: PathBuf,
        wake: Arc<std::os::fd::OwnedFd>,
    ) -> Self {
        Self { desk, ledger, log_dir, wake, sinks: BTreeMap::new(), buffer: Vec::new() }
    }

    /// Runs until it is told to stop.
    pub(super) fn run(mut self) {
        let mut rested = true;
        loop {
            let ages = self.desk.ages.load(Ordering::Relaxed).then_some(AGES);
            let patience = if rested { ages } else { Some(IDLE) };
            let job = self.desk.take(patience);
            // Having waited for work is not having waited for a disk.
            self.desk.make_progress();
            match job {
                Some(Job::Stream(stream)) => {
                    rested = false;
                    self.serve(&stream);
                }
                // Its last bytes may want more than one turn.
                Some(Job::Close(id)) => match self.sinks.get(&id) {
                    Some(drain) if !drain.stream.is_settled() => self.desk.put(Job::Close(id)),
                    Some(_) | None => drop(self.sinks.remove(&id)),
                },
                Some(Job::Vacuum(services, wanted, reply)) => {
                    let gone = usage::vacuum(services.iter().map(AsRef::as_ref), &self.log_dir, wanted);
                    // Who asked may have given up.
                    reply.send(gone).ok();
                }
                Some(Job::Stop) => return,
                None if rested => self.look_at_ages(),
                None => {
                    self.rest();
                    rested = true;
                }
            }
        }
    }

    /// A turn of a stream.
    fn serve(&mut self, stream: &Arc<Stream>) {
        stream.queued.store(false, Ordering::Release);
        let now = clock::now();
        let Self { ledger, log_dir, sinks, buffer, desk, .. } = self;
        let drain = sinks.entry(stream.id).or_insert_with(|| Drain::new(stream));
        let (base, spec) = stream.service.base(log_dir);
        let place = Place { base: &base, spec: &spec, kind: stream.kind };
        if !drain.settled {
            drain.settled = true;
            drain.settle(ledger, &place, desk);
        }
        drain.used = now;
        let mut room = TURN;
        while room > 0 {
            let (note, until) = stream.next();
            if let Some(note) = note {
                drain.take(note, spec.layout);
                continue;
            }
            let pos = stream.written();
            let count = usize::try_from(until.saturating_sub(pos)).unwrap_or(usize::MAX).min(room);
            if count == 0 {
                break;
            }
            drain.move_on(count, &place, ledger, buffer);
            desk.backlog.fetch_sub(count as u64, Ordering::AcqRel);
            desk.make_progress();
            room -= count;
        }
        if !stream.is_settled() {
            desk.put_stream(stream);
        }
        if self.desk.wanted.swap(false, Ordering::AcqRel) {
            // A counter that is full wakes as well.
            rustix::io::write(&*self.wake, &1_u64.to_ne_bytes()).ok();
        }
        self.close_some();
    }

    /// Gives back what is kept for speed only.
    fn rest(&mut self) {
        for drain in self.sinks.values_mut() {
            drain.free(&self.ledger);
        }
        self.buffer = Vec::new();
    }

    /// Closes the files that were used least, if there are too many.
    fn close_some(&mut self) {
        if self.sinks.len() <= OPEN {
            return;
        }
        let mut open: Vec<_> = self.sinks.values_mut().filter(|drain| drain.sink.is_open()).collect();
        if open.len() > OPEN {
            open.sort_by_key(|drain| drain.used);
            open.iter_mut().take(OPEN / 4).for_each(|drain| drain.sink.close());
        }
    }

    /// Removes files that have become too old while nothing was written.
    fn look_at_ages(&mut self) {
        let mut seen = Vec::new();
        for drain in self.sinks.values() {
            let service = &drain.stream.service;
            let (_, spec) = service.base(&self.log_dir);
            if let Some(older) = spec.max_age
                && !seen.contains(&service.name)
            {
                seen.push(service.name.clone());
                let wanted = Vacuum { older: Some(older), size: None };
                usage::vacuum(std::iter::once(service.as_ref()), &self.log_dir, wanted);
            }
        }
    }
}

impl Drain {
    fn new(stream: &Arc<Stream>) -> Self {
        Self {
            stream: Arc::clone(stream),
            sink: Sink::default(),
            settled: false,
            freed: stream.past.freed,
            gaps: 0,
            used: Tick(0),
        }
    }

    /// Finds out how much an earlier daemon has written of what is in the spool.
    fn settle(&mut self, ledger: &Ledger, place: &Place<'_>, desk: &Desk) {
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

    fn take(&mut self, note: Note, layout: LogLayout) {
        match note {
            Note::At(at) => self.sink.set_time(at),
            Note::Gap(bytes) => {
                self.gaps += bytes;
                self.sink.miss(bytes, "the disk did not keep up");
            }
            Note::Life(life) => self.sink.begin(life, layout),
        }
    }

    /// Moves so many bytes from the spool to the file.
    fn move_on(&mut self, count: usize, place: &Place<'_>, ledger: &Ledger, buffer: &mut Vec<u8>) {
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
        if let Some((file, offset)) = self.sink.mark() {
            stream.set_mark(Mark { file, offset, captured: pos + count as u64 + self.gaps });
        }
        if stream.written() - self.freed >= FREE {
            self.free(ledger);
        }
    }

    fn free(&mut self, ledger: &Ledger) {
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
