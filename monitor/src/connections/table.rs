//! The table of ports: what is counted at each watched place, and what its sockets show at this moment.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use defib_core::model::ServiceName;

use super::counts::{Counter, Counts, Ending, Place};
use super::drops::Drops;
use super::owners::Owners;
use super::peers::{self, Peers};
use super::row::{Method, Row, Sockets, Sum, Table, Verification, add, merge};
use super::snapshot::{self, Seen};
use super::watched::{Subject, Watched, Whereabouts};
use crate::effect::holders::Household;
use crate::effect::sockets::{NoSockets, Sight};

/// More network namespaces are not looked into at a time: each takes a thread that enters it, and a look.
const MAX_NAMESPACES: usize = 256;

/// What is asked.
#[derive(Clone, Debug, Default)]
pub struct Ask {
    /// The ports of the host that are watched.
    pub host: Arc<BTreeSet<u16>>,
    /// All services.
    pub subjects: Vec<Subject>,
    /// What is to be told; `None`: everything.
    pub only: Option<Only>,
    /// Whether to find out who listens, which takes a look at all processes.
    pub owners: bool,
    /// Whether to count everything once more.
    pub verify: bool,
    /// Whether to find out who has most of the connections.
    pub busiest: bool,
}

/// Places: those with one of these ports, and those of these services.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Only {
    /// The ports.
    pub ports: BTreeSet<u16>,
    /// The services.
    pub services: BTreeSet<ServiceName>,
}

/// Who is at the other end of a port.
#[derive(Debug)]
pub struct PeerTable {
    /// How connections are counted: only counters know how old one is.
    pub method: Method,
    /// The network namespace of defib, as the number of its inode; 0: it cannot be known.
    pub netns: u32,
    /// A row for each place, defib's own namespace first. Empty: the port is not watched.
    pub rows: Vec<Peers>,
    /// What could not be looked at, and why.
    pub troubles: Vec<String>,
}

/// Who knows of the connections of ports. What it keeps is about ports that are watched, so the configuration bounds it.
#[derive(Debug)]
pub struct Connections {
    counter: Option<Arc<dyn Counter>>,
    household: Household,
    /// Looks only, one at a time; no thread that must not wait takes this.
    known: Mutex<Known>,
    moved: tokio::sync::Notify,
}

#[derive(Debug, Default)]
struct Known {
    whereabouts: Whereabouts,
    /// What the counter was told to watch; `None`: nothing yet. It may still watch what an earlier daemon wanted.
    places: Option<BTreeSet<Place>>,
    drops: BTreeMap<Place, Drops>,
    /// What was counted of each port at places that are no more, while the port still is.
    retired: BTreeMap<u16, (Counts, u64)>,
    unplaced: usize,
}

impl Connections {
    /// Nothing is watched yet. `None`: nobody counts.
    pub fn new(counter: Option<Arc<dyn Counter>>, household: Household) -> Self {
        Self { counter, household, known: Mutex::default(), moved: tokio::sync::Notify::new() }
    }

    /// Whether anybody counts, and so wants to know at once what is to be watched.
    pub fn counts(&self) -> bool {
        self.counter.is_some()
    }

    /// What is to be known of counts by the ends of sockets; `None`: nobody counts like that. Never waits.
    pub fn ending(&self) -> Option<Ending> {
        self.counter.as_ref().and_then(|counter| counter.ending())
    }

    /// Somebody has begun to listen, perhaps in another namespace than the process began in. Never waits.
    pub fn moved(&self) {
        if self.counts() {
            self.moved.notify_one();
        }
    }

    /// Waits for the next [`Self::moved`].
    pub async fn has_moved(&self) {
        self.moved.notified().await;
    }

    /// Has the counter watch what is to be watched. Asks for the namespace of each service: some microseconds each.
    pub fn watch(&self, host: &BTreeSet<u16>, subjects: &[Subject]) {
        self.refresh(&mut self.known.lock().unwrap_or_else(PoisonError::into_inner), host, subjects);
    }

