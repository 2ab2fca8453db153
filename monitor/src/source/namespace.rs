//! Whether this process sees the kernel's pids, users and times as the kernel tells them.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;

/// Namespaces of which the host's must be ours, by the inode numbers in include/linux/proc_ns.h: what the kernel tells
/// speaks of pids, capabilities and times of the host.
const NAMESPACES: [(&str, &str, u64); 3] = [
    ("pid", "/proc/self/ns/pid", 0xEFFF_FFFC),
    ("user", "/proc/self/ns/user", 0xEFFF_FFFD),
    ("time", "/proc/self/ns/time", 0xEFFF_FFFA),
];

/// Why what the kernel tells cannot be used here.
#[derive(Debug)]
pub(super) enum Foreign {
    /// The namespace of that name is not the host's.
    Namespace(&'static str),
    /// The file does not tell.
    Unreadable(&'static str, io::Error),
}

/// Fails unless this process is in the host's namespaces.
pub(super) fn check() -> Result<(), Foreign> {
    for (namespace, path, initial) in NAMESPACES {
        match fs::metadata(path) {
            Ok(found) if found.ino() == initial => {}
            Ok(_) => return Err(Foreign::Namespace(namespace)),
            // A kernel that was built without this kind of namespace has only the initial one.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(cause) => return Err(Foreign::Unreadable(path, cause)),
        }
    }
    Ok(())
}
