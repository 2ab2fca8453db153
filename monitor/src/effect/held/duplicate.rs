//! The sockets that a process listens with, once more, by pidfd_getfd(2).

use std::collections::BTreeSet;
use std::os::fd::{AsFd, OwnedFd, RawFd};
use std::sync::Arc;

use defib_core::model::SocketSpec;
use rustix::net::sockopt;
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};

use super::share::Migration;
use crate::effect::descriptors::sockets_of;

/// The most descriptors of a process that are looked at.
const MOST: usize = 65_536;

/// The sockets of one port in one process.
#[derive(Clone, Debug)]
pub struct Duplicates {
    /// The process.
    pub pid: u32,
    /// Whether what waits in their queues moves on.
    pub migrates: bool,
    /// The numbers that the sockets have there.
    pub numbers: Vec<RawFd>,
    /// The pidfd, then the sockets.
    fds: Arc<Vec<OwnedFd>>,
}

impl PartialEq for Duplicates {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.fds, &other.fds)
    }
}

impl Eq for Duplicates {}

impl Duplicates {
    /// The pidfd of the process, then the sockets.
    pub fn into_fds(self) -> Vec<OwnedFd> {
        Arc::try_unwrap(self.fds).unwrap_or_default()
    }
}

/// Duplicates of those among `sockets`, by their inodes, that a process listens with and that another may share a port
/// with. `None`: there are none, or the process does not let itself be looked at.
pub fn duplicates(pid: u32, sockets: &BTreeSet<u64>, migration: Option<&Migration>) -> Option<Duplicates> {
    let pidfd = pidfd_open(Pid::from_raw(pid.cast_signed())?, PidfdFlags::empty()).ok()?;
    let (mut numbers, mut fds, mut migrates) = (Vec::new(), Vec::new(), true);
    let mut left = sockets.clone();
    for (number, inode) in sockets_of(pid, &mut { MOST }).into_iter().flatten().flatten() {
        // One that it has twice is one.
        if fds.len() == SocketSpec::MAX || !left.remove(&inode) {
            continue;
        }
        let Ok(socket) = pidfd_getfd(&pidfd, number, PidfdGetfdFlags::empty()) else { continue };
        // The number may be another's by now. And without the option no other socket can be bound beside it.
        let same = rustix::fs::fstat(&socket).is_ok_and(|stat| stat.st_ino == inode);
        let listens = sockopt::socket_acceptconn(&socket).unwrap_or(false);
        if same && listens && sockopt::socket_reuseport(&socket).unwrap_or(false) {
            migrates &= migration.is_some_and(|migration| migration.of(socket.as_fd()).is_ok());
            numbers.push(number);
            fds.push(socket);
        }
    }
    if fds.is_empty() {
        return None;
    }
    fds.insert(0, pidfd);
    Some(Duplicates { pid, migrates, numbers, fds: Arc::new(fds) })
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, SocketAddr, TcpListener};
    use std::os::fd::{AsRawFd, BorrowedFd};

    use rustix::net::{AddressFamily, SocketType};

    use super::*;

    #[test]
    fn only_what_others_can_share_is_taken() {
        let alone = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let shared = rustix::net::socket(AddressFamily::INET, SocketType::STREAM, None).unwrap();
        sockopt::set_socket_reuseport(&shared, true).unwrap();
        rustix::net::bind(&shared, &SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).unwrap();
        let inode = |fd: BorrowedFd<'_>| rustix::fs::fstat(fd).unwrap().st_ino;
        let both = BTreeSet::from([inode(alone.as_fd()), inode(shared.as_fd())]);
        assert_eq!(duplicates(std::process::id(), &both, None), None, "it does not listen yet");
        rustix::net::listen(&shared, 1).unwrap();
        let found = duplicates(std::process::id(), &both, None).unwrap();
        assert_eq!((found.numbers.as_slice(), found.migrates), (&[shared.as_raw_fd()][..], false));
        assert_eq!(found.into_fds().len(), 2);
    }
}
