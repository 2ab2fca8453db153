//! What a snapshot holds, and where it is taken.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
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
    /// The port at this end.
    pub port: u16,
    /// The address at this end.
    pub address: IpAddr,
    /// The number of its inode, by which descriptors name it; 0: it belongs to no process (any more, or not yet).
    pub inode: u64,
    /// The user who made it.
    pub uid: u32,
    /// Of one that listens: how many connections wait to be accepted.
    pub waiting: u32,
}

/// The states that a snapshot can hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It waits for connections.
    Listen,
    /// It is one.
    Established,
}

/// Which sockets are wanted.
#[derive(Clone, Copy, Debug)]
pub struct Wanted<'a> {
    /// Whether connections are, beside the sockets that listen.
    pub connections: bool,
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
    let process = match namespace {
        Namespace::Own => match diag::dump(wanted, &mut add) {
            Ok(found) => return Ok(found),
            Err(DiagError::TooMany) => return Err(NoSockets::TooMany),
            Err(error) => {
                static TOLD: Once = Once::new();
                TOLD.call_once(|| tracing::warn!("no sock_diag, ports are read from /proc: {error}"));
                "self".to_owned()
            }
        },
        Namespace::Of(pid) => pid.to_string(),
    };
    proc_net::read(&process, wanted, &mut add)
}
