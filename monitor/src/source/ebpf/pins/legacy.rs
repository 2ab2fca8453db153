//! What other sets of the same daemon have recorded: those of an earlier version of defib, or of no use any more.

use std::fs;
use std::path::{Path, PathBuf};

use aya::maps::{HashMap, Map, MapData};
use defib_ebpf::{End, EndKey, Tracked, VERSION};

use super::super::maps::Abi;
use super::super::shape::{PROCESSES, SHAPES, Shape};
use super::folder::{Folder, NEW, OLD, SET, locked, remove_empty, remove_set, root, trust};

/// The other sets of a daemon. Their maps are held open: what they record until they are detached is not lost.
pub(in crate::source::ebpf) struct Legacy {
    sets: Vec<Other>,
}

struct Other {
    set: PathBuf,
    /// Where the maps have our layout.
    ends: Option<HashMap<MapData, Abi<EndKey>, Abi<End>>>,
    tracked: Option<HashMap<MapData, u32, Abi<Tracked>>>,
}

impl Other {
    fn open(set: PathBuf, readable: bool) -> Option<Self> {
        set.exists().then(|| {
            let ends = readable.then(|| open(&set, "EXITS")).flatten();
            let tracked = readable.then(|| open(&set, "TRACKED")).flatten();
            Self { set, ends, tracked }
        })
    }
}

impl Legacy {
    /// Every set of the daemon with this folder but the one in force.
    pub(in crate::source::ebpf) fn of(folder: &Folder) -> Self {
        let mut sets: Vec<_> =
            [NEW, OLD].into_iter().filter_map(|name| Other::open(folder.join(name), true)).collect();
        for version in versions() {
            let place = version.join(&folder.name);
            if place != folder.path && trust(&place).is_ok() {
                let readable = version_of(&version) == Some(VERSION);
                sets.extend(
                    [NEW, SET, OLD].into_iter().filter_map(|name| Other::open(place.join(name), readable)),
                );
            }
        }
        Self { sets }
    }

    /// Whether there are none.
    pub(in crate::source::ebpf) fn is_empty(&self) -> bool {
        self.sets.is_empty()
    }

    /// The processes that they follow.
    pub(in crate::source::ebpf) fn tracked(&self) -> Vec<(u32, Tracked)> {
        let maps = self.sets.iter().filter_map(|other| other.tracked.as_ref());
        let entries = maps.flat_map(|map| map.iter().take(PROCESSES as usize).filter_map(Result::ok));
        entries.map(|(tgid, Abi(entry))| (tgid, entry)).collect()
    }

    /// The ends that nobody has taken.
    pub(in crate::source::ebpf) fn ends(&self) -> Vec<(EndKey, End)> {
        let maps = self.sets.iter().filter_map(|other| other.ends.as_ref());
        let ends = maps.flat_map(|map| map.iter().take(PROCESSES as usize).filter_map(Result::ok));
        ends.map(|(Abi(key), Abi(end))| (key, end)).collect()
    }

    /// Removes their pins, and so detaches them. Those that another daemon holds are left.
    pub(in crate::source::ebpf) fn unpin(&self, folder: &Folder) {
        for Other { set, .. } in &self.sets {
            let Some(place) = set.parent() else { continue };
            let own = place == folder.path;
            let lock = if own { Ok(None) } else { locked(place).map(Some) };
            let removed = lock.and_then(|_lock| {
                remove_set(set)?;
                if !own {
                    // The other sets there come next.
                    remove_empty(place).ok();
                }
                Ok(())
            });
            if let Err(error) = removed {
                tracing::warn!(%error, "old pins stay");
            }
        }
    }
}

/// The folders of all versions.
pub(super) fn versions() -> Vec<PathBuf> {
    let entries = fs::read_dir(root()).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| trust(path).is_ok()).collect()
}

/// The layout of what is in the folder of a version.
pub(super) fn version_of(folder: &Path) -> Option<u16> {
    folder.file_name()?.to_str()?.strip_prefix('v')?.split_once('-')?.0.parse().ok()
}

/// Opens a map of a set, if it is there and as it should be.
pub(super) fn open<K: aya::Pod, V: aya::Pod>(set: &Path, name: &str) -> Option<HashMap<MapData, K, V>> {
    let shape: &Shape = SHAPES.iter().find(|shape| shape.name == name)?;
    let data = MapData::from_pin(set.join(format!("map_{name}"))).ok()?;
    if !shape.fits(&data.info().ok()?) {
        return None;
    }
    Map::HashMap(data).try_into().ok()
}
