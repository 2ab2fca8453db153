//! What the daemon and the surfaces see of the logs.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, TrySendError, sync_channel};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use defib_core::model::{LogSpec, ServiceName};
use jiff::Timestamp;
use rustix::event::EventfdFlags;
use tokio::sync::oneshot;

use super::folder::{self, Folder};
use super::history::{self, Follower};
use super::ledger::{self, Ledger};
use super::pipe::{Inlet, Pipes};
use super::places::Life;
use super::reader::{Ends, Message, Reader};
use super::service::Service;
use super::usage::{self, Usage, Vacuum};
use super::writer::{Desk, Job, Writer};
use super::{Count, Kind, Line, Query, QueryError};
use crate::effect::queue;

/// How many messages may wait for the reader's thread, which waits for nobody: four for each of 4096 services. One that
/// finds it full is lost and told in the daemon's log: the output of a service would wait for the next daemon.
const QUEUE: usize = 16 * 1024;

/// How long the last output may take to be written when defib leaves.
const FAREWELL: Duration = Duration::from_secs(5);

/// What all threads share.
#[derive(Debug)]
pub(super) struct Shared {
    /// Guards the services; written by the reader's thread alone, held for moments.
    services: RwLock<BTreeMap<ServiceName, Arc<Service>>>,
    pub(super) log_dir: PathBuf,
    pub(super) desk: Arc<Desk>,
    pub(super) ledger: Arc<Ledger>,
    /// Wakes the reader's thread.
    pub(super) wake: Arc<OwnedFd>,
}

impl Shared {
    /// A service, made if it is new; with other keys, if some are given.
    pub(super) fn service(&self, name: &ServiceName, spec: Option<LogSpec>) -> Arc<Service> {
        let mut services = self.services.write().unwrap_or_else(PoisonError::into_inner);
        let service = services
            .entry(name.clone())
            .or_insert_with(|| Arc::new(Service::new(name.clone(), LogSpec::default())));
        if let Some(spec) = spec {
            service.set_spec(spec);
        }
        Arc::clone(service)
    }

    pub(super) fn remove(&self, name: &ServiceName) {
        self.services.write().unwrap_or_else(PoisonError::into_inner).remove(name);
    }

    pub(super) fn known(&self, name: &ServiceName) -> Result<Arc<Service>, QueryError> {
        let services = self.services.read().unwrap_or_else(PoisonError::into_inner);
        services.get(name).cloned().ok_or(QueryError::NotFound)
    }

    fn all(&self) -> Vec<Arc<Service>> {
        self.services.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }
}

/// The logs of all services. Cheap to clone; no call but those that say so waits for anything.
#[derive(Clone, Debug)]
pub struct Logs {
    shared: Arc<Shared>,
    messages: queue::Sender<Message>,
}

/// The end of the writer's thread.
#[derive(Debug)]
pub struct Farewell(Receiver<()>);

impl Farewell {
    /// Waits until the last output is written, or for five seconds; whether it is.
    pub fn wait(self) -> bool {
        // The sender is dropped with the thread.
        let late = self.0.recv_timeout(FAREWELL) == Err(std::sync::mpsc::RecvTimeoutError::Timeout);
        if late {
            tracing::warn!("the last output of services could not be written in time");
        }
        !late
    }
}

/// What must outlive the daemon.
#[derive(Debug)]
pub struct Held {
    /// How much of the spools is in which file, for the keeper to hold.
    pub ledger: OwnedFd,
    /// Where all of it has names.
    pub folder: Option<Arc<Folder>>,
}

/// A new ledger. With a folder it has a name, and takes over what the one of that name says of pipes that were found, of the
/// service in that slot.
///
/// # Errors
/// If the process is out of file descriptors, the kernel out of memory, or the folder cannot be written.
pub fn ledger(folder: Option<&Folder>, found: &[(u32, &Pipes)]) -> io::Result<OwnedFd> {
    let mut spools = Vec::new();
    for (slot, pipes) in found {
        for (index, inlet) in (u64::from(*slot) * 2..).zip(&pipes.daemon) {
            spools.push((index, folder::inode(&inlet.spool)?));
        }
    }
    ledger::make(folder, &spools)
}

