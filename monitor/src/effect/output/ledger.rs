//! How much of each spool is in which file: in memory that the keeper holds, so that a daemon that is killed between any
//! two system calls leaves behind what the next one needs to write every byte exactly once.
//!
//! An entry says: the byte of the spool at `pos` is, or will be, the byte of that file at `offset`. It is written before
//! the first byte that it is about, and the length of the file says the rest. So it is with what goes by the lane and not
//! into the spool; the entry says that, and the pipe tells whether it still holds what is in the file (see `lane`).
//!
//! Entries are found by the slots of the keeper. The next keeper's slots may be others: each entry names its spool.
//!
//! The keeper writes one word of its own: which life of a slot it has begun by itself. So whoever reads a pipe knows that
//! the daemon is about to be told where in it a life ends.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;

use rustix::fs::MemfdFlags;

use super::folder::Folder;
use crate::keeper::protocol::followed_at;

/// Entries have room to grow.
const ENTRY: u64 = 64;

/// Where an entry keeps how much of the spool has been given back to the kernel.
const FREED: u64 = 32;

/// The keeper's word lies in the entry of a slot's first stream, behind what is written there.
const _: () = assert!(followed_at(1) == 2 * ENTRY + FREED + 8);

/// Where an entry keeps whose it is, behind the keeper's word: the number of the spool's inode.
const SPOOL: u64 = FREED + 16;

/// In the place of an entry: the bytes go by the lane.
const LANE: u64 = 1 << 63;

/// The whole ledger: two entries for each slot of the keeper.
#[derive(Debug)]
pub(super) struct Ledger(OwnedFd);

/// What is known of one stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) pos: u64,
    /// The file by device and inode; zeroes: none.
    pub(super) file: FileId,
    pub(super) offset: u64,
    /// Before this, the spool holds nothing any more.
    pub(super) freed: u64,
    /// Whether what follows `pos` goes by the lane.
    pub(super) lane: bool,
}

/// A file, whatever its name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct FileId {
    pub(super) device: u64,
    pub(super) inode: u64,
}

