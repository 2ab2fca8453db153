//! Listening sockets of services that bind by themselves, once more: `hold_ports`.
//!
//! The daemon finds the socket that a life listens with and sends a duplicate. When the life ends, the duplicate keeps the
//! port open, and clients wait in its queue, until the next life listens and its own duplicate takes the place of this one,
//! or `hold` has passed since the end. Closing it moves what waits in its queue to the next life's socket: see
//! `effect::held::share`.
//!
//! A duplicate goes on accepting, whatever the process does with its own. So the keeper gives it up before it sends the life
//! any signal, and looks whether the process has still got its own: not at each connection, but a while after one.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::time::Duration;

use defib_core::model::Tick;
use rustix::io::Errno;
use rustix::net::sockopt;
use rustix::process::{PidfdGetfdFlags, pidfd_getfd};

/// How long after a connection the process is looked at: at first, and at most. Each look that finds all well doubles it.
const LOOK: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// What is held of one service.
#[derive(Debug, Default)]
pub(super) struct Ports {
    /// While they are open, what binds the ports in the service's cgroup shares them.
    pub(super) guard: Vec<OwnedFd>,
    held: BTreeMap<u16, Port>,
    /// Of this life and earlier ones nothing is taken: it has been sent a signal, or has ended.
    let_go: u64,
}

/// The sockets of one port.
#[derive(Debug)]
pub(super) struct Port {
    process: Process,
    /// Each with the number that it has in the process.
    sockets: Vec<(RawFd, OwnedFd)>,
    /// How long they are held after the end of the life.
    hold: Duration,
    stage: Stage,
}

/// Who listens.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) pidfd: OwnedFd,
    /// Whether it is the main process: then its end is the life's, and needs no look.
    pub(super) main: bool,
}

#[derive(Clone, Copy, Debug)]
enum Stage {
    /// The process listens; the next connection is looked at so much later, or the look is due then.
    Lives { patience: Duration, look: Option<Tick> },
    /// The life has ended: the port is held until then.
    Waits(Tick),
}

/// Sockets that are held no longer: to be taken out of the epoll, and closed.
pub(super) type Released = Vec<OwnedFd>;

impl Port {
    pub(super) fn new(process: Process, sockets: Vec<(RawFd, OwnedFd)>, hold: Duration) -> Self {
        Self { process, sockets, hold, stage: Stage::Lives { patience: LOOK.0, look: None } }
    }

    pub(super) fn sockets(&self) -> impl Iterator<Item = &OwnedFd> {
        self.sockets.iter().map(|(_, socket)| socket)
    }

    fn release(self) -> impl Iterator<Item = OwnedFd> {
        self.sockets.into_iter().map(|(_, socket)| socket)
    }

    /// Whether the process still has all that is held, and listens with it.
    fn is_served(&self) -> bool {
        let served = |(number, own): &(RawFd, OwnedFd)| {
            if !sockopt::socket_acceptconn(own).unwrap_or(false) {
                return false;
            }
            match pidfd_getfd(&self.process.pidfd, *number, PidfdGetfdFlags::empty()) {
                Ok(theirs) => inode(&theirs) == inode(own),
                // It ends just now, and that is told as the end of the life.
                Err(Errno::SRCH) => self.process.main,
                Err(_) => false,
            }
        };
        self.sockets.iter().all(served)
    }

    fn due(&self) -> Option<Tick> {
        match self.stage {
            Stage::Lives { look, .. } => look,
            Stage::Waits(until) => Some(until),
        }
    }
}

/// What tells one socket from another.
fn inode(socket: &OwnedFd) -> Option<u64> {
    rustix::fs::fstat(socket.as_fd()).ok().map(|stat| stat.st_ino)
}

impl Ports {
    /// Of a service of which only the guard was handed over. An older keeper, to which a new one may go back, would hold a
    /// socket that it does not know of for ever; the daemon finds those of the lives again.
    pub(super) fn of_guard(guard: Vec<OwnedFd>) -> Self {
        Self { guard, ..Self::default() }
    }

    /// Takes the sockets of a port, in place of earlier ones. They are given back at once if the life is one to let go.
    pub(super) fn hold(&mut self, incarnation: u64, number: u16, port: Port) -> (Option<&Port>, Released) {
        if incarnation <= self.let_go {
            return (None, port.release().collect());
        }
        let old = self.held.insert(number, port);
        (self.held.get(&number), old.into_iter().flat_map(Port::release).collect())
    }

    /// Gives everything up, and takes nothing of this life any more.
    pub(super) fn let_go(&mut self, incarnation: u64) -> Released {
        self.let_go = self.let_go.max(incarnation);
        std::mem::take(&mut self.held).into_values().flat_map(Port::release).collect()
    }

