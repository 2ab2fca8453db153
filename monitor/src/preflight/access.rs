//! What a user may do with a file, asked of the kernel by a thread that has become that user.
//!
//! Credentials are those of a thread in the kernel. The C library hides that by telling all threads, but its calls are
//! not used here: the thread that changes is made for the question and ends with it.

use std::fmt;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::unistd::{Gid as GroupId, Group, Uid as UserId, User as Entry};
use rustix::fs::Access;
use rustix::io::Errno;
use rustix::process::{Gid, Uid};
use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};

use crate::keeper::plan::Identity;

/// Somebody whose rights are asked for.
#[derive(Clone, Debug)]
pub(super) struct User {
    name: String,
    /// `None`: whoever this process is.
    identity: Option<Identity>,
}

/// Why a file cannot be had.
#[derive(Debug)]
pub(super) struct Obstacle {
    /// The file, or a folder on the way to it.
    path: PathBuf,
    errno: Errno,
    /// What was wanted of it, as a verb.
    wanted: &'static str,
    user: String,
}

impl User {
    pub(super) fn new(name: String, identity: Option<Identity>) -> Self {
        Self { name, identity }
    }

    /// Whoever this process is.
    pub(super) fn current() -> Self {
        let uid = UserId::effective();
        let name = Entry::from_uid(uid).ok().flatten().map_or_else(|| uid.to_string(), |user| user.name);
        Self { name, identity: None }
    }

    /// The number of the user.
    pub(super) fn uid(&self) -> u32 {
        self.identity.as_ref().map_or_else(|| UserId::effective().as_raw(), |identity| identity.uid)
    }

    /// Whether the user may do `access` with a file, and enter each folder on the way to it.
    ///
    /// # Errors
    /// With the first obstacle on the way.
    pub(super) fn reach(&self, path: &Path, access: Access, wanted: &'static str) -> Result<(), Obstacle> {
        let obstacle = |path: &Path, errno, wanted| Obstacle {
            path: path.to_owned(),
            errno,
            wanted,
            user: self.name.clone(),
        };
        let look = || {
            self.become_it().map_err(|errno| obstacle(path, errno, "be asked for"))?;
            let mut folders: Vec<&Path> = path.ancestors().skip(1).collect();
            folders.reverse();
            for folder in folders {
                rustix::fs::access(folder, Access::EXEC_OK).map_err(|errno| match errno {
                    // What is wanted says more than the first folder that is missing.
                    Errno::NOENT => obstacle(path, errno, wanted),
                    _ => obstacle(folder, errno, "enter"),
                })?;
            }
            rustix::fs::access(path, access).map_err(|errno| obstacle(path, errno, wanted))
        };
        std::thread::scope(|scope| {
            // A thread that cannot be made, or panics, has found out nothing.
            let thread = std::thread::Builder::new().spawn_scoped(scope, look);
            thread.ok().and_then(|thread| thread.join().ok())
        })
        .unwrap_or_else(|| Err(obstacle(path, Errno::AGAIN, wanted)))
    }

    /// For good: to be called by a thread that has nothing else to do.
    fn become_it(&self) -> Result<(), Errno> {
        let Some(identity) = &self.identity else { return Ok(()) };
        let groups: Vec<Gid> = identity.groups.iter().copied().map(Gid::from_raw).collect();
        let (gid, uid) = (Gid::from_raw(identity.gid), Uid::from_raw(identity.uid));
        set_thread_groups(&groups)?;
        set_thread_res_gid(gid, gid, gid)?;
        // With it go the capabilities, unless it is root.
        set_thread_res_uid(uid, uid, uid)
    }
}

impl fmt::Display for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (uid {}", self.name, self.uid())?;
        if let Some(identity) = &self.identity {
            write!(f, ", gid {}", identity.gid)?;
            let others = identity.groups.iter().filter(|gid| **gid != identity.gid);
            let others: Vec<String> = others.map(|gid| group(*gid)).collect();
            if !others.is_empty() {
                write!(f, ", groups {}", others.join(" "))?;
            }
        }
        f.write_str(")")
    }
}

impl Obstacle {
    /// What to do about it.
    pub(super) fn remedy(&self, key: &str) -> String {
        let path = self.path.display();
        match self.errno {
            Errno::NOENT | Errno::NOTDIR => format!("make {path}, or correct `{key}`"),
            Errno::ACCESS | Errno::PERM | Errno::ROFS => {
                let bit = match self.wanted {
                    "read" => "r",
                    "write" => "w",
                    _ => "x",
                };
                format!("chmod or chown it (chmod o+{bit} {path}), or have another user do it")
            }
            _ => format!("correct `{key}`, or see path_resolution(7)"),
        }
    }
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, errno, wanted, user } = self;
        match *errno {
            Errno::NOENT => write!(f, "{} is not there", path.display()),
            Errno::ACCESS | Errno::PERM => {
                write!(f, "{user} may not {wanted} {}{}", path.display(), owner(path))
            }
            errno => {
                let why = io::Error::from(errno).to_string();
                let why = why.split(" (os error").next().unwrap_or_default().to_lowercase();
                write!(f, "{user} cannot {wanted} {}: {why}", path.display())
            }
        }
    }
}

/// ` (root:root, mode 0700)`
fn owner(path: &Path) -> String {
    let Ok(found) = std::fs::metadata(path) else { return String::new() };
    let owner = Entry::from_uid(UserId::from_raw(found.uid())).ok().flatten();
    let owner = owner.map_or_else(|| found.uid().to_string(), |user| user.name);
    format!(" ({owner}:{}, mode {:04o})", group(found.gid()), found.mode() & 0o7777)
}

fn group(gid: u32) -> String {
    Group::from_gid(GroupId::from_raw(gid)).ok().flatten().map_or_else(|| gid.to_string(), |group| group.name)
}
