//! The sockets that are held for services: opened before a start, kept from one life to the next.
//!
//! - `back`: those of a service whose keeper is gone, from the process that has them;
//! - `open`: makes one, or says who is in the way;
//! - `occupant`: who that is;
//! - `recent`: what has been opened and may not be known yet to whoever asks next;
//! - `share`: what lets a program that binds by itself share its port with what is held of it, by `bpf`;
//! - `duplicate`: what is held of it.
//!
//! All of it may block, on a name service or a file system, so the planner's thread does it. What is open already and
//! wanted again is not opened again: nobody is refused because of a reload.

mod back;
mod bpf;
mod duplicate;
mod occupant;
mod open;
mod recent;
pub mod share;

pub use back::take_back;
pub use duplicate::{Duplicates, duplicates};
pub use recent::Recent;

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use defib_core::model::{SocketSpec, StartFailure, StartFailureKind};

use super::failure;

/// A socket that is open.
#[derive(Clone, Debug)]
pub struct Held {
    /// What it is.
    pub spec: SocketSpec,
    fd: Arc<OwnedFd>,
}

impl Held {
    /// One that an earlier daemon has opened.
    pub fn taken_over(spec: SocketSpec, fd: OwnedFd) -> Self {
        Self { spec, fd: Arc::new(fd) }
    }

    /// Whether both are the same socket, by the same words.
    pub fn is(&self, other: &Self) -> bool {
        self.spec == other.spec && Arc::ptr_eq(&self.fd, &other.fd)
    }

    /// Whether it can serve for `wanted`. Everything else can be changed of a socket that is open.
    fn serves(&self, wanted: &SocketSpec) -> bool {
        self.spec.listen == wanted.listen && self.spec.v6only == wanted.v6only
    }
}

/// What a service has, as of now.
#[derive(Debug, Default)]
pub struct Opened {
    /// All its sockets, in order.
    pub sockets: Vec<Held>,
    /// The same once more, for the keeper.
    pub passed: Vec<OwnedFd>,
}

/// Sockets that are open, once more for the keeper.
///
/// # Errors
/// If the process is out of file descriptors.
pub fn duplicated(sockets: Vec<Held>) -> io::Result<Opened> {
    let passed = sockets.iter().map(|held| held.fd.try_clone()).collect::<io::Result<_>>()?;
    Ok(Opened { sockets, passed })
}

/// Opens what is wanted and not among `held`.
///
/// # Errors
/// If one cannot be opened: with its address, who is in the way if that is known, and what helps.
pub fn open(wanted: &[SocketSpec], held: &[Held]) -> Result<Opened, StartFailure> {
    let mut opened = Opened::default();
    for spec in wanted {
        let fd = match held.iter().find(|held| held.serves(spec)) {
            Some(held) => {
                open::renew(spec, held.fd.as_fd())?;
                Arc::clone(&held.fd)
            }
            None => Arc::new(open::open(spec)?),
        };
        let passed = fd.try_clone().map_err(|error| {
            let remedy = "defib is out of file descriptors: raise its RLIMIT_NOFILE".to_owned();
            let call = format!("duplicate the socket of {}", spec.listen);
            failure::of_call(StartFailureKind::Socket, call, &error, remedy)
        })?;
        opened.passed.push(passed);
        opened.sockets.push(Held { spec: spec.clone(), fd });
    }
    Ok(opened)
}

/// Their inodes, by which others name them.
pub fn inodes(sockets: &[Held]) -> BTreeSet<u64> {
    sockets.iter().filter_map(|held| rustix::fs::fstat(&held.fd).ok()).map(|stat| stat.st_ino).collect()
}

/// The paths of those among `old` that are not among `new`: nobody can be reached there any more.
pub fn deserted(old: &[Held], new: &[Held]) -> Vec<PathBuf> {
    let paths = |sockets: &[Held]| -> BTreeSet<PathBuf> {
        sockets.iter().filter_map(|held| held.spec.listen.path().map(Path::to_owned)).collect()
    };
    paths(old).difference(&paths(new)).cloned().collect()
}

/// Removes the path of a socket that has been closed, if there is still a socket.
pub fn remove(path: &Path) {
    let removed = match fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => fs::remove_file(path),
        Ok(_) => return,
        Err(error) => Err(error),
    };
    if let Err(error) = removed
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(path = %path.display(), %error, "the path of a closed socket is not removed");
    }
}

#[cfg(test)]
mod tests;
