//! What the tests of several sources need.

use std::fs;
use std::path::{Path, PathBuf};

/// A small generator (splitmix64): the same numbers on every run.
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    pub(super) fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }
}

/// A memory cgroup of v1 or v2 that holds 16 MiB; `None` where none can be made.
pub(super) struct SmallGroup(pub(super) PathBuf);

impl SmallGroup {
    /// `of` tells those of tests at the same time apart.
    pub(super) fn new(of: &str) -> Option<Self> {
        let name = format!("defib-test-{of}-{}", std::process::id());
        for (hierarchy, limit) in [("memory", "memory.limit_in_bytes"), (".", "memory.max")] {
            let group = Self(Path::new("/sys/fs/cgroup").join(hierarchy).join(&name));
            if fs::create_dir(&group.0).is_ok() && fs::write(group.0.join(limit), "16M").is_ok() {
                return Some(group);
            }
        }
        None
    }
}

impl Drop for SmallGroup {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir(&self.0) {
            eprintln!("{} stays behind: {error}", self.0.display());
        }
    }
}
