//! How the processes of a service can be held together: cgroups, and what may be done with them from here.

use std::fs::{self, File};
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, access};

use super::facts::{Facts, brief, word};
use super::mounts::Mount;
use super::row::{Group, Row};
use crate::effect::cgroup::CgroupTree;
use crate::keeper;

const GROUP: Group = Group::Trees;

/// What is done without them.
const WITHOUT: &str = "trees are followed by process group and environment";

/// The controllers that defib has a use for, in the order of their weight.
const CONTROLLERS: [&str; 4] = ["memory", "pids", "cpu", "io"];

pub(super) fn rows(facts: &Facts) -> Vec<Row> {
    let mut rows = vec![hierarchy(facts)];
    match CgroupTree::find(&facts.settings.state_dir, std::process::id()) {
        Ok(tree) => {
            rows.push(base(&tree));
            rows.push(into(facts, &tree));
            rows.push(kill(facts, &tree));
            rows.push(controllers(facts, &tree));
        }
        Err(why) if unified(facts).is_some() => {
            rows.push(GROUP.missing("cgroup-base", format!("{why}; {WITHOUT}"), ""));
        }
        // The row of the hierarchy has said it.
        Err(_) => {}
    }
    rows
}

fn unified(facts: &Facts) -> Option<&Mount> {
    facts.mounts.iter().find(|mount| mount.filesystem == "cgroup2")
}

/// The controllers that are in hierarchies of version 1, and where.
fn version_1(mounts: &[Mount]) -> Vec<&'static str> {
    let names = ["memory", "pids", "cpu", "blkio"];
    let has = |name: &str| {
        mounts.iter().any(|mount| mount.filesystem == "cgroup" && mount.options.iter().any(|it| it == name))
    };
    names.into_iter().filter(|name| has(name)).collect()
}

fn hierarchy(facts: &Facts) -> Row {
    let old = version_1(&facts.mounts);
    let any_old = facts.mounts.iter().any(|mount| mount.filesystem == "cgroup");
    match unified(facts) {
        Some(mount) if any_old => GROUP.limited(
            "cgroup",
            format!(
                "hybrid: v2 at {}; v1 has {}",
                mount.point.display(),
                if old.is_empty() { "the rest".to_owned() } else { old.join(" ") }
            ),
            "for limits by v2, boot with systemd.unified_cgroup_hierarchy=1",
        ),
        Some(mount) => GROUP.ok("cgroup", format!("v2 at {}", mount.point.display())),
        None if any_old => GROUP.limited(
            "cgroup",
            format!("v1 only: {WITHOUT}"),
            "mount -t cgroup2 none /mnt, or boot with systemd.unified_cgroup_hierarchy=1",
        ),
        None => GROUP.limited(
            "cgroup",
            format!("none is mounted: {WITHOUT}"),
            "mount -t cgroup2 none /sys/fs/cgroup",
        ),
    }
}

/// Where the groups would be, if a daemon were started from here.
fn base(tree: &CgroupTree) -> Row {
    let (base, origin) = (tree.base(), tree.origin());
    let there = base.is_dir();
    // Making a group takes a writable folder; moving keeper and daemon into it, the list of their present group.
    let places: [PathBuf; 2] =
        [if there { base.to_owned() } else { origin.to_owned() }, origin.join("cgroup.procs")];
    let refused = places.iter().find_map(|path| Some((path, access(path, Access::WRITE_OK).err()?)));
    let found = format!("{}{}", base.display(), if there { " is there" } else { " can be made" });
    match refused {
        None => GROUP.ok("cgroup-base", found),
        Some((path, errno)) => GROUP.limited(
            "cgroup-base",
            format!("{}: {}; {WITHOUT}", plain(path).display(), brief(&errno.into())),
            if errno == rustix::io::Errno::ROFS {
                "mount it writable (docker: --cgroupns=private and a writable /sys/fs/cgroup)"
            } else {
                "run defib as root, or in a unit with Delegate=yes"
            },
        ),
    }
}

