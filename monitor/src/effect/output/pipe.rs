//! A pipe and a spool for each stream of a service.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

use defib_core::model::LogStreams;
use rustix::fs::{Gid, MemfdFlags, Uid};
use rustix::pipe::PipeFlags;

/// The daemon's side of one stream.
#[derive(Debug)]
pub struct Inlet {
    /// Read without waiting.
    pub pipe: OwnedFd,
    /// Holds what has been read and is not in a file yet: it outlives this daemon, and disks do not hold it up.
    pub spool: OwnedFd,
}

/// The pipes of one service.
#[derive(Debug)]
pub struct Pipes {
    /// What they are for.
    pub plumbing: Plumbing,
    /// The service's ends: standard output, and standard error if that is apart.
    pub service: Vec<OwnedFd>,
    /// The daemon's.
    pub daemon: Vec<Inlet>,
}

/// What decides whether pipes still fit a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Plumbing {
    /// One stream or two.
    pub streams: LogStreams,
    /// To whom they belong: only their owner may open /dev/stdout anew.
    pub owner: u32,
}

impl Plumbing {
    /// How many streams there are.
    pub fn count(self) -> u8 {
        match self.streams {
            LogStreams::Joined => 1,
            LogStreams::Apart => 2,
        }
    }

    /// That of pipes that an earlier daemon has made.
    ///
    /// # Errors
    /// If a pipe cannot be looked at.
    pub fn of(inlets: &[Inlet]) -> io::Result<Self> {
        let streams = if inlets.len() == 1 { LogStreams::Joined } else { LogStreams::Apart };
        let first = inlets.first().ok_or(io::ErrorKind::InvalidInput)?;
        Ok(Self { streams, owner: rustix::fs::fstat(&first.pipe)?.st_uid })
    }
}

/// Makes pipes. They have the kernel's own size (64 KiB): that takes 1.5 KiB of kernel memory, a pipe of 1 MiB 15.6 KiB
/// even when it is empty, on top of what a process costs anyway. The reader's thread makes a busy pipe larger, and small
/// again.
///
/// # Errors
/// If the process is out of file descriptors, or the kernel out of memory.
pub fn make(plumbing: Plumbing, group: u32) -> io::Result<Pipes> {
    let (mut service, mut daemon) = (Vec::new(), Vec::new());
    for _ in 0..plumbing.count() {
        let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
        let flags = rustix::fs::fcntl_getfl(&read)?;
        rustix::fs::fcntl_setfl(&read, flags | rustix::fs::OFlags::NONBLOCK)?;
        if rustix::fs::fstat(&read)?.st_uid != plumbing.owner {
            let (owner, group) = (Uid::from_raw(plumbing.owner), Gid::from_raw(group));
            rustix::fs::fchown(&write, Some(owner), Some(group))?;
        }
        // Whoever holds both ends gets no SIGPIPE and sees no end, whoever else dies.
        let path = format!("/proc/self/fd/{}", write.as_fd().as_raw_fd());
        let both = File::options().read(true).write(true).custom_flags(libc::O_CLOEXEC).open(path)?;
        service.push(both.into());
        daemon
            .push(Inlet { pipe: read, spool: rustix::fs::memfd_create("defib-spool", MemfdFlags::CLOEXEC)? });
    }
    Ok(Pipes { plumbing, service, daemon })
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn a_pipe_has_no_end_and_no_broken_one() {
        let owner = rustix::process::geteuid().as_raw();
        let mut pipes = make(Plumbing { streams: LogStreams::Apart, owner }, 0).unwrap();
        assert_eq!((pipes.service.len(), pipes.daemon.len()), (2, 2));
        let mut service = File::from(pipes.service.remove(1));
        service.write_all(b"one").unwrap();
        let Inlet { pipe, spool: _ } = pipes.daemon.remove(1);
        let mut bytes = [0; 8];
        assert_eq!(rustix::io::read(&pipe, &mut bytes), Ok(3));
        assert_eq!(rustix::io::read(&pipe, &mut bytes), Err(rustix::io::Errno::AGAIN));
        drop(pipe);
        service.write_all(b"two").unwrap();
    }
}
