//! Groups, looked at through their folders, which are held open: to walk down from the root for every file takes as long as
//! to read it.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{Dir, FileType, Mode, OFlags, fstat, openat};

use super::proc_folder::Scratch;
use super::proc_stat::Cpu;

/// What the leaves of a service are called, in turn. Mostly there is one of them, and nothing else.
const LEAVES: [&str; 2] = ["0", "1"];

/// Who has used how much CPU time. It is there in every group but the root, whatever controllers are enabled.
const CPU: &str = "cpu.stat";

/// The folder of all services.
#[derive(Debug)]
pub(super) struct Groups(OwnedFd);

/// The folder of a group.
#[derive(Debug)]
pub(super) struct Group(OwnedFd);

impl Groups {
    pub(super) fn open(folder: PathBuf) -> io::Result<Self> {
        Ok(Self(rustix::fs::open(folder, flags(), Mode::empty())?))
    }

    /// The inode number of the folder, and those of the services' in it, by one reading of the folder.
    pub(super) fn inodes(&self) -> io::Result<(u64, BTreeMap<OsString, u64>)> {
        let listed =
            openat(&self.0, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        let mut inodes = BTreeMap::new();
        for entry in Dir::new(listed)? {
            let entry = entry?;
            let name = OsStr::from_bytes(entry.file_name().to_bytes()).to_owned();
            inodes.insert(name, entry.ino());
        }
        Ok((fstat(&self.0)?.st_ino, inodes))
    }

    /// CPU time of all that has ever been in the group of a service.
    pub(super) fn cpu_of(&self, service: &str, scratch: &mut Scratch) -> Option<Cpu> {
        read_cpu(&self.0, &format!("{service}/{CPU}"), scratch)
    }

    /// That of one service; an error if it has none.
    pub(super) fn of(&self, service: &str) -> io::Result<Group> {
        below(&self.0, service)
    }
}

impl Group {
    pub(super) fn at(folder: &Path) -> io::Result<Self> {
        Ok(Self(rustix::fs::open(folder, flags(), Mode::empty())?))
    }

    /// The processes in it and below it, at most `limit`.
    pub(super) fn processes(&self, limit: usize, scratch: &mut Scratch) -> Vec<u32> {
        let mut found = self.members(scratch);
        let mut groups = self.groups();
        // A service may make groups of its own in its leaf. One that makes too many hides the rest from itself only.
        for _ in 0..limit {
            let Some(group) = groups.pop() else { break };
            found.extend(group.members(scratch));
            if found.len() >= limit {
                break;
            }
            groups.extend(group.groups());
        }
        found.truncate(limit);
        found
    }

    /// CPU time of all that has ever been in it.
    pub(super) fn cpu(&self, scratch: &mut Scratch) -> Option<Cpu> {
        read_cpu(&self.0, CPU, scratch)
    }

    fn members(&self, scratch: &mut Scratch) -> Vec<u32> {
        let list = open(&self.0, "cgroup.procs").and_then(|file| scratch.read(file)).unwrap_or_default();
        str::from_utf8(list).unwrap_or_default().lines().filter_map(|pid| pid.parse().ok()).collect()
    }

    /// The groups right below it.
    fn groups(&self) -> Vec<Self> {
        // A folder has a link from above, one from itself, and one from each folder in it.
        let links = fstat(&self.0).map_or(0, |folder| folder.st_nlink as usize);
        if links == 2 {
            return Vec::new();
        }
        let mut known = Vec::with_capacity(LEAVES.len());
        for leaf in LEAVES {
            known.extend(below(&self.0, leaf));
            if known.len() + 2 == links {
                return known;
            }
        }
        // What only names a folder cannot be listed.
        let listed = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let listed = openat(&self.0, ".", listed, Mode::empty()).and_then(Dir::new);
        let entries = listed.into_iter().flatten().flatten();
        let folders = entries.filter(|entry| entry.file_type() == FileType::Directory);
        let names = folders.filter(|entry| !entry.file_name().to_bytes().starts_with(b"."));
        names.filter_map(|entry| below(&self.0, entry.file_name()).ok()).collect()
    }
}

fn read_cpu(folder: &OwnedFd, path: &str, scratch: &mut Scratch) -> Option<Cpu> {
    let text = str::from_utf8(scratch.read_piece(open(folder, path).ok()?).ok()?).ok()?;
    let micros = |key: &str| {
        let value = text.lines().find_map(|line| line.strip_prefix(key))?;
        Some(Duration::from_micros(value.parse().ok()?))
    };
    Some(Cpu { user: micros("user_usec ")?, system: micros("system_usec ")? })
}

fn open(folder: &OwnedFd, path: &str) -> io::Result<File> {
    Ok(File::from(openat(folder, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())?))
}

fn below(folder: impl AsFd, name: impl rustix::path::Arg) -> io::Result<Group> {
    Ok(Group(openat(folder, name, flags(), Mode::empty())?))
}

fn flags() -> OFlags {
    OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::fs;
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn everybody_in_a_service_is_found_wherever_it_is() {
        let root = tempfile::tempdir().unwrap();
        let group = |path: &str, pids: &str| {
            let folder = root.path().join(path);
            fs::create_dir_all(&folder).unwrap();
            fs::write(folder.join("cgroup.procs"), pids).unwrap();
        };
        group("a", "1\n");
        group("a/0", "20\n21\n");
        group("a/0/own", "30\n");
        group("a/0/own/deeper", "40\n");
        group("a/1", "");
        group("b", "");
        group("b/0", "7\n");
        group("c", "");
        group("c/left-over", "8\n");
        fs::write(root.path().join("a/cpu.stat"), "usage_usec 30\nuser_usec 10\nsystem_usec 20\n").unwrap();
        let (groups, mut scratch) = (Groups::open(root.path().to_owned()).unwrap(), Scratch::new());
        let mut found = |service: &str| groups.of(service).unwrap().processes(100, &mut scratch);
        assert_eq!(found("a").into_iter().collect::<BTreeSet<_>>(), BTreeSet::from([1, 20, 21, 30, 40]));
        assert_eq!((found("b"), found("c")), (vec![7], vec![8]));
        assert_eq!(groups.of("a").unwrap().processes(2, &mut scratch).len(), 2);
        let cpu = Cpu { user: Duration::from_micros(10), system: Duration::from_micros(20) };
        assert_eq!(groups.of("a").unwrap().cpu(&mut scratch), Some(cpu));
        assert_eq!(groups.cpu_of("a", &mut scratch), Some(cpu));
        assert_eq!(
            (groups.of("b").unwrap().cpu(&mut scratch), groups.cpu_of("b", &mut scratch)),
            (None, None)
        );
        let (own, inodes) = groups.inodes().unwrap();
        assert_eq!(own, fs::metadata(root.path()).unwrap().ino());
        assert_eq!(inodes[OsStr::new("c")], fs::metadata(root.path().join("c")).unwrap().ino());
        assert!(groups.of("d").is_err() && Groups::open(root.path().join("nowhere")).is_err());
    }
}
