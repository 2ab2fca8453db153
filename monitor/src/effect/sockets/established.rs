//! The connections of ports, by what tells their sockets apart: from sock_diag(7) and from nowhere else, because the probes
//! know the same numbers.

use std::collections::BTreeSet;

use super::diag::{self, DiagError};
use super::snapshot::{Namespace, Socket, States, Wanted};

/// A view into one network namespace, wherever it is used.
pub struct Connections(netlink_sys::Socket);

impl std::fmt::Debug for Connections {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Connections")
    }
}

impl Connections {
    /// Opens it.
    ///
    /// # Errors
    /// If the namespace cannot be entered, or there is no sock_diag.
    pub fn open(namespace: Namespace) -> Result<Self, DiagError> {
        diag::open(namespace).map(Self)
    }

    /// The ESTABLISHED connections with one of these ports at this end: port and cookie. Some may come twice.
    ///
    /// # Errors
    /// If there are too many, or the kernel does not answer.
    pub fn of(&self, ports: &BTreeSet<u16>) -> Result<Vec<(u16, u64)>, DiagError> {
        let wanted = Wanted { states: States::ESTABLISHED, ports: Some(ports) };
        let mut add = |list: &mut Vec<_>, socket: Socket| list.push((socket.port, socket.cookie));
        diag::dump(&self.0, wanted, None, &mut add)
    }
}