    fn refresh(&self, known: &mut Known, host: &BTreeSet<u16>, subjects: &[Subject]) -> Watched {
        let watched = known.whereabouts.find(host, subjects);
        let places: BTreeSet<Place> = watched.places.keys().copied().collect();
        if known.places.as_ref() == Some(&places) {
            return watched;
        }
        let ports: BTreeSet<u16> = places.iter().map(|place| place.port).collect();
        let gone = |place: &&Place| !places.contains(place) && ports.contains(&place.port);
        for place in known.places.iter().flatten().filter(gone) {
            let (counts, drops) = known.retired.entry(place.port).or_default();
            if let Some(last) = self.counter.as_ref().and_then(|counter| counter.counts(*place, None)) {
                // What was open there is not open here.
                add(counts, &Counts { active: 0, ..last });
            }
            *drops += known.drops.get(place).map_or(0, Drops::total);
        }
        known.drops.retain(|place, _| places.contains(place));
        known.retired.retain(|port, _| ports.contains(port));
        if let Some(counter) = &self.counter {
            let unplaced = counter.watch(&places);
            if unplaced > known.unplaced {
                tracing::warn!(unplaced, "more ports than can be counted: those are read from sockets only");
            }
            known.unplaced = unplaced;
        }
        known.places = Some(places);
        watched
    }

    /// Looks at everything.
    pub fn table(&self, ask: &Ask) -> Table {
        self.look(&mut self.known.lock().unwrap_or_else(PoisonError::into_inner), ask)
    }

    fn look(&self, known: &mut Known, ask: &Ask) -> Table {
        let mut watched = self.refresh(known, &ask.host, &ask.subjects);
        if let Some(Only { ports, services }) = &ask.only {
            let wanted = |place: &Place, named: &BTreeSet<ServiceName>| {
                ports.contains(&place.port) || !services.is_disjoint(named)
            };
            watched.places.retain(|place, named| wanted(place, named));
        }
        let Watched { own, places, ways } = watched;
        let mut ports: BTreeMap<u32, BTreeSet<u16>> = BTreeMap::new();
        for place in places.keys() {
            ports.entry(place.netns).or_default().insert(place.port);
        }
        if let Some(counter) = &self.counter {
            counter.prepare();
        }
        let mut troubles = Vec::new();
        let mut seen = BTreeMap::new();
        for (netns, ports) in ports {
            // Where no process of a service is any more, there is nobody to look through, and mostly nothing to see.
            let Some(way) = ways.get(&netns) else { continue };
            match one_more(seen.len(), || snapshot::look(*way, &ports, ask.busiest)) {
                Ok(found) => drop(seen.insert(netns, found)),
                Err(why) => troubles.push(format!("network namespace {netns}: {why}")),
            }
        }
        let owners = if ask.owners {
            let listeners = seen.values().flat_map(BTreeMap::values).flat_map(|seen| &seen.listeners);
            Owners::of(&self.household, &ask.subjects, &listeners.map(|listener| listener.inode).collect())
        } else {
            Owners::default()
        };
        let row = |(place, services): (Place, BTreeSet<ServiceName>)| {
            let quiet = Seen { busiest: ask.busiest.then_some(0), ..Seen::default() };
            let seen = seen.get(&place.netns).map(|found| found.get(&place.port).unwrap_or(&quiet));
            let inodes = || seen.iter().flat_map(|seen| &seen.listeners).map(|listener| listener.inode);
            Row {
                place,
                services,
                sockets: seen.map(|seen| sockets(seen, known.drops.entry(place).or_default())),
                counts: self.counter.as_ref().and_then(|counter| counter.counts(place, seen)),
                owner: owners.first(inodes()),
                held: seen.and_then(|_| owners.held(inodes())),
            }
        };
        let mut rows: Vec<Row> = places.into_iter().map(row).collect();
        rows.sort_by_key(|row| (row.place.netns != own, row.place));
        let verification = ask.verify.then(|| self.verify(&rows));
        let ending = self.ending();
        let reseeds = self.counter.as_ref().and_then(|counter| counter.reseeds());
        Table { method: self.method(), netns: own, rows, troubles, reseeds, ending, verification }
    }

