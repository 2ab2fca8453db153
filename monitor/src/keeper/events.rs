//! What the keeper's epoll watches, and what its events are about.
//!
//! An event may be stale: about a process that has been reaped and followed by another since. Whoever handles one asks
//! the kernel again how things are, so a stale event is harmless.

use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::event::epoll;

/// What an epoll event is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Token {
    /// The daemon has orders, or there is room for reports.
    Daemon,
    /// A signal to the keeper.
    Signals,
    /// A main process has ended.
    Process(u32),
    /// A status pipe has an answer.
    Status(u32),
    /// A leaf may be empty.
    Leaf(u32),
    /// A port that is held has a connection.
    Port(u32),
}

impl Token {
    /// As the epoll keeps it.
    pub(super) fn data(self) -> epoll::EventData {
        let (kind, slot) = match self {
            Self::Daemon => (0, 0),
            Self::Signals => (1, 0),
            Self::Process(slot) => (2, slot),
            Self::Status(slot) => (3, slot),
            Self::Leaf(slot) => (4, slot),
            Self::Port(slot) => (5, slot),
        };
        epoll::EventData::new_u64(kind << 32 | u64::from(slot))
    }

    /// As the epoll gives it back.
    pub(super) fn of(data: epoll::EventData) -> Self {
        let (kind, slot) = (data.u64() >> 32, data.u64() as u32);
        match kind {
            0 => Self::Daemon,
            1 => Self::Signals,
            2 => Self::Process(slot),
            3 => Self::Status(slot),
            4 => Self::Leaf(slot),
            _ => Self::Port(slot),
        }
    }
}

/// Watches a descriptor until [`unwatch`].
pub(super) fn watch(epoll: &OwnedFd, fd: BorrowedFd<'_>, token: Token, flags: epoll::EventFlags) {
    if let Err(errno) = epoll::add(epoll, fd, token.data(), flags) {
        super::say(&format!("epoll refuses {token:?}: {errno}"));
    }
}

/// By hand, before the close: a child that has not executed yet holds a duplicate, by which the epoll would go on.
pub(super) fn unwatch(epoll: &OwnedFd, fd: BorrowedFd<'_>) {
    epoll::delete(epoll, fd).ok();
}
