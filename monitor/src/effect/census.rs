//! Who lives: the main processes that an earlier keeper made, found by the first daemon of the next one.
//!
//! In the leaf cgroup of a life there is its main process, and what that has made. Which life it is stands in an
//! extended attribute of the leaf, and from a moment after the start on also which process, and when that was made (see
//! [`MARKS`]). Where the pid is not there, the state database may know it; else the main process is the one that
//! leads a session, whose parent is not in the leaf, and whose environment does not say that another was: a main process
//! that dies in its first moment may leave a child that looks just like it.
//!
//! A pid alone says nothing: first its pidfd is opened, then it is seen to have started when the life did and to be in
//! the leaf, so a number that was given away again is never taken for the process that had it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use defib_core::KnownLife;
use defib_core::model::{Incarnation, MADE_WITHIN, ServiceName, Tick};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::cgroup::{self, CgroupTree};
use super::clock;
use super::proc_stat::{Stat, Units};
use crate::keeper::plan::{INCARNATION_VARIABLE, MAIN_VARIABLE, MARKS, SERVICE_VARIABLE};

/// The kernel's start of a process is told in hundredths of a second, rounded down.
const BEFORE: Duration = Duration::from_millis(20);

/// What a keeper calls itself.
const KEEPER: &str = "defib-keeper";

/// The most parents, one above the other, of a process.
const GENERATIONS: usize = 64;

/// What is remembered of a service.
#[derive(Clone, Copy, Debug, Default)]
pub struct Expected {
    /// Its latest life.
    pub life: Option<KnownLife>,
    /// The latest life that is known to have ended.
    pub over: Incarnation,
    /// Whether a life of it may have been under way.
    pub may_live: bool,
    /// Whether what is left of a life that has ended is to be left alone.
    pub keeps: bool,
}

/// A main process that was found. It may have ended since, or have been a zombie then.
#[derive(Debug)]
pub struct Resident {
    /// Which life it is.
    pub life: KnownLife,
    /// The process.
    pub pidfd: OwnedFd,
}

/// What was found.
#[derive(Debug, Default)]
pub struct Census {
    /// Services that live.
    pub residents: BTreeMap<ServiceName, Resident>,
    /// Leaves in which somebody lives who belongs to no life of a service.
    pub rest: Vec<PathBuf>,
    /// The same without cgroups: processes.
    pub others: Vec<OwnedFd>,
}

/// Looks into every leaf. `expected` are the configured services; `ended` says of which lives the end is known: who has not
/// been reaped since looks like one that lives.
pub fn of_cgroups(
    tree: &CgroupTree,
    expected: &BTreeMap<ServiceName, Expected>,
    ended: impl Fn(&ServiceName, KnownLife) -> bool,
) -> Census {
    let mut census = Census::default();
    let Some(look) = Look::begin(tree) else { return census };
    for folder in cgroup::folders(&tree.services()) {
        let name = folder.file_name().and_then(|name| name.to_str()?.parse::<ServiceName>().ok());
        let known = name.as_ref().and_then(|name| expected.get(name));
        let inhabited = cgroup::is_populated(&folder);
        let mut leaves: Vec<Leaf> = cgroup::folders(&folder).into_iter().map(Leaf::read).collect();
        // The later life first: of two only that one can be more than a rest.
        leaves.sort_by_key(|leaf| std::cmp::Reverse(leaf.mark.map(|mark| mark.incarnation)));
        let mut found = None;
        for leaf in leaves {
            let resident =
                known.filter(|_| found.is_none()).and_then(|known| look.main(&leaf, known, inhabited));
            let over = |it: &Resident| name.as_ref().is_some_and(|name| ended(name, it.life));
            let resident = resident.filter(|it| !over(it));
            if resident.is_some() {
                found = resident;
            } else if inhabited && known.is_none_or(|known| !known.keeps) && cgroup::is_populated(&leaf.path)
            {
                census.rest.push(leaf.path);
            }
        }
        if let (Some(name), Some(found)) = (name, found) {
            census.residents.insert(name, found);
        }
    }
    census
}

