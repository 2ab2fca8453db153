//! Which process holds a socket, and which processes are a service's, read from /proc.
//!
//! All of it takes as long as there are processes and descriptors, so only threads ask that may be late.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;

use defib_core::model::{Holder, ServiceName};

use super::cgroup::CgroupTree;
use super::descriptors;
use crate::keeper::plan::SERVICE_VARIABLE;

/// More processes of one service are not looked through.
pub(super) const MAX_PROCESSES: usize = 4096;

/// More descriptors are not looked at in one search: at 1 to 2 µs each, a bound of some tenths of a second.
const MAX_DESCRIPTORS: usize = 200_000;

/// What a keeper calls itself.
const KEEPER: &str = "defib-keeper";

/// Knows which processes belong to which service.
#[derive(Clone, Debug)]
pub struct Household {
    /// The cgroups, if there are any.
    pub cgroups: Option<CgroupTree>,
    /// The parent of all services.
    pub keeper: u32,
}

/// Which of some sockets the processes of a service hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Held {
    /// The inodes of those that were found.
    pub sockets: BTreeSet<u64>,
    /// Whether a process did not let itself be looked at, so that there may be more.
    pub blind: bool,
}

impl Held {
    /// Whether the service holds this one. What cannot be known is taken for true: the port is the service's to use.
    pub fn has(&self, socket: u64) -> bool {
        self.blind || self.sockets.contains(&socket)
    }

    /// Adds what a process holds of `wanted`. Returns whether that is all of them now.
    fn look_at(&mut self, pid: u32, wanted: &BTreeSet<u64>, left: &mut usize) -> bool {
        let looked = look_at(pid, left, |socket| {
            if wanted.contains(&socket) {
                self.sockets.insert(socket);
            }
            self.sockets.len() == wanted.len()
        });
        match looked {
            Ok(all) => all,
            // It has ended meanwhile.
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => false,
            Err(error) if error.kind() == io::ErrorKind::NotFound => false,
            Err(_) => {
                self.blind = true;
                false
            }
        }
    }
}

impl Household {
    /// The processes of a service. With cgroups: what lives in its folder. Without: the children of the keeper whose
    /// environment names the service, and `main`, with all their descendants; whatever loses its parent becomes the
    /// keeper's child.
    pub fn processes(&self, service: &ServiceName, main: Option<u32>) -> Vec<u32> {
        if let Some(cgroups) = &self.cgroups {
            return cgroups.processes_of(service, MAX_PROCESSES);
        }
        let tag = format!("{SERVICE_VARIABLE}={service}");
        let own = |pid: &u32| Some(*pid) == main || environment_has(*pid, tag.as_bytes());
        with_descendants(children(self.keeper).into_iter().filter(own).collect())
    }

    /// For who asks of all services, which are given with their main processes, where there are no cgroups: the keeper's
    /// children are gone through once, and not once for each service.
    pub fn families(&self, services: &[(ServiceName, Option<u32>)]) -> Families {
        let mains = services.iter().filter_map(|(service, main)| Some(((*main)?, service)));
        let mains: BTreeMap<u32, &ServiceName> = mains.collect();
        let mut heads: BTreeMap<ServiceName, Vec<u32>> = BTreeMap::new();
        for pid in children(self.keeper) {
            let service = mains.get(&pid).map(|service| (*service).clone());
            if let Some(service) = service.or_else(|| claimed_service(pid)) {
                heads.entry(service).or_default().push(pid);
            }
        }
        Families { heads }
    }

    /// Which of `sockets`, given by their inodes, the processes of a service hold. `likely` are known to be its own, and
    /// looked at first: mostly there is no need to find out who the others are.
    pub fn held(
        &self,
        service: &ServiceName,
        main: Option<u32>,
        likely: &[u32],
        sockets: &BTreeSet<u64>,
    ) -> Held {
        let (mut held, mut left) = (Held::default(), MAX_DESCRIPTORS);
        if sockets.is_empty() || likely.iter().any(|pid| held.look_at(*pid, sockets, &mut left)) {
            return held;
        }
        let others = self.processes(service, main).into_iter().filter(|pid| !likely.contains(pid));
        for pid in others {
            if held.look_at(pid, sockets, &mut left) {
                break;
            }
        }
        held
    }
}

/// The keeper's children at one moment, by their services.
#[derive(Debug)]
pub struct Families {
    heads: BTreeMap<ServiceName, Vec<u32>>,
}

impl Families {
    /// Those of one.
    pub fn processes(&self, service: &ServiceName) -> Vec<u32> {
        with_descendants(self.heads.get(service).cloned().unwrap_or_default())
    }
}

fn with_descendants(mut found: Vec<u32>) -> Vec<u32> {
    let mut next = 0;
    while let Some(pid) = found.get(next)
        && found.len() < MAX_PROCESSES
    {
        found.extend(children(*pid));
        next += 1;
    }
    found.truncate(MAX_PROCESSES);
    found
}

