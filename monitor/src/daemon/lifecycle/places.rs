//! Where a daemon is at home: its folders, the lock on them, the log, the state database, its sockets, the cgroups.

use std::fs::{self, DirBuilder, File};
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use nix::unistd::{Gid, Group, Uid};

use super::past::Past;
use super::{DaemonError, own};
use crate::config::{self, OwnLog, Settings};
use crate::daemon::door::{self, Door, Wish};
use crate::daemon::handle::{self, Doors};
use crate::daemon::link::KeeperLink;
use crate::daemon::own_log::{Log, SinkError};
use crate::daemon::remember::Memory;
use crate::effect::cgroup::CgroupTree;
use crate::effect::output::folder;
use crate::keeper::protocol::Order;

/// The lock's name among what the keeper holds for the next daemon.
pub(super) const LOCK: &str = "lock";
/// That of the API's socket.
const API: &str = "api";

/// What a daemon must have before it can supervise.
pub(super) struct Home {
    /// Hold what is in the pipes of an earlier keeper's services until those are opened by their names.
    pub(super) pipes: Option<Vec<OwnedFd>>,
    pub(super) memory: Memory,
    /// Where the API's socket is.
    pub(super) socket: PathBuf,
    pub(super) listener: UnixListener,
    pub(super) door: Door,
    pub(super) doors: Doors,
}

impl Home {
    /// Opens all of it. What is remembered is added to the past.
    pub(super) async fn open(
        settings: &Settings,
        keeper: u32,
        log: &Log,
        link: &mut KeeperLink,
        past: &mut Past,
    ) -> Result<Self, DaemonError> {
        let (daemon, first) = (&settings.daemon, past.is_first());
        let pipes = first.then(|| folder::hold(&daemon.runtime_dir));
        folders(daemon)?;
        settle_log(log, &daemon.log, first)?;
        lock(&daemon.state_dir, keeper, link, past)?;
        let (memory, remembered) = Memory::open(&daemon.state_dir, first)
            .map_err(DaemonError::system("start the state database"))?;
        past.remembered = remembered;
        let socket = daemon.runtime_dir.join(handle::SOCKET);
        let listener = listen(&socket, link, past)?;
        let wish = Wish::read_soon(&settings.listen).await;
        let (door, doors) = Door::open(wish, past.held.remove(door::HELD), link)?;
        Ok(Self { pipes, memory, socket, listener, door, doors })
    }
}

fn folders(daemon: &config::DaemonSettings) -> Result<(), DaemonError> {
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
fn settle_log(log: &Log, settings: &OwnLog, first: bool) -> Result<(), SinkError> {
    match log.settle(settings) {
        Err(error) if !first => tracing::error!("{error}; the log goes to standard error"),
        settled => settled?,
    }
    Ok(())
}

/// One daemon for each state directory. The keeper holds the lock, so that it outlives this daemon.
fn lock(state_dir: &Path, keeper: u32, link: &mut KeeperLink, past: &Past) -> Result<(), DaemonError> {
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
fn listen(path: &Path, link: &mut KeeperLink, past: &mut Past) -> Result<UnixListener, DaemonError> {
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

/// Where services live in cgroups of their own, if they can.
pub(super) fn cgroups(state_dir: &Path, keeper: u32) -> Option<CgroupTree> {
    match CgroupTree::set_up(state_dir, keeper) {
        Ok(tree) => {
            tracing::info!(cgroup = %tree.base().display(), "services live in cgroups of their own");
            Some(tree)
        }
        Err(why) => {
            let why = why.to_string();
            tracing::warn!(why, "no cgroups: trees are followed by process group and environment");
            None
        }
    }
}
