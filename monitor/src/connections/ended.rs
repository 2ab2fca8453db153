//! Connections by the ends of their sockets, where no probe counts them.
//!
//! The kernel tells of each socket that it frees ([`Ends`]); how many there are is seen when somebody asks. So what was
//! opened since a port is watched is what has ended since, and what is there now, less what was there at the begin; what was
//! closed is what was opened, and was there at the begin, and is ESTABLISHED no more:
//!
//! | what happens to a connection | told | seen | opened | closed |
//! | --- | --- | --- | --- | --- |
//! | becomes ESTABLISHED, accepted or not | | +1 | +1 | |
//! | is closed by one end (CLOSE_WAIT, FIN_WAIT1 …) | | | | +1 |
//! | is closed by both, and freed; also into TIME_WAIT, or FIN_WAIT2 of nobody | +1 | −1 | | |
//! | is reset by its own end, accepted or not, or by its listener's end | +1 | −1 | | +1 |
//! | is reset by the other end, or closed by both, while its program still holds it | | −1 | | +1 |
//! | … and then let go of by the program | +1 | | | |
//! | was only asked for: SYN_RECV, SYN_SENT, refused, timed out | not as one | | | |
//! | is a listener, or was only bound | not as one | | | |
//! | is of another network namespace | | | unknown | unknown |
//!
//! What a program holds on to after its end is neither told nor seen. Totals never fall, so until it is let go of one
//! that is opened next to it does not show in `opened`. One that had ended so before the port was watched, and is let go of
//! afterwards, is one too many. Fast Open counts from SYN_RECV on, and a socket that is connected a second time once.
//!
//! The kernel has room for 13,000 ends or some more. What finds none is lost, and how many is not known: the totals are at
//! least what they say. They go on where a look shows that the loss has made them fall.
//!
//! A thread reads what is told, at most ten times a second, and whoever asks reads the rest. It sleeps while no socket
//! with a watched port ends, and nothing is told at all while no port is watched. The totals end with the daemon.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use defib_core::model::Tick;
use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};

use super::counts::{Counter, Counts, Ending, Place, Verdict};
use super::seed::lock;
use super::snapshot::{self, Seen};
use crate::effect::clock;
use crate::effect::sockets::{Ends, Namespace, State, Turn};

/// Between two readings of the thread: within it there is room for 130,000 ends a second.
const REST: Duration = Duration::from_millis(100);

/// Counts by the ends of sockets.
#[derive(Debug)]
pub struct Ended(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// Held for as long as some thousand messages take to be read, and for a call that subscribes.
    heard: Mutex<Heard>,
    todo: Mutex<Todo>,
    wake: OwnedFd,
    lost: AtomicU64,
    /// Why not everything that is wanted is counted. Held for a moment only.
    trouble: Mutex<Option<String>>,
}

/// What the thread is to do.
#[derive(Debug, Default)]
struct Todo {
    wanted: Option<BTreeSet<Place>>,
    again: bool,
    stop: bool,
}

#[derive(Debug, Default)]
struct Heard {
    /// Where: defib's own network namespace.
    netns: Option<u32>,
    ends: Option<Arc<Ends>>,
    ports: BTreeMap<u16, Port>,
}

/// What is known of a port.
#[derive(Debug, Default)]
struct Port {
    /// `None`: it has not been looked at yet.
    begin: Option<Now>,
    /// Connections that have ended since.
    ended: u64,
    /// Those before the look that is under way.
    before: u64,
    /// Whether ends were lost since the last look.
    lost: bool,
    told: Counts,
}

/// What a look shows of a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Now {
    active: u64,
    /// Sockets of which the end will be told as that of a connection.
    sockets: u64,
}

impl From<&Seen> for Now {
    fn from(seen: &Seen) -> Self {
        let of = |state: State| seen.states[state as usize - 1];
        let closing =
            [State::FinWait1, State::FinWait2, State::CloseWait, State::LastAck, State::Closing].map(of);
        let active = of(State::Established);
        Self { active, sockets: (active + closing.iter().sum::<u64>()).saturating_sub(seen.remains) }
    }
}

impl Ended {
    /// Starts the thread. It ends when this is dropped.
    ///
    /// # Errors
    /// If there is no descriptor or no thread for it.
    pub fn start() -> io::Result<Self> {
        let shared = Arc::new(Shared {
            heard: Mutex::default(),
            todo: Mutex::default(),
            wake: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
            lost: AtomicU64::new(0),
            trouble: Mutex::default(),
        });
        let of_thread = Arc::clone(&shared);
        std::thread::Builder::new().name("defib-counts".into()).spawn(move || of_thread.run())?;
        Ok(Self(shared))
    }
}

impl Drop for Ended {
    fn drop(&mut self) {
        self.0.ask(|todo| todo.stop = true);
    }
}

impl Counter for Ended {
    fn watch(&self, places: &BTreeSet<Place>) -> usize {
        self.0.ask(|todo| todo.wanted = Some(places.clone()));
        0
    }

    fn prepare(&self) {
        let mut heard = lock(&self.0.heard);
        self.0.read(&mut heard);
        for port in heard.ports.values_mut() {
            port.before = port.ended;
        }
        if lock(&self.0.trouble).is_some() {
            self.0.ask(|todo| todo.again = true);
        }
    }

    fn counts(&self, place: Place, seen: Option<&Seen>) -> Option<Counts> {
        let mut heard = lock(&self.0.heard);
        if heard.netns != Some(place.netns) {
            return None;
        }
        let port = heard.ports.get_mut(&place.port)?;
        port.see(port.begin?, seen.map(Now::from));
        Some(port.told)
    }