/// A new one. Its pages are allocated as they are written. With a folder it has a name, and begins with what the one of
/// that name says of these spools, which are now at these places.
///
/// # Errors
/// If the process is out of file descriptors, the kernel out of memory, or the folder cannot be written.
pub(super) fn make(folder: Option<&Folder>, spools: &[(u64, u64)]) -> io::Result<OwnedFd> {
    let Some(folder) = folder else {
        return Ok(rustix::fs::memfd_create("defib-logs", MemfdFlags::CLOEXEC)?);
    };
    let [path, draft] = folder.ledger();
    let mut old = BTreeMap::new();
    match fs::read(&path) {
        Ok(bytes) => {
            for entry in bytes.chunks(ENTRY as usize) {
                let spool = entry[(SPOOL as usize).min(entry.len())..]
                    .first_chunk()
                    .map(|word| u64::from_ne_bytes(*word));
                old.extend(
                    spool.filter(|spool| *spool != 0).zip(Some(entry[..FREED as usize + 8].to_owned())),
                );
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let mut options = File::options();
    options.read(true).write(true).create(true).truncate(true).mode(0o600).custom_flags(libc::O_NOFOLLOW);
    let made = Ledger::new(options.open(&draft)?.into());
    for (index, spool) in spools {
        if let Some(entry) = old.get(spool) {
            made.write(entry, index * ENTRY);
        }
        made.write(&spool.to_ne_bytes(), index * ENTRY + SPOOL);
    }
    // In one step: whoever is killed before it leaves the old one in force.
    fs::rename(draft, path)?;
    Ok(made.0)
}

impl Ledger {
    /// The latest life that the keeper has begun by itself in the slot that a stream is of.
    pub(super) fn followed(&self, index: u64) -> u64 {
        let mut word = [0; 8];
        rustix::io::pread(&self.0, &mut word, followed_at(index / 2)).ok();
        u64::from_ne_bytes(word)
    }

    pub(super) fn new(fd: OwnedFd) -> Self {
        Self(fd)
    }

    /// An entry; all zeroes if it has never been written.
    pub(super) fn entry(&self, index: u64) -> Entry {
        let mut words = [[0; 8]; 5];
        // What cannot be read has not been written.
        rustix::io::pread(&self.0, words.as_flattened_mut(), index * ENTRY).ok();
        let [pos, device, inode, offset, freed] = words.map(u64::from_ne_bytes);
        Entry { pos: pos & !LANE, file: FileId { device, inode }, offset, freed, lane: pos & LANE != 0 }
    }

    /// Says where the bytes from `pos` on are going.
    pub(super) fn set(&self, index: u64, pos: u64, file: FileId, offset: u64) {
        self.set_place(index, pos, file, offset);
    }

    /// Says where the bytes from `pos` on are going by the lane.
    pub(super) fn set_lane(&self, index: u64, pos: u64, file: FileId, offset: u64) {
        self.set_place(index, pos | LANE, file, offset);
    }

    fn set_place(&self, index: u64, pos: u64, file: FileId, offset: u64) {
        let words = [pos, file.device, file.inode, offset].map(u64::to_ne_bytes);
        self.write(words.as_flattened(), index * ENTRY);
    }

    /// Says that everything before `pos` is gone from the spool.
    pub(super) fn set_freed(&self, index: u64, pos: u64) {
        self.write(&pos.to_ne_bytes(), index * ENTRY + FREED);
    }

    /// An entry is this spool's from here on. One that was another's is forgotten: nothing of this one is written yet, or
    /// the daemon that gave it to the keeper was killed before it came to read it.
    pub(super) fn begin(&self, index: u64, spool: u64) {
        let mut word = [0; 8];
        rustix::io::pread(&self.0, &mut word, index * ENTRY + SPOOL).ok();
        if u64::from_ne_bytes(word) == spool {
            return;
        }
        self.write(&[0; 8], index * ENTRY + SPOOL);
        self.write(&[0; FREED as usize + 8], index * ENTRY);
        self.write(&spool.to_ne_bytes(), index * ENTRY + SPOOL);
    }

    fn write(&self, bytes: &[u8], at: u64) {
        if let Err(error) = rustix::io::pwrite(&self.0, bytes, at) {
            tracing::error!(%error, "the ledger of the logs cannot be written: a crash of defib may double output");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_are_apart_and_read_as_written() {
        let ledger = Ledger::new(make(None, &[]).unwrap());
        assert_eq!(ledger.entry(7), Entry::default());
        let file = FileId { device: 1, inode: 2 };
        ledger.set(7, 10, file, 20);
        ledger.set_freed(7, 5);
        ledger.set_lane(8, 1, file, 1);
        assert_eq!(ledger.entry(7), Entry { pos: 10, file, offset: 20, freed: 5, lane: false });
        ledger.begin(7, 3);
        assert_eq!((ledger.entry(7), ledger.entry(8).pos), (Entry::default(), 1));
        ledger.set(7, 10, file, 20);
        ledger.begin(7, 3);
        assert_eq!(ledger.entry(7).pos, 10, "it is that spool's already");
        assert!(ledger.entry(8).lane);
    }

    #[test]
    fn the_next_keepers_slots_may_be_others() {
        let runtime = tempfile::tempdir().unwrap();
        let folder = Folder::open(runtime.path(), None).unwrap();
        let ledger = Ledger::new(make(Some(&folder), &[]).unwrap());
        let file = FileId { device: 1, inode: 2 };
        for (index, spool) in [(4, 40), (6, 60)] {
            ledger.begin(index, spool);
            ledger.set_lane(index, index, file, 20);
            ledger.set_freed(index, 5);
        }
        let ledger = Ledger::new(make(Some(&folder), &[(0, 60), (1, 70), (9, 40)]).unwrap());
        let entry = |pos| Entry { pos, file, offset: 20, freed: 5, lane: true };
        assert_eq!([0, 1, 9].map(|at| ledger.entry(at)), [entry(6), Entry::default(), entry(4)]);
        folder.clear_away();
    }
}
