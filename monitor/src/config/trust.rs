//! Opens files that decide what root does: only those that nobody but root could have written.
//!
//! Checking a path and then opening it is not enough, because the path may lead elsewhere a moment later. So the path
//! is walked from `/` one component at a time, each opened relative to the folder before it and never through a
//! symbolic link. Every folder is checked on its open descriptor before anything is looked up in it: once it is known
//! to be root's alone, nobody else can change what its names mean. Links are followed by hand, so that the folders
//! on the far side are checked too. The file is opened once, and checked on that descriptor.

use std::ffi::OsString;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, open, openat, readlinkat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat};

use super::error::printable;

/// As many as the kernel follows, see path_resolution(7).
const MAX_LINKS: usize = 40;

/// Why a file is not opened.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Untrusted {
    /// A system call failed.
    #[error("cannot open {}: {}", show(.path), .errno.desc())]
    Open {
        /// On what.
        path: PathBuf,
        /// How.
        errno: Errno,
    },
    /// It is something else.
    #[error("{} is {kind}, not {wanted}", show(.path))]
    Kind {
        /// What is none.
        path: PathBuf,
        /// What it is.
        kind: &'static str,
        /// What it should be: a file or a folder.
        wanted: &'static str,
    },
    /// It belongs to somebody else.
    #[error("{0} belongs to user {uid}, who could make root act; run: chown root {0}", show(.path))]
    Owner {
        /// The file, or a folder or link on the way to it.
        path: PathBuf,
        /// Whose it is.
        uid: u32,
    },
    /// Others may change it.
    #[error("{0} may be written by others (mode {mode:04o}), who could make root act; run: chmod go-w {0}", show(.path))]
    Writable {
        /// The file, or a folder on the way to it.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The path is not absolute.
    #[error("{} is not an absolute path", show(.0))]
    Relative(PathBuf),
}

impl Untrusted {
    /// Whether there is no such file.
    pub fn is_missing(&self) -> bool {
        matches!(self, Self::Open { errno: Errno::ENOENT, .. })
    }
}

fn show(path: &Path) -> String {
    printable(&path.to_string_lossy())
}

/// Opens a regular file for reading. For root it, and every folder and link on the way to it, must be root's and not
/// writable by group or others; a sticky folder may be writable, because nobody can replace root's files in it.
/// Other users act with their own rights only, so for them any file will do.
pub fn open_trusted(path: &Path, euid: u32) -> Result<File, Untrusted> {
    let file = if euid == 0 {
        let found = file_at(path, &roots_alone)?;
        let file = openat(&found.folder, found.name.as_os_str(), READ | OFlag::O_NOFOLLOW, Mode::empty());
        let file = file.map_err(|errno| failed(&found.path, errno))?;
        roots_alone(&found.path, &status(&file, &found.path)?)?;
        file
    } else {
        open(path, READ, Mode::empty()).map_err(|errno| failed(path, errno))?
    };
    regular(path, &status(&file, path)?)?;
    Ok(File::from(file))
}

/// Opens a folder for reading, under the rules of [`open_trusted`].
pub(super) fn open_trusted_folder(path: &Path, euid: u32) -> Result<OwnedFd, Untrusted> {
    let flags = READ | OFlag::O_DIRECTORY;
    if euid != 0 {
        return open(path, flags, Mode::empty()).map_err(|errno| failed(path, errno));
    }
    let (folder, here) = folder_at(path, &roots_alone)?;
    // O_PATH reads nothing, and a folder is its own ".".
    openat(&folder, ".", flags, Mode::empty()).map_err(|errno| failed(&here, errno))
}

/// Opens a folder (O_PATH) in which root is to write although it may be another user's. No link on the way may be anybody
/// else's: it could lead root's pen to a folder of root's own.
pub fn open_folder(path: &Path, euid: u32) -> Result<OwnedFd, Untrusted> {
    let check = |path: &Path, stat: &FileStat| match kind(stat) {
        SFlag::S_IFLNK if euid == 0 && stat.st_uid != 0 => {
            Err(Untrusted::Owner { path: path.to_owned(), uid: stat.st_uid })
        }
        _ => Ok(()),
    };
    Ok(folder_at(path, &check)?.0)
}

/// The first file, folder or link on the way to a program that any user of the system may change.
pub(super) fn writable_program(path: &Path) -> Option<Untrusted> {
    // One that does not exist or cannot be reached will be reported when it is started.
    file_at(path, &not_worlds).err().filter(|error| matches!(error, Untrusted::Writable { .. }))
}

/// `O_NONBLOCK`: a named pipe must not hold up the daemon before it is refused.
const READ: OFlag = OFlag::O_RDONLY.union(OFlag::O_NONBLOCK).union(OFlag::O_NOCTTY).union(OFlag::O_CLOEXEC);

/// Opens no content, so it disturbs no device.
const LOOK: OFlag = OFlag::O_PATH.union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);

/// Where a walk has ended: at `name` in `folder`, which is `path` without links.
struct Found {
    folder: OwnedFd,
    name: OsString,
    path: PathBuf,
}

