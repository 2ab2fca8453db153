//! Rounds: how many connections there are at one instant, by the counters and by the sockets.
//!
//! 1. The probes change over to the other bank, at one instant for all places, and write down what each socket does first
//!    from then on.
//! 2. Whatever of them was running ends: the bank before stands still, and holds all that happened before the instant.
//! 3. The sockets are dumped. One that has done nothing since the instant is in the dump if it was ESTABLISHED then. One
//!    that has done something was ESTABLISHED then if what it did first was to leave that.
//!
//! So nothing is missed and nothing counted twice, however many connections come and go meanwhile. One case is left: a
//! process that is preempted between the probe and the change of its socket's state, for longer than all this takes. Hence
//! nothing is believed that the next round does not confirm.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::counts::Place;
use super::places::{Places, balance};
use crate::effect::sockets::{Connections, Namespace};
use crate::source::PortRounds;
use crate::source::grace;

/// How often a round is repeated in which more sockets did something than could be written down.
const ATTEMPTS: usize = 3;

/// What is known of a place at the instant of a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Found {
    /// The number of the watch.
    pub(super) number: u64,
    /// How many connections there were, by the sockets.
    pub(super) established: i64,
    /// How many more were opened than closed since the place is watched, by the counters.
    pub(super) balance: i64,
}

impl Found {
    /// What is to be added to what the counters say.
    pub(super) fn added(self) -> i64 {
        self.established - self.balance
    }
}

/// The namespaces that could not be looked into.
pub(super) type Unseen = BTreeMap<u32, io::Error>;

/// Makes a round over these places, given with the numbers of their watches.
pub(super) fn round(
    rounds: &mut PortRounds,
    places: &Mutex<Places>,
    wanted: &BTreeMap<Place, u64>,
) -> io::Result<(BTreeMap<Place, Found>, Unseen)> {
    let mut unseen = Unseen::new();
    let views = views(wanted, &mut unseen);
    for _ in 0..ATTEMPTS {
        let before = lock(places).tables.overflown().map_err(io::Error::other)?;
        let found = attempt(rounds, places, wanted, &views, &mut unseen);
        // Also of a round that failed.
        rounds.end().map_err(io::Error::other)?;
        if lock(places).tables.overflown().map_err(io::Error::other)? == before {
            return Ok((found?, unseen));
        }
    }
    Err(io::Error::other("more sockets than can be written down change their state during a look"))
}

fn attempt(
    rounds: &mut PortRounds,
    places: &Mutex<Places>,
    wanted: &BTreeMap<Place, u64>,
    views: &BTreeMap<u32, View>,
    unseen: &mut Unseen,
) -> io::Result<BTreeMap<Place, Found>> {
    let resting = rounds.resting_bank().map_err(io::Error::other)?;
    // What the bank holds that is taken into use now.
    let marks = banks(places, wanted, resting)?;
    rounds.begin().map_err(io::Error::other)?;
    grace();
    let ended = banks(places, wanted, 1 - resting)?;
    let dumps: BTreeMap<_, _> = views.iter().map(|(netns, view)| (netns, view.connections())).collect();
    let witnessed = rounds.witnessed().map_err(io::Error::other)?;

    let mut established: BTreeMap<Place, i64> = BTreeMap::new();
    for (netns, dump) in dumps {
        match dump {
            Ok(connections) => {
                let idle = connections.iter().filter(|(_, cookie)| !witnessed.contains_key(cookie));
                for (port, _) in idle {
                    *established.entry(Place { netns: *netns, port: *port }).or_default() += 1;
                }
            }
            Err(error) => {
                unseen.insert(*netns, error);
            }
        }
    }
    let mut left: BTreeMap<u64, i64> = BTreeMap::new();
    for seen in witnessed.values().filter(|seen| seen.left) {
        *left.entry(seen.watch).or_default() += 1;
    }
    let found = wanted.iter().filter_map(|(place, number)| {
        if unseen.contains_key(&place.netns) {
            return None;
        }
        // Without counters it is not watched any more.
        let balance = marks.get(place)? + ended.get(place)?;
        let established =
            established.get(place).copied().unwrap_or(0) + left.get(number).copied().unwrap_or(0);
        Some((*place, Found { number: *number, established, balance }))
    });
    Ok(found.collect())
}

/// How many connections more were opened than closed while a bank was in use.
fn banks(
    places: &Mutex<Places>,
    wanted: &BTreeMap<Place, u64>,
    bank: usize,
) -> io::Result<BTreeMap<Place, i64>> {
    let mut found = BTreeMap::new();
    for (place, number) in wanted {
        // Others may ask for counts in between.
        if let Some(counts) = lock(places).raw(*place, *number)? {
            found.insert(*place, balance(counts.banks.get(bank..=bank).unwrap_or_default()));
        }
    }
    Ok(found)
}

/// Takes a lock that nobody holds for long.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A look into a network namespace.
struct View {
    connections: Connections,
    ports: BTreeSet<u16>,
}

impl View {
    /// The connections there, each once.
    fn connections(&self) -> io::Result<BTreeSet<(u16, u64)>> {
        let found = self.connections.of(&self.ports).map_err(io::Error::other)?;
        Ok(found.into_iter().collect())
    }
}

/// Looks into all namespaces of these places, but for those that are unseen.
fn views(wanted: &BTreeMap<Place, u64>, unseen: &mut Unseen) -> BTreeMap<u32, View> {
    let mut ports: BTreeMap<u32, BTreeSet<u16>> = BTreeMap::new();
    for place in wanted.keys() {
        ports.entry(place.netns).or_default().insert(place.port);
    }
    let mut views = BTreeMap::new();
    for (netns, ports) in ports {
        match open(netns) {
            Ok(connections) => {
                views.insert(netns, View { connections, ports });
            }
            Err(error) => {
                unseen.insert(netns, error);
            }
        }
    }
    views
}

/// Looks into the network namespace with this inode number: defib's own, or that of some process.
fn open(netns: u32) -> io::Result<Connections> {
    let is_it = |process: &str| {
        fs::metadata(format!("/proc/{process}/ns/net")).is_ok_and(|found| found.ino() == u64::from(netns))
    };
    if is_it("self") {
        return Connections::open(Namespace::Own).map_err(io::Error::other);
    }
    for entry in fs::read_dir("/proc")?.flatten() {
        let name = entry.file_name();
        let Some((name, pid)) = name.to_str().and_then(|name| Some((name, name.parse().ok()?))) else {
            continue;
        };
        if !is_it(name) {
            continue;
        }
        let opened = Connections::open(Namespace::Of(pid)).map_err(io::Error::other);
        // It may have ended meanwhile, and another process have its number.
        if is_it(name) {
            return opened;
        }
    }
    Err(io::Error::new(io::ErrorKind::NotFound, "no process is in that network namespace any more"))
}
