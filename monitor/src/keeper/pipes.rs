//! The pipes that carry the output of a service, held for its next life and for the next daemon.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use super::protocol::followed_at;

/// How much a pipe takes while there is no daemon that reads it.
const LARGE: usize = 1 << 20;

/// Says that a life has been begun by a standing order.
pub(super) fn say_followed(ledger: &OwnedFd, slot: u32, incarnation: u64) {
    // If it cannot be said, the first lines of that life may be taken for the last of the one before.
    rustix::io::pwrite(ledger, &incarnation.to_ne_bytes(), followed_at(u64::from(slot))).ok();
}

/// What the daemon has made for one service: for each stream the service's end, the daemon's end, and the spool into
/// which the daemon moves what it has not written to a file yet. The keeper reads none of them.
#[derive(Debug)]
pub(super) struct Pipes {
    services: Vec<OwnedFd>,
    daemons: Vec<OwnedFd>,
}

impl Pipes {
    /// Sorts the descriptors of an order. `None` if they are not what it says.
    pub(super) fn new(streams: u8, mut fds: Vec<OwnedFd>) -> Option<Self> {
        let streams = usize::from(streams);
        if !(1..=2).contains(&streams) || fds.len() != 3 * streams {
            return None;
        }
        let daemons = fds.split_off(streams);
        Some(Self { services: fds, daemons })
    }

    /// How many streams there are.
    pub(super) fn streams(&self) -> u8 {
        self.services.len() as u8
    }

    /// Where standard output and standard error of a life go.
    pub(super) fn of_service(&self) -> [BorrowedFd<'_>; 2] {
        // There is at least one; a second one is standard error's.
        [0, self.services.len() - 1].map(|index| self.services[index].as_fd())
    }

    /// How much has been written into each stream so far: what is in its spool, which never becomes shorter, and what is
    /// still in the pipe. Where a life is followed at once, this is where its output ends.
    pub(super) fn written(&self) -> [u64; 2] {
        let (pipes, spools) = self.daemons.split_at(self.services.len());
        let length = |spool: &OwnedFd| rustix::fs::fstat(spool).map_or(0, |stat| stat.st_size.unsigned_abs());
        let mut written = [0; 2];
        for ((pipe, spool), written) in pipes.iter().zip(spools).zip(&mut written) {
            // The daemon may be moving it: the kernel answers for a pipe when that is done.
            for _ in 0..3 {
                let before = length(spool);
                *written = before + rustix::io::ioctl_fionread(pipe).unwrap_or(0);
                if length(spool) == before {
                    break;
                }
            }
        }
        written
    }

    /// Gives them room for what comes while nobody reads.
    pub(super) fn grow(&self) {
        for pipe in &self.services {
            // Who may not (pipe-user-pages-soft) has what there is.
            if rustix::pipe::fcntl_getpipe_size(pipe).is_ok_and(|size| size < LARGE) {
                rustix::pipe::fcntl_setpipe_size(pipe, LARGE).ok();
            }
        }
    }

    /// All of them, as they came.
    pub(super) fn all(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.services.iter().chain(&self.daemons).map(AsFd::as_fd)
    }

    /// What the next daemon gets.
    pub(super) fn of_daemon(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.daemons.iter().map(AsFd::as_fd)
    }
}
