//! Looks whether services listen on ports: on a thread of its own, for the supervisor thread, which never waits for it.
//!
//! What the kernel tells is a hint: LISTEN is told before the socket can be reached, and the end of one socket is not
//! the end of a port that several share. So each hint becomes a look, repeated after 1, 2, 4 … ms until it shows what was
//! told, or `BEGINS` or `ENDS` has passed; what it shows then is told as it is.
//!
//! Where the source hears nothing of ports, a life is looked at until it listens on all ports that its service names,
//! after 5 ms first and 5 s at most: the one place where defib polls. It ends with the life, and when nothing is missing.
//! With nothing to look at, the thread sleeps.
//!
//! A process in another network namespace than defib is looked at through its own `/proc/PID/net`.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::RecvTimeoutError;
use std::time::Duration;

use defib_core::model::{Incarnation, Listener, ServiceName, ServiceSpec, Tick};
use tokio::sync::mpsc;

use super::clock;
use super::held::Duplicates;
use super::held::share::Migration;
use super::holders::Household;
use super::port_look::{Family, Process, Round};
use super::queue;

/// How many looks may be asked for ahead of the thread. When it is full, a look is dropped, and [`Found::Missed`] says so.
const QUEUE: usize = 8192;

/// How many hints may wait for what they tell. One more is dropped, and [`Found::Missed`] says so.
const MAX_HINTS: usize = 8192;

/// How many ports that a service does not name are kept in mind for it. Above that, they may be told twice.
const MAX_OTHERS: usize = 1024;

/// From LISTEN to a socket that can be reached it takes microseconds, unless the process is preempted in between, on a
/// machine that has no time for it. One that is closed before is told of by another hint, which takes the place of this.
const BEGINS: Duration = Duration::from_secs(10);

/// Before the end of a socket is told of, nobody can reach it any more. What listens still is another one.
const ENDS: Duration = Duration::from_millis(50);

/// An end that comes with the death of its process is no news: by then the life is over.
const AFTER_END: Duration = Duration::from_millis(10);

/// The shortest and the longest time between two looks at a life that is to listen. In between it is a quarter of the
/// time that it has taken so far: so much later is it known.
const POLL: (Duration, Duration) = (Duration::from_millis(5), Duration::from_secs(5));

/// A life to look at.
#[derive(Clone, Debug)]
pub struct Subject {
    /// Its service.
    pub spec: Arc<ServiceSpec>,
    /// Its slot. One is not used again, so it tells this service from another that has come back under its name.
    pub slot: u32,
    /// Its number.
    pub incarnation: Incarnation,
    /// Its main process, if that is known.
    pub main: Option<u32>,
}

/// What to look for.
#[derive(Clone, Copy, Debug)]
pub enum Look {
    /// The kernel has told that a process begins or ceases to listen.
    Hint {
        /// The process.
        pid: u32,
        /// Where it listens.
        listener: Listener,
        /// Whether it begins to.
        listening: bool,
    },
    /// On which of the ports that its service names does it listen?
    Ports {
        /// Whether to tell also on which it does not.
        all: bool,
        /// Whether to look again until it listens on all of them.
        wait: bool,
    },
}

/// What a look has shown.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// How it is.
    Level {
        /// The service.
        service: ServiceName,
        /// Its slot.
        slot: u32,
        /// The life.
        incarnation: Incarnation,
        /// The port.
        port: u16,
        /// Whether the life listens on it.
        listening: bool,
    },
    /// A life listens on a port that is to be held for the next one.
    Holdable {
        /// The service.
        service: ServiceName,
        /// Its slot.
        slot: u32,
        /// The life.
        incarnation: Incarnation,
        /// The port.
        port: u16,
        /// What it listens with.
        sockets: Duplicates,
    },
    /// Looks were dropped: ask for all again.
    Missed,
}

/// The way to the thread.
#[derive(Debug)]
pub struct PortWatch {
    looks: queue::Sender<(Subject, Look)>,
    missed: Arc<AtomicBool>,
}

impl PortWatch {
    /// Starts the thread. It ends when this is dropped.
    ///
    /// # Errors
    /// If no thread can be made.
    pub fn start(household: Household) -> io::Result<(Self, mpsc::Receiver<Found>)> {
        let (looks, asked) = queue::bounded(QUEUE);
        let (found, results) = mpsc::channel(QUEUE);
        let missed = Arc::new(AtomicBool::new(false));
        let watcher = Watcher {
            household,
            missed: Arc::clone(&missed),
            found,
            tasks: BTreeMap::new(),
            others: BTreeMap::new(),
            migration: None,
        };
        std::thread::Builder::new().name("defib-ports".into()).spawn(move || watcher.run(&asked))?;
        Ok((Self { looks, missed }, results))
    }

