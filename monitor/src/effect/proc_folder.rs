//! The folder of one process in `/proc`, held open: all that is read through it is of that process, though its pid be in
//! use again; and each file costs a step less than by its path.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::OwnedFd;

use rustix::fs::{Mode, OFlags, openat};

use super::proc_stat::{Stat, Units};

/// What is read at first. All but the lists of large groups are shorter.
const ROOM: usize = 4096;

/// More of one file is not read than the longest that the kernel writes: a list of all pids that there can be, 4,194,304 with
/// seven digits each (`PID_MAX_LIMIT`).
const MOST: usize = 8 << 22;

/// Where files are read to, one after the other: 1,000 services have some 5,000 of them.
#[derive(Debug)]
pub(super) struct Scratch(Vec<u8>);

impl Scratch {
    pub(super) fn new() -> Self {
        Self(vec![0; ROOM])
    }

    /// Reads a file that the kernel writes in one piece, as it does where there is only one thing to tell: what one read
    /// does not fill the room with is all of it, and nobody has to ask whether there is more.
    pub(super) fn read_piece(&mut self, mut file: File) -> io::Result<&[u8]> {
        match file.read(&mut self.0) {
            Ok(length) if length < self.0.len() => Ok(&self.0[..length]),
            Ok(length) => self.read_on(file, length),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => self.read(file),
            Err(error) => Err(error),
        }
    }

    /// Reads a file of the kernel's, of which no size is known, to its end.
    pub(super) fn read(&mut self, file: File) -> io::Result<&[u8]> {
        self.read_on(file, 0)
    }

    fn read_on(&mut self, mut file: File, mut filled: usize) -> io::Result<&[u8]> {
        loop {
            if filled == self.0.len() {
                if filled >= MOST {
                    return Err(io::Error::from(io::ErrorKind::FileTooLarge));
                }
                self.0.resize(2 * filled, 0);
            }
            match file.read(&mut self.0[filled..]) {
                Ok(0) => return Ok(&self.0[..filled]),
                Ok(length) => filled += length,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// How many files a process may have open: its soft limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FileLimit {
    /// So many.
    At(u64),
    /// As many as it likes.
    None,
}

impl FileLimit {
    /// The number, if there is one.
    pub(super) fn number(self) -> Option<u64> {
        match self {
            Self::At(most) => Some(most),
            Self::None => None,
        }
    }
}

/// Bytes from and to storage, as proc_pid_io(5) counts them: of processes that there are, with the children that they
/// have waited for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Io {
    /// Read.
    pub read: u64,
    /// Written, or to be written.
    pub written: u64,
}

impl std::ops::AddAssign for Io {
    fn add_assign(&mut self, other: Self) {
        self.read = self.read.saturating_add(other.read);
        self.written = self.written.saturating_add(other.written);
    }
}

/// The folder.
#[derive(Debug)]
pub(super) struct ProcFolder(OwnedFd);

impl ProcFolder {
    /// That of a process.
    pub(super) fn of(pid: u32) -> io::Result<Self> {
        Self::at(&format!("/proc/{pid}"))
    }

    /// That of this process.
    pub(super) fn own() -> io::Result<Self> {
        Self::at("/proc/self")
    }

    fn at(path: &str) -> io::Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self(rustix::fs::open(path, flags, Mode::empty())?))
    }

    /// Its `stat`; `None` if it is gone.
    pub(super) fn stat(&self, units: Units, scratch: &mut Scratch) -> Option<Stat> {
        Stat::parse(self.read("stat", scratch).ok()?, units)
    }

    /// Its `io`; `None` if it does not let that be read.
    pub(super) fn io(&self, scratch: &mut Scratch) -> Option<Io> {
        let text = str::from_utf8(self.read("io", scratch).ok()?).ok()?;
        let bytes = |key: &str| text.lines().find_map(|line| line.strip_prefix(key))?.parse().ok();
        Some(Io { read: bytes("read_bytes: ")?, written: bytes("write_bytes: ")? })
    }

    /// How many it may have open; `None` if it does not let that be read.
    pub(super) fn file_limit(&self, scratch: &mut Scratch) -> Option<FileLimit> {
        file_limit(str::from_utf8(self.read("limits", scratch).ok()?).ok()?)
    }

    fn read<'a>(&self, name: &str, scratch: &'a mut Scratch) -> io::Result<&'a [u8]> {
        let file = openat(&self.0, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        scratch.read_piece(File::from(file))
    }
}

/// How many files a process has open; `None` if it does not let that be read.
pub(super) fn open_files(pid: u32) -> Option<u64> {
    let folder = format!("/proc/{pid}/fd");
    match fs::metadata(&folder).ok()?.len() {
        // Since Linux 6.2 the size of the folder is the number of its entries; before, it is 0.
        0 => {
            // Of this process the folder that is looked through is open, too.
            let own = u64::from(pid == std::process::id());
            u64::try_from(fs::read_dir(folder).ok()?.count()).ok()?.checked_sub(own)
        }
        open => Some(open),
    }
}

fn file_limit(limits: &str) -> Option<FileLimit> {
    let soft = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    match soft.split_whitespace().next()? {
        "unlimited" => Some(FileLimit::None),
        number => number.parse().ok().map(FileLimit::At),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_longer_than_the_room_for_it_is_read_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("long");
        let mut scratch = Scratch::new();
        for length in [0, 1, ROOM - 1, ROOM, ROOM + 1, 5 * ROOM] {
            let text = "x".repeat(length);
            fs::write(&path, &text).unwrap();
            assert_eq!(scratch.read(File::open(&path).unwrap()).unwrap(), text.as_bytes(), "{length}");
        }
        fs::write(&path, vec![0; MOST + 1]).unwrap();
        assert!(scratch.read(File::open(&path).unwrap()).is_err(), "no end to it");
    }

    #[test]
    fn the_limit_of_files_is_the_soft_one() {
        let limits = "Limit                     Soft Limit           Hard Limit           Units\n\
                      Max open files            1024                 524288               files\n";
        assert_eq!(file_limit(limits), Some(FileLimit::At(1024)));
        assert_eq!(file_limit(&limits.replace("1024", "unlimited")), Some(FileLimit::None));
        for cut in 0..limits.len() {
            // Whatever is cut off, nothing panics.
            file_limit(&limits[..cut]);
        }
    }

    #[test]
    fn this_process_has_files_open_and_may_have_more() {
        let (own, mut scratch) = (ProcFolder::own().unwrap(), Scratch::new());
        let open = open_files(std::process::id()).unwrap();
        assert!(open > 2);
        match own.file_limit(&mut scratch).unwrap() {
            FileLimit::At(most) => assert!(most >= open),
            FileLimit::None => {}
        }
        assert_eq!(ProcFolder::of(u32::MAX).map(drop).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