impl Logs {
    /// Starts both threads.
    ///
    /// # Errors
    /// If a thread or a descriptor cannot be made.
    pub fn start(log_dir: PathBuf, held: Held) -> io::Result<(Self, Farewell)> {
        let flags = EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK;
        let wake = Arc::new(rustix::event::eventfd(0, flags)?);
        let desk = Arc::new(Desk::new());
        let ledger = Arc::new(Ledger::new(held.ledger));
        let (table, pages) = (Arc::clone(&desk), Arc::clone(&ledger));
        let writer = Writer::new(table, pages, held.folder, log_dir.clone(), Arc::clone(&wake))?;
        let shared = Arc::new(Shared { services: RwLock::default(), log_dir, desk, ledger, wake });
        let (messages, waiting) = queue::bounded(QUEUE);
        let reader = Reader::new(Arc::clone(&shared), waiting)?;
        let (alive, over) = sync_channel(1);
        std::thread::Builder::new().name("defib-logs".into()).spawn(move || reader.run())?;
        std::thread::Builder::new().name("defib-logfiles".into()).spawn(move || {
            let _alive = alive;
            writer.run();
        })?;
        Ok((Self { shared, messages }, Farewell(over)))
    }

    fn tell(&self, message: Message) {
        match self.messages.try_send(message) {
            Ok(()) => {}
            Err(TrySendError::Full(_)) => tracing::error!("{QUEUE} messages wait for the logs; one is lost"),
            // Its thread has said why.
            Err(TrySendError::Disconnected(_)) => return,
        }
        // A counter that is full wakes as well.
        rustix::io::write(&*self.shared.wake, &1_u64.to_ne_bytes()).ok();
    }

    /// These are the keys of a service from now on. `capture` and `streams` are the planner's business.
    pub fn configure(&self, name: &ServiceName, spec: &LogSpec) {
        self.tell(Message::Service { name: name.clone(), spec: spec.clone() });
    }

    /// The service is configured no longer; its files stay.
    pub fn remove(&self, name: &ServiceName) {
        self.tell(Message::Removed { name: name.clone() });
    }

    /// Reads these pipes from now on, of the service in this slot of the keeper.
    pub fn connect(&self, name: &ServiceName, slot: u32, inlets: Vec<Inlet>) {
        self.tell(Message::Pipes { name: name.clone(), slot, inlets });
    }

    /// A life has begun.
    pub fn began(&self, name: &ServiceName, incarnation: u64, started: Timestamp) {
        self.tell(Message::Began { name: name.clone(), life: Life { incarnation, started } });
    }

    /// A life has ended, and nothing of it is left. What is in its pipes now is the last of it: to be called before the
    /// next life can write.
    pub fn ended(&self, name: &ServiceName) {
        let streams = self.shared.known(name).map(|service| service.streams()).unwrap_or_default();
        let ends = streams.iter().map(|stream| (stream.id, stream.end())).collect();
        self.tell(Message::Ended { name: name.clone(), ends: Ends::Captured(ends) });
    }

    /// A life has ended when so much had been written to the spool and the pipe of each stream, and the next one has begun.
    pub fn followed(&self, name: &ServiceName, written: [u64; 2]) {
        self.tell(Message::Ended { name: name.clone(), ends: Ends::Spooled(written) });
    }

    /// Reads and writes what is there, and ends both threads.
    pub fn stop(&self) {
        self.tell(Message::Stop);
    }

