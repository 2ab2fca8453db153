//! The thread that empties pipes: one epoll over all of them, and no wake-up while nobody writes.
//!
//! A pipe is moved to its spool as far as there is room. Without room it is left alone while the writer's thread makes
//! progress, so its service waits as it would for any slow reader; without progress what comes is dropped and counted.

mod gulp;
mod lending;

use std::collections::{BTreeMap, VecDeque};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::TryRecvError;
use std::time::Duration;

use defib_core::model::{LogLayout, LogSpec, ServiceName, Tick};
use rustix::event::{Timespec, epoll};
use rustix::io::Errno;

use super::folder;
use super::handle::Shared;
use super::pipe::Inlet;
use super::places::Life;
use super::service::Service;
use super::stream::{Kind, Note, Stream};
use super::writer::Job;
use crate::effect::{clock, queue};
use gulp::Gulp;

/// What one stream may have in its spool.
const SPOOL: u64 = 2 << 20;

/// What all spools together may hold, but for the little that every stream is allowed.
const SPOOLS: i64 = 24 << 20;

/// What is moved at once.
const GULP: usize = 256 * 1024;

/// A writer's thread without progress for so long is stalled. A disk that is merely slow makes the kernel pause a writer
/// for up to 200 ms (`MAX_PAUSE` of mm/page-writeback.c), more than once in one write(2).
const STALLED: Duration = Duration::from_millis(500);

/// A pipe that has this much in it is lent.
const BUSY: usize = 32 * 1024;

/// The size of a pipe that has ever been used, as far as this user may: so much can be written while nobody reads. And that of
/// the others.
const SIZES: (usize, usize) = (1 << 20, 64 * 1024);

/// A spool that was quiet for so long gives back its last page.
const QUIET: Duration = Duration::from_secs(5);

/// How long the first bytes of a life wait to be told which life it is.
const BETWEEN: Duration = Duration::from_millis(200);

/// How long the last output may take to be read when defib leaves.
const FAREWELL: Duration = Duration::from_secs(2);

/// The thread's own descriptor among those of the epoll; streams count from 1.
const WAKE: u64 = 0;

/// What the supervisor thread tells.
#[derive(Debug)]
pub(super) enum Message {
    /// These are its keys from now on.
    Service { name: ServiceName, spec: LogSpec },
    /// Its pipes.
    Pipes { name: ServiceName, slot: u32, inlets: Vec<Inlet> },
    /// A life has begun.
    Began { name: ServiceName, life: Life },
    /// A life has ended, with its whole tree: of each stream so many bytes are before its end.
    Ended { name: ServiceName, ends: Ends },
    /// It is configured no longer.
    Removed { name: ServiceName },
    /// Read what is there, and end.
    Stop,
}

/// Where the output of a life ends.
#[derive(Debug)]
pub(super) enum Ends {
    /// So many bytes were captured, or in the pipe, of each stream by its number, and no other life has begun since.
    Captured(BTreeMap<u64, u64>),
    /// At these places of the spools, of the first stream and the second. The next life has begun.
    Spooled([u64; 2]),
}

impl Ends {
    /// Where the spool of a stream ends with its life, if that is known.
    fn spooled(&self, kind: Kind) -> Option<u64> {
        match (self, kind) {
            (Self::Captured(_), _) => None,
            (Self::Spooled([first, _]), Kind::Joined | Kind::Stdout) => Some(*first),
            (Self::Spooled([_, second]), Kind::Stderr) => Some(*second),
        }
    }
}

/// A stream as this thread sees it.
#[derive(Debug)]
struct Tap {
    stream: Arc<Stream>,
    /// Whether the epoll looks away.
    held: bool,
    /// Whether it is as large as it gets; `None`: it was never used.
    large: Option<bool>,
    /// Whether its spool may hold a page.
    warm: bool,
    used: Tick,
    /// Since when it is between two lives that have logs of their own.
    between: Option<Tick>,
    /// The latest life that this thread was told of.
    begun: u64,
    /// The latest life that the keeper was seen to have begun by itself, and the one that this thread knew of then.
    ahead: (u64, u64),
    /// Where in the spool the next life begins, if it has begun without waiting for this thread.
    boundary: Option<u64>,
}

