//! The maps of the loaded object, by name and with the types of the ABI.

#![expect(
    unsafe_code,
    reason = "aya copies map values as bytes, and only their owner can promise that they are plain"
)]

use std::os::fd::{AsFd, BorrowedFd};

use aya::Pod;
use aya::maps::{Array, HashMap, Map, MapData, MapError, PerCpuArray, RingBuf};
use defib_ebpf::{
    Blow, End, EndKey, Facts, FeedStats, Listening, Offsets, PortBase, PortCounts, PortKey, PortStats, Seen,
    SeenKey, Slot, Stats, Tracked, ctrl, kind,
};

use super::control::Control;
use super::error::EbpfError;
use super::shape::{self, Shelf};

/// A type of the ABI as aya takes it.
#[derive(Clone, Copy, Debug)]
#[repr(transparent)]
pub(super) struct Abi<T>(pub(super) T);

macro_rules! plain {
    ($($name:ty),+) => {$(
        // SAFETY: `repr(C)`, integers only, every bit pattern valid, and its size is checked against the sum of its
        // fields where it is defined, so there is no padding.
        unsafe impl Pod for Abi<$name> {}
    )+};
}

plain!(Blow, End, EndKey, Facts, FeedStats, Listening, Offsets, Slot, Stats, Tracked);
plain!(PortBase, PortCounts, PortKey, PortStats, Seen, SeenKey);

/// What the source reads and writes, all but the ring.
pub(super) struct Maps {
    tracked: HashMap<MapData, u32, Abi<Tracked>>,
    blows: HashMap<MapData, u32, Abi<Blow>>,
    exits: HashMap<MapData, Abi<EndKey>, Abi<End>>,
    stats: PerCpuArray<MapData, Abi<Stats>>,
    next_slot: MapData,
}

/// A failed use of the map of that name.
pub(super) fn failed(map: &'static str) -> impl FnOnce(MapError) -> EbpfError {
    move |cause| EbpfError::Map { map, cause: Box::new(cause) }
}

/// Takes a map off the shelf.
pub(super) fn take(shelf: &mut Shelf, name: &'static str) -> Result<Map, EbpfError> {
    shelf.remove(name).ok_or(EbpfError::Missing { what: "map", name })
}

/// Takes a ring off the shelf.
pub(super) fn take_ring(shelf: &mut Shelf, name: &'static str) -> Result<RingBuf<MapData>, EbpfError> {
    take(shelf, name)?.try_into().map_err(failed(name))
}

impl Maps {
    /// Takes the maps off the shelf.
    pub(super) fn take(shelf: &mut Shelf) -> Result<Self, EbpfError> {
        let Map::Array(next_slot) = take(shelf, "NEXT_SLOT")? else {
            return Err(EbpfError::Missing { what: "array", name: "NEXT_SLOT" });
        };
        Ok(Self {
            tracked: take(shelf, "TRACKED")?.try_into().map_err(failed("TRACKED"))?,
            blows: take(shelf, "BLOWS")?.try_into().map_err(failed("BLOWS"))?,
            exits: take(shelf, "EXITS")?.try_into().map_err(failed("EXITS"))?,
            stats: take(shelf, "STATS")?.try_into().map_err(failed("STATS"))?,
            next_slot,
        })
    }

