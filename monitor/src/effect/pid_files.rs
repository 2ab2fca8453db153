//! Files that hold the number of a service's main process, for programs that look for one there.
//!
//! defib itself never reads a number out of them to act on it. They are written when a life begins and removed when it
//! ends, on a thread of their own, because a file system may hang; it is made when the first file is wanted. What is
//! told is a level, the process that there is now: whatever does not fit into the queue is told again with the next
//! change, and until then the file is as it was.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

use defib_core::model::{ServiceName, ServiceSpec};
use nix::fcntl::{OFlag, openat, renameat};
use nix::sys::stat::{Mode, fchmod};
use nix::unistd::{UnlinkatFlags, unlinkat};

use super::clock;
use super::holders::is_of;
use super::proc_stat::{Stat, Units};
use crate::config::open_folder;

/// One order for each change of a service; more than these wait only if the file system hangs.
const QUEUE: usize = 1024;

/// How long the last files may take to be removed when defib leaves.
const LEAVE: Duration = Duration::from_secs(2);

/// The files of all services.
#[derive(Debug)]
pub struct PidFiles {
    /// `daemon.pid_dir`.
    folder: Option<PathBuf>,
    euid: u32,
    /// What the thread was told last.
    told: BTreeMap<ServiceName, Level>,
    worker: Option<Worker>,
}

#[derive(Debug)]
struct Worker {
    orders: SyncSender<Order>,
    /// Closed when the thread has ended.
    ended: Receiver<()>,
}

/// The files of a service, and the process that they are to name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Level {
    files: BTreeSet<PathBuf>,
    pid: Option<u32>,
}

/// From one level to the next.
#[derive(Debug)]
struct Order {
    service: ServiceName,
    before: Option<Level>,
    now: Level,
}

impl PidFiles {
    /// None yet. `folder` is that of a file for each service, `euid` whose rights decide what is trusted.
    pub fn new(folder: Option<PathBuf>, euid: u32) -> Self {
        Self { folder, euid, told: BTreeMap::new(), worker: None }
    }

    /// A service has this main process now, or none. Never waits.
    pub fn tell(&mut self, spec: &ServiceSpec, pid: Option<u32>) {
        let in_folder = self.folder.as_ref().map(|folder| folder.join(format!("{}.pid", spec.name)));
        let files = in_folder.into_iter().chain(spec.pid_file.clone()).collect();
        self.order(&spec.name, Level { files, pid });
    }

    /// A service is no more.
    pub fn forget(&mut self, service: &ServiceName) {
        self.order(service, Level::default());
        self.told.remove(service);
    }

    /// Waits until every order has been carried out, but not for a file system that hangs.
    pub fn finish(self) {
        if let Some(Worker { orders, ended }) = self.worker {
            drop(orders);
            // It sends nothing, it ends.
            ended.recv_timeout(LEAVE).ok();
        }
    }

    fn order(&mut self, service: &ServiceName, now: Level) {
        let before = self.told.get(service);
        if before == Some(&now) || (before.is_none() && now.files.is_empty()) {
            return;
        }
        let order = Order { service: service.clone(), before: before.cloned(), now: now.clone() };
        let euid = self.euid;
        let worker = match self.worker.take().map_or_else(|| Worker::start(euid), Ok) {
            Ok(worker) => self.worker.insert(worker),
            Err(error) => {
                tracing::warn!(%service, %error, "no thread for pid files");
                return;
            }
        };
        match worker.orders.try_send(order) {
            Ok(()) => drop(self.told.insert(service.clone(), now)),
            Err(error) => tracing::warn!(%service, %error, "the pid file is not kept: its file system hangs"),
        }
    }
}

impl Worker {
    fn start(euid: u32) -> io::Result<Self> {
        let (orders, waiting) = sync_channel::<Order>(QUEUE);
        let (alive, ended) = sync_channel(0);
        std::thread::Builder::new().name("defib-pid-files".into()).spawn(move || {
            let _alive: SyncSender<()> = alive;
            waiting.into_iter().for_each(|order| order.carry_out(euid));
        })?;
        Ok(Self { orders, ended })
    }
}

