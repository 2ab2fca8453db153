//! The cgroups of the services: where they are, and their making and removal. cgroup v2, or the unified mount of a
//! hybrid host.
//!
//! ```text
//! BASE                what was delegated to defib, or BASE = defib-HASH in a group that others use too
//! ├─ defib            keeper and daemon
//! └─ svc/NAME/0, 1    the lives of a service, in turn
//! ```
//!
//! Only folders are made here; nothing is ever moved into the leaf of a service, because a move takes a global lock
//! and 8 ms: processes are born there (CLONE_INTO_CGROUP).

use std::fs;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use defib_core::model::{ServiceName, Tick};
use rustix::event::{PollFd, PollFlags, Timespec};

use super::clock;
use super::group_look::Group;
use super::proc_folder::Scratch;

/// The most processes of a leaf that are looked at, and the most groups in it.
const MOST: usize = 4096;

/// The tree of one daemon.
#[derive(Clone, Debug)]
pub struct CgroupTree {
    base: PathBuf,
    /// Where keeper and daemon go when defib leaves.
    origin: PathBuf,
}

/// Why there are no cgroups.
#[derive(Debug, thiserror::Error)]
pub enum NoCgroup {
    /// No version 2.
    #[error("no cgroup v2 is mounted (mount -t cgroup2 none /sys/fs/cgroup)")]
    NotMounted,
    /// It cannot be used.
    #[error("{what} {}: {cause}", path.display())]
    Unusable {
        /// What was tried.
        what: &'static str,
        /// On what.
        path: PathBuf,
        /// The kernel's answer.
        #[source]
        cause: io::Error,
    },
}

impl CgroupTree {
    /// Makes, or finds again, the tree of the daemon with this state directory, and moves keeper and daemon into it.
    ///
    /// # Errors
    /// If there is no cgroup v2, or no right to it: services then run without.
    pub fn set_up(state_dir: &Path, keeper: u32) -> Result<Self, NoCgroup> {
        let tree = Self::find(state_dir, keeper)?;
        for folder in [tree.base.clone(), tree.services(), tree.own()] {
            make(&folder)?;
        }
        for pid in [keeper, std::process::id()] {
            enter(&tree.own(), pid)?;
        }
        Ok(tree)
    }

    /// Where the tree of the daemon with this state directory is or would be; nothing is made.
    ///
    /// # Errors
    /// If there is no cgroup v2, or it cannot be read.
    pub fn find(state_dir: &Path, keeper: u32) -> Result<Self, NoCgroup> {
        let mountinfo = read(Path::new("/proc/self/mountinfo"))?;
        let mount = mount_point(&mountinfo).ok_or(NoCgroup::NotMounted)?;
        let membership = read(&PathBuf::from(format!("/proc/{keeper}/cgroup")))?;
        let here = own_path(&membership).ok_or(NoCgroup::NotMounted)?;
        Self::choose(&mount.join(here.trim_start_matches('/')), state_dir, keeper)
    }

    fn choose(here: &Path, state_dir: &Path, keeper: u32) -> Result<Self, NoCgroup> {
        let own_name = format!("defib-{}", short_name(state_dir));
        // A daemon before this one has moved the keeper into its leaf already, or systemd has: `DelegateSubgroup=defib`.
        if here.ends_with("defib")
            && let Some(base) = here.parent()
            && (base.join("svc").is_dir() || delegated(base))
        {
            let below = base.ends_with(&own_name);
            let origin = base.parent().filter(|_| below).unwrap_or(base);
            return Ok(Self { base: base.to_owned(), origin: origin.to_owned() });
        }
        let ours = [keeper, std::process::id()];
        let procs = read(&here.join("cgroup.procs"))?;
        let alone = procs.lines().all(|pid| pid.parse().is_ok_and(|pid| ours.contains(&pid)));
        // The root has no cgroup.type: it belongs to everybody, however few processes are in it just now.
        let root = !here.join("cgroup.type").exists();
        let base = if alone && !root { here.to_owned() } else { here.join(own_name) };
        Ok(Self { base, origin: here.to_owned() })
    }

    /// Where it is.
    pub fn base(&self) -> &Path {
        &self.base
    }

    /// The group that keeper and daemon come from: the base, or the one above it.
    pub fn origin(&self) -> &Path {
        &self.origin
    }

    /// The folder of a service, whether it is there or not.
    pub fn folder(&self, service: &ServiceName) -> PathBuf {
        self.services().join(service.as_str())
    }

    /// The folder of all services.
    pub(super) fn services(&self) -> PathBuf {
        self.base.join("svc")
    }

    fn own(&self) -> PathBuf {
        self.base.join("defib")
    }