    /// What was captured and dropped of each stream that there is or was.
    pub fn counters(&self) -> Vec<Count> {
        let mut counts = Vec::new();
        for service in self.shared.all() {
            for stream in Kind::ALL {
                let counters = service.counters(stream);
                let [captured, dropped] =
                    [&counters.captured, &counters.dropped].map(|count| count.load(Ordering::Relaxed));
                if captured + dropped > 0 || service.streams().iter().any(|open| open.kind == stream) {
                    counts.push(Count { service: service.name.clone(), stream, captured, dropped });
                }
            }
        }
        counts
    }

    /// Whether a query can be answered.
    ///
    /// # Errors
    /// If there is no such service, or no such stream.
    pub fn check(&self, name: &ServiceName, query: &Query) -> Result<(), QueryError> {
        query.kinds(&*self.shared.known(name)?).map(drop)
    }

    /// Reads back until `give` says that it has enough. Blocks on disks: for threads that may.
    ///
    /// # Errors
    /// As [`Logs::check`].
    pub fn read(
        &self,
        name: &ServiceName,
        query: &Query,
        give: impl FnMut(Line) -> bool,
    ) -> Result<(), QueryError> {
        let service = self.shared.known(name)?;
        let kinds = query.kinds(&service)?;
        history::read(&service, &self.shared.log_dir, query, &kinds, true, give);
        Ok(())
    }

    /// The same, and then goes on with what comes: from what is returned, without a gap. Lines that have no end yet come
    /// when they have.
    ///
    /// # Errors
    /// As [`Logs::check`].
    pub fn follow(
        &self,
        name: &ServiceName,
        query: &Query,
        give: impl FnMut(Line) -> bool,
    ) -> Result<Follower, QueryError> {
        let service = self.shared.known(name)?;
        let kinds = query.kinds(&service)?;
        let mut follower = Follower::new(Arc::clone(&service), query.clone(), kinds.clone());
        let ends = history::read(&service, &self.shared.log_dir, query, &kinds, false, give);
        follower.begin(ends);
        Ok(follower)
    }

    /// What the files of a service take. Blocks on disks.
    ///
    /// # Errors
    /// If there is no such service.
    pub fn usage(&self, name: &ServiceName) -> Result<Usage, QueryError> {
        Ok(usage::of(&*self.shared.known(name)?, &self.shared.log_dir))
    }