    pub(super) fn next_slot(&self) -> BorrowedFd<'_> {
        self.next_slot.fd().as_fd()
    }

    /// What TRACKED says of a thread group.
    pub(super) fn tracked(&self, tgid: u32) -> Result<Option<Tracked>, EbpfError> {
        Ok(found(self.tracked.get(&tgid, 0)).map_err(failed("TRACKED"))?.map(|Abi(entry)| entry))
    }

    pub(super) fn track(&mut self, tgid: u32, entry: Tracked) -> Result<(), EbpfError> {
        self.tracked.insert(tgid, Abi(entry), 0).map_err(failed("TRACKED"))
    }

    /// Takes out what is remembered of a process whose end the probes do not see.
    pub(super) fn untrack(&mut self, tgid: u32) -> Result<(), EbpfError> {
        found(self.tracked.remove(&tgid)).map_err(failed("TRACKED"))?;
        found(self.blows.remove(&tgid)).map_err(failed("BLOWS"))?;
        Ok(())
    }

    /// How many blows are remembered.
    #[cfg(test)]
    pub(super) fn blows(&self) -> usize {
        self.blows.keys().count()
    }

    /// An end in EXITS.
    pub(super) fn end(&self, key: EndKey) -> Result<Option<End>, EbpfError> {
        let end = found(self.exits.get(&Abi(key), 0)).map_err(failed("EXITS"))?;
        Ok(end.map(|Abi(end)| end))
    }

    /// The ends in EXITS, in no order. Bounded, because what is added meanwhile may come round again.
    pub(super) fn ends(&self) -> impl Iterator<Item = EndKey> {
        self.exits.keys().take(shape::PROCESSES as usize).filter_map(Result::ok).map(|Abi(key)| key)
    }

    /// Everything in TRACKED, bounded likewise.
    pub(super) fn all_tracked(&self) -> impl Iterator<Item = (u32, Tracked)> {
        let entries = self.tracked.iter().take(shape::PROCESSES as usize).filter_map(Result::ok);
        entries.map(|(tgid, Abi(entry))| (tgid, entry))
    }

    /// Lets nobody's child be taken for a service's until the keeper says so again.
    pub(super) fn announce_nothing(shelf: &Shelf) -> Result<(), EbpfError> {
        let Some(Map::Array(map)) = shelf.get("NEXT_SLOT") else {
            return Err(EbpfError::Missing { what: "array", name: "NEXT_SLOT" });
        };
        let fd = map.fd().as_fd().try_clone_to_owned().map_err(EbpfError::Descriptor)?;
        let map = MapData::from_fd(fd).and_then(|map| Map::Array(map).try_into());
        map.and_then(|mut map: Array<_, u64>| map.set(0, 0, 0)).map_err(failed("NEXT_SLOT"))
    }

    /// Takes an end out of EXITS.
    pub(super) fn forget_end(&mut self, key: EndKey) -> Result<(), EbpfError> {
        found(self.exits.remove(&Abi(key))).map_err(failed("EXITS")).map(drop)
    }

    /// The counters of all CPUs together.
    pub(super) fn stats(&self) -> Result<Stats, EbpfError> {
        let per_cpu = self.stats.get(&0, 0).map_err(failed("STATS"))?;
        Ok(per_cpu.iter().fold(Stats::default(), |sum, Abi(one)| add(sum, one)))
    }
}

/// A ring that is not mapped while nobody reads it: a mapping takes as much memory as the ring is long.
pub(super) struct RestingRing {
    name: &'static str,
    map: MapData,
}

impl RestingRing {
    /// Takes the ring off the shelf.
    pub(super) fn take(shelf: &mut Shelf, name: &'static str) -> Result<Self, EbpfError> {
        let Map::RingBuf(map) = take(shelf, name)? else {
            return Err(EbpfError::Missing { what: "ring", name });
        };
        Ok(Self { name, map })
    }

    /// The ring to read from, from where its last reader stopped.
    pub(super) fn map(&self) -> Result<RingBuf<MapData>, EbpfError> {
        let fd = self.map.fd().as_fd().try_clone_to_owned();
        let map = fd.map_err(MapError::from).and_then(MapData::from_fd);
        map.and_then(|map| Map::RingBuf(map).try_into()).map_err(failed(self.name))
    }
}

/// The maps of the feed, all but its ring.
pub(super) struct FeedMaps {
    switch: Control,
    stats: PerCpuArray<MapData, Abi<FeedStats>>,
}

impl FeedMaps {
    /// Takes the maps off the shelf.
    pub(super) fn take(shelf: &mut Shelf) -> Result<Self, EbpfError> {
        Ok(Self {
            switch: Control::of(shelf)?,
            stats: take(shelf, "FEED_STATS")?.try_into().map_err(failed("FEED_STATS"))?,
        })
    }

    /// Lets the probes tell of every process until then, in nanoseconds of `CLOCK_MONOTONIC`; zero for not at all.
    pub(super) fn switch(&mut self, until: u64) -> Result<(), EbpfError> {
        self.switch.set(ctrl::FEED, until)
    }

    /// The counters of all CPUs together.
    pub(super) fn stats(&self) -> Result<FeedStats, EbpfError> {
        let per_cpu = self.stats.get(&0, 0).map_err(failed("FEED_STATS"))?;
        Ok(per_cpu.iter().fold(FeedStats::default(), |sum, Abi(one)| FeedStats {
            emitted: sum.emitted + one.emitted,
            lost: sum.lost + one.lost,
        }))
    }
}

/// A key that is not there is no failure.
pub(super) fn found<T>(result: Result<T, MapError>) -> Result<Option<T>, MapError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(MapError::KeyNotFound | MapError::ElementNotFound) => Ok(None),
        Err(MapError::SyscallError(error)) if error.io_error.kind() == std::io::ErrorKind::NotFound => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

fn add(mut sum: Stats, one: &Stats) -> Stats {
    for index in 0..kind::COUNT {
        sum.emitted[index] += one.emitted[index];
        sum.lost[index] += one.lost[index];
        sum.host[index] += one.host[index];
    }
    sum.ends.iter_mut().zip(one.ends).for_each(|(sum, one)| *sum += one);
    sum.descendant_exits += one.descendant_exits;
    sum.suppressed += one.suppressed;
    sum.tracked_full += one.tracked_full;
    sum.exits_full += one.exits_full;
    sum.blows_full += one.blows_full;
    sum.listeners_full += one.listeners_full;
    sum
}