    /// Asks for a look. Never waits.
    pub fn ask(&self, subject: Subject, look: Look) {
        if self.looks.try_send((subject, look)).is_err() {
            self.missed.store(true, Ordering::Relaxed);
        }
    }
}

/// What a task is about: a newer one about the same takes the place of the older.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum About {
    /// A port.
    Port(u16),
    /// The ports of a process that has listened without a bind.
    Unbound(u32),
    /// All that the service names.
    Named,
}

/// A look that is to be taken, perhaps again and again.
#[derive(Debug)]
struct Task {
    subject: Subject,
    look: Look,
    began: Tick,
    due: Tick,
    /// The main process, by its identity: when that is gone there is nothing to wait for.
    process: Option<Process>,
    /// On which ports the life is known to listen.
    known: BTreeSet<u16>,
    looked: bool,
}

/// What is to become of a task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    Done,
    After(Duration),
}

/// The receiver is gone: the daemon leaves.
#[derive(Debug)]
struct Gone;

#[derive(Debug)]
struct Watcher {
    household: Household,
    missed: Arc<AtomicBool>,
    found: mpsc::Sender<Found>,
    tasks: BTreeMap<(ServiceName, About), Task>,
    /// The ports beside the named ones on which the latest life of a service has been told to listen.
    others: BTreeMap<ServiceName, (Incarnation, BTreeSet<u16>)>,
    /// Loaded when it is first wanted; `None` in it: it cannot be.
    migration: Option<Option<Migration>>,
}

