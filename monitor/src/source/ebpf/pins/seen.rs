//! What is pinned, for `doctor`; and its removal without a daemon.

use std::fs;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use defib_ebpf::{End, EndKey};

use super::super::maps::Abi;
use super::folder::{NEW, OLD, SET, Unpinned, locked, remove_empty, remove_set, root, trust};
use super::legacy::{open, version_of, versions};

/// A set of pins.
#[derive(Debug)]
pub struct PinnedSet {
    /// The folder of its daemon.
    pub path: PathBuf,
    /// The layout of its maps.
    pub version: Option<u16>,
    /// Since when it has been there.
    pub age: Option<Duration>,
    /// How many programs are in it.
    pub programs: usize,
    /// How many maps.
    pub maps: usize,
    /// How many ends wait in it to be taken; `None` if it cannot be asked.
    pub ends: Option<usize>,
}

/// The sets of the daemon of that name.
///
/// # Errors
/// If the folder of all pins is not root's alone: nothing in it is used.
pub fn pinned(name: &str) -> Result<Vec<PinnedSet>, Unpinned> {
    match trust(&root()) {
        Err(Unpinned::Failed { cause, .. }) if cause.kind() == io::ErrorKind::NotFound => {
            return Ok(Vec::new());
        }
        trusted => trusted?,
    }
    let places = versions().into_iter().filter(|version| version.join(name).exists());
    Ok(places.map(|version| look(version, name)).collect())
}

fn look(version: PathBuf, name: &str) -> PinnedSet {
    let path = version.join(name);
    let set = path.join(SET);
    let entries = fs::read_dir(&set).into_iter().flatten().flatten();
    let names: Vec<_> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    let count = |prefix: &str| names.iter().filter(|name| name.starts_with(prefix)).count();
    let made = fs::metadata(&set).and_then(|set| set.modified()).ok();
    PinnedSet {
        version: version_of(&version),
        age: made.and_then(|made| made.elapsed().ok()),
        programs: count("prog_"),
        maps: count("map_"),
        ends: open::<Abi<EndKey>, Abi<End>>(&set, "EXITS").map(|ends| ends.keys().count()),
        path,
    }
}

/// Removes the sets of the daemon of that name, which must not run, and returns where they were.
///
/// # Errors
/// If a daemon uses one, or it cannot be removed.
pub fn remove_pins(name: &str) -> Result<Vec<PathBuf>, Unpinned> {
    let mut removed = Vec::new();
    if fs::symlink_metadata(root()).is_err() {
        return Ok(removed);
    }
    trust(&root())?;
    for version in versions() {
        let path = version.join(name);
        if fs::symlink_metadata(&path).is_err() {
            continue;
        }
        trust(&path)?;
        let _lock = locked(&path)?;
        for set in [NEW, SET, OLD] {
            remove_set(&path.join(set))?;
        }
        remove_empty(&path)?;
        removed.push(path);
    }
    Ok(removed)
}
