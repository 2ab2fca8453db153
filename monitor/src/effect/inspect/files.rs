//! The open files of a process.

use std::collections::BTreeMap;
use std::fs;
use std::io;

use super::types::{File, Listed};
use crate::effect::descriptors::inode_of;

/// More descriptors are not looked at: at 1 to 2 µs each, a bound of some tenths of a second.
const LOOKED_AT: usize = 200_000;

/// The open files, and how many were not looked at.
#[derive(Debug)]
pub(super) struct Files {
    files: Vec<File>,
    unseen: u64,
}

/// All open files of a process, by number.
pub(super) fn files(pid: u32) -> io::Result<Files> {
    let (mut files, mut unseen) = (Vec::new(), 0);
    for entry in fs::read_dir(format!("/proc/{pid}/fd"))? {
        let entry = entry?;
        let Some(fd) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        if files.len() == LOOKED_AT {
            unseen += 1;
            continue;
        }
        let target = fs::read_link(entry.path()).ok();
        files.push(File { fd, target: target.map(|path| path.to_string_lossy().into_owned()) });
    }
    files.sort_by_key(|file| file.fd);
    Ok(Files { files, unseen })
}

impl Files {
    /// The sockets among them: descriptors by inode.
    pub(super) fn sockets(&self) -> BTreeMap<u64, u32> {
        // Of several descriptors of one socket the lowest is told.
        self.files
            .iter()
            .rev()
            .filter_map(|file| Some((inode_of(file.target.as_deref()?)?, file.fd)))
            .collect()
    }

    /// The first `most`.
    pub(super) fn listed(self, most: usize) -> Listed<File> {
        let mut listed = Listed::first(self.files, most);
        listed.more += self.unseen;
        listed
    }
}
