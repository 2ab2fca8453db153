//! How much of each spool is in which file: in memory that the keeper holds, so that a daemon that is killed between any
//! two system calls leaves behind what the next one needs to write every byte exactly once.
//!
//! An entry says: the byte of the spool at `pos` is, or will be, the byte of that file at `offset`. It is written before
//! the first byte that it is about, and the length of the file says the rest. What goes by the lane is in no entry: the
//! ledger says only which stream it is of.
//!
//! The keeper writes one word of its own: which life of a slot it has begun by itself. So whoever reads a pipe knows that
//! the daemon is about to be told where in it a life ends.

use std::io;
use std::os::fd::OwnedFd;

use rustix::fs::MemfdFlags;

use crate::keeper::protocol::followed_at;

/// Entries have room to grow.
const ENTRY: u64 = 64;

/// Where an entry keeps how much of the spool has been given back to the kernel.
const FREED: u64 = 32;

/// The keeper's word lies in the entry of a slot's first stream, behind what is written there.
const _: () = assert!(followed_at(1) == 2 * ENTRY + FREED + 8);

/// Where it is written whose bytes are in the lane: behind all entries that a 32-bit slot can have. The memory between
/// is never touched.
const LANE: u64 = (1 << 33) * ENTRY;

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
}

/// A file, whatever its name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct FileId {
    pub(super) device: u64,
    pub(super) inode: u64,
}

/// A new one. Its pages are allocated as they are written.
///
/// # Errors
/// If the process is out of file descriptors, or the kernel out of memory.
pub(super) fn make() -> io::Result<OwnedFd> {
    Ok(rustix::fs::memfd_create("defib-logs", MemfdFlags::CLOEXEC)?)
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
        Entry { pos, file: FileId { device, inode }, offset, freed }
    }

    /// Says where the bytes from `pos` on are going.
    pub(super) fn set(&self, index: u64, pos: u64, file: FileId, offset: u64) {
        let words = [pos, file.device, file.inode, offset].map(u64::to_ne_bytes);
        self.write(words.as_flattened(), index * ENTRY);
    }

    /// Says that everything before `pos` is gone from the spool.
    pub(super) fn set_freed(&self, index: u64, pos: u64) {
        self.write(&pos.to_ne_bytes(), index * ENTRY + FREED);
    }

    /// Which stream's bytes are in the lane, if there are any.
    pub(super) fn lane(&self) -> u64 {
        let mut word = [0; 8];
        rustix::io::pread(&self.0, &mut word, LANE).ok();
        u64::from_ne_bytes(word)
    }

    /// Says whose bytes come into the lane.
    pub(super) fn set_lane(&self, index: u64) {
        self.write(&index.to_ne_bytes(), LANE);
    }

    /// Forgets an entry.
    pub(super) fn clear(&self, index: u64) {
        self.write(&[0; 40], index * ENTRY);
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
        let ledger = Ledger::new(make().unwrap());
        assert_eq!(ledger.entry(7), Entry::default());
        let file = FileId { device: 1, inode: 2 };
        ledger.set(7, 10, file, 20);
        ledger.set_freed(7, 5);
        ledger.set(8, 1, file, 1);
        assert_eq!(ledger.entry(7), Entry { pos: 10, file, offset: 20, freed: 5 });
        ledger.clear(7);
        assert_eq!((ledger.entry(7), ledger.entry(8).pos), (Entry::default(), 1));
        assert_eq!(ledger.lane(), 0);
        ledger.set_lane(8);
        assert_eq!((ledger.lane(), ledger.entry(8).pos), (8, 1));
    }
}