    fn verify_all(&self, _places: &BTreeSet<Place>) -> BTreeMap<Place, io::Result<Verdict>> {
        // What is active is what the sockets show.
        BTreeMap::new()
    }

    fn reseeds(&self) -> Option<u64> {
        None
    }

    fn ending(&self) -> Option<Ending> {
        let trouble = lock(&self.0.trouble).clone();
        Some(Ending { lost: self.0.lost.load(Ordering::Relaxed), trouble })
    }
}

impl Port {
    fn see(&mut self, begin: Now, now: Option<Now>) {
        let Some(now) = now else { return };
        let told = &mut self.told;
        let opened = (self.before + now.sockets).saturating_sub(begin.sockets);
        if std::mem::take(&mut self.lost) {
            // Of what was lost that much is certain.
            let missed = told.opened.saturating_sub(opened);
            self.ended += missed;
            self.before += missed;
        }
        told.opened = told.opened.max(opened);
        told.closed = told.closed.max((begin.active + told.opened).saturating_sub(now.active));
        told.active = now.active;
    }
}

impl Shared {
    fn ask(&self, change: impl FnOnce(&mut Todo)) {
        change(&mut lock(&self.todo));
        // It is full only if the thread has long been told.
        rustix::io::write(&self.wake, &1_u64.to_ne_bytes()).ok();
    }

    fn run(&self) {
        let (mut wanted, mut rested): (BTreeSet<Place>, Option<Tick>) = (BTreeSet::new(), None);
        loop {
            self.wait(rested);
            let todo = std::mem::take(&mut *lock(&self.todo));
            if todo.stop {
                return;
            }
            if todo.wanted.is_some() || todo.again {
                wanted = todo.wanted.unwrap_or(wanted);
                self.change(&wanted);
            }
            if rested.is_none_or(|rested| rested <= clock::now()) {
                let turn = self.read(&mut lock(&self.heard));
                rested = (turn != Turn::default()).then(|| clock::now() + REST);
            }
        }
    }

    /// Waits until there is something to do; for what is told not before it has rested.
    fn wait(&self, rested: Option<Tick>) {
        let ends = lock(&self.heard).ends.clone();
        let mut fds = vec![PollFd::new(&self.wake, PollFlags::IN)];
        let left = match (&ends, rested) {
            (_, Some(rested)) => Timespec::try_from(rested.since(clock::now())).ok(),
            (Some(ends), None) => {
                fds.push(PollFd::from_borrowed_fd(ends.as_fd(), PollFlags::IN));
                None
            }
            (None, None) => None,
        };
        // An interruption is as good as a reason.
        poll(&mut fds, left.as_ref()).ok();
        rustix::io::read(&self.wake, &mut [0; 8]).ok();
    }

    /// Takes in what has been told.
    fn read(&self, heard: &mut Heard) -> Turn {
        let Some(ends) = &heard.ends else { return Turn::default() };
        let ports = &mut heard.ports;
        let turn = ends.read(&mut |end| {
            if let Some(port) = ports.get_mut(&end.port).filter(|_| end.connected) {
                port.ended += 1;
            }
        });
        if turn.overruns > 0 {
            // Once: a host that is too busy for this is so all the time.
            if self.lost.fetch_add(turn.overruns, Ordering::Relaxed) == 0 {
                tracing::warn!("more connections have ended than could be told: totals are at least that");
            }
            ports.values_mut().for_each(|port| port.lost = true);
        }
        turn
    }

    /// Watches these and no others.
    fn change(&self, wanted: &BTreeSet<Place>) {
        let netns = Namespace::Own.inode();
        let here = |place: &&Place| Some(place.netns) == netns;
        let ports: BTreeSet<u16> = wanted.iter().filter(here).map(|place| place.port).collect();
        let trouble = self.begin(netns, &ports).err();
        let before = std::mem::replace(&mut *lock(&self.trouble), trouble.clone());
        if let Some(why) = trouble.filter(|why| before.as_ref() != Some(why)) {
            tracing::info!(why, "nobody counts connections that open and close");
        }
    }

    fn begin(&self, netns: Option<u32>, ports: &BTreeSet<u16>) -> Result<(), String> {
        let new = {
            let mut guard = lock(&self.heard);
            let heard = &mut *guard;
            self.read(heard);
            heard.netns = netns;
            heard.ports.retain(|port, _| ports.contains(port));
            if ports.is_empty() {
                heard.ends = None;
                return Ok(());
            }
            let subscribed = match &heard.ends {
                Some(ends) => ends.only(ports),
                None => Ends::open(ports).map(|ends| heard.ends = Some(Arc::new(ends))),
            };
            if let Err(error) = subscribed {
                // What is told no longer is not known.
                (heard.ends, heard.ports) = (None, BTreeMap::new());
                return Err(error.to_string());
            }
            for port in ports {
                heard.ports.entry(*port).or_default();
            }
            let new = heard.ports.iter().filter(|(_, port)| port.begin.is_none());
            new.map(|(port, _)| *port).collect::<BTreeSet<u16>>()
        };
        if new.is_empty() {
            return Ok(());
        }
        // What ends from here on is told. What has ended when the look comes to it counts as opened, too.
        let mut seen = snapshot::look(Namespace::Own, &new, false).map_err(|error| error.to_string())?;
        let mut heard = lock(&self.heard);
        for port in new {
            if let Some(known) = heard.ports.get_mut(&port) {
                known.begin = Some(Now::from(&seen.remove(&port).unwrap_or_default()));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