/// Makes a process in the group that this one is in: the same call as for a service's own.
fn into(facts: &Facts, tree: &CgroupTree) -> Row {
    let name = "clone-into";
    let group = match File::open(tree.origin()) {
        Ok(group) => group,
        Err(error) => {
            let found = format!("{}: {}; {WITHOUT}", tree.origin().display(), brief(&error));
            return GROUP.limited(name, found, "");
        }
    };
    match keeper::trial(Some(group.as_fd())) {
        Ok(()) => GROUP.ok(name, "a process was made straight into a cgroup, at no cost"),
        Err(error) => {
            let remedy = match error.cause.raw_os_error() {
                Some(libc::EACCES | libc::EPERM) => {
                    "run defib as root, or in a unit with Delegate=yes".to_owned()
                }
                Some(libc::EINVAL | libc::E2BIG | libc::ENOSYS) => {
                    facts.of_kernel((5, 7), "let the seccomp filter allow clone3")
                }
                _ => String::new(),
            };
            GROUP.limited(name, format!("{}: {}; {WITHOUT}", error.call(), brief(&error.cause)), remedy)
        }
    }
}

/// The file is in every group but the root.
fn kill(facts: &Facts, tree: &CgroupTree) -> Row {
    let here = [tree.base(), tree.origin()].into_iter().any(|group| group.join("cgroup.kill").exists());
    if here || below(tree.origin()) || facts.since(5, 14) {
        GROUP.ok("cgroup-kill", "a whole tree ends at one write")
    } else {
        let found = "the kernel has none: the processes of a tree are ended one by one";
        GROUP.limited("cgroup-kill", found, "run Linux 5.14 or later")
    }
}

fn below(group: &Path) -> bool {
    let folders = fs::read_dir(group).into_iter().flatten().flatten();
    folders.take(64).any(|entry| entry.path().join("cgroup.kill").exists())
}

fn controllers(facts: &Facts, tree: &CgroupTree) -> Row {
    let name = "controllers";
    let origin = tree.origin();
    let list = |file| wanted(&word(origin.join(file)).unwrap_or_default());
    let (there, handed_on) = (list("cgroup.controllers"), list("cgroup.subtree_control"));
    let lacking: Vec<_> = CONTROLLERS.into_iter().filter(|name| !there.contains(name)).collect();
    if lacking.is_empty() {
        let on = if handed_on.is_empty() { "none yet".to_owned() } else { handed_on.join(" ") };
        return GROUP.ok(name, format!("{} (handed on: {on})", there.join(" ")));
    }
    let has = if there.is_empty() { "none".to_owned() } else { there.join(" ") };
    let found = format!("{has} in {}; not {}", plain(origin).display(), lacking.join(" "));
    let old = version_1(&facts.mounts);
    let taken = lacking.iter().any(|name| old.contains(name) || *name == "io" && old.contains(&"blkio"));
    let remedy = if taken {
        "v1 has them: boot with systemd.unified_cgroup_hierarchy=1"
    } else {
        "in a unit: Delegate=yes; else write +memory +pids to cgroup.subtree_control above"
    };
    GROUP.limited(name, found, remedy)
}

/// The path without a slash at its end.
fn plain(path: &Path) -> PathBuf {
    path.components().collect()
}

/// Those of a list that defib has a use for.
fn wanted(list: &str) -> Vec<&'static str> {
    CONTROLLERS.into_iter().filter(|name| list.split_whitespace().any(|word| word == *name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::mounts::mounts;

    #[test]
    fn the_controllers_of_version_1_are_known() {
        let hybrid = mounts(
            "1 2 0:1 / /c rw - cgroup cgroup rw,cpu,cpuacct\n1 2 0:1 / /m rw - cgroup cgroup rw,memory\n\
             1 2 0:1 / /s rw - cgroup cgroup rw,name=systemd\n1 2 0:1 / /u rw - cgroup2 none rw,pids",
        );
        assert_eq!(version_1(&hybrid), ["memory", "cpu"]);
        assert!(version_1(&[]).is_empty());
    }

    #[test]
    fn only_whole_words_are_controllers() {
        assert_eq!(wanted("cpuset cpu io\n"), ["cpu", "io"]);
        assert!(wanted("").is_empty());
    }
}
