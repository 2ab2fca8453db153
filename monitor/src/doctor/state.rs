//! What survives the daemon: its folder, and the file system of pinned eBPF objects.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use nix::unistd::Uid;
use rustix::fs::{Access, access};

use super::daemon::Running;
use super::facts::{Facts, brief};
use super::pins;
use super::rights::{self, Place};
use super::row::{Group, Row};

const GROUP: Group = Group::State;

/// Where bpffs is mounted everywhere.
const BPFFS: &str = "/sys/fs/bpf";

/// The database in the state directory.
const DATABASE: &str = "state.db";

pub(super) fn rows(facts: &Facts, running: &Running) -> Vec<Row> {
    let folder_row = folder(&facts.settings.state_dir);
    vec![folder_row, database(&facts.settings.state_dir, running), bpffs(facts), pins::row(facts)]
}

/// What outlives defib: as the daemon says, or else as the file is.
fn database(state_dir: &Path, running: &Running) -> Row {
    let name = "state-db";
    let path = state_dir.join(DATABASE);
    let shown = path.display();
    if let Running::Here { state_trouble: Some(why), .. } = running {
        let found = format!("{why}; services are supervised, and not remembered");
        return GROUP.limited(name, found, "make room or mend the disk; defib tries again by itself");
    }
    match fs::symlink_metadata(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            GROUP.ok(name, format!("{shown} will be made at the first start"))
        }
        Err(error) => GROUP.limited(name, format!("{shown}: {}", brief(&error)), "run defib as its owner"),
        Ok(found) if !found.is_file() => {
            GROUP.limited(name, format!("{shown} is no regular file"), format!("remove {shown}"))
        }
        Ok(found) if found.uid() != Uid::effective().as_raw() && !Uid::effective().is_root() => GROUP
            .limited(name, format!("{shown} belongs to the user {}", found.uid()), "run defib as that user"),
        Ok(found) => GROUP.ok(name, format!("{shown}, {} KiB", found.len().div_ceil(1024))),
    }
}

/// The state directory, or where it would be made.
fn folder(wanted: &Path) -> Row {
    let name = "state-dir";
    if wanted.as_os_str().is_empty() {
        let found = "neither the configuration nor HOME says where it is";
        return GROUP.missing(name, found, "give --state-dir, or set HOME");
    }
    let shown = wanted.display();
    let Some(existing) = wanted.ancestors().find(|path| fs::symlink_metadata(path).is_ok()) else {
        return GROUP.missing(name, format!("{shown}: not even / can be seen"), "");
    };
    match access(existing, Access::WRITE_OK | Access::EXEC_OK) {
        Ok(()) if existing == wanted => GROUP.ok(name, format!("{shown} can be written")),
        Ok(()) => GROUP.ok(name, format!("{shown} will be made at the first start")),
        Err(errno) => {
            let found = format!("{shown}: {}: {}", existing.display(), brief(&errno.into()));
            GROUP.missing(name, found, "run defib as another user, or give another --state-dir")
        }
    }
}

fn bpffs(facts: &Facts) -> Row {
    let name = "bpffs";
    let unpinned = "nothing is recorded while no daemon runs";
    if !facts.mounts.iter().any(|mount| mount.filesystem == "bpf" && mount.point == Path::new(BPFFS)) {
        let found = format!("not mounted at {BPFFS}: {unpinned}");
        return GROUP.missing(
            name,
            found,
            format!("a daemon that runs as root mounts it; or: mount -t bpf -o mode=0700 none {BPFFS}"),
        );
    }
    let found = match fs::metadata(BPFFS) {
        Ok(found) => found,
        Err(error) => return GROUP.missing(name, format!("{BPFFS}: {}", brief(&error)), ""),
    };
    let (owner, mode) = (found.uid(), found.permissions().mode() & 0o7777);
    let shown = format!("{BPFFS}, owner {owner}, mode {mode:04o}");
    if owner != 0 || mode & 0o002 != 0 {
        let found = format!("{shown}: others than root can write there");
        return GROUP.limited(name, found, format!("as root: chown root {BPFFS} && chmod 0700 {BPFFS}"));
    }
    let may = facts.rights.has(&rights::BPF) && facts.namespaces.user == Place::Host;
    if !may || access(BPFFS, Access::WRITE_OK | Access::EXEC_OK).is_err() {
        return GROUP.limited(name, format!("{shown}, not for this user: {unpinned}"), "run defib as root");
    }
    GROUP.ok(name, format!("{shown}: pins go on recording without a daemon"))
}
