//! The folder in which pipes, spools and the ledger have names. When keeper and daemon have both been killed, the daemon of
//! the next keeper finds them there.
//!
//! It must be in memory: a spool on a disk would let a disk that stalls hold up the thread that empties pipes. Where the
//! runtime folder is on a disk, as in many containers, it is a folder in `/dev/shm` that is named after that one.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File, Permissions, TryLockError};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use defib_core::model::ServiceName;
use rustix::fs::StatVfsMountFlags;

use super::Kind;

/// File systems that keep files in memory: tmpfs, ramfs.
const IN_MEMORY: [u64; 2] = [0x0102_1994, 0x8584_58f6];

/// Where shared memory is, where the runtime folder is on a disk.
const SHARED: &str = "/dev/shm";

/// The ledger, and the next one while it is made.
const LEDGER: [&str; 2] = ["ledger", "ledger.new"];

/// Whoever uses the folder holds this locked.
const LOCK: &str = "lock";

/// Why nothing can have a name.
#[derive(Debug, thiserror::Error)]
pub enum NoFolder {
    /// An earlier daemon is still at work there.
    #[error("an earlier daemon that has not ended uses {}", .0.display())]
    InUse(PathBuf),
    /// There is none in memory that is ours.
    #[error("{}: {why}", .path.display())]
    Unfit {
        /// The folder.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
}

/// The folder, locked.
#[derive(Debug)]
pub struct Folder {
    path: PathBuf,
    lock: OwnedFd,
}

impl Folder {
    /// The folder that belongs to a runtime folder, made if it is not there. `lock` is what an earlier daemon under the same
    /// keeper held.
    ///
    /// # Errors
    /// If another daemon uses it, or it cannot be made, or is not in memory, or is somebody else's.
    pub fn open(runtime_dir: &Path, lock: Option<OwnedFd>) -> Result<Self, NoFolder> {
        let path = place(runtime_dir);
        let unfit = |why: String| NoFolder::Unfit { path: path.clone(), why };
        own(&path).map_err(unfit)?;
        let lock = match lock {
            Some(lock) => lock,
            None => {
                let mut options = File::options();
                options.write(true).create(true).truncate(false).mode(0o600).custom_flags(libc::O_NOFOLLOW);
                let file = options.open(path.join(LOCK)).map_err(|error| unfit(error.to_string()))?;
                match file.try_lock() {
                    Ok(()) => file.into(),
                    Err(TryLockError::WouldBlock) => return Err(NoFolder::InUse(path)),
                    Err(TryLockError::Error(error)) => return Err(unfit(error.to_string())),
                }
            }
        };
        Ok(Self { path, lock })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The lock once more, for the keeper: as long as one of both is alive, no other daemon comes in here.
    ///
    /// # Errors
    /// If the process is out of file descriptors.
    pub fn lock(&self) -> io::Result<OwnedFd> {
        self.lock.try_clone()
    }

    /// The services of which something is there.
    pub fn services(&self) -> BTreeSet<ServiceName> {
        let entries = fs::read_dir(&self.path).into_iter().flatten().flatten();
        let service = |name: &str| {
            let (stem, kind) = name.rsplit_once('.')?.0.rsplit_once('.')?;
            Kind::ALL.iter().find(|known| known.as_str() == kind)?;
            stem.parse().ok()
        };
        entries.filter_map(|entry| service(entry.file_name().to_str()?)).collect()
    }

    pub(super) fn pipe(&self, service: &ServiceName, kind: Kind) -> PathBuf {
        self.path.join(format!("{service}.{kind}.pipe"))
    }

    pub(super) fn spool(&self, service: &ServiceName, kind: Kind) -> PathBuf {
        self.path.join(format!("{service}.{kind}.spool"))
    }

    pub(super) fn ledger(&self) -> [PathBuf; 2] {
        LEDGER.map(|name| self.path.join(name))
    }

    /// Removes the names of one stream. Who holds what they named goes on with it.
    pub fn remove(&self, service: &ServiceName, kind: Kind) {
        for path in [self.pipe(service, kind), self.spool(service, kind)] {
            if let Err(error) = fs::remove_file(&path)
                && error.kind() != io::ErrorKind::NotFound
            {
                tracing::warn!(path = %path.display(), %error, "not removed");
            }
        }
    }

    /// The same, if the spool of that name is still this one: the service may have come back, or have got new pipes.
    pub(super) fn remove_own(&self, service: &ServiceName, kind: Kind, spool: &OwnedFd) {
        let named = fs::symlink_metadata(self.spool(service, kind)).map(|found| found.ino());
        if named.ok() == inode(spool).ok() {
            self.remove(service, kind);
        }
    }

    /// Removes everything: no service is left, and all is written.
    pub fn clear_away(&self) {
        for service in self.services() {
            Kind::ALL.into_iter().for_each(|kind| self.remove(&service, kind));
        }
        for name in LEDGER.into_iter().chain([LOCK]) {
            fs::remove_file(self.path.join(name)).ok();
        }
        if let Err(error) = fs::remove_dir(&self.path) {
            tracing::debug!(folder = %self.path.display(), %error, "not removed");
        }
    }
}

/// The number by which a file is known in its file system.
pub(super) fn inode(fd: impl AsFd) -> io::Result<u64> {
    Ok(rustix::fs::fstat(fd)?.st_ino)
}

/// Holds what is in the pipes of an earlier keeper's services: a service that ends while the daemon before leaves, and this
/// one waits for that, would take with it what nobody else holds.
pub fn hold(runtime_dir: &Path) -> Vec<OwnedFd> {
    let path = place(runtime_dir);
    let ours = |found: fs::Metadata| found.is_dir() && found.uid() == rustix::process::geteuid().as_raw();
    if !fs::symlink_metadata(&path).is_ok_and(ours) {
        return Vec::new();
    }
    let entries = fs::read_dir(&path).into_iter().flatten().flatten();
    let pipes = entries.filter(|entry| entry.file_name().to_string_lossy().ends_with(".pipe"));
    let open = |entry: fs::DirEntry| {
        let flags = libc::O_NOFOLLOW | libc::O_NONBLOCK;
        File::options().read(true).write(true).custom_flags(flags).open(entry.path()).ok()
    };
    pipes.filter_map(open).map(OwnedFd::from).collect()
}

/// Which folder it would be.
pub fn place(runtime_dir: &Path) -> PathBuf {
    if in_memory(runtime_dir).is_ok() || in_memory(Path::new(SHARED)).is_err() {
        return runtime_dir.join("output");
    }
    let hash = runtime_dir.as_os_str().as_bytes().iter();
    let hash = hash.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    Path::new(SHARED).join(format!("defib-output-{hash:016x}"))
}

/// Whether files in a folder are in memory, and reading a pipe there leaves a time: the lane needs that.
fn in_memory(path: &Path) -> Result<(), String> {
    let kind = rustix::fs::statfs(path).map_err(|error| error.to_string())?.f_type;
    let flags = rustix::fs::statvfs(path).map_err(|error| error.to_string())?.f_flag;
    if !IN_MEMORY.contains(&u64::try_from(kind).unwrap_or_default()) {
        return Err("it is not in memory (tmpfs)".to_owned());
    }
    // MS_NOATIME, which has no name there.
    if flags.bits() & 0x400 != 0 || flags.contains(StatVfsMountFlags::RDONLY) {
        return Err("its file system is mounted noatime, or read-only".to_owned());
    }
    Ok(())
}

/// Makes a folder that is ours alone, or sees that it is. In `/dev/shm` anybody can make one of that name.
fn own(path: &Path) -> Result<(), String> {
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error.to_string()),
        _ => {}
    }
    let found = fs::symlink_metadata(path).map_err(|error| error.to_string())?;
    if !found.is_dir() || found.uid() != rustix::process::geteuid().as_raw() {
        return Err("it is not a folder of this user".to_owned());
    }
    if found.mode() & 0o077 != 0 {
        fs::set_permissions(path, Permissions::from_mode(0o700)).map_err(|error| error.to_string())?;
    }
    in_memory(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_daemon_at_a_time_and_names_say_whose_they_are() {
        let runtime = tempfile::tempdir().unwrap();
        let folder = Folder::open(runtime.path(), None).unwrap();
        assert!(matches!(Folder::open(runtime.path(), None), Err(NoFolder::InUse(_))));
        for (service, kind) in [("a.stdout", Kind::Joined), ("a", Kind::Stderr)] {
            fs::write(folder.pipe(&service.parse().unwrap(), kind), "").unwrap();
        }
        let names: Vec<_> = folder.services().into_iter().map(String::from).collect();
        assert_eq!(names, ["a", "a.stdout"]);
        folder.clear_away();
        assert!(!folder.path().exists());
    }

    #[test]
    fn a_folder_of_that_name_that_is_a_link_is_not_used() {
        let runtime = tempfile::tempdir_in(SHARED).unwrap();
        let elsewhere = tempfile::tempdir_in(SHARED).unwrap();
        std::os::unix::fs::symlink(elsewhere.path(), runtime.path().join("output")).unwrap();
        assert!(matches!(Folder::open(runtime.path(), None), Err(NoFolder::Unfit { .. })));
    }
}
