//! What is remembered over the death of the keeper and over a reboot: the state database, an SQLite file in the state
//! directory.
//!
//! - `commits`: who waits until something is written;
//! - `pending`: what waits to be written: bounded, newest wins;
//! - `writer`: the one thread that has the database open, and reads and writes it;
//! - `open`: the file: made, checked, set aside if it is damaged or of a newer defib;
//! - `schema`: the tables, as a list of steps from version to version;
//! - `rows`: what is in them;
//! - [`health`]: whether it can be written, for who asks.
//!
//! Invariants: it is never a reason not to supervise, and never on the way between a death and a restart. Whoever tells it
//! something puts that into memory and goes on. A disk that is full, read-only or hangs costs the history what does not fit
//! into the queue, which is counted and recorded as a gap; what is remembered of each service is written once that works
//! again, because only the newest counts. While nothing is told, no timer ticks.

mod boot;
mod commits;
pub mod health;
mod open;
mod pending;
mod rows;
mod schema;
mod writer;

use std::collections::BTreeSet;
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::Duration;

use defib_core::Memo;
use defib_core::model::{Record, ServiceName};
use tokio::sync::Notify;

pub use boot::id as boot_id;
pub use commits::Commits;
pub use health::Health;
use pending::{Ended, Pending, Waiting};

/// The name of the database in the state directory.
pub const FILE: &str = "state.db";

/// How long the start of the first daemon waits for what is remembered. A disk takes milliseconds; one that hangs must not
/// keep services from being started.
const READ: Duration = Duration::from_secs(5);

/// How long somebody waits until something is written: the last of it when defib leaves, and what an operator is promised.
/// It is written to the page cache, in less than a millisecond; more means that the disk hangs.
const PATIENCE: Duration = Duration::from_secs(1);

/// What the database held when this daemon began.
#[derive(Debug, Default)]
pub struct Remembered {
    /// The services, by name.
    pub services: Vec<RememberedService>,
    /// Whether the defib before has left in order, having ended every service: what ran then is no sign of what is to run
    /// now.
    pub left: bool,
}

/// What is remembered of a service.
#[derive(Debug)]
pub struct RememberedService {
    /// Its name.
    pub service: ServiceName,
    /// The slot of the keeper that it had.
    pub slot: u32,
    /// What the core remembered. Times are of the present boot; what lies before it is a negative number, as wrapping
    /// arithmetic makes it.
    pub memo: Box<Memo>,
    /// The main process that was last known to live.
    pub life: Option<RememberedLife>,
    /// Whether that was in the present boot: otherwise no process of it can live, and its times mean nothing.
    pub same_boot: bool,
}

/// A main process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RememberedLife {
    /// Which life of the service.
    pub incarnation: u64,
    /// Its pid.
    pub pid: u32,
    /// When the keeper made it: nanoseconds of `CLOCK_BOOTTIME`.
    pub started: u64,
}

/// Where an end was written down before it was told, in a file in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Which file.
    pub file: u64,
    /// Grows with every end.
    pub number: u64,
}

/// One thing to remember.
#[derive(Debug)]
pub enum Change {
    /// A service, in its slot, is like this from now on.
    Memo(ServiceName, u32, Box<Memo>),
    /// A life has ended: for the history.
    Ended(Record, Option<Place>),
    /// The same, which an earlier daemon was told: it may be written.
    EndedEarlier(Record, Place),
    /// A service is no more. Its history stays.
    Forget(ServiceName),
}

/// The way to the state database. Ends in order when it is dropped: what waits is written, for no longer than a second.
#[derive(Debug)]
pub struct StateDb {
    pending: Arc<Pending>,
    health: Arc<Health>,
    wants: Arc<Notify>,
    /// Closed when the thread has ended.
    ended: Receiver<()>,
}

impl StateDb {
    /// Opens the database in a state directory, and reads what it holds: for the first daemon of a keeper. What cannot be
    /// read is told in the log, and nothing is remembered then.
    ///
    /// # Errors
    /// If there can be no thread.
    pub fn open(state_dir: &Path) -> io::Result<(Self, Remembered)> {
        let (answer, remembered) = sync_channel(1);
        let db = Self::start(state_dir, Some(answer))?;
        let remembered = match remembered.recv_timeout(READ) {
            Ok(remembered) => remembered,
            Err(RecvTimeoutError::Disconnected) => Remembered::default(),
            Err(RecvTimeoutError::Timeout) => {
                tracing::error!(
                    "the state database does not answer within {READ:?}: services start as if for the first time"
                );
                Remembered::default()
            }
        };
        Ok((db, remembered))
    }

