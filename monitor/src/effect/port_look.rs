//! Looks at the sockets that listen, and at the processes that hold them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use defib_core::model::ServiceName;

use super::held::share::Migration;
use super::held::{self, Duplicates};
use super::holders::{self, Household};
use super::sockets::{self, Namespace, Socket, States, Wanted};

/// A process by its identity.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Process {
    pid: u32,
    start: u64,
}

impl Process {
    /// The process that has this pid now.
    pub(super) fn of(pid: u32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The second field is the name in brackets, and may hold blanks and brackets itself. The start is the 22nd.
        let start = stat.rsplit_once(") ")?.1.split(' ').nth(19)?.parse().ok()?;
        Some(Self { pid, start })
    }

    /// Whether it is still there.
    pub(super) fn lives(self) -> bool {
        Self::of(self.pid) == Some(self)
    }
}

/// The processes of a service.
#[derive(Clone, Copy, Debug)]
pub(super) struct Family<'a> {
    pub(super) household: &'a Household,
    pub(super) service: &'a ServiceName,
    /// The main process, if that is known.
    pub(super) main: Option<u32>,
    /// Those that are to be looked at first.
    pub(super) likely: &'a [u32],
}

/// Looks that are taken at the same time, and share what they see.
#[derive(Debug, Default)]
pub(super) struct Round {
    own_netns: Option<u32>,
    /// The sockets that listen: in defib's network namespace, and in those of processes. `None`: they cannot be seen.
    seen: BTreeMap<Option<u32>, Option<Vec<Socket>>>,
}

impl Round {
    /// The inode number of the network namespace in which defib is; 0 if that cannot be known.
    pub(super) fn own_netns(&mut self) -> u32 {
        *self.own_netns.get_or_insert_with(|| Namespace::Own.inode().unwrap_or_default())
    }

    /// Whether a process is in another network namespace. One that cannot be asked is taken to be in this one.
    pub(super) fn is_elsewhere(&mut self, pid: u32) -> bool {
        Namespace::Of(pid).inode().is_some_and(|netns| netns != self.own_netns())
    }

    /// On which of `ports` a service listens, as `process` sees it, or defib itself; `None` if that cannot be known.
    pub(super) fn listening(
        &mut self,
        family: Family<'_>,
        process: Option<u32>,
        ports: &BTreeSet<u16>,
    ) -> Option<BTreeSet<u16>> {
        let sockets = self.sockets(process)?;
        let sockets: Vec<_> = sockets.iter().filter(|socket| ports.contains(&socket.port)).collect();
        let inodes = sockets.iter().map(|socket| socket.inode).collect();
        let Family { household, service, main, likely } = family;
        let held = household.held(service, main, likely, &inodes);
        let own = sockets.into_iter().filter(|socket| held.has(socket.inode));
        Some(own.map(|socket| socket.port).collect())
    }

    /// What one process listens with on a port, once more.
    pub(super) fn duplicates(
        &mut self,
        pid: u32,
        port: u16,
        migration: Option<&Migration>,
    ) -> Option<Duplicates> {
        let process = self.is_elsewhere(pid).then_some(pid);
        let sockets = self.sockets(process)?.iter().filter(|socket| socket.port == port);
        held::duplicates(pid, &sockets.map(|socket| socket.inode).collect(), migration)
    }

    /// On which ports one process listens.
    pub(super) fn ports_of(&mut self, pid: u32) -> BTreeSet<u16> {
        let process = self.is_elsewhere(pid).then_some(pid);
        let held = holders::sockets_of(pid);
        let sockets = self.sockets(process).unwrap_or_default();
        sockets.iter().filter(|socket| held.contains(&socket.inode)).map(|socket| socket.port).collect()
    }

    fn sockets(&mut self, process: Option<u32>) -> Option<&[Socket]> {
        let seen = self.seen.entry(process).or_insert_with(|| {
            let namespace = process.map_or(Namespace::Own, Namespace::Of);
            let wanted = Wanted { states: States::LISTEN, ports: None };
            sockets::snapshot(namespace, wanted, |list: &mut Vec<_>, socket| list.push(socket)).ok()
        });
        seen.as_deref()
    }
}