type Check<'c> = &'c dyn Fn(&Path, &FileStat) -> Result<(), Untrusted>;

/// What is at the end of a path.
enum End {
    File(Found),
    Folder(OwnedFd, PathBuf),
}

/// Walks to a regular file; `check` sees everything on the way.
fn file_at(path: &Path, check: Check<'_>) -> Result<Found, Untrusted> {
    match walk(path, check)? {
        End::File(found) => Ok(found),
        End::Folder(_, path) => Err(Untrusted::Kind { path, kind: "a folder", wanted: "a file" }),
    }
}

/// Walks to a folder; `check` sees everything on the way.
fn folder_at(path: &Path, check: Check<'_>) -> Result<(OwnedFd, PathBuf), Untrusted> {
    match walk(path, check)? {
        End::Folder(folder, path) => Ok((folder, path)),
        End::File(Found { path, .. }) => Err(Untrusted::Kind { path, kind: "a file", wanted: "a folder" }),
    }
}

fn walk(path: &Path, check: Check<'_>) -> Result<End, Untrusted> {
    if !path.is_absolute() {
        return Err(Untrusted::Relative(path.to_owned()));
    }
    let mut folder = root(check)?;
    let mut here = PathBuf::from("/");
    let mut ahead = components(path);
    let mut links = 0;
    while let Some(name) = ahead.pop() {
        let path = if name == ".." { here.parent().unwrap_or(&here).to_owned() } else { here.join(&name) };
        let next =
            openat(&folder, name.as_os_str(), LOOK, Mode::empty()).map_err(|errno| failed(&path, errno))?;
        let stat = status(&next, &path)?;
        check(&path, &stat)?;
        match kind(&stat) {
            SFlag::S_IFDIR => (folder, here) = (next, path),
            SFlag::S_IFLNK if links == MAX_LINKS => return Err(failed(&path, Errno::ELOOP)),
            SFlag::S_IFLNK => {
                links += 1;
                // By the folder, not by `next`: only root could have put another link there since.
                let target = readlinkat(&folder, name.as_os_str()).map_err(|errno| failed(&path, errno))?;
                let target = PathBuf::from(target);
                if target.is_absolute() {
                    (folder, here) = (root(check)?, PathBuf::from("/"));
                }
                ahead.extend(components(&target));
            }
            _ if !ahead.is_empty() => return Err(failed(&path, Errno::ENOTDIR)),
            _ => {
                regular(&path, &stat)?;
                return Ok(End::File(Found { folder, name, path }));
            }
        }
    }
    Ok(End::Folder(folder, here))
}

fn root(check: Check<'_>) -> Result<OwnedFd, Untrusted> {
    let path = Path::new("/");
    let root = openat(AT_FDCWD, path, LOOK, Mode::empty()).map_err(|errno| failed(path, errno))?;
    check(path, &status(&root, path)?)?;
    Ok(root)
}

/// The components of a path, the first one last.
fn components(path: &Path) -> Vec<OsString> {
    let name = |component: Component<'_>| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::CurDir | Component::RootDir | Component::Prefix(_) => None,
    };
    path.components().filter_map(name).rev().collect()
}

fn roots_alone(path: &Path, stat: &FileStat) -> Result<(), Untrusted> {
    if stat.st_uid != 0 {
        return Err(Untrusted::Owner { path: path.to_owned(), uid: stat.st_uid });
    }
    not_writable(path, stat, Mode::S_IWGRP | Mode::S_IWOTH)
}

/// The group is left out: where each user has a group, as on most distributions, it is nobody else.
fn not_worlds(path: &Path, stat: &FileStat) -> Result<(), Untrusted> {
    not_writable(path, stat, Mode::S_IWOTH)
}

fn not_writable(path: &Path, stat: &FileStat, bits: Mode) -> Result<(), Untrusted> {
    let mode = Mode::from_bits_truncate(stat.st_mode);
    // The mode of a link says nothing: whoever may change it is decided by its folder.
    let exempt = match kind(stat) {
        SFlag::S_IFLNK => true,
        SFlag::S_IFDIR => mode.contains(Mode::S_ISVTX),
        _ => false,
    };
    if exempt || !mode.intersects(bits) {
        Ok(())
    } else {
        Err(Untrusted::Writable { path: path.to_owned(), mode: mode.bits() })
    }
}

fn regular(path: &Path, stat: &FileStat) -> Result<(), Untrusted> {
    let kind = match kind(stat) {
        SFlag::S_IFREG => return Ok(()),
        SFlag::S_IFDIR => "a folder",
        SFlag::S_IFIFO => "a named pipe",
        SFlag::S_IFSOCK => "a socket",
        _ => "a device",
    };
    Err(Untrusted::Kind { path: path.to_owned(), kind, wanted: "a file" })
}

fn kind(stat: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(stat.st_mode) & SFlag::S_IFMT
}

fn status(fd: &OwnedFd, path: &Path) -> Result<FileStat, Untrusted> {
    fstat(fd).map_err(|errno| failed(path, errno))
}

fn failed(path: &Path, errno: Errno) -> Untrusted {
    Untrusted::Open { path: path.to_owned(), errno }
}
