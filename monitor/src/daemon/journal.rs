//! The latest events, in memory, for whoever asks or follows.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use defib_core::model::{KernelEvent, Record, ServiceName, SourceName, Tick};
use tokio::sync::{broadcast, mpsc};

use super::burst::Burst;
use crate::keeper;

/// How many events are kept. One takes about 190 bytes.
const KEPT: usize = 4096;

/// How many events may wait between the supervisor thread and the journal. When it is full, events are dropped: the
/// supervisor thread never waits. The gap in their numbers says how many.
const QUEUE: usize = 8192;

/// How far a follower may lag behind before it is told that it has missed events.
const LAG: usize = 1024;

/// Something that happened, with its place in the order of everything.
#[derive(Clone, Debug)]
pub struct Entry {
    /// Grows by one with every event, and over restarts of the daemon.
    pub seq: u64,
    /// When it happened.
    pub at: Tick,
    /// What happened.
    pub event: Event,
    /// Whether numbers before it are missing for a reason: they are of an earlier daemon, or it is.
    pub apart: bool,
}

/// What happened.
#[derive(Clone, Debug)]
pub enum Event {
    /// The core tells of a service.
    Service(Record),
    /// The kernel tells of a process of a service.
    Kernel {
        /// The service to which the process belongs.
        service: ServiceName,
        /// What the kernel told.
        event: KernelEvent,
    },
    /// The configuration was read again.
    Config {
        /// Whether it is in force.
        ok: bool,
        /// What it changed, or what is wrong with it.
        detail: String,
    },
    /// A source has lost events.
    Lost {
        /// The source.
        source: SourceName,
        /// How many events.
        count: u64,
    },
}

/// The supervisor thread's end.
#[derive(Debug)]
pub struct JournalWriter {
    queue: mpsc::Sender<Entry>,
    first: u64,
    next: u64,
    dropped: u64,
}

impl JournalWriter {
    /// Tells of an event. Never waits.
    pub fn tell(&mut self, at: Tick, event: Event) {
        let entry = Entry { seq: self.next, at, event, apart: self.next == self.first };
        self.next += 1;
        // A full queue leaves a gap in the numbers, which readers are told of.
        if self.queue.try_send(entry).is_err() {
            self.dropped += 1;
        }
    }

    /// The number of the next event.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// How many events wait, how many can, and how many found no room.
    pub fn fill(&self) -> (usize, usize, u64) {
        let most = self.queue.max_capacity();
        (most - self.queue.capacity(), most, self.dropped)
    }
}

/// The readers' end.
#[derive(Debug)]
pub struct Journal {
    /// Guards the kept events: the journal's task writes, the API's tasks read, all on the surfaces' thread, so
    /// it is never contended and the supervisor thread never touches it.
    kept: Mutex<VecDeque<Arc<Entry>>>,
    news: broadcast::Sender<Arc<Entry>>,
}

impl Journal {
    /// Both ends, and the queue between them that [`Journal::run`] empties. `first` is the first number; `past` is what
    /// earlier daemons have told, by lower numbers, oldest first.
    pub fn new(first: u64, past: Vec<Entry>) -> (JournalWriter, Arc<Self>, mpsc::Receiver<Entry>) {
        let (queue, waiting) = mpsc::channel(QUEUE);
        let kept = past.into_iter().map(Arc::new).collect();
        let journal = Arc::new(Self { kept: Mutex::new(kept), news: broadcast::channel(LAG).0 });
        (JournalWriter { queue, first, next: first, dropped: 0 }, journal, waiting)
    }

    /// Moves events from the queue to the readers until the supervisor thread is gone, and gives memory back after a
    /// burst of them.
    pub async fn run(self: Arc<Self>, mut waiting: mpsc::Receiver<Entry>) {
        let mut burst = Burst::of_the_start();
        loop {
            let entry = tokio::select! {
                biased;
                entry = waiting.recv() => entry,
                () = burst.over() => {
                    keeper::give_back_memory();
                    continue;
                }
            };
            let Some(entry) = entry else { return };
            burst.goes_on(&entry);
            let entry = Arc::new(entry);
            let mut kept = self.kept();
            if kept.len() >= KEPT {
                kept.pop_front();
            }
            kept.push_back(Arc::clone(&entry));
            // Inside the lock, so that `follow` sees each event once. Nobody may be listening: that is fine.
            drop(self.news.send(entry));
        }
    }

    /// The kept events after number `after`, oldest first.
    pub fn since(&self, after: u64) -> Vec<Arc<Entry>> {
        self.kept().iter().filter(|entry| entry.seq > after).cloned().collect()
    }

    /// The kept events after number `after`, and a receiver of all that follow, without a gap or an overlap.
    pub fn follow(&self, after: u64) -> (Vec<Arc<Entry>>, broadcast::Receiver<Arc<Entry>>) {
        let kept = self.kept();
        let past = kept.iter().filter(|entry| entry.seq > after).cloned().collect();
        (past, self.news.subscribe())
    }

    fn kept(&self) -> MutexGuard<'_, VecDeque<Arc<Entry>>> {
        // A panic of a reader leaves the deque whole.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