/// Without cgroups, by the same: the process that is remembered, if it is still the same. Where it is gone, but may have had a successor
/// that nobody could write down, an orphan that says to be that one; and who is left of its session and says to be of
/// its life. Only of services that were about to run, because another defib may have some of the same names.
pub fn of_processes(
    expected: &BTreeMap<ServiceName, Expected>,
    ended: impl Fn(&ServiceName, KnownLife) -> bool,
) -> Census {
    let units = Units::of_this_kernel();
    let mut census = Census::default();
    let mut missing = BTreeMap::new();
    for (name, expected) in expected.iter().filter(|(_, expected)| expected.may_live) {
        let life = expected.life.filter(|life| life.incarnation > expected.over && !ended(name, *life));
        let says = |life: &KnownLife| {
            told(life.pid).is_none_or(|it| it.service == name.as_str() && it.incarnation == life.incarnation)
        };
        match life.and_then(|life| Some((life, identify(life, units, |_| says(&life))?))) {
            Some((life, pidfd)) => drop(census.residents.insert(name.clone(), Resident { life, pidfd })),
            None => drop(missing.insert(name.as_str(), (name, expected))),
        }
    }
    if missing.is_empty() {
        return census;
    }
    for pid in processes() {
        let Some(pidfd) = open(pid) else { continue };
        let (Some(said), Some(stat)) = (told(pid), Stat::of(pid, units)) else { continue };
        let incarnation = said.incarnation;
        let Some((name, expected)) = missing.get(said.service.as_str()) else { continue };
        let known = expected.life.filter(|life| life.incarnation == incarnation);
        if known.is_some_and(|life| life.pid == stat.session && !expected.keeps) {
            census.others.push(pidfd);
        } else if known.is_none()
            && stat.session == pid
            && said.may_be_main(pid)
            && incarnation > expected.over
            && is_orphan(&stat, units)
        {
            let life = KnownLife { incarnation, pid, started: stat.started };
            if ended(name, life) {
                continue;
            }
            let later = |it: &Resident| it.life.incarnation > incarnation;
            if !census.residents.get(*name).is_some_and(later) {
                census.residents.insert((*name).clone(), Resident { life, pidfd });
            }
        }
    }
    census
}

/// Whether a process has no keeper above it.
fn is_orphan(stat: &Stat, units: Units) -> bool {
    let mut parent = stat.parent;
    for _ in 0..GENERATIONS {
        match Stat::of(parent, units) {
            Some(above) if above.name == KEEPER => return false,
            Some(above) => parent = above.parent,
            None => return true,
        }
    }
    true
}

/// Ends who belongs to no life. Returns whether all are gone.
pub fn end(rest: &[PathBuf], others: &[OwnedFd], patience: Duration) -> bool {
    rest.iter().for_each(|leaf| cgroup::kill(leaf));
    for pidfd in others {
        pidfd_send_signal(pidfd, Signal::KILL).ok();
    }
    let deadline = clock::now() + patience;
    let gone = rest.iter().all(|leaf| cgroup::wait_until_empty(leaf, deadline))
        & others.iter().all(|pidfd| ends(pidfd, deadline));
    // A leaf in which something was killed is not used again: see the keeper's `Leaf`.
    for leaf in rest {
        cgroup::remove_with_all_below(leaf);
    }
    gone
}

/// Waits for the end of a process.
fn ends(pidfd: &OwnedFd, deadline: Tick) -> bool {
    let left = deadline.since(clock::now());
    let (tv_sec, tv_nsec) = (left.as_secs().try_into().unwrap_or(i64::MAX), left.subsec_nanos().into());
    let mut polled = [PollFd::new(pidfd, PollFlags::IN)];
    matches!(poll(&mut polled, Some(&Timespec { tv_sec, tv_nsec })), Ok(1..))
}