    /// The peers of a port, at each place at which it is watched; the `most` of each with most connections.
    pub fn peers(&self, ask: &Ask, port: u16, most: usize) -> PeerTable {
        let Watched { own, places, ways } = {
            let known = &mut self.known.lock().unwrap_or_else(PoisonError::into_inner);
            self.refresh(known, &ask.host, &ask.subjects)
        };
        let map = self.counter.as_ref().and_then(|counter| counter.memory());
        let (mut rows, mut troubles) = (Vec::new(), Vec::new());
        for (count, place) in places.into_keys().filter(|place| place.port == port).enumerate() {
            let looked = match ways.get(&place.netns) {
                None => Err("nobody of the service is in it just now".to_owned()),
                Some(way) => one_more(count, || peers::look(&Sight::open(*way), port, map, most)),
            };
            if let Err(why) = &looked {
                troubles.push(format!("network namespace {}: {why}", place.netns));
            }
            rows.push(Peers { place, found: looked.ok() });
        }
        rows.sort_by_key(|row| (row.place.netns != own, row.place));
        PeerTable { method: self.method(), netns: own, rows, troubles }
    }

    fn method(&self) -> Method {
        if self.counts() && self.ending().is_none() { Method::Ebpf } else { Method::SockDiag }
    }

    fn verify(&self, rows: &[Row]) -> Verification {
        let mut found = Verification::default();
        let Some(counter) = &self.counter else { return found };
        for (place, outcome) in counter.verify_all(&rows.iter().map(|row| row.place).collect()) {
            found.checked += 1;
            match outcome {
                Ok(verdict) if verdict.is_equal() => {}
                Ok(verdict) => found.differences.push((place, verdict)),
                Err(error) => found.failures.push((place, error.to_string())),
            }
        }
        found
    }

    /// Each port with what is known of it in all namespaces. `Err` says what could not be looked at.
    pub fn sums(&self, ask: &Ask) -> (BTreeMap<u16, Sum>, Result<(), String>) {
        let known = &mut self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let table = self.look(known, ask);
        let mut sums: BTreeMap<u16, Sum> = BTreeMap::new();
        for row in &table.rows {
            let sum = sums.entry(row.place.port).or_default();
            if let Some(counts) = &row.counts {
                add(sum.counts.get_or_insert_default(), counts);
            }
            if let (Some(sockets), Some(states)) = (&row.sockets, row.states()) {
                sum.sockets = Some(merge(sum.sockets.take(), &Sockets { states, ..sockets.clone() }));
            }
        }
        // Of other namespaces nobody hears of ends: a part would be taken for the whole.
        for row in table.rows.iter().filter(|row| table.ending.is_some() && row.counts.is_none()) {
            if let Some(sum) = sums.get_mut(&row.place.port) {
                sum.counts = None;
            }
        }
        for (port, (counts, drops)) in &known.retired {
            let Some(sum) = sums.get_mut(port) else { continue };
            if let Some(sum) = &mut sum.counts {
                add(sum, counts);
            }
            if let Some(Sockets { overflows: Some(overflows), .. }) = &mut sum.sockets {
                *overflows += drops;
            }
        }
        let troubles = table.troubles.join("; ");
        (sums, if troubles.is_empty() { Ok(()) } else { Err(troubles) })
    }
}

/// Looks into a network namespace after so many others, if it is not one too many.
fn one_more<T>(before: usize, look: impl FnOnce() -> Result<T, NoSockets>) -> Result<T, String> {
    if before >= MAX_NAMESPACES {
        return Err(format!("more than {MAX_NAMESPACES} are not looked into"));
    }
    look().map_err(|error| error.to_string())
}

/// What a look shows of a place, and adds to what its listeners have dropped.
fn sockets(seen: &Seen, drops: &mut Drops) -> Sockets {
    Sockets {
        states: seen.states,
        waiting: seen.listeners.iter().map(|listener| u64::from(listener.waiting)).sum(),
        capacity: seen.listeners.iter().map(|listener| listener.capacity.map(u64::from)).sum(),
        overflows: drops.see(&seen.listeners),
        busiest: seen.busiest,
    }
}

#[cfg(test)]
mod tests;
