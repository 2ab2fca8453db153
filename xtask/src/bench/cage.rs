//! The cgroups of one subject: what is in them is all that it started, and what the kernel keeps for it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::clock;

/// How long the members may take to end after they were killed.
const EMPTY_LIMIT: Duration = Duration::from_secs(10);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    /// Version 2, alone or beside version 1.
    Unified,
    /// The memory controller of version 1.
    Memory,
    /// systemd's own hierarchy of version 1: a systemd in a container needs it.
    Systemd,
}

/// A hierarchy and the bench's group in it.
#[derive(Debug)]
pub(super) struct Hierarchy {
    kind: Kind,
    pub(super) group: PathBuf,
}

impl Hierarchy {
    /// Those that are mounted, with a group of this name.
    pub(super) fn all(name: &Path) -> Vec<Self> {
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
        mounted(&mounts, &own).into_iter().map(|(kind, at)| Self { kind, group: at.join(name) }).collect()
    }

    pub(super) fn make(&self) -> Result<()> {
        fs::create_dir(&self.group).with_context(|| format!("cannot make {}", self.group.display()))?;
        if self.kind == Kind::Unified {
            // Where the controller is of version 1, or not enabled above, there is none to be had.
            fs::write(self.group.join("cgroup.subtree_control"), "+memory").ok();
        }
        Ok(())
    }
}

/// Where groups can be made. In version 2 at the top, since a group that holds processes gives no controller to
/// those below it; in version 1 below our own, whose limits are then ours.
fn mounted(mounts: &str, own: &str) -> Vec<(Kind, PathBuf)> {
    let mount = |line: &str| {
        let mut words = line.split(' ').skip(1);
        let (place, kind, options) = (words.next()?, words.next()?, words.next()?);
        let has = |option| options.split(',').any(|word| word == option);
        let (kind, controller) = match kind {
            "cgroup2" => return Some((Kind::Unified, PathBuf::from(place))),
            "cgroup" if has("memory") => (Kind::Memory, "memory"),
            "cgroup" if has("name=systemd") => (Kind::Systemd, "name=systemd"),
            _ => return None,
        };
        let ours = own.lines().find_map(|line| {
            let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
            controllers.split(',').any(|it| it == controller).then_some(path)
        });
        Some((kind, Path::new(place).join(ours.unwrap_or_default().trim_start_matches('/'))))
    };
    let mut found: Vec<(Kind, PathBuf)> = mounts.lines().filter_map(mount).collect();
    found.sort_by_key(|(kind, _)| *kind != Kind::Unified);
    found.dedup_by_key(|(kind, _)| *kind);
    found
}

/// One subject's groups; without root, or without cgroups, none.
#[derive(Debug)]
pub(super) struct Cage {
    groups: Vec<(Kind, PathBuf)>,
}

impl Cage {
    pub(super) fn make(hierarchies: &[Hierarchy], name: &str) -> Result<Self> {
        let groups = hierarchies.iter().map(|it| (it.kind, it.group.join(name))).collect();
        let cage = Self { groups };
        for (_, group) in &cage.groups {
            fs::create_dir(group).with_context(|| format!("cannot make {}", group.display()))?;
        }
        Ok(cage)
    }

    /// A shell that goes into the groups and becomes the command there.
    pub(super) fn wrap(&self, command: &Command) -> Command {
        const ENTER: &str = r#"for group in $1; do echo $$ > "$group/cgroup.procs"; done; shift; exec "$@""#;
        let mut shell = Command::new("/bin/sh");
        shell.args(["-c", ENTER, "sh", &self.list()]).arg(command.get_program()).args(command.get_args());
        shell.env_clear().current_dir("/");
        for (name, value) in command.get_envs() {
            shell.env(name, value.unwrap_or_default());
        }
        shell
    }

    /// The paths, with spaces in between: their own names have none.
    pub(super) fn list(&self) -> String {
        let paths: Vec<String> = self.groups.iter().map(|(_, group)| group.display().to_string()).collect();
        paths.join(" ")
    }

    /// Whether systemd's hierarchies are there.
    pub(super) fn holds_systemd(&self) -> bool {
        self.unified().is_some()
    }

    /// The group of version 2.
    pub(super) fn unified(&self) -> Option<&Path> {
        self.find(Kind::Unified)
    }

