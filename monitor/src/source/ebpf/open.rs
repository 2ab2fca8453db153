//! Opening the probes: those that are pinned, or new ones, which are pinned then.

use defib_ebpf::{COARSE_NS, End, EndKey, Tracked};

use super::super::any::chain;
use super::super::procfs;
use super::control::Control;
use super::error::EbpfError;
use super::load::{Loaded, check, lines, load};
use super::maps::Maps;
use super::pins::{Folder, Legacy};

/// Probes that are attached, and where they come from.
pub(super) struct Opened {
    pub(super) loaded: Loaded,
    /// Where they are pinned, if they are.
    pub(super) folder: Option<Folder>,
    pub(super) past: Past,
    /// What is to be said of it.
    pub(super) why: Vec<String>,
    /// Other sets that are to be asked and removed.
    legacy: Option<Legacy>,
}

/// Whom probes served before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Past {
    /// Nobody: they have been loaded now.
    New,
    /// An earlier daemon of this keeper.
    Daemon,
    /// The daemon of another keeper.
    Keeper,
}

impl Opened {
    /// Probes that were loaded now, and are not pinned.
    pub(super) fn unpinned(loaded: Loaded) -> Self {
        let why = lines(&loaded.reports);
        Self { loaded, folder: None, past: Past::New, why, legacy: None }
    }

    /// What other sets of the same daemon know, which are removed: the ends that nobody has taken. What they follow,
    /// `maps` go on following.
    pub(super) fn inherit(&mut self, maps: &mut Maps) -> Vec<(EndKey, End)> {
        let (Some(legacy), Some(folder)) = (self.legacy.take(), &self.folder) else { return Vec::new() };
        for (tgid, entry) in legacy.tracked() {
            if let Err(error) = adopt(maps, tgid, entry) {
                tracing::warn!(pid = tgid, error = %error.chain(), "a process is not followed any more");
            }
        }
        legacy.unpin(folder);
        // Last: they have gone on recording.
        legacy.ends()
    }
}

/// Follows a process that older probes follow.
fn adopt(maps: &mut Maps, tgid: u32, entry: Tracked) -> Result<(), EbpfError> {
    if maps.tracked(tgid)?.is_some() {
        return Ok(());
    }
    maps.track(tgid, entry)?;
    // It may have ended before it was followed here.
    let start = procfs::stat(tgid).map(|stat| stat.start);
    if start != Some(entry.start - entry.start % COARSE_NS) {
        maps.untrack(tgid)?;
    }
    Ok(())
}

/// Opens the probes that are pinned under this name for the children of `keeper`, or loads and pins them.
pub(super) fn open(keeper: u32, name: Option<&str>) -> Result<Opened, EbpfError> {
    check()?;
    let Some(name) = name else { return Ok(Opened::unpinned(load(keeper)?)) };
    let folder = match Folder::open(name) {
        Ok(folder) => folder,
        Err(error) => {
            let mut opened = Opened::unpinned(load(keeper)?);
            opened.why.push(not_pinned(&error));
            return Ok(opened);
        }
    };
    let mut why = Vec::new();
    if folder.mounted {
        why.push("mounted bpffs at /sys/fs/bpf, for root alone: there was none".to_owned());
    }
    let found = match folder.reuse() {
        Some(Ok(loaded)) => Some(loaded),
        Some(Err(misfit)) => {
            why.push(format!("what is pinned cannot be used and is replaced: {misfit}"));
            None
        }
        None => None,
    };
    let (loaded, past) = match found {
        Some(loaded) => {
            let past = serve(&loaded, keeper)?;
            why.push(format!("{} pinned probes go on", loaded.programs.len()));
            (loaded, past)
        }
        None => {
            let mut loaded = load(keeper)?;
            why.extend(lines(&loaded.reports));
            if let Err(error) = folder.pin(&mut loaded) {
                // Some of them may have been detached.
                drop(loaded);
                why.push(not_pinned(&error));
                let loaded = load(keeper)?;
                folder.remove().ok();
                return Ok(Opened { loaded, folder: None, past: Past::New, why, legacy: None });
            }
            (loaded, Past::New)
        }
    };
    why.push(format!("pinned in {}: ends are recorded while no daemon runs, too", folder.path().display()));
    let legacy = Some(Legacy::of(&folder)).filter(|legacy| !legacy.is_empty());
    Ok(Opened { loaded, folder: Some(folder), past, why, legacy })
}

/// Lets pinned probes follow the children of this keeper.
fn serve(loaded: &Loaded, keeper: u32) -> Result<Past, EbpfError> {
    let mut control = Control::of(&loaded.maps)?;
    let past = if control.serves(keeper)? { Past::Daemon } else { Past::Keeper };
    if past == Past::Keeper {
        // The one before may have died while it made a process.
        Maps::announce_nothing(&loaded.maps)?;
    }
    control.serve(keeper)?;
    Ok(past)
}

fn not_pinned(error: &dyn std::error::Error) -> String {
    format!("not pinned, so no end is recorded while no daemon runs: {}", chain(error))
}
