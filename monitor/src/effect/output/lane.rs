//! The pipe through which a busy stream goes straight into its file.
//!
//! A spool costs two copies: into the memfd and out of it. The lane costs none: splice(2) from pipe to pipe moves pages,
//! and only the one from the lane into the file copies. Straight from a service's pipe into a file would be one call
//! less, but holds the mutex of that pipe while it waits for the disk, and the service with it.
//!
//! The keeper holds the lane too. Neither splice can be interrupted half-way by a kill, so what a daemon leaves in it is in
//! no file; the ledger says whose it is. Both ends are one descriptor.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

use rustix::io::Errno;
use rustix::pipe::{PipeFlags, SpliceFlags};

use super::ledger::Ledger;

/// How much fits into it: as much as into the pipe of a busy service.
pub(super) const SIZE: usize = 1 << 20;

/// The pipe, and another to look into it.
#[derive(Debug)]
pub(super) struct Lane {
    pipe: OwnedFd,
    glass: Option<OwnedFd>,
    /// Whose bytes the ledger says are in it.
    of: Option<u64>,
}

/// A new one, for the keeper to hold.
///
/// # Errors
/// If the process is out of file descriptors, or the kernel out of memory.
pub(super) fn make() -> io::Result<OwnedFd> {
    let (read, _write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    // Who may not gets a small one, which works.
    rustix::pipe::fcntl_setpipe_size(&read, SIZE).ok();
    let path = format!("/proc/self/fd/{}", read.as_fd().as_raw_fd());
    let flags = libc::O_CLOEXEC | libc::O_NONBLOCK;
    Ok(File::options().read(true).write(true).custom_flags(flags).open(path)?.into())
}

impl Lane {
    pub(super) fn new(pipe: OwnedFd) -> Self {
        Self { pipe, glass: None, of: None }
    }

    /// How many bytes are in it.
    pub(super) fn len(&self) -> usize {
        let len = rustix::io::ioctl_fionread(&self.pipe).unwrap_or_default();
        usize::try_from(len).unwrap_or(usize::MAX)
    }

    /// From here on it takes the bytes of this stream. To be called while it is empty.
    pub(super) fn belong_to(&mut self, index: u64, ledger: &Ledger) {
        if self.of != Some(index) {
            ledger.set_lane(index);
            self.of = Some(index);
        }
    }

    /// Takes what is in a pipe, at most as much as fits. Waits for nothing.
    pub(super) fn fill(&self, from: &OwnedFd) -> Result<usize, Errno> {
        rustix::pipe::splice(from, None, &self.pipe, None, SIZE, SpliceFlags::NONBLOCK)
    }

    /// Moves so many bytes to a place in a file; how many it were.
    pub(super) fn pour(&self, file: &File, mut offset: u64, count: usize) -> io::Result<usize> {
        Ok(rustix::pipe::splice(&self.pipe, None, file, Some(&mut offset), count, SpliceFlags::empty())?)
    }

    /// The next so many bytes, or fewer, which stay where they are.
    pub(super) fn peek(&mut self, count: usize) -> io::Result<Vec<u8>> {
        let glass = match &mut self.glass {
            Some(glass) => glass,
            none => none.insert(make()?),
        };
        let shown = rustix::pipe::tee(&self.pipe, &*glass, count, SpliceFlags::NONBLOCK)?;
        let mut bytes = vec![0; shown];
        let mut filled = 0;
        while filled < shown {
            match rustix::io::read(&*glass, &mut bytes[filled..])? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                read => filled += read,
            }
        }
        Ok(bytes)
    }

    /// Forgets so many bytes.
    pub(super) fn discard(&self, count: usize) {
        let mut scratch = vec![0; count.min(64 * 1024)];
        let mut left = count;
        while left > 0 {
            let most = left.min(scratch.len());
            match rustix::io::read(&self.pipe, &mut scratch[..most]) {
                Ok(0) | Err(_) => return,
                Ok(read) => left -= read,
            }
        }
    }
}

/// Whether a file can be at the end of a lane. An empty lane cannot be poured: EAGAIN says that it could.
pub(super) fn leads_to(file: &File) -> bool {
    let Ok(empty) = make() else { return false };
    let poured = rustix::pipe::splice(&empty, None, file, Some(&mut 0), 1, SpliceFlags::NONBLOCK);
    poured == Err(Errno::AGAIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_looked_at_moved_and_forgotten() {
        let mut file = tempfile::tempfile().unwrap();
        assert!(leads_to(&file));
        let (service, mut lane) = (make().unwrap(), Lane::new(make().unwrap()));
        assert_eq!(lane.fill(&service), Err(Errno::AGAIN));
        rustix::io::write(&service, b"one two three").unwrap();
        assert_eq!((lane.fill(&service), lane.len()), (Ok(13), 13));
        assert_eq!(lane.peek(7).unwrap(), b"one two");
        assert_eq!(lane.pour(&file, 0, 4).unwrap(), 4);
        assert_eq!(lane.peek(100).unwrap(), b"two three");
        lane.discard(4);
        assert_eq!((lane.pour(&file, 4, 100).unwrap(), lane.len()), (5, 0));
        let mut text = String::new();
        io::Read::read_to_string(&mut file, &mut text).unwrap();
        assert_eq!(text, "one three");
    }

    #[test]
    fn a_file_that_is_only_added_to_is_no_end_of_a_lane() {
        let folder = tempfile::tempdir().unwrap();
        let file = File::options().append(true).create(true).open(folder.path().join("a")).unwrap();
        assert!(!leads_to(&file));
    }
}
