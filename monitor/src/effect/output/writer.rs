//! The thread that writes files. A disk that stalls holds up this thread and nothing else: the reader's thread sees that
//! it makes no progress.
//!
//! Streams take turns, so that one that writes a lot does not hold up the others. Quiet ones come by their spools. The pipe
//! of a busy one is lent to this thread, which looks into it every few milliseconds and moves what is there by its lane,
//! until there is nothing for a while: waking two threads for each write(2) of a service costs more than moving the
//! bytes. With nothing to do the thread sleeps; once after each time of work it wakes to give memory back.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use defib_core::model::Tick;
use tokio::sync::oneshot;

use super::drain::{Drain, Pulled};
use super::folder::Folder;
use super::lane::{self, Lane};
use super::ledger::Ledger;
use super::service::Service;
use super::sink::Place;
use super::stream::Stream;
use super::usage::{self, Vacuum};
use crate::effect::clock;

/// What one stream may write until it is another's turn.
const TURN: usize = 256 * 1024;

/// How long there must be nothing to do until memory is given back.
const IDLE: Duration = Duration::from_secs(1);

/// How many files are open at a time; the others are closed after their turn. Each takes two descriptors.
const OPEN: usize = 512;

/// How often rotated files are looked at whether they are too old, if any service asks for that.
const AGES: Duration = Duration::from_secs(600);

/// When a lent pipe that has been emptied is looked into again. Pipes have room for 1 MiB: the longest time fills an eighth
/// of that at 32 MB/s, and a service that is faster than half a pipe in the shorter one is not waited for.
const AGAIN: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(4));

/// How much in a pipe calls for the shorter time, and how much for none.
const MUCH: (usize, usize) = (lane::SIZE / 8, lane::SIZE / 2);

/// A lent pipe in which there was nothing for so long is given back.
const QUIET: Duration = Duration::from_millis(20);

/// How long a stream whose file cannot be opened goes by its spool.
const REFUSED: Duration = Duration::from_secs(1);

/// Work for the thread.
#[derive(Debug)]
pub(super) enum Job {
    /// A stream has bytes or notes.
    Stream(Arc<Stream>),
    /// The pipe of a stream is lent.
    Lent(Arc<Stream>),
    /// A stream is over.
    Close(u64),
    /// Files are to be removed; the answer is how many, and how many bytes.
    Vacuum(Vec<Arc<Service>>, Vacuum, oneshot::Sender<(u64, u64)>),
    /// Everything has been handed over.
    Stop,
}

/// The work that waits. Bounded by what fills it: each stream waits at most once for each of its ways, and the API asks for one vacuum at a
/// time.
#[derive(Debug, Default)]
pub(super) struct Desk {
    /// Guards the work; held for moments by all who put and by the one who takes.
    jobs: Mutex<Jobs>,
    come: Condvar,
    /// The bytes in all spools that are in no file yet, less those that are in a file before they are in a spool.
    pub(super) backlog: AtomicI64,
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

    /// Leaves the pipe of a stream to the writer's thread.
    pub(super) fn lend(&self, stream: &Arc<Stream>) {
        if stream.lend() {
            self.put(Job::Lent(Arc::clone(stream)));
        }
    }

    /// When the writer's thread has last made progress.
    pub(super) fn beat(&self) -> Tick {
        Tick(self.beat.load(Ordering::Relaxed))
    }

    pub(super) fn make_progress(&self) {
        self.beat.store(clock::now().0, Ordering::Relaxed);
    }

    fn has_work(&self) -> bool {
        !self.jobs.lock().unwrap_or_else(PoisonError::into_inner).queue.is_empty()
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
        jobs.idle = false;
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
    /// In boxes: a node of the map has room for eleven, and most are half empty.
    drains: BTreeMap<u64, Box<Drain>>,
    buffer: Vec<u8>,
    lane: Lane,
    lent: Vec<Lent>,
    /// Where streams have names.
    folder: Option<Arc<Folder>>,
}

/// A stream whose pipe is lent.
#[derive(Debug)]
struct Lent {
    stream: Arc<Stream>,
    /// When to look into it.
    due: Tick,
    /// When there was something in it.
    came: Tick,
}

impl Writer {
    pub(super) fn new(
        desk: Arc<Desk>,
        ledger: Arc<Ledger>,
        folder: Option<Arc<Folder>>,
        log_dir: PathBuf,
        wake: Arc<std::os::fd::OwnedFd>,
    ) -> io::Result<Self> {
        let (drains, buffer, lent) = (BTreeMap::new(), Vec::new(), Vec::new());
        Ok(Self { desk, ledger, log_dir, wake, drains, buffer, lane: Lane::new()?, lent, folder })
    }