/// What is written on a leaf.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Mark {
    incarnation: Incarnation,
    main: Option<(u32, Tick)>,
}

impl Mark {
    fn parse(text: &str) -> Option<Self> {
        let mut words = text.split(' ');
        let incarnation = Incarnation(words.next()?.parse().ok()?);
        let pid = words.next().and_then(|word| word.parse().ok());
        let started = words.next().and_then(|word| word.parse().ok()).map(Tick);
        Some(Self { incarnation, main: pid.zip(started) })
    }
}

#[derive(Debug)]
struct Leaf {
    path: PathBuf,
    mark: Option<Mark>,
}

impl Leaf {
    fn read(path: PathBuf) -> Self {
        let mut text = [0; 64];
        let mark = MARKS.iter().find_map(|name| {
            let length = rustix::fs::getxattr(&path, *name, &mut text).ok()?;
            Mark::parse(std::str::from_utf8(text.get(..length)?).ok()?)
        });
        // Lives take the two leaves in turn.
        let turn = |mark: &Mark| path.ends_with((mark.incarnation.0 % 2).to_string());
        Self { mark: mark.filter(turn), path }
    }
}

struct Look<'a> {
    units: Units,
    base: &'a Path,
    /// The base as `/proc/PID/cgroup` calls it.
    shown: PathBuf,
}

impl<'a> Look<'a> {
    /// This process is in the tree, and knows by that how the kernel calls it.
    fn begin(tree: &'a CgroupTree) -> Option<Self> {
        let own = cgroup_of(std::process::id())?;
        let shown = own.parent()?.to_owned();
        Some(Self { units: Units::of_this_kernel(), base: tree.base(), shown })
    }

    /// The main process of the life in a leaf.
    fn main(&self, leaf: &Leaf, known: &Expected, inhabited: bool) -> Option<Resident> {
        let marked = leaf.mark.and_then(|Mark { incarnation, main }| {
            main.map(|(pid, started)| KnownLife { incarnation, pid, started })
        });
        let incarnation = leaf.mark.map(|mark| mark.incarnation);
        let turn = |life: &KnownLife| leaf.path.ends_with((life.incarnation.0 % 2).to_string());
        let remembered =
            known.life.filter(turn).filter(|life| incarnation.is_none_or(|it| it == life.incarnation));
        let life = marked.or(remembered);
        if let Some(life) = life {
            let inside = |pid| self.is_in(pid, &leaf.path);
            let pidfd = identify(life, self.units, inside).filter(|_| life.incarnation > known.over);
            return pidfd.map(|pidfd| Resident { life, pidfd });
        }
        if !inhabited || !cgroup::is_populated(&leaf.path) {
            return None;
        }
        let life = self.leader(leaf, incarnation)?;
        let pidfd = identify(life, self.units, |pid| self.is_in(pid, &leaf.path))?;
        (life.incarnation > known.over).then_some(Resident { life, pidfd })
    }

    /// Who leads a session and has no parent in the leaf: the first of them, if a descendant does so too.
    fn leader(&self, leaf: &Leaf, incarnation: Option<Incarnation>) -> Option<KnownLife> {
        let inside: BTreeSet<u32> = cgroup::processes_below(&leaf.path).into_iter().collect();
        let mut leaders: Vec<_> = inside
            .iter()
            .filter_map(|pid| Some((*pid, Stat::of(*pid, self.units)?)))
            .filter(|(pid, stat)| stat.session == *pid && !inside.contains(&stat.parent))
            .collect();
        leaders.sort_by_key(|(_, stat)| stat.started);
        leaders.into_iter().find_map(|(pid, stat)| {
            let said = told(pid);
            if said.as_ref().is_some_and(|said| !said.may_be_main(pid)) {
                return None;
            }
            // The leaf may have been made ready for another life while somebody of an earlier one was left in it.
            let incarnation = match (incarnation, said.map(|said| said.incarnation)) {
                (Some(marked), Some(told)) if marked != told => return None,
                (marked, told) => marked.or(told)?,
            };
            leaf.path.ends_with((incarnation.0 % 2).to_string()).then_some(KnownLife {
                incarnation,
                pid,
                started: stat.started,
            })
        })
    }

