//! What is left of a service when its main process has ended, and how to end it.
//!
//! With cgroups: the leaf tells whether anything is left, and `cgroup.kill` ends it. Every process of the tree
//! that loses its parent becomes the keeper's child, so its SIGCHLD says when to look again; a process that came into
//! the leaf in another way is told by `cgroup.events`, at most once in 10 ms (kernfs limits the rate).
//!
//! Without: the process group of the main process, and every child of the keeper whose environment names the life. A
//! process that has left the group *and* changed its environment escapes.

use std::cell::Cell;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::rc::Rc;

use rustix::fs::{AtFlags, Mode, OFlags, XattrFlags};
use rustix::io::Errno;
use rustix::process::{Pid, Signal};

use super::plan::{INCARNATION_VARIABLE, MARKS, SERVICE_VARIABLE};

/// What the two leaves are called.
const NAMES: [&str; 2] = ["0", "1"];

/// The cgroups of a service: two leaves, used in turn, because that of the last life may not be empty yet when
/// leftovers are kept.
#[derive(Debug)]
pub(super) struct Leaves {
    service: OwnedFd,
    pair: [Option<Rc<Leaf>>; 2],
}

impl Leaves {
    /// `service` is the folder of the service.
    pub(super) fn new(service: OwnedFd) -> Self {
        Self { service, pair: [None, None] }
    }

    /// Opens again what an earlier keeper had open: of each leaf, if it was known, whether it has been spent.
    pub(super) fn reopen(service: OwnedFd, spent: [Option<bool>; 2]) -> Self {
        let mut leaves = Self::new(service);
        for (index, spent) in spent.into_iter().enumerate() {
            // One that was removed meanwhile is empty, and made anew when it is wanted.
            let leaf = spent.and_then(|_| Leaf::open(&leaves.service, NAMES[index]).ok());
            if let (Some(leaf), Some(spent)) = (&leaf, spent) {
                leaf.spent.set(spent);
            }
            leaves.pair[index] = leaf.map(Rc::new);
        }
        leaves
    }

    /// The folder of the service.
    pub(super) fn service(&self) -> BorrowedFd<'_> {
        self.service.as_fd()
    }

    /// Of each leaf, if it is known, whether it has been spent.
    pub(super) fn spent(&self) -> [Option<bool>; 2] {
        self.pair.each_ref().map(|leaf| leaf.as_ref().map(|leaf| leaf.spent.get()))
    }

    /// The leaf of a life that there is.
    pub(super) fn known(&self, incarnation: u64) -> Option<Rc<Leaf>> {
        self.pair[(incarnation % 2) as usize].clone()
    }

    /// The leaf of a life, made if it is not there or has been spent.
    pub(super) fn of_life(&mut self, incarnation: u64) -> io::Result<Rc<Leaf>> {
        let index = (incarnation % 2) as usize;
        if let Some(leaf) = &self.pair[index]
            && !leaf.spent.get()
        {
            leaf.mark(incarnation, None);
            return Ok(Rc::clone(leaf));
        }
        let name = NAMES[index];
        // One that an earlier keeper has left may be spent too.
        let spent = self.pair[index].take().is_some();
        match rustix::fs::unlinkat(&self.service, name, AtFlags::REMOVEDIR) {
            Err(errno) if spent => return Err(errno.into()),
            Ok(()) | Err(_) => {}
        }
        match rustix::fs::mkdirat(&self.service, name, Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(errno) => return Err(errno.into()),
        }
        let leaf = Rc::new(Leaf::open(&self.service, name)?);
        leaf.mark(incarnation, None);
        self.pair[index] = Some(Rc::clone(&leaf));
        Ok(leaf)
    }

    /// The leaf of a life that is there already, as an earlier keeper made it.
    pub(super) fn of_survivor(&mut self, incarnation: u64) -> io::Result<Rc<Leaf>> {
        let index = (incarnation % 2) as usize;
        let leaf = Rc::new(Leaf::open(&self.service, ["0", "1"][index])?);
        self.pair[index] = Some(Rc::clone(&leaf));
        Ok(leaf)
    }
}

/// A leaf cgroup, with everything open that will be needed when there is no time.
#[derive(Debug)]
pub(super) struct Leaf {
    folder: OwnedFd,
    events: File,
    procs: File,
    /// `cgroup.kill`, since Linux 5.14.
    kill: Option<File>,
    /// Whether `cgroup.kill` has been used. Since that counts its uses (Linux 6.14), a child that is born into the
    /// group by CLONE_INTO_CGROUP is killed at birth unless the group of its parent has counted as many: the fork
    /// compares the two by mistake. So a leaf is never used again after a kill, but removed and made anew.
    spent: Cell<bool>,
}

impl Leaf {
    fn open(service: &OwnedFd, name: &str) -> io::Result<Self> {
        let flags = OFlags::CLOEXEC;
        let folder =
            rustix::fs::openat(service, name, flags | OFlags::DIRECTORY | OFlags::RDONLY, Mode::empty())?;
        let open =
            |name: &str, mode| rustix::fs::openat(&folder, name, flags | mode, Mode::empty()).map(File::from);
        Ok(Self {
            events: open("cgroup.events", OFlags::RDONLY)?,
            procs: open("cgroup.procs", OFlags::RDONLY)?,
            kill: open("cgroup.kill", OFlags::WRONLY).ok(),
            spent: Cell::new(false),
            folder,
        })
    }

