//! What a snapshot holds, and where it is taken.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::os::fd::BorrowedFd;
use std::os::unix::fs::MetadataExt;
use std::sync::Once;

use super::diag::{self, DiagError};
use super::proc_net;

/// More sockets than this are not looked at: by far more than a service can serve, and a bound for one look.
pub(super) const MAX_SOCKETS: usize = 1 << 20;

/// A TCP socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Socket {
    /// Its state.
    pub state: State,
    /// Whether this is what the kernel keeps when the socket itself is gone: in TIME_WAIT, and mostly in FIN_WAIT2.
    pub remains: bool,
    /// The port at this end.
    pub port: u16,
    /// The address at this end.
    pub address: IpAddr,
    /// The address at the other end; of one that listens it says nothing.
    pub remote: IpAddr,
    /// The number of its inode, by which descriptors name it; 0: it belongs to no process (any more, or not yet).
    pub inode: u64,
    /// The user who made it.
    pub uid: u32,
    /// Its number since the boot, of which no other socket has the same; 0: it cannot be known.
    pub cookie: u64,
    /// Of one that listens: how many connections wait to be accepted.
    pub waiting: u32,
    /// Of one that listens: how many can; `None`: that cannot be known.
    pub capacity: Option<u32>,
    /// Of one that listens, where no others were asked for: how many connections it has dropped. A client that asks
    /// again is counted again. `None`: that cannot be known.
    pub drops: Option<u32>,
    /// What a map remembers of it, if that was asked for. `None`: it remembers nothing, or cannot be asked.
    pub memory: Option<Memory>,
}

/// What a map of the kind sk_storage remembers of a socket.
pub type Memory = [u8; 24];

/// The states of TCP, by the kernel's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// It is a connection.
    Established = 1,
    /// It has asked for one.
    SynSent = 2,
    /// It was asked for one, and has answered.
    SynRecv = 3,
    /// This end has closed it.
    FinWait1 = 4,
    /// This end has closed it, and the other has heard of that.
    FinWait2 = 5,
    /// It is over, and late packets are waited for.
    TimeWait = 6,
    /// It is none.
    Close = 7,
    /// The other end has closed it.
    CloseWait = 8,
    /// Both have closed it, the other end first.
    LastAck = 9,
    /// It waits for connections.
    Listen = 10,
    /// Both have closed it at the same time.
    Closing = 11,
}

impl State {
    /// All of them.
    pub const ALL: [Self; 11] = [
        Self::Established,
        Self::SynSent,
        Self::SynRecv,
        Self::FinWait1,
        Self::FinWait2,
        Self::TimeWait,
        Self::Close,
        Self::CloseWait,
        Self::LastAck,
        Self::Listen,
        Self::Closing,
    ];

    /// The kernel's word for it, in lower case.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Established => "established",
            Self::SynSent => "syn_sent",
            Self::SynRecv => "syn_recv",
            Self::FinWait1 => "fin_wait1",
            Self::FinWait2 => "fin_wait2",
            Self::TimeWait => "time_wait",
            Self::Close => "close",
            Self::CloseWait => "close_wait",
            Self::LastAck => "last_ack",
            Self::Listen => "listen",
            Self::Closing => "closing",
        }
    }

    /// The state with this number.
    pub(super) fn numbered(number: u8) -> Option<Self> {
        // A connection that is not one yet has a number of its own inside the kernel.
        const NEW_SYN_RECV: u8 = 12;
        let number = if number == NEW_SYN_RECV { Self::SynRecv as u8 } else { number };
        Self::ALL.into_iter().find(|state| *state as u8 == number)
    }
}

/// A set of states.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct States(u32);

impl States {
    /// Those that listen.
    pub const LISTEN: Self = Self(1 << State::Listen as u8);
    /// Those that are connections.
    pub const ESTABLISHED: Self = Self(1 << State::Established as u8);
    /// Those that listen or are connections.
    pub const OPEN: Self = Self(1 << State::Listen as u8 | 1 << State::Established as u8);
    /// All but those that listen.
    pub const OTHERS: Self = Self(0xffe & !(1 << State::Listen as u8));

    /// As the kernel takes them: a bit for each number.
    pub(super) fn bits(self) -> u32 {
        self.0
    }

    pub(super) fn has(self, state: State) -> bool {
        self.0 & 1 << state as u8 != 0
    }
}

