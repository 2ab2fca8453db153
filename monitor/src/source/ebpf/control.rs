//! The array of what user space sets while the probes run, and of what one daemon leaves to the next.

use std::os::fd::AsFd;

use aya::maps::{Array, Map, MapData};
use defib_ebpf::{VERSION, ctrl};

use super::super::procfs;
use super::error::EbpfError;
use super::maps::failed;
use super::shape::Shelf;

const NAME: &str = "CTRL";

/// The array.
pub(super) struct Control(Array<MapData, u64>);

impl Control {
    /// A hold of its own on the array, which stays on the shelf.
    pub(super) fn of(shelf: &Shelf) -> Result<Self, EbpfError> {
        let Some(Map::Array(map)) = shelf.get(NAME) else {
            return Err(EbpfError::Missing { what: "array", name: NAME });
        };
        let fd = map.fd().as_fd().try_clone_to_owned().map_err(EbpfError::Descriptor)?;
        let map = MapData::from_fd(fd).and_then(|map| Map::Array(map).try_into());
        map.map(Self).map_err(failed(NAME))
    }

    pub(super) fn get(&self, index: u32) -> Result<u64, EbpfError> {
        self.0.get(&index, 0).map_err(failed(NAME))
    }

    pub(super) fn set(&mut self, index: u32, value: u64) -> Result<(), EbpfError> {
        self.0.set(index, value, 0).map_err(failed(NAME))
    }

    /// Whether the probes follow this keeper's children: this very process, not one that had its number before.
    pub(super) fn serves(&self, keeper: u32) -> Result<bool, EbpfError> {
        let same = self.get(ctrl::KEEPER)? == u64::from(keeper);
        Ok(same && self.get(ctrl::KEEPER_START)? == start(keeper))
    }

    /// Lets the probes follow this keeper's children. The feed is off: who listened is gone.
    pub(super) fn serve(&mut self, keeper: u32) -> Result<(), EbpfError> {
        self.set(ctrl::VERSION, VERSION.into())?;
        self.set(ctrl::FEED, 0)?;
        self.set(ctrl::KEEPER_START, start(keeper))?;
        self.set(ctrl::KEEPER, keeper.into())
    }
}

/// When the process started, as roughly as `/proc` tells; zero if there is none.
fn start(pid: u32) -> u64 {
    procfs::stat(pid).map_or(0, |stat| stat.start)
}
