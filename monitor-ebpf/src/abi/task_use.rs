//! What a look at the tasks of services tells, one record for each thread.

/// What one thread uses. What belongs to its process as a whole stands in the record of the first thread, and is zero in
/// those of the others: the records of a process add up.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TaskUse {
    /// The cgroup of its service, by inode number.
    pub group: u64,
    /// Bytes that it has caused to be read from storage; with the process's: what its ended threads have, and the children
    /// that it has waited for.
    pub read: u64,
    /// Bytes that it has caused to be written to storage, likewise.
    pub written: u64,
    /// Of the process: its virtual memory in pages.
    pub virtual_pages: u64,
    /// Of the process: how many of them are in memory.
    pub resident_pages: u64,
    /// Of the process: how many files it may open, its soft limit; the greatest number if there is none.
    pub max_files: u64,
    /// The process.
    pub tgid: u32,
    /// Of the process: how many threads it has, at least one.
    pub threads: u32,
}

const _: () = assert!(size_of::<TaskUse>() == 6 * 8 + 2 * 4);