    /// Removes files of these services, on the thread that writes them. The answer is how many, and how many bytes.
    pub fn vacuum(&self, names: &[ServiceName], wanted: Vacuum) -> oneshot::Receiver<(u64, u64)> {
        let services = names.iter().filter_map(|name| self.shared.known(name).ok()).collect();
        let (reply, answer) = oneshot::channel();
        self.shared.desk.put(Job::Vacuum(services, wanted, reply));
        answer
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::MetadataExt;

    use defib_core::model::LogStreams;

    use super::super::lane;
    use super::super::ledger::FileId;
    use super::super::pipe::{self, Plumbing};
    use super::*;

    /// What an earlier daemon has left of the first stream of slot 3, and what the next one makes of it.
    struct Left {
        folder: tempfile::TempDir,
        names: Arc<Folder>,
        ledger: OwnedFd,
        pipes: Pipes,
    }

    impl Left {
        fn new(log: &str) -> Self {
            let folder = tempfile::tempdir().unwrap();
            fs::write(folder.path().join("a.log"), log).unwrap();
            let names = Arc::new(Folder::open(folder.path(), None).unwrap());
            let plumbing =
                Plumbing { streams: LogStreams::Joined, owner: rustix::process::geteuid().as_raw() };
            let pipes = pipe::make(plumbing, 0, Some((&names, &"a".parse().unwrap()))).unwrap();
            let ledger = ledger(Some(&names), &[(3, &pipes)]).unwrap();
            Self { folder, names, ledger, pipes }
        }

        /// The ledger says that the start of the spool is at this place of the log, and goes there by the lane.
        fn by_lane(&self, offset: u64) {
            let found = fs::metadata(self.folder.path().join("a.log")).unwrap();
            let file = FileId { device: found.dev(), inode: found.ino() };
            Ledger::new(self.ledger.try_clone().unwrap()).set_lane(6, 0, file, offset);
        }

        fn says(&self, text: &str) {
            rustix::io::write(&self.pipes.service[0], text.as_bytes()).unwrap();
        }

        /// A daemon reads what there is, in this slot.
        fn read(&self, ledger: OwnedFd, slot: u32) {
            let held = Held { ledger, folder: Some(Arc::clone(&self.names)) };
            let (logs, farewell) = Logs::start(self.folder.path().to_owned(), held).unwrap();
            let name: ServiceName = "a".parse().unwrap();
            logs.configure(&name, &LogSpec::default());
            let own = |fd: &OwnedFd| fd.try_clone().unwrap();
            let inlet = |it: &Inlet| Inlet { pipe: own(&it.pipe), spool: own(&it.spool) };
            logs.connect(&name, slot, self.pipes.daemon.iter().map(inlet).collect());
            logs.stop();
            assert!(farewell.wait());
        }

        /// The log after the daemon of the next keeper.
        fn written(self) -> String {
            self.read(ledger(Some(&self.names), &[(5, &self.pipes)]).unwrap(), 5);
            self.names.clear_away();
            fs::read_to_string(self.folder.path().join("a.log")).unwrap()
        }
    }

    #[test]
    fn what_a_killed_daemon_has_left_is_written_in_the_order_in_which_it_came() {
        let left = Left::new("");
        rustix::io::write(&left.pipes.daemon[0].spool, b"spool\n").unwrap();
        left.says("pipe\n");
        assert_eq!(left.written(), "spool\npipe\n");
    }

    #[test]
    fn what_is_in_the_file_and_still_in_the_pipe_is_not_written_twice() {
        let left = Left::new("one\ntw");
        left.by_lane(4);
        left.says("two\nthree\n");
        lane::mark(&left.pipes.daemon[0].pipe).unwrap();
        assert_eq!(left.written(), "one\ntwo\nthree\n");
    }

    #[test]
    fn what_has_been_read_is_not_looked_for_in_the_pipe() {
        let left = Left::new("one\ntwo\n");
        left.by_lane(4);
        left.says("two\ntwo\n");
        lane::mark(&left.pipes.daemon[0].pipe).unwrap();
        lane::Lane::new().unwrap().take(&left.pipes.daemon[0].pipe, 4);
        assert_eq!(left.written(), "one\ntwo\ntwo\n");
    }

    #[test]
    fn what_was_taken_back_into_the_spool_is_written_from_where_the_file_ends() {
        let left = Left::new("one\ntw");
        left.by_lane(4);
        lane::mark(&left.pipes.daemon[0].pipe).unwrap();
        rustix::io::write(&left.pipes.daemon[0].spool, b"two\nthree\n").unwrap();
        left.says("four\n");
        assert_eq!(left.written(), "one\ntwo\nthree\nfour\n");
    }

    #[test]
    fn what_was_read_by_another_daemon_than_the_one_that_made_the_pipe_is_not_written_twice() {
        let left = Left::new("");
        // The entry of an earlier spool of that slot: who made this one was killed before it came to read it.
        let ledgered = Ledger::new(left.ledger.try_clone().unwrap());
        ledgered.begin(6, 1);
        ledgered.set(6, 100, FileId::default(), 0);
        left.says("one\n");
        left.read(left.ledger.try_clone().unwrap(), 3);
        assert_eq!(left.written(), "one\n");
    }

    #[test]
    fn a_pipe_that_nobody_held_is_empty_and_what_comes_next_is_new() {
        let left = Left::new("one\ntwo\n");
        left.by_lane(4);
        lane::mark(&left.pipes.daemon[0].pipe).unwrap();
        left.says("new");
        assert_eq!(left.written(), "one\ntwo\nnew");
    }
}
