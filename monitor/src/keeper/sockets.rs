//! The sockets that are held for a service, from one life to the next and from one daemon to the next.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::window::MAX_PASSED;

/// What the daemon has opened for one service. The keeper passes them on and never looks into them.
#[derive(Debug)]
pub(super) struct Sockets {
    /// What the daemon calls them: opaque here.
    label: Vec<u8>,
    /// In the order in which they are passed.
    fds: Vec<OwnedFd>,
}

impl Sockets {
    /// Takes those of an order. `None` closes what was held before.
    pub(super) fn new(label: Vec<u8>, mut fds: Vec<OwnedFd>) -> Option<Self> {
        fds.truncate(MAX_PASSED);
        (!fds.is_empty()).then_some(Self { label, fds })
    }

    /// What is passed.
    pub(super) fn fds(&self) -> &[OwnedFd] {
        &self.fds
    }

    /// What the next daemon gets.
    pub(super) fn of_daemon(&self) -> (Vec<u8>, Vec<BorrowedFd<'_>>) {
        (self.label.clone(), self.fds.iter().map(AsFd::as_fd).collect())
    }
}
