//! How much the files of a service take, and what is removed of them.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use defib_core::model::{LogLayout, LogSpec, ServiceName};
use jiff::Timestamp;

use super::rotate::{self, Bounds, Old};
use super::service::Service;
use super::{Kind, places};

/// What the files of a service take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Usage {
    /// The service.
    pub service: ServiceName,
    /// How many files, without those that hold times.
    pub files: u64,
    /// Bytes, with the times.
    pub bytes: u64,
    /// The file, or the folder of all lives.
    pub path: PathBuf,
}

/// What is to be removed.
#[derive(Clone, Copy, Debug, Default)]
pub struct Vacuum {
    /// Files that have not been written for longer.
    pub older: Option<Duration>,
    /// The oldest, until all files together take no more bytes.
    pub size: Option<u64>,
}

/// The wall clock, as files have their times by it.
pub(super) fn wall() -> SystemTime {
    Timestamp::now().into()
}

/// The files of a service: those that are written, and the others.
fn files(base: &Path, layout: LogLayout) -> (Vec<Old>, Vec<Old>) {
    let (mut current, mut old) = (Vec::new(), Vec::new());
    for kind in Kind::ALL {
        for (age, path) in places::currents(base, layout, kind).into_iter().enumerate() {
            old.extend(rotate::rotated(&path));
            // The last file of an earlier life is not written any more.
            let list = if age == 0 { &mut current } else { &mut old };
            list.extend(rotate::look(path));
        }
    }
    (current, old)
}

/// What the files of a service take.
pub(super) fn of(service: &Service, log_dir: &Path) -> Usage {
    let (base, spec) = service.base(log_dir);
    let (current, old) = files(&base, spec.layout);
    let all = current.iter().chain(&old);
    let (files, bytes) = all.fold((0, 0), |(files, bytes), file| (files + 1, bytes + file.size));
    Usage { service: service.name.clone(), files, bytes, path: base }
}

/// Removes files of these services; returns how many, and their bytes. The files that are written stay.
pub(super) fn vacuum<'a>(
    services: impl Iterator<Item = &'a Service>,
    log_dir: &Path,
    wanted: Vacuum,
) -> (u64, u64) {
    let (mut total, mut all) = (0, Vec::new());
    for service in services {
        let (base, spec) = service.base(log_dir);
        let (current, old) = files(&base, spec.layout);
        total += current.iter().map(|file| file.size).sum::<u64>();
        all.extend(old);
    }
    all.sort_by_key(|file| std::cmp::Reverse(file.modified));
    let bounds = Bounds { files: None, age: wanted.older, total: wanted.size };
    rotate::prune(&all, total, bounds, wall());
    let gone = all.iter().filter(|file| rotate::look(file.path.clone()).is_none());
    let sum = gone.fold((0, 0), |(files, bytes), file| (files + 1, bytes + file.size));
    // A folder goes with its last file.
    for folder in all.iter().filter_map(|file| file.path.parent()) {
        if folder != log_dir {
            drop(std::fs::remove_dir(folder));
        }
    }
    sum
}

/// Removes the folders of lives that are too many, too old or too large; never the youngest.
pub(super) fn prune_folders(base: &Path, spec: &LogSpec) {
    let now = wall();
    let mut total = 0;
    for (age, folder) in places::folders(base).into_iter().enumerate() {
        let entries = std::fs::read_dir(&folder).into_iter().flatten().flatten();
        let found: Vec<_> = entries.filter_map(|entry| entry.metadata().ok()).collect();
        total += found.iter().map(std::fs::Metadata::len).sum::<u64>();
        let modified = found.iter().filter_map(|found| found.modified().ok()).max();
        let elapsed = modified.and_then(|modified| now.duration_since(modified).ok()).unwrap_or_default();
        let many = age > spec.max_files as usize;
        let aged = spec.max_age.is_some_and(|most| elapsed > most);
        let large = spec.max_total.is_some_and(|most| total > most);
        if age > 0 && (many || aged || large) {
            // What cannot be removed is tried again at the next start.
            drop(std::fs::remove_dir_all(&folder));
        }
    }
}