/// Who holds which of some sockets, given by their inodes: the process with the lowest pid, which of a server that has
/// forked is mostly the first. This process and keepers, which hold what others listen with, are named only where there is
/// nobody else. Those that cannot be seen are missing.
pub fn holders_of(sockets: &BTreeSet<u64>) -> BTreeMap<u64, Holder> {
    let (mut found, mut by_defib) = (BTreeMap::new(), BTreeMap::new());
    if sockets.is_empty() {
        return found;
    }
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let mut pids: Vec<u32> = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect();
    pids.sort_unstable();
    let own = std::process::id();
    let mut left = MAX_DESCRIPTORS;
    for pid in pids {
        let mut asked = None;
        let looked = look_at(pid, &mut left, |socket| {
            if sockets.contains(&socket)
                && !found.contains_key(&socket)
                && let Some(holder) = asked.get_or_insert_with(|| named(pid))
            {
                let is_defib = pid == own || holder.name == KEEPER;
                let holders = if is_defib { &mut by_defib } else { &mut found };
                holders.entry(socket).or_insert_with(|| holder.clone());
            }
            found.len() == sockets.len()
        });
        // Whoever does not let itself be looked at, or has ended, is none that can be named.
        if looked.unwrap_or(false) || left == 0 {
            break;
        }
    }
    for (socket, holder) in by_defib {
        found.entry(socket).or_insert(holder);
    }
    found
}

fn named(pid: u32) -> Option<Holder> {
    let name = fs::read(format!("/proc/{pid}/comm")).ok()?;
    Some(Holder { pid, name: String::from_utf8_lossy(&name).trim_end_matches('\n').to_owned() })
}

/// The sockets that a process holds, by their inodes.
pub fn sockets_of(pid: u32) -> BTreeSet<u64> {
    let (mut sockets, mut left) = (BTreeSet::new(), MAX_DESCRIPTORS);
    // Whatever could not be read is not there.
    look_at(pid, &mut left, |socket| {
        sockets.insert(socket);
        false
    })
    .ok();
    sockets
}

/// Shows the sockets of a process to `found` until that says that it has seen enough, or `left` descriptors have been
/// looked at. Returns whether it said so.
fn look_at(pid: u32, left: &mut usize, mut found: impl FnMut(u64) -> bool) -> io::Result<bool> {
    for socket in descriptors::sockets_of(pid, left)? {
        let (_, inode) = socket?;
        if found(inode) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The children of all threads of a process. Needs CONFIG_PROC_CHILDREN, as all distributions have it.
fn children(pid: u32) -> Vec<u32> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let lists = threads.map(|thread| fs::read_to_string(thread.path().join("children")).unwrap_or_default());
    lists
        .flat_map(|list| list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>())
        .collect()
}

/// Whether a process, by its environment, is of a service of this name: that of this defib or of another.
pub fn is_of(pid: u32, service: &ServiceName) -> bool {
    environment_has(pid, format!("{SERVICE_VARIABLE}={service}").as_bytes())
}

/// The service that a process claims to be of, by its environment: that of this defib or of another, or of none.
pub fn claimed_service(pid: u32) -> Option<ServiceName> {
    let environment = fs::read(format!("/proc/{pid}/environ")).ok()?;
    let mut entries = environment.split(|byte| *byte == 0);
    let name =
        entries.find_map(|entry| entry.strip_prefix(SERVICE_VARIABLE.as_bytes())?.strip_prefix(b"="))?;
    str::from_utf8(name).ok()?.parse().ok()
}

fn environment_has(pid: u32, wanted: &[u8]) -> bool {
    let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    environment.split(|byte| *byte == 0).any(|entry| entry == wanted)
}

#[cfg(test)]
mod tests {
    #![expect(clippy::disallowed_methods, reason = "a test starts its own processes")]

    use std::net::{Ipv4Addr, TcpListener};
    use std::os::fd::{AsRawFd, OwnedFd};
    use std::process::{Command, Stdio};

    use super::*;

    #[test]
    fn this_process_holds_its_sockets() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let mut seen = None;
        look_at(std::process::id(), &mut { MAX_DESCRIPTORS }, |socket| {
            let link = fs::read_link(format!("/proc/self/fd/{}", listener.as_raw_fd())).unwrap();
            seen = (link.to_str() == Some(&format!("socket:[{socket}]"))).then_some(socket);
            seen.is_some()
        })
        .unwrap();
        let socket = seen.expect("its own socket");
        assert!(sockets_of(std::process::id()).contains(&socket));
        let found = settled(socket, std::process::id());
        assert_eq!(found.pid, std::process::id());
        assert_eq!(found.name, fs::read_to_string("/proc/self/comm").unwrap().trim_end());
        assert_eq!(holders_of(&BTreeSet::from([0])), BTreeMap::new());
    }

    #[test]
    fn this_process_is_named_only_where_there_is_nobody_else() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let socket = rustix::fs::fstat(&listener).unwrap().st_ino;
        let duplicate: OwnedFd = listener.try_clone().unwrap().into();
        let mut cat = Command::new("cat").stdin(Stdio::piped()).stdout(duplicate).spawn().unwrap();
        assert_eq!(holders_of(&BTreeSet::from([socket, 0]))[&socket].pid, cat.id());
        drop(cat.stdin.take());
        cat.wait().unwrap();
        assert_eq!(settled(socket, std::process::id()).pid, std::process::id());
    }

    /// Who holds a socket. Other tests start processes meanwhile, and until execve(2) those have all that this one has.
    fn settled(socket: u64, expected: u32) -> Holder {
        let look = || holders_of(&BTreeSet::from([socket, 0])).remove(&socket).expect("a process");
        (0..99).map(|_| look()).find(|holder| holder.pid == expected).unwrap_or_else(look)
    }

    #[test]
    fn without_cgroups_a_family_goes_by_its_environment() {
        // This process plays the keeper; it has no children that name a service.
        let household = Household { cgroups: None, keeper: std::process::id() };
        let service = "nobody".parse().unwrap();
        assert_eq!(household.processes(&service, None), [0; 0]);
        assert_eq!(household.held(&service, None, &[], &BTreeSet::from([1])), Held::default());
        assert_eq!(household.families(&[]).processes(&service), [0; 0]);
    }
}
