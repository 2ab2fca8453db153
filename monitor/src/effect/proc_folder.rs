//! The folder of one process in `/proc`, held open: all that is read through it is of that process, though its pid be in
//! use again; and each file costs a step less than by its path.

use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use rustix::fs::{Mode, OFlags, openat, statat};

use super::proc_stat::{Stat, Units};

/// What is read at first. All but the lists of large groups are shorter.
const ROOM: usize = 4096;

/// More of one file is not read: by far more than the kernel writes.
const MOST: usize = 1 << 20;

/// Where files are read to, one after the other: 1,000 services have some 5,000 of them.
#[derive(Debug)]
pub(super) struct Scratch(Vec<u8>);

impl Scratch {
    pub(super) fn new() -> Self {
        Self(vec![0; ROOM])
    }

    /// Reads a file of the kernel's, of which no size is known, to its end.
    pub(super) fn read(&mut self, mut file: File) -> io::Result<&[u8]> {
        let mut filled = 0;
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
pub(super) struct ProcFolder {
    folder: OwnedFd,
    path: PathBuf,
}

impl ProcFolder {
    /// That of a process.
    pub(super) fn of(pid: u32) -> io::Result<Self> {
        Self::at(PathBuf::from(format!("/proc/{pid}")))
    }

    /// That of this process.
    pub(super) fn own() -> io::Result<Self> {
        Self::at(PathBuf::from("/proc/self"))
    }

    fn at(path: PathBuf) -> io::Result<Self> {
        let folder =
            rustix::fs::open(&path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        Ok(Self { folder, path })
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

    /// How many files it has open; `None` if it does not let that be read.
    pub(super) fn open_files(&self) -> Option<u64> {
        let folder = statat(&self.folder, "fd", rustix::fs::AtFlags::empty()).ok()?;
        match u64::try_from(folder.st_size).ok()? {
            // Since Linux 6.2 the size of the folder is the number of its entries; before, it is 0.
            0 => fs::read_dir(self.path.join("fd")).ok()?.count().try_into().ok(),
            open => Some(open),
        }
    }

    /// How many it may have open; `None` if it does not let that be read.
    pub(super) fn file_limit(&self, scratch: &mut Scratch) -> Option<FileLimit> {
        file_limit(str::from_utf8(self.read("limits", scratch).ok()?).ok()?)
    }

    /// How many files this process has open.
    pub(super) fn own_open_files() -> Option<u64> {
        match fs::metadata("/proc/self/fd").ok()?.len() {
            // The folder that is looked through is open, too.
            0 => u64::try_from(fs::read_dir("/proc/self/fd").ok()?.count()).ok()?.checked_sub(1),
            open => Some(open),
        }
    }

    fn read<'a>(&self, name: &str, scratch: &'a mut Scratch) -> io::Result<&'a [u8]> {
        let file = openat(&self.folder, name, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?;
        scratch.read(File::from(file))
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
        let open = own.open_files().unwrap();
        assert!(open > 2);
        match own.file_limit(&mut scratch).unwrap() {
            FileLimit::At(most) => assert!(most >= open),
            FileLimit::None => {}
        }
        assert_eq!(ProcFolder::of(u32::MAX).map(drop).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