/// Which sockets are wanted.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// In which states.
    pub states: States,
    /// Only those with one of these ports at this end; `None`: with any.
    pub ports: Option<&'a BTreeSet<u16>>,
}

impl Wanted<'_> {
    pub(super) fn has(&self, port: u16) -> bool {
        self.ports.is_none_or(|ports| ports.contains(&port))
    }
}

/// Whose sockets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Namespace {
    /// Those of the network namespace in which defib is.
    Own,
    /// Those of the namespace in which this process is.
    Of(u32),
}

impl Namespace {
    /// The number of its inode, which the kernel's events have too; `None` if it cannot be known.
    pub fn inode(self) -> Option<u32> {
        let file = match self {
            Self::Own => "/proc/self/ns/net".to_owned(),
            Self::Of(pid) => format!("/proc/{pid}/ns/net"),
        };
        u32::try_from(fs::metadata(file).ok()?.ino()).ok()
    }
}

/// Why there is no snapshot.
#[derive(Debug, thiserror::Error)]
pub enum NoSockets {
    /// There are too many.
    #[error("more than {MAX_SOCKETS} sockets")]
    TooMany,
    /// Neither way is open.
    #[error("read /proc/{process}/net/tcp")]
    Unreadable {
        /// The process whose view it is.
        process: String,
        /// The kernel's answer.
        #[source]
        cause: io::Error,
    },
}

/// A way to look into a network namespace several times: to enter one takes a thread.
pub struct Sight {
    /// A pid or `self`.
    process: String,
    /// `None`: sock_diag cannot be had.
    socket: Option<netlink_sys::Socket>,
}

impl std::fmt::Debug for Sight {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sight").field("process", &self.process).finish_non_exhaustive()
    }
}

impl Sight {
    /// Opens it. Where sock_diag cannot be had, `/proc` is.
    pub fn open(namespace: Namespace) -> Self {
        let process = match namespace {
            Namespace::Own => "self".to_owned(),
            Namespace::Of(pid) => pid.to_string(),
        };
        let opened = diag::open(namespace).map_err(|error| tell(&process, &error));
        Self { process, socket: opened.ok() }
    }

    /// As [`snapshot`].
    ///
    /// # Errors
    /// As [`snapshot`].
    pub fn snapshot<T: Default>(
        &self,
        wanted: Wanted<'_>,
        add: &mut impl FnMut(&mut T, Socket),
    ) -> Result<T, NoSockets> {
        self.remembered(wanted, None, add)
    }

    /// The same, with what a map of the kind sk_storage remembers of each socket, where the kernel tells (from 5.8 on, and
    /// only those who may use BPF).
    ///
    /// # Errors
    /// As [`snapshot`].
    pub fn remembered<T: Default>(
        &self,
        wanted: Wanted<'_>,
        map: Option<BorrowedFd<'_>>,
        add: &mut impl FnMut(&mut T, Socket),
    ) -> Result<T, NoSockets> {
        match self.socket.as_ref().map(|socket| diag::dump(socket, wanted, map, add)) {
            Some(Ok(found)) => return Ok(found),
            Some(Err(DiagError::TooMany)) => return Err(NoSockets::TooMany),
            Some(Err(DiagError::Refused(error))) if map.is_some() => {
                tracing::debug!(%error, "sockets are looked at without what is remembered of them");
                return self.remembered(wanted, None, add);
            }
            Some(Err(error)) => tell(&self.process, &error),
            None => {}
        }
        proc_net::read(&self.process, wanted, add)
    }
}

/// Why sock_diag is not used: once, unless it is so for one process only.
fn tell(process: &str, error: &DiagError) {
    static TOLD: Once = Once::new();
    match error {
        DiagError::Enter(_) => tracing::debug!(process, "ports are read from /proc: {error}"),
        _ => TOLD.call_once(|| tracing::warn!("no sock_diag, ports are read from /proc: {error}")),
    }
}

/// Folds the wanted sockets into a value. What has been folded is thrown away where the kernel says that the sockets
/// have changed meanwhile, and the look begins anew.
///
/// # Errors
/// If there are too many, or neither sock_diag nor `/proc` tells of them.
pub fn snapshot<T: Default>(
    namespace: Namespace,
    wanted: Wanted<'_>,
    mut add: impl FnMut(&mut T, Socket),
) -> Result<T, NoSockets> {
    Sight::open(namespace).snapshot(wanted, &mut add)
}
