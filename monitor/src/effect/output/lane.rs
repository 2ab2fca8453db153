//! The way of a busy stream: straight into its file.
//!
//! A spool costs two copies: into memory and out of it. The lane costs one: tee(2) shows the pages of the service's pipe to
//! a pipe of our own, splice(2) copies them from there into the file. Straight from a service's pipe into a file would be
//! one call less, but holds the mutex of that pipe while it waits for the disk, and the service with it.
//!
//! The bytes stay in the service's pipe until they are in the file: then they are read, and forgotten. Whoever dies
//! meanwhile loses nothing. Whether they have been read is the one thing that the next daemon must know, and the pipe
//! tells: before bytes go into the file its access time is set to [`MARK`], and read(2) sets another, in the same system
//! call that takes all of the bytes or none (pipe_read of fs/pipe.c looks for signals only when the pipe is empty). tee(2)
//! and splice(2) leave that time alone. A pipe without a name has no times (Linux 6.15): its stream goes by its spool.

use std::fmt;
use std::fs::File;
use std::io::{self, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;

use rustix::fs::{Timespec, Timestamps, UTIME_OMIT};
use rustix::io::Errno;
use rustix::pipe::{PipeFlags, SpliceFlags};

/// What is moved at once. The reader's thread hears of progress in between.
pub(super) const STEP: usize = 256 * 1024;

/// The access time of a pipe from which nothing has been read since its bytes began to go into the file, in seconds.
const MARK: i64 = 1;

/// Where read bytes end: in whole pages, as the kernel copies into others at half the speed.
#[derive(Clone)]
#[repr(align(4096))]
struct Page([u8; 4096]);

/// How much fits into it, and into the pipe of a busy service.
pub(super) const SIZE: usize = 1 << 20;

/// The pipe, and another to look into it.
pub(super) struct Lane {
    pipe: OwnedFd,
    glass: Option<OwnedFd>,
    /// Where what has been dealt with is read to.
    pit: Vec<Page>,
}

impl fmt::Debug for Lane {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lane").field("pipe", &self.pipe).finish_non_exhaustive()
    }
}

/// A pipe. Both ends are one descriptor.
pub(super) fn make() -> io::Result<OwnedFd> {
    let (read, _write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
    // Who may not gets a small one, which works.
    rustix::pipe::fcntl_setpipe_size(&read, SIZE).ok();
    let path = format!("/proc/self/fd/{}", read.as_fd().as_raw_fd());
    let flags = libc::O_CLOEXEC | libc::O_NONBLOCK;
    Ok(File::options().read(true).write(true).custom_flags(flags).open(path)?.into())
}

impl Lane {
    pub(super) fn new() -> io::Result<Self> {
        Ok(Self { pipe: make()?, glass: None, pit: Vec::new() })
    }

    /// Shows it what is in a pipe, where it stays; how much it is. To be called while the lane is empty. Waits for nothing.
    pub(super) fn show(&self, from: &OwnedFd) -> usize {
        rustix::pipe::tee(from, &self.pipe, STEP, SpliceFlags::NONBLOCK).unwrap_or(0)
    }

    /// Takes so many bytes out of a pipe. They have been dealt with.
    pub(super) fn take(&mut self, from: &OwnedFd, count: usize) {
        self.pit.resize(STEP / size_of::<Page>(), Page([0; 4096]));
        let mut left = count;
        while left > 0 {
            let mut room = left;
            let mut parts: Vec<_> = Vec::with_capacity(self.pit.len());
            for page in &mut self.pit {
                let part = room.min(page.0.len());
                if part > 0 {
                    parts.push(IoSliceMut::new(&mut page.0[..part]));
                }
                room -= part;
            }
            match rustix::io::readv(from, &mut parts) {
                Ok(0) | Err(_) => return,
                Ok(read) => left -= read,
            }
        }
    }

    /// Gives back what is kept for speed only.
    pub(super) fn rest(&mut self) {
        self.pit = Vec::new();
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

/// Says of a pipe that nothing is read from it from here on.
///
/// # Errors
/// If its times cannot be set: then its stream cannot go by the lane.
pub(super) fn mark(pipe: &OwnedFd) -> io::Result<()> {
    let last_access = Timespec { tv_sec: MARK, tv_nsec: 0 };
    let last_modification = Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT };
    Ok(rustix::fs::futimens(pipe, &Timestamps { last_access, last_modification })?)
}

/// Whether nothing has been read from a pipe since it was marked.
pub(super) fn is_marked(pipe: &OwnedFd) -> bool {
    rustix::fs::fstat(pipe).is_ok_and(|stat| {
        (i128::from(stat.st_atime), i128::from(stat.st_atime_nsec)) == (i128::from(MARK), 0)
    })
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
        let (service, mut lane) = (make().unwrap(), Lane::new().unwrap());
        assert_eq!(lane.show(&service), 0);
        rustix::io::write(&service, b"one two three").unwrap();
        assert_eq!(lane.show(&service), 13);
        assert_eq!(lane.peek(7).unwrap(), b"one two");
        assert_eq!(lane.pour(&file, 0, 4).unwrap(), 4);
        assert_eq!(lane.peek(100).unwrap(), b"two three");
        lane.discard(4);
        assert_eq!(lane.pour(&file, 4, 100).unwrap(), 5);
        let mut text = String::new();
        io::Read::read_to_string(&mut file, &mut text).unwrap();
        assert_eq!(text, "one three");
        assert_eq!(rustix::io::ioctl_fionread(&service), Ok(13), "still there");
        lane.take(&service, 10);
        assert_eq!(rustix::io::ioctl_fionread(&service), Ok(3));
    }

    #[test]
    fn a_pipe_with_a_name_tells_whether_it_has_been_read() {
        use super::super::folder::Folder;
        use super::super::pipe::{self, Plumbing};
        use defib_core::model::LogStreams;
        let runtime = tempfile::tempdir().unwrap();
        let folder = Folder::open(runtime.path(), None).unwrap();
        let owner = rustix::process::geteuid().as_raw();
        let plumbing = Plumbing { streams: LogStreams::Joined, owner };
        let pipes = pipe::make(plumbing, 0, Some((&folder, &"a".parse().unwrap()))).unwrap();
        let (service, pipe, mut lane) = (&pipes.service[0], &pipes.daemon[0].pipe, Lane::new().unwrap());
        for _ in 0..2 {
            rustix::io::write(service, &[b'x'; 100_000][..60_000]).unwrap();
            mark(pipe).unwrap();
            let shown = lane.show(pipe);
            rustix::io::write(service, b"more").unwrap();
            assert!(is_marked(pipe));
            lane.discard(shown);
            lane.take(pipe, shown);
            assert!(!is_marked(pipe));
            lane.take(pipe, 4);
        }
        folder.clear_away();
    }

    #[test]
    fn a_file_that_is_only_added_to_is_no_end_of_a_lane() {
        let folder = tempfile::tempdir().unwrap();
        let file = File::options().append(true).create(true).open(folder.path().join("a")).unwrap();
        assert!(!leads_to(&file));
    }
}