impl Watcher {
    fn run(mut self, asked: &queue::Receiver<(Subject, Look)>) {
        loop {
            let due = self.tasks.values().map(|task| task.due).min();
            let first = match due {
                None => asked.recv().map_err(|_gone| RecvTimeoutError::Disconnected),
                Some(due) => asked.recv_timeout(due.since(clock::now())),
            };
            match first {
                Ok((subject, look)) => self.add(subject, look),
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            while let Ok((subject, look)) = asked.try_recv() {
                self.add(subject, look);
            }
            if self.look().is_err() {
                return;
            }
        }
    }

    fn add(&mut self, subject: Subject, look: Look) {
        let now = clock::now();
        let (about, due) = match look {
            Look::Hint { pid, listener: Listener { port: 0, .. }, .. } => (About::Unbound(pid), now),
            Look::Hint { listener, listening: true, .. } => (About::Port(listener.port), now),
            Look::Hint { listener, .. } => (About::Port(listener.port), now + AFTER_END),
            Look::Ports { all: true, .. } => (About::Named, now),
            Look::Ports { all: false, .. } => (About::Named, now + POLL.0),
        };
        if about != About::Named && self.tasks.len() >= MAX_HINTS {
            self.missed.store(true, Ordering::Relaxed);
            return;
        }
        let process = subject.main.and_then(Process::of);
        let key = (subject.spec.name.clone(), about);
        let known = BTreeSet::new();
        self.tasks.insert(key, Task { subject, look, began: now, due, process, known, looked: false });
    }

    /// Takes every look that is due. They share one snapshot of the sockets.
    fn look(&mut self) -> Result<(), Gone> {
        if self.missed.swap(false, Ordering::Relaxed) {
            self.found.blocking_send(Found::Missed).map_err(|_gone| Gone)?;
        }
        let now = clock::now();
        let due: Vec<_> =
            self.tasks.iter().filter(|(_, task)| task.due <= now).map(|(key, _)| key.clone()).collect();
        let mut round = Round::default();
        for key in due {
            let Some(mut task) = self.tasks.remove(&key) else { continue };
            let next = match task.look {
                Look::Hint { pid, listener: Listener { port: 0, .. }, listening } => {
                    self.unbound(&mut round, &mut task, now, pid, listening)?
                }
                Look::Hint { pid, listener, listening } => {
                    self.hint(&mut round, &task, now, pid, listener, listening)?
                }
                Look::Ports { all, wait } => self.named(&mut round, &mut task, now, all, wait)?,
            };
            if let Next::After(delay) = next {
                task.due = clock::now() + delay;
                self.tasks.insert(key, task);
            }
        }
        Ok(())
    }

    /// One port, of which the kernel has told that `pid` begins or ceases to listen on it.
    fn hint(
        &mut self,
        round: &mut Round,
        task: &Task,
        now: Tick,
        pid: u32,
        listener: Listener,
        told: bool,
    ) -> Result<Next, Gone> {
        let process = (listener.netns != round.own_netns()).then_some(pid);
        let subject = &task.subject;
        let likely = [pid];
        let family = self.family(subject, &likely);
        let ports = round.listening(family, process, &BTreeSet::from([listener.port]));
        let listening = ports.map(|ports| !ports.is_empty());
        match listening {
            Some(listening) if listening != told => {
                let waited = now.since(task.began);
                if waited < if told { BEGINS } else { ENDS } {
                    return Ok(Next::After(waited.max(Duration::from_millis(1))));
                }
                // Others of the service listen there still, or it has ceased to listen already.
                self.tell(subject, listener.port, listening, false)?;
            }
            // Where nothing can be seen, the kernel's word has to do.
            Some(_) | None => {
                if told {
                    self.hold(round, subject, pid, listener.port)?;
                }
                self.tell(subject, listener.port, told, true)?;
            }
        }
        Ok(Next::Done)
    }

    /// The ports of a process that has listened on a socket without binding it: the kernel chooses one afterwards.
    fn unbound(
        &mut self,
        round: &mut Round,
        task: &mut Task,
        now: Tick,
        pid: u32,
        told: bool,
    ) -> Result<Next, Gone> {
        for port in round.ports_of(pid) {
            if task.known.insert(port) {
                self.tell(&task.subject, port, true, true)?;
            }
        }
        let waited = now.since(task.began);
        let over = !told || waited >= ENDS;
        Ok(if over { Next::Done } else { Next::After(waited.max(Duration::from_millis(1))) })
    }

    /// The ports that the service names.
    fn named(
        &mut self,
        round: &mut Round,
        task: &mut Task,
        now: Tick,
        all: bool,
        wait: bool,
    ) -> Result<Next, Gone> {
        let Subject { spec, main, .. } = &task.subject;
        if task.looked && !task.process.is_some_and(|process| process.lives()) {
            return Ok(Next::Done);
        }
        let wanted = spec.wanted_ports();
        let process = main.filter(|pid| round.is_elsewhere(*pid));
        let family = self.family(&task.subject, main.as_slice());
        if let Some(ports) = round.listening(family, process, &wanted) {
            let first = !std::mem::replace(&mut task.looked, true);
            for port in &wanted {
                let listening = ports.contains(port);
                let news = if listening { task.known.insert(*port) } else { first && all };
                if news
                    && listening
                    && let Some(main) = task.subject.main
                {
                    self.hold(round, &task.subject, main, *port)?;
                }
                if news {
                    self.tell(&task.subject, *port, listening, false)?;
                }
            }
        }
        task.looked = true;
        if !wait || task.known.is_superset(&wanted) {
            return Ok(Next::Done);
        }
        let (shortest, longest) = POLL;
        Ok(Next::After((now.since(task.began) / 4).clamp(shortest, longest)))
    }

    /// Duplicates what a process listens with, if that is to be held for the next life. Before anything is told: clients
    /// wait where the last life listened.
    fn hold(&mut self, round: &mut Round, subject: &Subject, pid: u32, port: u16) -> Result<(), Gone> {
        if !subject.spec.launch.hold_ports.contains(&port) {
            return Ok(());
        }
        let service = &subject.spec.name;
        let migration = self.migration.get_or_insert_with(|| {
            Migration::load()
                .inspect_err(|error| tracing::warn!(%error, "clients that wait at a held port are reset"))
                .ok()
        });
        let others = subject.main.filter(|main| *main != pid);
        let found = [Some(pid), others].into_iter().flatten();
        let found = found.filter_map(|pid| round.duplicates(pid, port, migration.as_ref())).next();
        let Some(sockets) = found else {
            tracing::warn!(%service, port, pid, "the port is not held: no socket of it can be shared");
            return Ok(());
        };
        let (slot, incarnation) = (subject.slot, subject.incarnation);
        let holdable = Found::Holdable { service: service.clone(), slot, incarnation, port, sockets };
        self.found.blocking_send(holdable).map_err(|_gone| Gone)
    }

    fn family<'a>(&'a self, subject: &'a Subject, likely: &'a [u32]) -> Family<'a> {
        Family { household: &self.household, service: &subject.spec.name, main: subject.main, likely }
    }

    /// Tells a level. Of ports that the service does not name only what is new: nobody keeps those in mind but this.
    /// `hinted` says that the kernel has told of just that.
    fn tell(&mut self, subject: &Subject, port: u16, listening: bool, hinted: bool) -> Result<(), Gone> {
        let (service, slot, incarnation) = (subject.spec.name.clone(), subject.slot, subject.incarnation);
        if !subject.spec.wanted_ports().contains(&port) {
            let (of, others) = self.others.entry(service.clone()).or_default();
            if *of != incarnation {
                (*of, *others) = (incarnation, BTreeSet::new());
            }
            let news = match listening {
                true if others.len() >= MAX_OTHERS => true,
                true => others.insert(port),
                // One that began before this daemon did is not among them.
                false => others.remove(&port) || hinted,
            };
            if !news {
                return Ok(());
            }
        }
        let level = Found::Level { service, slot, incarnation, port, listening };
        self.found.blocking_send(level).map_err(|_gone| Gone)
    }
}

#[cfg(test)]
mod tests;