    /// The life has ended: its ports are held for the next one. Those of lives before it that nobody has taken over are
    /// held as long again.
    pub(super) fn ended(&mut self, incarnation: u64, at: Tick) {
        self.let_go = self.let_go.max(incarnation);
        for port in self.held.values_mut() {
            port.stage = Stage::Waits(at + port.hold);
        }
    }

    /// Somebody has connected, or the socket has been shut down: it is looked at soon.
    pub(super) fn stirred(&mut self, now: Tick) {
        for port in self.held.values_mut() {
            if let Stage::Lives { patience, look: look @ None } = &mut port.stage {
                *look = Some(now + *patience);
            }
        }
    }

    /// When something is to be done.
    pub(super) fn due(&self) -> Option<Tick> {
        self.held.values().filter_map(Port::due).min()
    }

    /// Does what is due: closes what nobody has taken over in time, and what its process has closed. Gives back what to
    /// wait for again.
    pub(super) fn look(&mut self, now: Tick) -> (Vec<&OwnedFd>, Released) {
        let gone = |port: &Port| match port.stage {
            Stage::Waits(until) => until <= now,
            Stage::Lives { look: Some(look), .. } => look <= now && !port.is_served(),
            Stage::Lives { look: None, .. } => false,
        };
        let closed: Vec<u16> =
            self.held.iter().filter(|(_, port)| gone(port)).map(|(number, _)| *number).collect();
        let released = closed.iter().filter_map(|number| self.held.remove(number)).flat_map(Port::release);
        let released = released.collect();
        let mut again = Vec::new();
        for port in self.held.values_mut() {
            if let Stage::Lives { patience, look } = &mut port.stage
                && look.is_some_and(|look| look <= now)
            {
                (*patience, *look) = ((*patience * 2).min(LOOK.1), None);
                again.extend(port.sockets.iter().map(|(_, socket)| socket));
            }
        }
        (again, released)
    }

    /// Whether nothing is held.
    pub(super) fn is_empty(&self) -> bool {
        self.held.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener, TcpStream};
    use std::os::fd::AsRawFd;

    use rustix::process::{PidfdFlags, getpid, pidfd_open};

    use super::*;

    const HOLD: Duration = Duration::from_secs(5);

    fn listener() -> (TcpListener, Port) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let pidfd = pidfd_open(getpid(), PidfdFlags::empty()).expect("Linux 5.3");
        let duplicate = listener.as_fd().try_clone_to_owned().expect("a descriptor");
        let port = Port::new(Process { pidfd, main: true }, vec![(listener.as_raw_fd(), duplicate)], HOLD);
        (listener, port)
    }

    #[test]
    fn what_a_life_leaves_is_held_until_the_next_one_listens_or_time_is_over() {
        let mut ports = Ports::default();
        let (first, port) = listener();
        let address = first.local_addr().expect("an address");
        assert!(ports.hold(1, 80, port).0.is_some() && ports.due().is_none());
        drop(first);
        ports.ended(1, Tick(1_000));
        TcpStream::connect(address).expect("somebody waits");
        assert_eq!(ports.due(), Some(Tick(1_000) + HOLD));
        // What is late is not taken, and what the next life has takes its place.
        assert_eq!(ports.hold(1, 80, listener().1).1.len(), 1);
        let (_second, port) = listener();
        let (held, released) = ports.hold(2, 80, port);
        assert!(held.is_some() && released.len() == 1);
        drop(released);
        TcpStream::connect(address).expect_err("nobody is there");
        assert_eq!(ports.due(), None);
        ports.ended(2, Tick(2_000));
        let (again, released) = ports.look(Tick(2_000) + HOLD);
        assert!(again.is_empty() && released.len() == 1);
        assert!(ports.is_empty());
    }

    #[test]
    fn after_a_signal_nothing_is_held() {
        let mut ports = Ports::default();
        let (_first, port) = listener();
        ports.hold(4, 80, port);
        assert_eq!(ports.let_go(4).len(), 1);
        assert!(ports.hold(4, 80, listener().1).0.is_none());
        assert!(ports.hold(5, 80, listener().1).0.is_some());
    }

    #[test]
    fn what_the_process_closes_is_closed() {
        let mut ports = Ports::default();
        let (first, port) = listener();
        ports.hold(1, 80, port);
        ports.stirred(Tick(0));
        let (again, released) = ports.look(Tick(0) + LOOK.0);
        assert_eq!((again.len(), released.len()), (1, 0), "it listens");
        assert_eq!(ports.due(), None);
        drop(first);
        ports.stirred(Tick(0));
        assert_eq!(ports.due(), Some(Tick(0) + LOOK.0 * 2));
        assert_eq!(ports.look(Tick(0) + LOOK.0 * 2).1.len(), 1);
        assert!(ports.is_empty());
    }
}
