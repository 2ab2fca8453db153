//! Where the pins of one daemon are.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use defib_ebpf::VERSION;
use rustix::fs::{FlockOperation, flock, statfs};
use rustix::mount::{MountFlags, mount};

use super::super::load::fingerprint;

/// Where bpffs is mounted everywhere.
pub(super) const BPFFS: &str = "/sys/fs/bpf";
/// `BPF_FS_MAGIC` of include/uapi/linux/magic.h.
const MAGIC: u32 = 0xcafe_4a11;

/// What is in force, below the folder of a daemon.
pub(super) const SET: &str = "set";
/// What is being made.
pub(super) const NEW: &str = "new";
/// What was in force before.
pub(super) const OLD: &str = "old";

/// How often to try: other daemons that leave may remove the folders above, and a daemon whose keeper was killed leaves
/// while its successor starts.
const ATTEMPTS: u32 = 200;
/// How long to wait between two attempts.
const PAUSE: Duration = Duration::from_millis(10);

/// Why nothing is pinned.
#[derive(Debug, thiserror::Error)]
pub enum Unpinned {
    /// There is no bpffs.
    #[error("no bpffs is mounted at {BPFFS}, and it cannot be mounted")]
    NotMounted(#[source] io::Error),
    /// Others may write there.
    #[error("{} is {found}; {remedy}", path.display())]
    Untrusted {
        /// The folder.
        path: PathBuf,
        /// What it is.
        found: String,
        /// What helps.
        remedy: String,
    },
    /// It cannot be used.
    #[error("cannot {what} {}", path.display())]
    Failed {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// Why not.
        #[source]
        cause: io::Error,
    },
    /// Another daemon has it.
    #[error("{} belongs to another daemon that runs", .0.display())]
    Taken(PathBuf),
}

/// The folder of one daemon, locked.
#[derive(Debug)]
pub(in crate::source::ebpf) struct Folder {
    pub(super) name: String,
    pub(super) path: PathBuf,
    /// Closing it gives the lock back.
    _lock: File,
    /// Whether bpffs had to be mounted.
    pub(in crate::source::ebpf) mounted: bool,
}

/// The folder of all daemons.
pub(super) fn root() -> PathBuf {
    Path::new(BPFFS).join("defib")
}

/// The folder of one layout and one object.
fn version() -> PathBuf {
    root().join(format!("v{VERSION}-{:016x}", fingerprint()))
}

impl Folder {
    /// Makes the folder of the daemon of that name, or finds it, and locks it.
    pub(in crate::source::ebpf) fn open(name: &str) -> Result<Self, Unpinned> {
        let mounted = mount_if_missing()?;
        let path = version().join(name);
        for _ in 0..ATTEMPTS {
            match make_all(&path).and_then(|()| locked(&path)) {
                Ok(lock) => return Ok(Self { name: name.to_owned(), path, _lock: lock, mounted }),
                // Whoever left last has removed it before it was locked.
                Err(Unpinned::Failed { cause, .. }) if cause.kind() == io::ErrorKind::NotFound => {}
                Err(Unpinned::Taken(_)) => pause(),
                Err(error) => return Err(error),
            }
        }
        Err(Unpinned::Taken(path))
    }

