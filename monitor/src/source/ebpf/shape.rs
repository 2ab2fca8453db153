//! What the maps that user space uses must be like, whoever made them.

use std::collections::BTreeMap;

use aya::Ebpf;
use aya::maps::{Map, MapData, MapInfo, MapType};
use defib_ebpf::{
    Blow, Connection, End, EndKey, FeedStats, PortBase, PortCounts, PortKey, PortStats, Seen, SeenKey, Stats,
    Tracked, WATCHED_WORDS, ctrl,
};

use super::error::EbpfError;

/// Entries of TRACKED, of EXITS and of BLOWS.
pub(super) const PROCESSES: u32 = 16 * 1024;

/// The size of the ring that is read all the time.
pub(super) const URGENT_BYTES: u32 = 256 * 1024;
/// Entries of PORTS and of BASES.
pub(super) const PLACES: u32 = 4096;

/// Entries of SEEN_SOCKETS.
pub(super) const SEEN_SOCKETS: u32 = 16 * 1024;

/// Maps by their names in the object.
pub(super) type Shelf = BTreeMap<&'static str, Map>;

/// What a map of the object is like.
pub(super) struct Shape {
    pub(super) name: &'static str,
    kind: MapType,
    key: usize,
    value: usize,
    entries: u32,
}

const fn hash<K, V>(name: &'static str) -> Shape {
    Shape { name, kind: MapType::Hash, key: size_of::<K>(), value: size_of::<V>(), entries: PROCESSES }
}

const fn table<K, V>(name: &'static str, entries: u32) -> Shape {
    Shape { entries, ..hash::<K, V>(name) }
}

const fn array<V>(name: &'static str, kind: MapType, entries: u32) -> Shape {
    Shape { name, kind, key: size_of::<u32>(), value: size_of::<V>(), entries }
}

const fn ring(name: &'static str, bytes: u32) -> Shape {
    Shape { name, kind: MapType::RingBuf, key: 0, value: 0, entries: bytes }
}

/// Its entries are the sockets'.
const fn storage<V>(name: &'static str) -> Shape {
    Shape { name, kind: MapType::SkStorage, key: size_of::<i32>(), value: size_of::<V>(), entries: 0 }
}

/// What daemons leave to each other, which no program reads.
pub(super) const OWN: &str = "BASES";

/// The maps that user space uses: those that are pinned. The programs keep the others alive.
pub(super) const SHAPES: [Shape; 15] = [
    hash::<u32, Tracked>("TRACKED"),
    hash::<u32, Blow>("BLOWS"),
    hash::<EndKey, End>("EXITS"),
    array::<Stats>("STATS", MapType::PerCpuArray, 1),
    array::<FeedStats>("FEED_STATS", MapType::PerCpuArray, 1),
    array::<u64>("NEXT_SLOT", MapType::Array, 1),
    array::<u64>("CTRL", MapType::Array, ctrl::COUNT),
    table::<PortKey, PortCounts>("PORTS", PLACES),
    table::<PortKey, PortBase>("BASES", PLACES),
    table::<SeenKey, Seen>("SEEN_SOCKETS", SEEN_SOCKETS),
    array::<u64>("WATCHED", MapType::Array, WATCHED_WORDS),
    storage::<Connection>("CONNECTIONS"),
    array::<PortStats>("PORT_STATS", MapType::Array, 1),
    ring("URGENT", URGENT_BYTES),
    ring("BULK", 1024 * 1024),
];

impl Shape {
    /// Whether a map is like that.
    pub(super) fn fits(&self, info: &MapInfo) -> bool {
        info.map_type().is_ok_and(|kind| kind == self.kind)
            && info.key_size() as usize == self.key
            && info.value_size() as usize == self.value
            && info.max_entries() == self.entries
    }

    /// A map of that kind.
    pub(super) fn map(&self, data: MapData) -> Option<Map> {
        match self.kind {
            MapType::Hash => Some(Map::HashMap(data)),
            MapType::Array => Some(Map::Array(data)),
            MapType::PerCpuArray => Some(Map::PerCpuArray(data)),
            MapType::RingBuf => Some(Map::RingBuf(data)),
            MapType::SkStorage => Some(Map::SkStorage(data)),
            _ => None,
        }
    }
}

/// Takes the maps out of an object that was loaded.
pub(super) fn shelf(object: &mut Ebpf) -> Result<Shelf, EbpfError> {
    let take = |shape: &Shape| {
        let name = shape.name;
        let map = object.take_map(name).ok_or(EbpfError::Missing { what: "map", name })?;
        Ok((name, map))
    };
    SHAPES.iter().map(take).collect()
}