    /// Writes down whose it is, for a keeper that may come after this one: the life, and its main process with its start
    /// once there is one. Not while a restart waits.
    pub(super) fn mark(&self, incarnation: u64, main: Option<(i32, u64)>) {
        let text = match main {
            Some((pid, started)) => format!("{incarnation} {pid} {started}"),
            None => incarnation.to_string(),
        };
        // Without either the next keeper's daemon has what processes themselves tell.
        let set = |name| rustix::fs::fsetxattr(&self.folder, name, text.as_bytes(), XattrFlags::empty());
        MARKS.iter().any(|name| set(*name).is_ok());
    }

    /// The folder, for CLONE_INTO_CGROUP.
    pub(super) fn folder(&self) -> BorrowedFd<'_> {
        self.folder.as_fd()
    }

    /// The file that polls as EPOLLPRI when the leaf becomes empty.
    pub(super) fn events(&self) -> BorrowedFd<'_> {
        self.events.as_fd()
    }

    /// Whether a living process is in the leaf. An unreadable leaf has been removed, so it is empty.
    pub(super) fn populated(&self) -> bool {
        let mut text = [0; 128];
        let length = self.events.read_at(&mut text, 0).unwrap_or(0);
        text[..length].windows(11).any(|word| word == b"populated 1")
    }

    /// It may have been killed in before: it is not used again.
    pub(super) fn spend(&self) {
        self.spent.set(true);
    }

    /// SIGKILL to everything in it. Where there is no `cgroup.kill` this has to be done again for what has been
    /// forked meanwhile.
    pub(super) fn kill(&self) {
        if let Some(kill) = &self.kill
            && kill.write_at(b"1", 0).is_ok()
        {
            self.spent.set(true);
            return;
        }
        let mut list = vec![0; 64 * 1024];
        let length = self.procs.read_at(&mut list, 0).unwrap_or(0);
        for pid in String::from_utf8_lossy(&list[..length]).lines().filter_map(|line| line.parse().ok()) {
            kill_process(pid);
        }
    }
}

/// SIGKILL to the process group of a main process, and to every child of this keeper that belongs to the life.
/// Returns whether such a child is left.
pub(super) fn kill_by_tag(main: i32, tag: &Tag) -> bool {
    if let Some(group) = Pid::from_raw(main) {
        // There may be nobody left in it: that is what is wanted.
        rustix::process::kill_process_group(group, Signal::KILL).ok();
    }
    let children: Vec<_> = own_children().into_iter().filter(|pid| tag.marks(*pid)).collect();
    for pid in &children {
        kill_process(*pid);
    }
    !children.is_empty()
}

/// The children cannot vanish between the look and the signal: their parent, who would reap them, is busy here.
fn kill_process(pid: i32) {
    if let Some(pid) = Pid::from_raw(pid) {
        rustix::process::kill_process(pid, Signal::KILL).ok();
    }
}

/// The children of the keeper, those that it inherited among them. Needs CONFIG_PROC_CHILDREN, as all
/// distributions have it.
fn own_children() -> Vec<i32> {
    let list = std::fs::read_to_string("/proc/thread-self/children").unwrap_or_default();
    list.split_ascii_whitespace().filter_map(|pid| pid.parse().ok()).collect()
}

/// What the environment of every process of a life says, unless it has changed that.
#[derive(Clone, Debug)]
pub(super) struct Tag {
    service: Vec<u8>,
    incarnation: Vec<u8>,
}

impl Tag {
    /// The tag of a life; `service` is the whole variable, as it stands in the plan.
    pub(super) fn new(env: &[Vec<u8>], incarnation: u64) -> Self {
        let prefix = format!("{SERVICE_VARIABLE}=");
        let service =
            env.iter().find(|entry| entry.starts_with(prefix.as_bytes())).cloned().unwrap_or_default();
        Self { service, incarnation: format!("{INCARNATION_VARIABLE}={incarnation}").into_bytes() }
    }

    /// The variable that says whose it is.
    pub(super) fn service(&self) -> &[u8] {
        &self.service
    }

    /// Whose it is, without the name of the variable.
    pub(super) fn name(&self) -> &[u8] {
        self.service.get(SERVICE_VARIABLE.len() + 1..).unwrap_or_default()
    }

    /// The same by what a process of the life says. One that says nothing marks nobody.
    pub(super) fn of_process(pid: i32, incarnation: u64) -> Self {
        let environment = std::fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        let env: Vec<_> = environment.split(|byte| *byte == 0).map(<[u8]>::to_vec).collect();
        Self::new(&env, incarnation)
    }

    pub(super) fn marks(&self, pid: i32) -> bool {
        if self.service.is_empty() {
            return false;
        }
        let Ok(environment) = std::fs::read(format!("/proc/{pid}/environ")) else { return false };
        let has = |wanted: &[u8]| environment.split(|byte| *byte == 0).any(|entry| entry == wanted);
        has(&self.service) && has(&self.incarnation)
    }
}