    fn find(&self, kind: Kind) -> Option<&Path> {
        self.groups.iter().find(|(found, _)| *found == kind).map(|(_, group)| group.as_path())
    }

    /// All processes of the subject; `None` where no group tells.
    pub(super) fn processes(&self) -> Option<Vec<u32>> {
        let mut pids = Vec::new();
        collect(self.unified()?, &mut pids);
        Some(pids)
    }

    /// What the kernel keeps for the processes, in KiB: slab, page tables, stacks, pipes, eBPF maps.
    pub(super) fn kernel_kib(&self) -> Option<u64> {
        let usage = |group: &Path| fs::read_to_string(group.join("memory.kmem.usage_in_bytes")).ok();
        if let Some(text) = self.find(Kind::Memory).and_then(usage) {
            return Some(text.trim().parse::<u64>().ok()? / 1024);
        }
        let stat = fs::read_to_string(self.unified()?.join("memory.stat")).ok()?;
        Some(number(&stat, "kernel")? / 1024)
    }

    /// Removed cgroups below that the kernel still keeps.
    pub(super) fn dying(&self) -> Option<u64> {
        let stat = fs::read_to_string(self.unified()?.join("cgroup.stat")).ok()?;
        number(&stat, "nr_dying_descendants")
    }

    /// Kills all that is left in the groups, and removes them.
    pub(super) fn remove(&self) -> Result<()> {
        if let Some(group) = self.unified() {
            fs::write(group.join("cgroup.kill"), "1")
                .with_context(|| format!("cannot kill {}", group.display()))?;
        }
        for (_, group) in &self.groups {
            let gone = clock::wait(EMPTY_LIMIT, || Ok(remove(group).then_some(())))?;
            if gone.is_none() {
                bail!("{} is not empty", group.display());
            }
        }
        Ok(())
    }
}

/// The number of a line such as `kernel 4096`.
fn number(stat: &str, name: &str) -> Option<u64> {
    stat.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
}

fn folders(group: &Path) -> impl Iterator<Item = PathBuf> {
    let entries = fs::read_dir(group).into_iter().flatten().flatten();
    entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())).map(|entry| entry.path())
}

fn collect(group: &Path, pids: &mut Vec<u32>) {
    let members = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
    pids.extend(members.lines().filter_map(|pid| pid.parse::<u32>().ok()));
    for below in folders(group) {
        collect(&below, pids);
    }
}

/// Whether the group and all below it are gone.
fn remove(group: &Path) -> bool {
    let emptied = folders(group).all(|below| remove(&below));
    emptied && (fs::remove_dir(group).is_ok() || !fs::exists(group).unwrap_or(true))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_are_made_where_they_can_have_controllers() {
        let hybrid = "cgroup /sys/fs/cgroup/cpu cgroup rw,relatime,cpu 0 0\n\
                      cgroup /sys/fs/cgroup/memory cgroup rw,relatime,memory 0 0\n\
                      cgroup /sys/fs/cgroup/systemd cgroup rw,name=systemd 0 0\n\
                      cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
        let own = "4:memory:/a/b\n3:cpu:/c\n2:name=systemd:/\n0::/d\n";
        let at = |kind, path: &str| (kind, PathBuf::from(path));
        assert_eq!(
            mounted(hybrid, own),
            [
                at(Kind::Unified, "/sys/fs/cgroup/unified"),
                at(Kind::Memory, "/sys/fs/cgroup/memory/a/b"),
                at(Kind::Systemd, "/sys/fs/cgroup/systemd/"),
            ]
        );
        let pure = "cgroup2 /sys/fs/cgroup cgroup2 rw,nsdelegate 0 0\n";
        assert_eq!(mounted(pure, "0::/user.slice\n"), [at(Kind::Unified, "/sys/fs/cgroup")]);
    }

    #[test]
    fn a_number_is_found_by_its_whole_name() {
        let stat = "kernel_stack 16384\nkernel 65536\nnr_dying_descendants 3\n";
        assert_eq!(number(stat, "kernel"), Some(65536));
        assert_eq!(number(stat, "nr_dying_descendants"), Some(3));
        assert_eq!(number(stat, "slab"), None);
    }
}
