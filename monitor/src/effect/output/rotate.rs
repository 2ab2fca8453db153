//! The older files of a log: `FILE.1` is the youngest. Each takes its times along.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::places;

/// A file that is not written any more.
#[derive(Clone, Debug)]
pub(super) struct Old {
    pub(super) path: PathBuf,
    /// With its times.
    pub(super) size: u64,
    pub(super) modified: SystemTime,
}

/// What is too much.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Bounds {
    pub(super) files: Option<u32>,
    pub(super) age: Option<Duration>,
    /// Bytes, with those of `current`.
    pub(super) total: Option<u64>,
}

/// The rotated files, the youngest first.
pub(super) fn rotated(current: &Path) -> Vec<Old> {
    (1..).map_while(|number| look(places::rotated(current, number))).collect()
}

/// A file with its size and age.
pub(super) fn look(path: PathBuf) -> Option<Old> {
    let found = fs::symlink_metadata(&path).ok().filter(fs::Metadata::is_file)?;
    let times = fs::symlink_metadata(places::times(&path)).map_or(0, |times| times.len());
    let modified = found.modified().unwrap_or(SystemTime::UNIX_EPOCH);
    Some(Old { path, size: found.len() + times, modified })
}

/// Makes room for a new current file: the present one becomes number 1, or goes if none are kept.
pub(super) fn shift(current: &Path, keep: u32) -> io::Result<()> {
    if keep == 0 {
        return remove(current);
    }
    let count = u32::try_from(rotated(current).len()).unwrap_or(u32::MAX);
    for number in (0..=count).rev() {
        let from = places::rotated(current, number);
        if number >= keep {
            remove(&from)?;
        } else {
            let to = places::rotated(current, number + 1);
            rename(&from, &to)?;
            // The times of what was there before must not stay for a file that has none.
            match rename(&places::times(&from), &places::times(&to)) {
                Ok(true) => {}
                Ok(false) | Err(_) => drop(fs::remove_file(places::times(&to))),
            }
        }
    }
    Ok(())
}

/// Removes the oldest of `old`, which is sorted with the youngest first, until nothing is too much. What cannot be removed
/// stays.
pub(super) fn prune(old: &[Old], current: u64, bounds: Bounds, now: SystemTime) {
    let mut total = current + old.iter().map(|file| file.size).sum::<u64>();
    for (number, file) in old.iter().enumerate().rev() {
        let age = now.duration_since(file.modified).unwrap_or_default();
        let many = bounds.files.is_some_and(|most| number >= most as usize);
        let aged = bounds.age.is_some_and(|most| age > most);
        let large = bounds.total.is_some_and(|most| total > most);
        if (many || aged || large) && remove(&file.path).is_ok() {
            total -= file.size;
        }
    }
}

/// Removes a file and its times.
pub(super) fn remove(file: &Path) -> io::Result<()> {
    drop(fs::remove_file(places::times(file)));
    match fs::remove_file(file) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Whether there was something to rename.
fn rename(from: &Path, to: &Path) -> io::Result<bool> {
    match fs::rename(from, to) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let entries = fs::read_dir(folder).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn files_move_up_with_their_times_and_the_oldest_goes() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("a.log");
        for round in 0..4 {
            fs::write(&log, format!("{round}")).unwrap();
            if round % 2 == 0 {
                fs::write(places::times(&log), "t").unwrap();
            }
            shift(&log, 2).unwrap();
        }
        assert_eq!(names(folder.path()), ["a.log.1", "a.log.2", "a.log.2.times"]);
        assert_eq!(fs::read_to_string(places::rotated(&log, 1)).unwrap(), "3");
        shift(&log, 0).unwrap();
        assert_eq!(rotated(&log).len(), 2, "there was nothing to remove");
    }

    #[test]
    fn the_oldest_go_until_nothing_is_too_much() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("a.log");
        let make = || {
            (1..=4).for_each(|number| fs::write(places::rotated(&log, number), [0; 100]).unwrap());
            rotated(&log)
        };
        let now = super::super::usage::wall();
        prune(&make(), 50, Bounds { total: Some(300), ..Bounds::default() }, now);
        assert_eq!(rotated(&log).len(), 2);
        prune(&make(), 50, Bounds { files: Some(3), ..Bounds::default() }, now);
        assert_eq!(rotated(&log).len(), 3);
        let later = now + Duration::from_secs(100);
        prune(&make(), 50, Bounds { age: Some(Duration::from_secs(50)), ..Bounds::default() }, later);
        assert!(rotated(&log).is_empty());
    }
}
