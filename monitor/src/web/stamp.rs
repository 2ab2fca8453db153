//! Whether files are still those that were read.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// What tells one state of a file from another: which it is, how long, and when it was changed last.
type Stamp = (u64, u64, u64, i64, i64, i64, i64);

/// Files as they were before they were read; `None`: there was none.
#[derive(Debug, Default)]
pub(super) struct Stamps(Vec<(PathBuf, Option<Stamp>)>);

impl Stamps {
    /// Of a state that no file is in.
    pub(super) fn stale() -> Self {
        Self(vec![(PathBuf::new(), Some((0, 0, 0, 0, 0, 0, 0)))])
    }

    /// Remembers how a file is now.
    pub(super) fn note(&mut self, path: &Path) {
        self.0.push((path.to_owned(), of(path)));
    }

    /// Whether all are as they were.
    pub(super) fn hold(&self) -> bool {
        self.0.iter().all(|(path, stamp)| of(path) == *stamp)
    }
}

fn of(path: &Path) -> Option<Stamp> {
    let it = fs::metadata(path).ok()?;
    Some((it.dev(), it.ino(), it.len(), it.mtime(), it.mtime_nsec(), it.ctime(), it.ctime_nsec()))
}