    /// The folder of a service, made if it is not there. The keeper makes the leaves in it.
    ///
    /// # Errors
    /// If it cannot be made or opened.
    pub fn service(&self, service: &ServiceName) -> Result<OwnedFd, NoCgroup> {
        let path = self.services().join(service.as_str());
        let open = || fs::File::open(&path).map(OwnedFd::from);
        // Mostly it is there, and to find that out by mkdir takes five times as long.
        let opened = match open() {
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => {
                make(&path)?;
                open()
            }
            opened => opened,
        };
        opened.map_err(|cause| NoCgroup::Unusable { what: "open", path, cause })
    }

    /// Removes the folder of a service of which nothing is left.
    ///
    /// # Errors
    /// If a process still lives in it.
    pub fn forget(&self, service: &ServiceName) -> io::Result<()> {
        let folder = self.services().join(service.as_str());
        if !folder.exists() {
            return Ok(());
        }
        folders(&folder).iter().try_for_each(fs::remove_dir)?;
        fs::remove_dir(&folder)
    }

    /// The processes of a service, of whichever life: those in its folder and below. At most `limit`.
    pub fn processes_of(&self, service: &ServiceName, limit: usize) -> Vec<u32> {
        within(&self.folder(service), limit)
    }

    fn remove_leaves(&self) -> io::Result<()> {
        leaf_folders(&self.services()).iter().try_for_each(fs::remove_dir)
    }

    /// Removes what is empty, and moves keeper and daemon back to where they came from.
    ///
    /// # Errors
    /// If a process that was left alone, by `leftovers = "keep"` for one, still lives in it.
    pub fn remove(&self, keeper: u32) -> io::Result<()> {
        self.remove_leaves()?;
        for folder in folders(&self.services()) {
            fs::remove_dir(folder)?;
        }
        fs::remove_dir(self.services())?;
        for pid in [keeper, std::process::id()] {
            fs::write(self.origin.join("cgroup.procs"), pid.to_string())?;
        }
        fs::remove_dir(self.own())?;
        if self.base != self.origin {
            fs::remove_dir(&self.base)?;
        }
        Ok(())
    }
}

/// Whether systemd has given this group away: "Control Group APIs and Delegation", for both of its marks.
fn delegated(group: &Path) -> bool {
    ["user.delegate", "trusted.delegate"].iter().any(|mark| {
        let mut value = [0; 1];
        rustix::fs::getxattr(group, *mark, &mut value).is_ok_and(|length| value[..length] == *b"1")
    })
}

fn read(path: &Path) -> Result<String, NoCgroup> {
    fs::read_to_string(path).map_err(|cause| NoCgroup::Unusable {
        what: "read",
        path: path.to_owned(),
        cause,
    })
}

fn make(path: &Path) -> Result<(), NoCgroup> {
    match fs::create_dir(path) {
        Err(cause) if cause.kind() != io::ErrorKind::AlreadyExists => {
            Err(NoCgroup::Unusable { what: "mkdir", path: path.to_owned(), cause })
        }
        Ok(()) | Err(_) => Ok(()),
    }
}

fn enter(group: &Path, pid: u32) -> Result<(), NoCgroup> {
    let path = group.join("cgroup.procs");
    fs::write(&path, pid.to_string()).map_err(|cause| NoCgroup::Unusable { what: "write", path, cause })
}

/// The processes of a group and of those below it, at most so many; none if it is not there.
fn within(group: &Path, limit: usize) -> Vec<u32> {
    Group::at(group).map(|group| group.processes(limit, &mut Scratch::new())).unwrap_or_default()
}

/// The processes of a leaf, and of the groups that a service has made in it.
pub(super) fn processes_below(leaf: &Path) -> Vec<u32> {
    within(leaf, MOST)
}

/// Whether a living process is in a group or below it.
pub(super) fn is_populated(group: &Path) -> bool {
    fs::File::open(group.join("cgroup.events")).is_ok_and(|events| populated(&events))
}

/// SIGKILL to everything in a leaf.
pub(crate) fn kill(leaf: &Path) {
    // Before Linux 5.14 there is no cgroup.kill, and the processes are ended one by one.
    if fs::write(leaf.join("cgroup.kill"), "1").is_err() {
        for pid in processes_below(leaf) {
            let pid = rustix::process::Pid::from_raw(pid.cast_signed());
            pid.and_then(|pid| rustix::process::kill_process(pid, rustix::process::Signal::KILL).ok());
        }
    }
}

/// Removes a leaf, and the groups that a service has made in it, as far as nobody lives in them.
pub(crate) fn remove_with_all_below(leaf: &Path) {
    let mut groups = vec![leaf.to_owned()];
    let mut at = 0;
    while let Some(group) = groups.get(at)
        && at < MOST
    {
        groups.extend(folders(group));
        at += 1;
    }
    for group in groups.iter().rev() {
        fs::remove_dir(group).ok();
    }
}

/// Whether a living process is in the group that this `cgroup.events` is of. Read through the descriptor that may be
/// polled: a poll tells of changes since the last read.
fn populated(events: &fs::File) -> bool {
    let mut text = [0; 128];
    let length = events.read_at(&mut text, 0).unwrap_or(0);
    text[..length].windows(11).any(|word| word == b"populated 1")
}