    /// Whether a process is in a leaf, or in a group that it has made there.
    fn is_in(&self, pid: u32, leaf: &Path) -> bool {
        let Ok(leaf) = leaf.strip_prefix(self.base) else { return false };
        cgroup_of(pid).is_some_and(|group| group.starts_with(self.shown.join(leaf)))
    }
}

/// The pidfd of the process, if it is the one.
fn identify(life: KnownLife, units: Units, inside: impl Fn(u32) -> bool) -> Option<OwnedFd> {
    let pidfd = open(life.pid)?;
    // After the pidfd: what is read of the number now is of the process that the pidfd is of, or of one after it, which
    // started later than the life did.
    let start = Stat::of(life.pid, units)?.started;
    let fits = start + BEFORE >= life.started && start <= life.started + MADE_WITHIN;
    (fits && inside(life.pid)).then_some(pidfd)
}

fn cgroup_of(pid: u32) -> Option<PathBuf> {
    let membership = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    cgroup::own_path(&membership).map(PathBuf::from)
}

fn open(pid: u32) -> Option<OwnedFd> {
    pidfd_open(Pid::from_raw(pid.cast_signed())?, PidfdFlags::empty()).ok()
}

fn processes() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// Of which life of which service a process says to be.
struct Told {
    service: String,
    incarnation: Incarnation,
    /// The main process of that life. Services that an earlier version has begun do not say it.
    main: Option<u32>,
}

impl Told {
    /// Whether that is no word against its being the main process.
    fn may_be_main(&self, pid: u32) -> bool {
        self.main.is_none_or(|main| main == pid)
    }
}

/// What a process says. Not all say it: they may have changed their environment, or it may not be read.
fn told(pid: u32) -> Option<Told> {
    let environment = fs::read(format!("/proc/{pid}/environ")).ok()?;
    let value = |name: &str| {
        let mut entries = environment.split(|byte| *byte == 0);
        let found = entries.find_map(|entry| entry.strip_prefix(name.as_bytes())?.strip_prefix(b"="))?;
        std::str::from_utf8(found).ok()
    };
    let incarnation = Incarnation(value(INCARNATION_VARIABLE)?.parse().ok()?);
    let main = value(MAIN_VARIABLE).and_then(|value| value.parse().ok());
    Some(Told { service: value(SERVICE_VARIABLE)?.to_owned(), incarnation, main })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_read_in_both_its_lengths() {
        let (incarnation, main) = (Incarnation(7), Some((12, Tick(345))));
        assert_eq!(Mark::parse("7"), Some(Mark { incarnation, main: None }));
        assert_eq!(Mark::parse("7 12 345"), Some(Mark { incarnation, main }));
        assert_eq!(Mark::parse("7 12"), Some(Mark { incarnation, main: None }));
        assert_eq!(Mark::parse("x 12 345"), None);
        assert_eq!(Mark::parse(""), None);
    }

    #[test]
    fn a_process_is_known_by_its_start_too() {
        let (pid, units) = (std::process::id(), Units::of_this_kernel());
        let started = Stat::of(pid, units).expect("this one").started;
        let life = |started| KnownLife { incarnation: Incarnation(1), pid, started };
        assert!(identify(life(started), units, |_| true).is_some());
        assert!(identify(life(started), units, |_| false).is_none());
        for other in [started + Duration::from_millis(50), Tick(started.0 - 1_000_000_000)] {
            assert!(identify(life(other), units, |_| true).is_none());
        }
    }
}