impl Order {
    /// A file that cannot be kept is a warning: the service lives without it.
    fn carry_out(self, euid: u32) {
        let Self { service, before, now } = self;
        let warn = |path: &Path, what: &str, outcome: io::Result<()>| {
            if let Err(error) = outcome {
                tracing::warn!(%service, file = %path.display(), %error, "the pid file cannot be {what}");
            }
        };
        let first = before.is_none();
        let before = before.unwrap_or_default();
        if let Some(pid) = before.pid {
            let gone = before.files.iter().filter(|file| now.pid.is_none() || !now.files.contains(*file));
            gone.for_each(|file| warn(file, "removed", remove(file, euid, |found| found == Some(pid))));
        }
        for file in &now.files {
            match now.pid {
                Some(pid) => warn(file, "written", write(file, pid, euid)),
                // What an earlier defib has left, or an earlier supervisor.
                None if first => warn(file, "cleaned", clean(file, euid, &service)),
                None => {}
            }
        }
    }
}

/// The folder of a file, and its name there.
fn place(path: &Path, euid: u32) -> io::Result<(OwnedFd, &Path)> {
    let invalid = || io::Error::new(io::ErrorKind::InvalidInput, "it is no path of a file");
    let (folder, name) = (path.parent().ok_or_else(invalid)?, path.file_name().ok_or_else(invalid)?);
    let folder = open_folder(folder, euid).map_err(io::Error::other)?;
    Ok((folder, Path::new(name)))
}

/// Writes a file: whole or not at all, for whoever reads it meanwhile. A link in its place is replaced, not followed.
fn write(path: &Path, pid: u32, euid: u32) -> io::Result<()> {
    let (folder, name) = place(path, euid)?;
    let draft = format!(".defib-{pid}.pid");
    let draft = Path::new(&draft);
    // Left by a daemon that was killed here.
    unlinkat(&folder, draft, UnlinkatFlags::NoRemoveDir).ok();
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let mode = Mode::from_bits_truncate(0o644);
    let mut file = File::from(openat(&folder, draft, flags, mode)?);
    // Whatever the umask.
    let written = fchmod(file.as_fd(), mode)
        .map_err(io::Error::from)
        .and_then(|()| writeln!(file, "{pid}"))
        .and_then(|()| Ok(renameat(&folder, draft, &folder, name)?));
    if written.is_err() {
        unlinkat(&folder, draft, UnlinkatFlags::NoRemoveDir).ok();
    }
    written
}

/// Removes a file if what is in it is as wanted. One that is not there is removed already.
fn remove(path: &Path, euid: u32, wanted: impl Fn(Option<u32>) -> bool) -> io::Result<()> {
    match read(path, euid) {
        Ok((folder, name, found, _)) if wanted(found) => {
            Ok(unlinkat(&folder, name, UnlinkatFlags::NoRemoveDir)?)
        }
        Ok(_) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

/// The number in a file, with its folder and its name there, and when it was written in seconds of the wall clock.
fn read(path: &Path, euid: u32) -> io::Result<(OwnedFd, &Path, Option<u32>, i64)> {
    let (folder, name) = place(path, euid)?;
    // A named pipe must not hold up the thread.
    let flags = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC;
    let file = File::from(openat(&folder, name, flags, Mode::empty())?);
    let meta = file.metadata()?;
    if !meta.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no file"));
    }
    let mut text = String::new();
    // Longer than any number, and whatever is no text is no number.
    let number = file.take(32).read_to_string(&mut text).ok().and_then(|_| text.trim().parse().ok());
    Ok((folder, name, number, meta.mtime()))
}

/// Removes a file that names no process, or one that began only after the file was written, and so has its number by
/// chance. What names another process that lives is somebody's who has it supervised elsewhere.
fn clean(path: &Path, euid: u32, service: &ServiceName) -> io::Result<()> {
    let (found, written) = match read(path, euid) {
        Ok((_, _, found, written)) => (found, written),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    let Some(pid) = found else {
        let error = "what is there holds no number of a process, and is left alone";
        return Err(io::Error::new(io::ErrorKind::InvalidData, error));
    };
    // A second more, for the clock ticks in which the kernel tells it.
    if began(pid).is_some_and(|began| began <= written + 1) {
        if is_of(pid, service) {
            // A daemon that comes back is told of it in a moment.
            return Ok(());
        }
        tracing::warn!(%service, file = %path.display(), pid,
            "the pid file names a process that lives and is not defib's: does another supervisor run it?");
        return Ok(());
    }
    tracing::info!(%service, file = %path.display(), pid, "a stale pid file was removed");
    remove(path, euid, |now| now == Some(pid))
}

/// When a process that lives began, in seconds of the wall clock.
fn began(pid: u32) -> Option<i64> {
    let stat = Stat::of(pid, Units::of_this_kernel())?;
    // A zombie has ended.
    (stat.state != "Z").then(|| clock::wall(stat.started).as_second())
}

#[cfg(test)]
mod tests;