/// What the thread owns.
#[derive(Debug)]
pub(super) struct Reader {
    shared: Arc<Shared>,
    messages: queue::Receiver<Message>,
    epoll: OwnedFd,
    taps: BTreeMap<u64, Box<Tap>>,
    /// Those that are held, the longest first.
    held: VecDeque<u64>,
    /// Those that are lent.
    lent: Vec<u64>,
    last_id: u64,
    scratch: Vec<u8>,
    stopping: bool,
}

impl Reader {
    pub(super) fn new(shared: Arc<Shared>, messages: queue::Receiver<Message>) -> std::io::Result<Self> {
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, &*shared.wake, epoll::EventData::new_u64(WAKE), epoll::EventFlags::IN)?;
        Ok(Self {
            shared,
            messages,
            epoll,
            taps: BTreeMap::new(),
            held: VecDeque::new(),
            lent: Vec::new(),
            last_id: WAKE,
            scratch: Vec::new(),
            stopping: false,
        })
    }

    /// Runs until it is told to stop.
    pub(super) fn run(mut self) {
        let mut events = Vec::with_capacity(64);
        while !self.stopping {
            let timeout = self.timeout().map(timespec);
            events.clear();
            match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), timeout.as_ref()) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => {
                    tracing::error!(%error, "the output of services cannot be read any more");
                    return;
                }
            }
            for event in &events {
                match event.data.u64() {
                    WAKE => self.hear(),
                    id => {
                        // An end is told before the next life can write: it must be heard before that is read.
                        self.hear();
                        let flags = event.flags;
                        let ended = flags.contains(epoll::EventFlags::HUP);
                        self.empty(id, ended);
                    }
                }
            }
            let now = clock::now();
            self.reclaim(now);
            self.resume(now);
            if events.is_empty() {
                self.shrink(now);
            }
        }
        self.say_goodbye();
    }

    /// When to look without having been woken: nothing held or lent, no spool warm, no timeout.
    fn timeout(&self) -> Option<Duration> {
        if !self.held.is_empty() {
            return Some(Duration::from_millis(50));
        }
        if !self.lent.is_empty() {
            return Some(lending::LOOK);
        }
        self.taps.values().any(|tap| tap.warm).then_some(QUIET)
    }

    /// Takes what the supervisor thread tells.
    fn hear(&mut self) {
        let mut count = [0; 8];
        rustix::io::read(&*self.shared.wake, &mut count).ok();
        loop {
            match self.messages.try_recv() {
                Ok(message) => self.take(message),
                Err(TryRecvError::Empty) => return,
                Err(TryRecvError::Disconnected) => {
                    self.stopping = true;
                    return;
                }
            }
        }
    }

    fn take(&mut self, message: Message) {
        match message {
            Message::Service { name, spec } => {
                if spec.max_age.is_some() {
                    self.shared.desk.ages.store(true, Ordering::Relaxed);
                }
                self.shared.service(&name, Some(spec));
            }
            Message::Pipes { name, slot, inlets } => self.connect(&name, slot, inlets),
            Message::Began { name, life } => {
                for id in self.of(&name) {
                    let Some(tap) = self.taps.get_mut(&id) else { continue };
                    (tap.between, tap.begun) = (None, life.incarnation);
                    let from = tap.boundary.take().unwrap_or_else(|| tap.stream.filled());
                    tap.stream.note_at(from, Note::Life(life));
                    self.shared.desk.put_stream(&tap.stream);
                    self.release(id);
                }
            }
            Message::Ended { name, ends } => self.end_of_life(&name, &ends),
            Message::Removed { name } => {
                for id in self.of(&name) {
                    self.take_back(id);
                    // All that the pipe can hold: nobody looks into it again.
                    for _ in 0..=SIZES.0 / GULP {
                        if self.gulp(id, GULP) != Gulp::More {
                            break;
                        }
                    }
                    self.disconnect(id);
                }
                self.shared.remove(&name);
            }
            Message::Stop => self.stopping = true,
        }
    }

    /// The streams of a service.
    fn of(&self, name: &ServiceName) -> Vec<u64> {
        // Not by a look at every tap: there are thousands, and a daemon that begins asks for each service.
        let streams = self.shared.known(name).map(|service| service.streams()).unwrap_or_default();
        streams.iter().map(|stream| stream.id).filter(|id| self.taps.contains_key(id)).collect()
    }

    fn connect(&mut self, name: &ServiceName, slot: u32, inlets: Vec<Inlet>) {
        let service = self.shared.service(name, None);
        // What a life still holds of earlier pipes is read to its end, but is no longer in the ledger.
        for id in self.of(name) {
            if let Some(tap) = self.taps.get(&id) {
                tap.stream.ledgered.store(false, Ordering::Release);
            }
        }
        let kinds = if inlets.len() == 1 { &[Kind::Joined][..] } else { &[Kind::Stdout, Kind::Stderr] };
        for (number, (inlet, kind)) in (0_u64..).zip(inlets.into_iter().zip(kinds)) {
            let index = u64::from(slot) * 2 + number;
            // A spool that has no number is in no entry, and none is looked for.
            self.shared.ledger.begin(index, folder::inode(&inlet.spool).unwrap_or_default());
            if let Err(error) = self.tap(&service, *kind, inlet, index) {
                tracing::error!(service = %name, stream = %kind, %error, "its output cannot be read");
            }
        }
    }

    fn tap(&mut self, service: &Arc<Service>, kind: Kind, inlet: Inlet, index: u64) -> std::io::Result<()> {
        self.last_id += 1;
        let id = self.last_id;
        let past = self.shared.ledger.entry(index);
        let stream = Arc::new(Stream::new(id, Arc::clone(service), kind, inlet, index, past)?);
        let between = service.spec().layout == LogLayout::PerStart;
        let (pipe, _) = stream.fds();
        epoll::add(&self.epoll, pipe, epoll::EventData::new_u64(id), epoll::EventFlags::IN)?;
        service.add(Arc::clone(&stream));
        // An earlier daemon may have left something in the spool.
        self.shared.desk.backlog.fetch_add(stream.backlog() as i64, Ordering::AcqRel);
        self.shared.desk.put_stream(&stream);
        let now = clock::now();
        let large = size_at_first(&stream);
        let tap = Tap {
            stream,
            held: false,
            large,
            warm: true,
            used: now,
            between: between.then_some(now),
            begun: 0,
            ahead: (0, 0),
            boundary: None,
        };
        self.taps.insert(id, Box::new(tap));
        Ok(())
    }

    fn disconnect(&mut self, id: u64) {
        self.take_back(id);
        if let Some(tap) = self.taps.remove(&id) {
            epoll::delete(&self.epoll, tap.stream.fds().0).ok();
            tap.stream.service.remove(id);
            self.shared.desk.put_stream(&tap.stream);
            self.shared.desk.put(Job::Close(id));
        }
    }

    /// The last of a life that has a log of its own is read, and what comes then waits for the next one.
    fn end_of_life(&mut self, name: &ServiceName, ends: &Ends) {
        for id in self.of(name) {
            let per_start =
                self.taps.get(&id).is_some_and(|tap| tap.stream.service.spec().layout == LogLayout::PerStart);
            if per_start {
                self.take_back(id);
                if let Some(tap) = self.taps.get_mut(&id) {
                    tap.between = None;
                    tap.boundary = ends.spooled(tap.stream.kind);
                }
                while let left @ 1.. = self.left_before(id, ends)
                    && self.gulp(id, left) == Gulp::More
                {}
                if let Some(tap) = self.taps.get_mut(&id) {
                    tap.between = Some(clock::now());
                }
            }
        }
    }

    /// How many bytes of a life that has ended are still to be read.
    fn left_before(&self, id: u64, ends: &Ends) -> usize {
        let Some(tap) = self.taps.get(&id) else { return 0 };
        let stream = &tap.stream;
        let left = match ends {
            Ends::Captured(ends) => ends
                .get(&id)
                .map_or(0, |end| end.saturating_sub(stream.counters.captured.load(Ordering::Acquire))),
            Ends::Spooled(_) => {
                ends.spooled(stream.kind).map_or(0, |end| end.saturating_sub(stream.filled()))
            }
        };
        usize::try_from(left).unwrap_or(usize::MAX)
    }

    /// A pipe has something, or has come to its end.
    fn empty(&mut self, id: u64, ended: bool) {
        if !ended && self.lend(id) {
            return;
        }
        match self.gulp(id, GULP) {
            Gulp::More => {}
            Gulp::Full => self.hold(id),
            Gulp::Nothing if ended => self.disconnect(id),
            Gulp::Nothing => {}
        }
    }

    /// Looks away from a pipe until there is room.
    fn hold(&mut self, id: u64) {
        let Some(tap) = self.taps.get_mut(&id) else { return };
        if !tap.held {
            tap.held = true;
            // Not by an empty interest: the end of a pipe is told in any case, over and over.
            epoll::delete(&self.epoll, tap.stream.fds().0).ok();
            self.held.push_back(id);
        }
        self.shared.desk.wanted.store(true, Ordering::Release);
    }

    fn release(&mut self, id: u64) {
        let Some(tap) = self.taps.get_mut(&id) else { return };
        if tap.held {
            tap.held = false;
            let data = epoll::EventData::new_u64(id);
            epoll::add(&self.epoll, tap.stream.fds().0, data, epoll::EventFlags::IN).ok();
            self.held.retain(|held| *held != id);
        }
    }

    /// Tries the pipes that were held, the longest first.
    fn resume(&mut self, now: Tick) {
        let stalled = now.since(self.shared.desk.beat()) >= STALLED;
        for _ in 0..self.held.len() {
            let Some(id) = self.held.pop_front() else { return };
            let Some(tap) = self.taps.get(&id) else { continue };
            let waits = tap.between.is_some_and(|since| now.since(since) < BETWEEN);
            let full = tap.stream.backlog() >= SPOOL / 2
                || self.shared.desk.backlog.load(Ordering::Acquire) >= SPOOLS;
            if waits || (full && !stalled) {
                self.held.push_back(id);
                self.shared.desk.wanted.store(true, Ordering::Release);
            } else {
                self.release(id);
            }
        }
    }

    /// Gives the memory of quiet spools back. Pipes stay as they are: what is written while there is no daemon needs room.
    fn shrink(&mut self, now: Tick) {
        for tap in self.taps.values_mut().filter(|tap| now.since(tap.used) >= QUIET) {
            // What waits for a disk, or does not fit, is for another time.
            tap.warm = tap.warm && !tap.stream.free_last();
        }
        if self.held.is_empty() {
            self.scratch = Vec::new();
        }
    }

    /// Reads what is left, and hands it over.
    fn say_goodbye(&mut self) {
        let begun = clock::now();
        let ids: Vec<u64> = self.taps.keys().copied().collect();
        for id in ids {
            self.take_back(id);
            if let Some(tap) = self.taps.get_mut(&id) {
                tap.between = None;
            }
            while clock::now().since(begun) < FAREWELL {
                match self.gulp(id, GULP) {
                    Gulp::Nothing => break,
                    Gulp::More => {}
                    Gulp::Full => std::thread::yield_now(),
                }
            }
        }
        self.shared.desk.put(Job::Stop);
    }
}

/// Whether a pipe is as large as it gets, if it was ever used. One that was not, and was made large while there was no
/// daemon, is made small again.
fn size_at_first(stream: &Stream) -> Option<bool> {
    let (pipe, _) = stream.fds();
    let large = rustix::pipe::fcntl_getpipe_size(pipe).is_ok_and(|size| size >= SIZES.0);
    if large && stream.filled() == 0 && rustix::io::ioctl_fionread(pipe) == Ok(0) {
        return rustix::pipe::fcntl_setpipe_size(pipe, SIZES.1).is_err().then_some(true);
    }
    large.then_some(true)
}

fn timespec(delay: Duration) -> Timespec {
    Timespec {
        tv_sec: i64::try_from(delay.as_secs()).unwrap_or(i64::MAX),
        tv_nsec: i64::from(delay.subsec_nanos()),
    }
}
