//! `defib daemon purge`: removes what outlives a daemon, after it.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use super::handle;
use crate::config::{self, Overrides};
use crate::effect::cgroup;
use crate::source::{self, Unpinned};

/// What a daemon keeps in its state directory, but for the lock; others' files are left alone.
const STATE: [&str; 6] =
    ["boot.json", "boot.json.new", "boot.json.damaged", "state.db", "state.db-wal", "state.db-shm"];

/// What came of it.
#[derive(Debug, Default, serde::Serialize)]
pub struct Purged {
    /// What has been removed.
    pub removed: Vec<PathBuf>,
    /// What could not be removed, and why.
    pub left: Vec<Left>,
}

/// Something that could not be removed.
#[derive(Debug, serde::Serialize)]
pub struct Left {
    /// It.
    pub path: PathBuf,
    /// Why not.
    pub why: String,
}

/// Why nothing was removed.
#[derive(Debug, thiserror::Error)]
pub enum NotPurged {
    /// Nobody knows what belongs to the daemon.
    #[error(transparent)]
    Config(#[from] config::ConfigErrors),
    /// One runs.
    #[error("defib{holder} runs and uses {}; `defib daemon stop` first", path.display())]
    Running {
        /// Its pid, after a blank and a comma, if it is known.
        holder: String,
        /// What it uses.
        path: PathBuf,
    },
    /// The lock cannot be looked at.
    #[error("cannot tell whether a daemon runs: {}", path.display())]
    Lock {
        /// The lock.
        path: PathBuf,
        /// Why not.
        #[source]
        cause: io::Error,
    },
}

/// Removes what the daemon that is configured has left in the kernel and on the disk: pins, empty cgroups, its state and
/// what is in its runtime directory. Its logs stay.
///
/// # Errors
/// If it runs, or nobody can tell. Nothing has been removed then.
pub fn purge(overrides: &Overrides) -> Result<Purged, NotPurged> {
    let settings = config::load(&overrides.config().0, overrides)?.settings;
    let (state, runtime) = (settings.daemon.state_dir, settings.daemon.runtime_dir);
    // Held to the end: no daemon starts meanwhile.
    let lock = lock(&state)?;
    let mut purged = Purged::default();
    purged.pins(&state)?;
    for group in cgroup::abandoned(&state) {
        purged.tell(cgroup::remove_abandoned(&group), group);
    }
    purged.remove(&runtime.join(handle::SOCKET));
    purged.remove(&runtime.join("output"));
    STATE.iter().for_each(|name| purged.remove(&state.join(name)));
    if lock.is_some() {
        purged.remove(&state.join("lock"));
    }
    for folder in [runtime, state] {
        // Others may keep something there, or it is a mount.
        if fs::remove_dir(&folder).is_ok() {
            purged.removed.push(folder);
        }
    }
    Ok(purged)
}

/// Takes the lock that the keeper of a daemon holds; `None` if there has never been one.
fn lock(state: &Path) -> Result<Option<File>, NotPurged> {
    let path = state.join("lock");
    let failed = |cause| NotPurged::Lock { path: path.clone(), cause };
    let mut file = match File::open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    match file.try_lock() {
        Ok(()) => Ok(Some(file)),
        Err(fs::TryLockError::Error(error)) => Err(failed(error)),
        Err(fs::TryLockError::WouldBlock) => {
            let mut pid = String::new();
            file.read_to_string(&mut pid).map_err(failed)?;
            Err(NotPurged::Running { holder: format!(", pid {}", pid.trim()), path: state.to_owned() })
        }
    }
}

impl Purged {
    fn pins(&mut self, state: &Path) -> Result<(), NotPurged> {
        match source::remove_pins(&cgroup::short_name(state)) {
            Ok(removed) => self.removed.extend(removed),
            // Its keeper is gone, and it is about to leave.
            Err(Unpinned::Taken(path)) => return Err(NotPurged::Running { holder: String::new(), path }),
            Err(error) => {
                let (path, why) = (PathBuf::from("/sys/fs/bpf/defib"), error.to_string());
                self.left.push(Left { path, why });
            }
        }
        Ok(())
    }

    /// Removes a file, or a folder with all that is in it. What is not there is no news.
    fn remove(&mut self, path: &Path) {
        let done = match fs::symlink_metadata(path) {
            Ok(found) if found.is_dir() => fs::remove_dir_all(path),
            Ok(_) => fs::remove_file(path),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return,
            Err(error) => Err(error),
        };
        self.tell(done, path.to_owned());
    }

    fn tell(&mut self, done: io::Result<()>, path: PathBuf) {
        match done {
            Ok(()) => self.removed.push(path),
            Err(error) => self.left.push(Left { path, why: error.to_string() }),
        }
    }
}