    pub(in crate::source::ebpf) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Removes the folder with all that is in it, and those above that are empty then. Nothing stays attached that no
    /// descriptor holds.
    pub(in crate::source::ebpf) fn remove(&self) -> Result<(), Unpinned> {
        for set in [NEW, SET, OLD] {
            remove_set(&self.join(set))?;
        }
        remove_empty(&self.path)
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "nothing is supervised yet, and nothing tells when a lock is free"
)]
fn pause() {
    std::thread::sleep(PAUSE);
}

/// Removes a set, or what there is of one.
pub(super) fn remove_set(path: &Path) -> Result<(), Unpinned> {
    match fs::remove_dir_all(path) {
        Err(cause) if cause.kind() != io::ErrorKind::NotFound => {
            Err(Unpinned::Failed { what: "remove", path: path.to_owned(), cause })
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

/// Removes the folder of a daemon, and those above it that nobody else uses.
pub(super) fn remove_empty(path: &Path) -> Result<(), Unpinned> {
    fs::remove_dir(path)
        .or_else(|cause| if cause.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(cause) })
        .map_err(|cause| Unpinned::Failed { what: "remove", path: path.to_owned(), cause })?;
    for folder in path.ancestors().skip(1).take_while(|folder| folder.starts_with(root())) {
        // Others' pins are in it.
        fs::remove_dir(folder).ok();
    }
    Ok(())
}

/// Takes the lock of a daemon's folder without waiting.
pub(super) fn locked(path: &Path) -> Result<File, Unpinned> {
    let failed = |what| move |cause| Unpinned::Failed { what, path: path.to_owned(), cause };
    let folder = File::open(path).map_err(failed("open"))?;
    match flock(&folder, FlockOperation::NonBlockingLockExclusive) {
        Err(errno) if errno == rustix::io::Errno::WOULDBLOCK => return Err(Unpinned::Taken(path.to_owned())),
        locked => locked.map_err(|errno| failed("lock")(errno.into()))?,
    }
    // The one that was opened may have been removed, and another made, before it was locked.
    let (held, there) = (folder.metadata(), fs::symlink_metadata(path));
    let (held, there) = (held.map_err(failed("look at"))?, there.map_err(failed("look at"))?);
    if held.ino() != there.ino() {
        return Err(failed("lock")(io::ErrorKind::NotFound.into()));
    }
    Ok(folder)
}

/// Mounts bpffs if it is missing, for root alone. Returns whether it was.
fn mount_if_missing() -> Result<bool, Unpinned> {
    let failed = |cause: io::Error| Unpinned::NotMounted(cause);
    let is_there = || statfs(BPFFS).is_ok_and(|found| found.f_type as u32 == MAGIC);
    if is_there() {
        return Ok(false);
    }
    // Of two daemons that start at once, one mounts: another mount would hide what the first has pinned.
    let folder = File::open(BPFFS).map_err(failed)?;
    flock(&folder, FlockOperation::LockExclusive).map_err(|errno| failed(errno.into()))?;
    if is_there() {
        return Ok(false);
    }
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount("bpf", BPFFS, "bpf", flags, c"mode=0700").map_err(|errno| failed(errno.into()))?;
    Ok(true)
}

/// Makes the folder of a daemon and those above it, and looks whether they are root's alone.
fn make_all(path: &Path) -> Result<(), Unpinned> {
    trust_mount()?;
    let folders: Vec<_> = path.ancestors().take_while(|folder| folder.starts_with(root())).collect();
    for folder in folders.into_iter().rev() {
        match DirBuilder::new().mode(0o700).create(folder) {
            Err(cause) if cause.kind() != io::ErrorKind::AlreadyExists => {
                return Err(Unpinned::Failed { what: "make", path: folder.to_owned(), cause });
            }
            Ok(()) | Err(_) => trust(folder)?,
        }
    }
    Ok(())
}

/// Whether only root can put something into a folder of ours.
pub(super) fn trust(path: &Path) -> Result<(), Unpinned> {
    let found = fs::symlink_metadata(path);
    let found = found.map_err(|cause| Unpinned::Failed { what: "look at", path: path.to_owned(), cause })?;
    let (owner, mode) = (found.uid(), found.mode() & 0o7777);
    if !found.is_dir() || owner != 0 || mode != 0o700 {
        let kind = if found.is_dir() { "a folder" } else { "no folder" };
        return Err(Unpinned::Untrusted {
            path: path.to_owned(),
            found: format!(
                "{kind} of owner {owner} with mode {mode:04o}, where defib uses only root's with 0700"
            ),
            remedy: format!("as root, while no defib runs: rm -r {}", path.display()),
        });
    }
    Ok(())
}

/// Whether nobody can exchange our folder for another: the mount is root's, and others cannot write there or only add.
fn trust_mount() -> Result<(), Unpinned> {
    let path = PathBuf::from(BPFFS);
    let found = fs::metadata(&path);
    let found = found.map_err(|cause| Unpinned::Failed { what: "look at", path: path.clone(), cause })?;
    let (owner, mode) = (found.uid(), found.mode() & 0o7777);
    if owner != 0 || mode & 0o022 != 0 && mode & 0o1000 == 0 {
        return Err(Unpinned::Untrusted {
            remedy: format!("as root: chown root {BPFFS} && chmod 0700 {BPFFS}"),
            found: format!("of owner {owner} with mode {mode:04o}: others could exchange what is in it"),
            path,
        });
    }
    Ok(())
}
