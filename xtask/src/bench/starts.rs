//! The file to which a victim appends a record at every start, and which is read as it grows.
//!
//! A file needs no memory shared with a process that is about to be killed, and since a record is appended in one
//! write, the file's size says that it is whole. It also shows a start that nobody asked for.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use rustix::process::Pid;

/// One start of a victim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Start {
    /// When its first instruction ran, in nanoseconds of `CLOCK_MONOTONIC`.
    pub(super) stamp: u64,
    pub(super) pid: Pid,
}

/// The starts of one victim, from the first on.
#[derive(Debug)]
pub(super) struct Starts {
    file: File,
    path: PathBuf,
}

impl Starts {
    /// Makes the file. A victim does not: one that is given a wrong path must fail.
    pub(super) fn create(path: PathBuf) -> Result<Self> {
        let open = || File::options().read(true).append(true).create_new(true).open(&path);
        let file = open().with_context(|| format!("cannot create {}", path.display()))?;
        Ok(Self { file, path })
    }

    /// What the victim takes as its argument.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The next start, if it has come.
    pub(super) fn next(&mut self) -> Result<Option<Start>> {
        let mut record = [[0; 8]; 2];
        let read = self.file.read(record.as_flattened_mut());
        match read.with_context(|| format!("cannot read {}", self.path.display()))? {
            0 => Ok(None),
            16 => Start::decode(record).map(Some),
            size => bail!("{}: a record of {size} bytes", self.path.display()),
        }
    }
}

impl Start {
    fn decode(record: [[u8; 8]; 2]) -> Result<Self> {
        let [stamp, pid] = record.map(u64::from_ne_bytes);
        let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).context("a record without a pid")?;
        Ok(Self { stamp, pid })
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn records_are_read_as_they_come() {
        let folder = tempfile::tempdir().unwrap();
        let mut starts = Starts::create(folder.path().join("starts")).unwrap();
        assert_eq!(starts.next().unwrap(), None);

        let mut victim = File::options().append(true).open(starts.path()).unwrap();
        for (stamp, pid) in [(7_u64, 41_u64), (1 << 40, 42)] {
            victim.write_all(&[stamp.to_ne_bytes(), pid.to_ne_bytes()].concat()).unwrap();
        }
        assert_eq!(starts.next().unwrap(), Some(Start { stamp: 7, pid: Pid::from_raw(41).unwrap() }));
        assert_eq!(starts.next().unwrap(), Some(Start { stamp: 1 << 40, pid: Pid::from_raw(42).unwrap() }));
        assert_eq!(starts.next().unwrap(), None);
    }

    #[test]
    fn a_torn_record_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let mut starts = Starts::create(folder.path().join("starts")).unwrap();
        File::options().append(true).open(starts.path()).unwrap().write_all(&[0; 5]).unwrap();
        assert!(starts.next().is_err());
    }
}