    /// Runs until it is told to stop.
    pub(super) fn run(mut self) {
        let mut rested = true;
        loop {
            let ages = self.desk.ages.load(Ordering::Relaxed).then_some(AGES);
            let patience = if rested { ages } else { Some(IDLE) };
            let due = self.lent.iter().map(|lent| lent.due).min();
            let job = match due {
                Some(due) => self.desk.take(Some(due.since(clock::now()))),
                None => self.desk.take(patience),
            };
            // Having waited for work is not having waited for a disk.
            self.desk.make_progress();
            match job {
                Some(Job::Stream(stream)) => {
                    rested = false;
                    self.serve(&stream);
                }
                Some(Job::Lent(stream)) => {
                    rested = false;
                    let now = clock::now();
                    self.lent.push(Lent { stream, due: now, came: now });
                }
                // Its last bytes may want more than one turn.
                Some(Job::Close(id)) => match self.drains.get(&id) {
                    Some(drain) if !drain.stream.is_settled() => self.desk.put(Job::Close(id)),
                    Some(_) | None => self.close(id),
                },
                Some(Job::Vacuum(services, wanted, reply)) => {
                    let gone = usage::vacuum(services.iter().map(AsRef::as_ref), &self.log_dir, wanted);
                    // Who asked may have given up.
                    reply.send(gone).ok();
                }
                // What takes more than one turn is behind it.
                Some(Job::Stop) if self.desk.has_work() => self.desk.put(Job::Stop),
                Some(Job::Stop) => return,
                None if due.is_some() => {}
                None if rested => self.look_at_ages(),
                None => {
                    self.rest();
                    rested = true;
                }
            }
            self.look_into_a_pipe();
        }
    }

    /// A turn of a stream.
    fn serve(&mut self, stream: &Arc<Stream>) {
        stream.queued.store(false, Ordering::Release);
        let now = clock::now();
        let Self { ledger, log_dir, drains, buffer, desk, .. } = self;
        let drain = drains.entry(stream.id).or_insert_with(|| Box::new(Drain::new(stream)));
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
            desk.backlog.fetch_sub(count as i64, Ordering::AcqRel);
            desk.make_progress();
            room -= count;
        }
        if !stream.is_settled() {
            desk.put_stream(stream);
        }
        if self.desk.wanted.swap(false, Ordering::AcqRel) {
            self.wake_reader();
        }
        self.close_some();
    }

    fn wake_reader(&self) {
        // A counter that is full wakes as well.
        rustix::io::write(&*self.wake, &1_u64.to_ne_bytes()).ok();
    }

    /// A turn of the lent pipe that has waited longest, if one is due.
    fn look_into_a_pipe(&mut self) {
        let now = clock::now();
        let next = self.lent.iter().enumerate().filter(|(_, lent)| lent.due <= now);
        let Some((index, _)) = next.min_by_key(|(_, lent)| lent.due) else { return };
        let mut lent = self.lent.swap_remove(index);
        let pulled = self.pull(&lent.stream, now);
        let now = clock::now();
        let wait = match pulled {
            Pulled::Bytes(count) => {
                lent.came = now;
                Some(match count {
                    _ if count >= MUCH.1 => Duration::ZERO,
                    _ if count >= MUCH.0 => AGAIN.0,
                    _ => AGAIN.1,
                })
            }
            Pulled::More => Some(Duration::ZERO),
            Pulled::Nothing => Some(AGAIN.1).filter(|_| now.since(lent.came) < QUIET),
            Pulled::Refused(until) => {
                lent.stream.refuse_until(until);
                None
            }
        };
        match wait {
            Some(wait) => self.lent.push(Lent { due: now + wait, ..lent }),
            None => {
                lent.stream.give_back();
                self.wake_reader();
            }
        }
    }

    /// Moves what is in a lent pipe to its file.
    fn pull(&mut self, stream: &Arc<Stream>, now: Tick) -> Pulled {
        if !stream.is_lent() {
            return Pulled::Nothing;
        }
        if !stream.may_be_lent(now) {
            return Pulled::Refused(now + REFUSED);
        }
        // What came before it was lent.
        if !(stream.is_settled() && self.drains.contains_key(&stream.id)) {
            self.serve(stream);
        }
        if !stream.is_settled() {
            return Pulled::More;
        }
        let Self { ledger, log_dir, drains, desk, lane, .. } = self;
        let Some(drain) = drains.get_mut(&stream.id) else { return Pulled::Nothing };
        let (base, spec) = stream.service.base(log_dir);
        let place = Place { base: &base, spec: &spec, kind: stream.kind };
        drain.used = now;
        drain.pull(lane, &place, ledger, desk, now + REFUSED)
    }

    /// Gives back what is kept for speed only.
    fn rest(&mut self) {
        for drain in self.drains.values_mut() {
            drain.free(&self.ledger);
        }
        self.buffer = Vec::new();
        self.lane.rest();
    }

    /// A stream is over, and in files.
    fn close(&mut self, id: u64) {
        if let (Some(drain), Some(folder)) = (self.drains.remove(&id), &self.folder) {
            let stream = drain.stream;
            folder.remove_own(&stream.service.name, stream.kind, &stream.inlet.spool);
        }
    }

    /// Closes the files that were used least, if there are too many.
    fn close_some(&mut self) {
        if self.drains.len() <= OPEN {
            return;
        }
        let mut open: Vec<_> = self.drains.values_mut().filter(|drain| drain.sink.is_open()).collect();
        if open.len() > OPEN {
            open.sort_by_key(|drain| drain.used);
            open.iter_mut().take(OPEN / 4).for_each(|drain| drain.sink.close());
        }
    }

    /// Removes files that have become too old while nothing was written.
    fn look_at_ages(&mut self) {
        let mut seen = Vec::new();
        for drain in self.drains.values() {
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