/// The groups in a group. The kernel says of each entry what it is: some 40 of them are files, and none need be looked at.
pub(super) fn folders(parent: &Path) -> Vec<PathBuf> {
    // A folder has a link from above, one from itself, and one from each folder in it. Most groups have none.
    if fs::metadata(parent).is_ok_and(|parent| parent.nlink() == 2) {
        return Vec::new();
    }
    let entries = fs::read_dir(parent).into_iter().flatten().flatten();
    let groups = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    groups.map(|entry| entry.path()).collect()
}

fn leaf_folders(services: &Path) -> Vec<PathBuf> {
    folders(services).iter().flat_map(|service| folders(service)).collect()
}

/// Waits for the kernel to tell that a group is empty.
pub(crate) fn wait_until_empty(group: &Path, deadline: Tick) -> bool {
    let Ok(events) = fs::File::open(group.join("cgroup.events")) else { return true };
    while populated(&events) {
        let left = deadline.since(clock::now());
        if left.is_zero() {
            return false;
        }
        let mut poll = [PollFd::new(&events, PollFlags::PRI)];
        let (tv_sec, tv_nsec) = (left.as_secs().try_into().unwrap_or(i64::MAX), left.subsec_nanos().into());
        rustix::event::poll(&mut poll, Some(&Timespec { tv_sec, tv_nsec })).ok();
    }
    true
}

/// The first mount of a whole cgroup2 file system: proc(5), `/proc/pid/mountinfo`.
fn mount_point(mountinfo: &str) -> Option<PathBuf> {
    mountinfo.lines().find_map(|line| {
        let (mount, filesystem) = line.split_once(" - ")?;
        let point = mount.split(' ').nth(4)?;
        filesystem.starts_with("cgroup2 ").then(|| unescape(point))
    })
}

/// mountinfo writes blanks and backslashes as three octal digits.
fn unescape(text: &str) -> PathBuf {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, tail)) = rest.split_first() {
        let octal =
            tail.get(..3).and_then(|digits| u8::from_str_radix(std::str::from_utf8(digits).ok()?, 8).ok());
        match octal {
            Some(byte) if *first == b'\\' => {
                bytes.push(byte);
                rest = &tail[3..];
            }
            Some(_) | None => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    PathBuf::from(std::ffi::OsStr::from_bytes(&bytes))
}

/// The path in the unified hierarchy: cgroups(7), `/proc/pid/cgroup`.
pub(super) fn own_path(membership: &str) -> Option<&str> {
    membership.lines().find_map(|line| line.strip_prefix("0::"))
}

/// Groups that [`abandoned`] looks at, at most.
const LOOKED_AT: usize = 100_000;

/// The trees of daemons with this state directory, wherever they were started, that are not there by delegation.
pub fn abandoned(state_dir: &Path) -> Vec<PathBuf> {
    let Ok(mountinfo) = read(Path::new("/proc/self/mountinfo")) else { return Vec::new() };
    let Some(mount) = mount_point(&mountinfo) else { return Vec::new() };
    let name = format!("defib-{}", short_name(state_dir));
    let (mut found, mut groups) = (Vec::new(), vec![mount]);
    for _ in 0..LOOKED_AT {
        let Some(group) = groups.pop() else { break };
        match group.ends_with(&name) {
            true => found.push(group),
            false => groups.extend(folders(&group)),
        }
    }
    found
}

/// Removes such a tree.
///
/// # Errors
/// If processes live in it.
pub fn remove_abandoned(base: &Path) -> io::Result<()> {
    let events = fs::File::open(base.join("cgroup.events"))?;
    if populated(&events) {
        return Err(io::Error::other("processes live in it"));
    }
    remove_tree(base)
}

fn remove_tree(group: &Path) -> io::Result<()> {
    folders(group).iter().try_for_each(|folder| remove_tree(folder))?;
    fs::remove_dir(group)
}

/// A short name for the daemon with this state directory, for what it makes in the kernel.
pub fn short_name(state_dir: &Path) -> String {
    format!("{:08x}", fnv(state_dir.as_os_str().as_bytes()))
}

/// FNV-1a: a short name for a state directory that stays the same over versions of defib.
fn fnv(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_unified_mount_is_found_on_pure_and_hybrid_hosts() {
        let pure = "29 23 0:26 / /sys/fs/cgroup rw,nosuid - cgroup2 cgroup2 rw,nsdelegate";
        assert_eq!(mount_point(pure), Some("/sys/fs/cgroup".into()));
        let hybrid = "31 30 0:27 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
                      32 30 0:28 / /sys/fs/cgroup/uni\\040fied rw shared:9 - cgroup2 none rw";
        assert_eq!(mount_point(hybrid), Some("/sys/fs/cgroup/uni fied".into()));
        assert_eq!(mount_point("23 1 8:1 / / rw - ext4 /dev/sda1 rw"), None);
        assert_eq!(own_path("4:memory:/a\n0::/b/c\n"), Some("/b/c"));
    }
}
