//! The places that are watched, and what is counted at each.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::os::fd::{AsFd, OwnedFd};

use aya::maps::{Array, HashMap, Map, MapData};
use defib_ebpf::{PortBase, PortCounts, PortKey, PortStats, watched_bit};

use super::super::error::EbpfError;
use super::super::load::{Loaded, ON_STATE, ON_STATE_AGAIN};
use super::super::maps::{Abi, failed, found, take};
use super::super::misses::Misses;
use super::super::shape::PLACES;
use super::rounds::PortRounds;

/// How often counters are read until two readings are the same. Each takes a microsecond.
const READINGS: usize = 16;

/// The maps of places.
pub struct PortTables {
    counts: HashMap<MapData, Abi<PortKey>, Abi<PortCounts>>,
    bases: HashMap<MapData, Abi<PortKey>, Abi<PortBase>>,
    watched: Array<MapData, u64>,
    stats: Array<MapData, Abi<PortStats>>,
    connections: MapData,
    /// How often each of the two probes was not run.
    misses: [Misses; 2],
    /// What tells that belongs to descriptors, which must stay open.
    _programs: Vec<OwnedFd>,
}

impl fmt::Debug for PortTables {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PortTables").field("misses", &self.misses).finish_non_exhaustive()
    }
}

impl PortTables {
    /// Takes the maps off the shelf. `None` if connections are not counted.
    pub(in crate::source::ebpf) fn take(
        loaded: &mut Loaded,
    ) -> Result<Option<(Self, PortRounds)>, EbpfError> {
        if !loaded.has(ON_STATE) || !loaded.has(ON_STATE_AGAIN) {
            return Ok(None);
        }
        let own = |name: &str| {
            let programs = loaded.programs.iter().filter(|program| program.name == name);
            programs.map(|program| program.fd.try_clone()).collect::<Result<Vec<_>, _>>()
        };
        let (mut first, second) = (
            own(ON_STATE).map_err(EbpfError::Descriptor)?,
            own(ON_STATE_AGAIN).map_err(EbpfError::Descriptor)?,
        );
        let misses = [&first, &second].map(|programs| Misses::of(programs.iter().map(AsFd::as_fd)));
        first.extend(second);
        let shelf = &mut loaded.maps;
        let rounds = PortRounds::take(shelf)?;
        let Map::SkStorage(connections) = take(shelf, "CONNECTIONS")? else {
            return Err(EbpfError::Missing { what: "storage of sockets", name: "CONNECTIONS" });
        };
        let tables = Self {
            counts: take(shelf, "PORTS")?.try_into().map_err(failed("PORTS"))?,
            bases: take(shelf, "BASES")?.try_into().map_err(failed("BASES"))?,
            watched: take(shelf, "WATCHED")?.try_into().map_err(failed("WATCHED"))?,
            stats: take(shelf, "PORT_STATS")?.try_into().map_err(failed("PORT_STATS"))?,
            connections,
            misses,
            _programs: first,
        };
        Ok(Some((tables, rounds)))
    }

    /// What is watched, with the number of each watch, and what an earlier daemon has found out about it.
    ///
    /// # Errors
    /// If a map cannot be read.
    pub fn places(&self) -> Result<BTreeMap<PortKey, (u64, Option<PortBase>)>, EbpfError> {
        let mut places = BTreeMap::new();
        for entry in self.counts.iter().take(PLACES as usize) {
            let (Abi(key), Abi(counts)) = entry.map_err(failed("PORTS"))?;
            let base = found(self.bases.get(&Abi(key), 0)).map_err(failed("BASES"))?;
            let base = base.map(|Abi(base)| base).filter(|base| base.number == counts.number);
            places.insert(key, (counts.number, base));
        }
        Ok(places)
    }

    /// Counts at a place from now on. `number` must not have been used before.
    ///
    /// # Errors
    /// If the maps take no more.
    pub fn watch(&mut self, key: PortKey, number: u64) -> Result<(), EbpfError> {
        let counts = PortCounts { number, ..PortCounts::default() };
        self.counts.insert(Abi(key), Abi(counts), 0).map_err(failed("PORTS"))?;
        let (word, bit) = watched_bit(key.port);
        let bits = self.watched.get(&word, 0).map_err(failed("WATCHED"))?;
        self.watched.set(word, bits | bit, 0).map_err(failed("WATCHED"))
    }

    /// Counts at a place no longer. `last` says that no other place has the bit of its port.
    ///
    /// # Errors
    /// If the maps cannot be written.
    pub fn unwatch(&mut self, key: PortKey, last: bool) -> Result<(), EbpfError> {
        if last {
            let (word, bit) = watched_bit(key.port);
            let bits = self.watched.get(&word, 0).map_err(failed("WATCHED"))?;
            self.watched.set(word, bits & !bit, 0).map_err(failed("WATCHED"))?;
        }
        found(self.bases.remove(&Abi(key))).map_err(failed("BASES"))?;
        found(self.counts.remove(&Abi(key))).map_err(failed("PORTS")).map(drop)
    }

    /// What is counted at a place. While connections come and go, a reading may hold the end of one whose begin it does not
    /// hold; so it is read until it stands still, and what was read last is taken where it never does.
    ///
    /// # Errors
    /// If the map cannot be read.
    pub fn counts(&self, key: PortKey) -> Result<Option<PortCounts>, EbpfError> {
        let read = || found(self.counts.get(&Abi(key), 0)).map_err(failed("PORTS"));
        let mut last = read()?;
        for _ in 1..READINGS {
            let next = read()?;
            let still = next.as_ref().map(|Abi(counts)| counts.banks)
                == last.as_ref().map(|Abi(counts)| counts.banks);
            last = next;
            if still {
                break;
            }
        }
        Ok(last.map(|Abi(counts)| counts))
    }

    /// Leaves to the next daemon what is known of a place.
    ///
    /// # Errors
    /// If the map takes no more.
    pub fn remember(&mut self, key: PortKey, base: PortBase) -> Result<(), EbpfError> {
        self.bases.insert(Abi(key), Abi(base), 0).map_err(failed("BASES"))
    }

    /// How many changes may be counted wrongly. Of those that the kernel has kept from one of the probes the other knows; what
    /// it has kept from both is not more than what it has kept from either. Looks at that once a second at most.
    ///
    /// # Errors
    /// If a map cannot be read.
    pub fn doubts(&mut self) -> Result<u64, EbpfError> {
        let unremembered = self.stats()?.unremembered;
        let [first, second] = &mut self.misses;
        Ok(first.known().min(second.known()) + unremembered)
    }

    /// The map of what is remembered of each connection, a `Connection` of the ABI, for sock_diag.
    ///
    /// # Errors
    /// If the process has no descriptor left.
    pub fn memory(&self) -> io::Result<OwnedFd> {
        self.connections.fd().as_fd().try_clone_to_owned()
    }

    /// How many changes found no room to be written down in a round.
    ///
    /// # Errors
    /// If a map cannot be read.
    pub fn overflown(&self) -> Result<u64, EbpfError> {
        Ok(self.stats()?.seen_full)
    }

    fn stats(&self) -> Result<PortStats, EbpfError> {
        self.stats.get(&0, 0).map(|Abi(stats)| stats).map_err(failed("PORT_STATS"))
    }

    /// How often each of the probes was not run; `None` before Linux 5.12.
    pub fn misses(&self) -> [Option<u64>; 2] {
        [self.misses[0].count(), self.misses[1].count()]
    }
}
