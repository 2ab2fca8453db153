//! Where a daemon is at home: its folders, the lock on them, the API's socket, the cgroups, the log.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Read, Seek, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::Path;

use nix::unistd::{Gid, Group, Uid};

use super::past::Past;
use super::{DaemonError, own};
use crate::config::{self, OwnLog};
use crate::daemon::link::KeeperLink;
use crate::daemon::own_log::{Log, SinkError};
use crate::effect::cgroup::CgroupTree;
use crate::keeper::protocol::Order;

/// The lock's name among what the keeper holds for the next daemon.
pub(super) const LOCK: &str = "lock";
/// That of the API's socket.
const API: &str = "api";

pub(super) fn folders(daemon: &config::DaemonSettings) -> Result<(), DaemonError> {
    let folders = [&daemon.state_dir, &daemon.runtime_dir, &daemon.log_dir];
    for folder in folders.into_iter().chain(&daemon.pid_dir) {
        let there = folder.exists();
        let made = DirBuilder::new().recursive(true).mode(0o755).create(folder);
        made.map_err(|cause| DaemonError::Path { what: "create", path: folder.clone(), cause })?;
        if !there {
            tracing::info!(folder = %folder.display(), "made, for it was not there");
        }
    }
    Ok(())
}

/// The log goes where the configuration says. A later daemon, which services need, goes on without.
pub(super) fn settle_log(log: &Log, settings: &OwnLog, first: bool) -> Result<(), SinkError> {
    match log.settle(settings) {
        Err(error) if !first => tracing::error!("{error}; the log goes to standard error"),
        settled => settled?,
    }
    Ok(())
}

/// One daemon for each state directory. The keeper holds the lock, so that it outlives this daemon.
pub(super) fn lock(
    state_dir: &Path,
    keeper: u32,
    link: &mut KeeperLink,
    past: &Past,
) -> Result<(), DaemonError> {
    if past.held.contains_key(LOCK) {
        return Ok(());
    }
    let path = state_dir.join("lock");
    let failed = |what| move |cause| DaemonError::Path { what, path: state_dir.join("lock"), cause };
    let options = File::options().read(true).write(true).create(true).truncate(false).open(&path);
    let mut file = options.map_err(failed("open"))?;
    if file.try_lock().is_err() {
        let mut holder = String::new();
        file.read_to_string(&mut holder).map_err(failed("read"))?;
        return Err(DaemonError::Locked { holder: holder.trim().to_owned(), path: state_dir.to_owned() });
    }
    file.set_len(0).and_then(|()| file.rewind()).map_err(failed("truncate"))?;
    writeln!(file, "{keeper}").map_err(failed("write"))?;
    link.order(Order::Hold { name: LOCK.to_owned() }, vec![file.into()])?;
    Ok(())
}

/// The API's socket. The keeper holds it: clients that come while there is no daemon wait for the next one.
pub(super) fn listen(
    path: &Path,
    link: &mut KeeperLink,
    past: &mut Past,
) -> Result<UnixListener, DaemonError> {
    if let Some(held) = past.held.remove(API) {
        return Ok(held.into());
    }
    let failed = |what| move |cause| DaemonError::Path { what, path: path.to_owned(), cause };
    // The lock is ours, so a socket that is there is a dead daemon's.
    if let Err(error) = fs::remove_file(path)
        && error.kind() != io::ErrorKind::NotFound
    {
        return Err(failed("remove the old socket")(error));
    }
    let listener = UnixListener::bind(path).map_err(failed("bind"))?;
    let readers = Group::from_name("defib").ok().flatten().filter(|_| Uid::effective().is_root());
    let mode = if readers.is_some() { 0o660 } else { 0o600 };
    if let Some(Group { gid, .. }) = readers {
        nix::unistd::chown(path, None, Some(Gid::from_raw(gid.as_raw())))
            .map_err(|e| failed("chown")(e.into()))?;
    }
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).map_err(failed("chmod"))?;
    let held = own(listener.as_fd(), "duplicate the API's socket")?;
    link.order(Order::Hold { name: API.to_owned() }, vec![held])?;
    Ok(listener)
}

pub(super) fn cgroups(state_dir: &Path, keeper: u32) -> Result<CgroupTree, String> {
    let tree = CgroupTree::set_up(state_dir, keeper).map_err(|why| why.to_string());
    match &tree {
        Ok(tree) => {
            tracing::info!(cgroup = %tree.base().display(), "services live in cgroups of their own");
        }
        Err(why) => tracing::warn!(why, "no cgroups: trees are followed by process group and environment"),
    }
    tree
}