    /// Opens it for a later daemon, which has newer memos from the keeper: nothing is read, nothing is waited for.
    ///
    /// # Errors
    /// If there can be no thread.
    pub fn go_on(state_dir: &Path) -> io::Result<Self> {
        Self::start(state_dir, None)
    }

    fn start(state_dir: &Path, answer: Option<SyncSender<Remembered>>) -> io::Result<Self> {
        let (pending, health) = (Arc::new(Pending::default()), Arc::new(Health::default()));
        let (alive, ended) = sync_channel(0);
        let (path, wants) = (state_dir.join(FILE), Arc::new(Notify::new()));
        let writer = writer::Writer::new(path, Arc::clone(&pending), Arc::clone(&health), Arc::clone(&wants));
        std::thread::Builder::new().name("defib-state".into()).spawn(move || {
            let _alive: SyncSender<()> = alive;
            writer.run(answer);
        })?;
        Ok(Self { pending, health, wants, ended })
    }

    /// Takes changes that belong together, in their order: they are written in one transaction.
    pub fn change(&self, changes: impl IntoIterator<Item = Change>) {
        let changes: Vec<_> = changes.into_iter().collect();
        if !changes.is_empty() {
            self.tell(|waiting| changes.into_iter().for_each(|change| take(waiting, change)));
        }
    }

    /// A service is like this from now on.
    pub fn remember(&self, service: ServiceName, slot: u32, memo: Box<Memo>) {
        self.tell(|waiting| waiting.remember(service, slot, memo));
    }

    /// The main process of a service that lives now, if one does.
    pub fn lives(&self, service: &ServiceName, life: Option<RememberedLife>) {
        self.tell(|waiting| waiting.lives(service, life));
    }

    /// A service is no more. Its history stays.
    pub fn forget(&self, service: &ServiceName) {
        self.tell(|waiting| waiting.forget(service));
    }

    /// There are only these: what is written of others is removed.
    pub fn only(&self, services: BTreeSet<ServiceName>) {
        self.tell(|waiting| waiting.only(services));
    }

    /// A life has ended: for the history.
    pub fn ended(&self, record: &Record) {
        self.change([Change::Ended(record.clone(), None)]);
    }

    /// Waits until all that is to be remembered has to be told again: what was written is lost.
    pub async fn wanted(&self) {
        self.wants.notified().await;
    }

    /// Whether it can be written.
    pub fn health(&self) -> Arc<Health> {
        Arc::clone(&self.health)
    }

    /// For who waits until something is written.
    pub fn commits(&self) -> Commits {
        Commits { pending: Arc::clone(&self.pending), health: Arc::clone(&self.health) }
    }

    /// Defib leaves in order: every service has ended. Waits until that has been written, but not for a disk that hangs.
    pub fn leave(self) {
        self.pending.tell(|waiting| waiting.left = true);
    }

    fn tell(&self, change: impl FnOnce(&mut Waiting)) {
        self.pending.tell(change);
        self.health.look();
    }
}

fn take(waiting: &mut Waiting, change: Change) {
    match change {
        Change::Memo(service, slot, memo) => waiting.remember(service, slot, memo),
        Change::Ended(record, place) => {
            if let Some(ended) = Ended::of(&record) {
                waiting.ended(Ended { place, ..ended });
            }
        }
        Change::EndedEarlier(record, place) => {
            if let Some(ended) = Ended::of(&record) {
                waiting.ended(Ended { place: Some(place), earlier: true, ..ended });
            }
        }
        Change::Forget(service) => waiting.forget(&service),
    }
}

impl Drop for StateDb {
    fn drop(&mut self) {
        self.pending.close();
        // It sends nothing, it ends.
        if let Err(RecvTimeoutError::Timeout) = self.ended.recv_timeout(PATIENCE) {
            tracing::error!("the state database is not written to the end: its disk does not answer");
        }
    }
}

#[cfg(test)]
mod tests;
