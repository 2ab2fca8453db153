//! Rounds: the instant at which all places change over to the other bank, and what sockets have done since.

use std::collections::BTreeMap;

use aya::maps::{HashMap, MapData};
use defib_ebpf::{ROUND_BANK, ROUND_SEEING, ROUND_SHIFT, Seen, SeenKey, ctrl};

use super::super::control::Control;
use super::super::error::EbpfError;
use super::super::maps::{Abi, failed, found, take};
use super::super::shape::{SEEN_SOCKETS, Shelf};

/// What a socket was seen to do first in a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Witnessed {
    /// The number of the watch that has seen it.
    pub watch: u64,
    /// Whether it has left ESTABLISHED; else it has become that.
    pub left: bool,
}

/// The maps by which a round is made. Whoever has this makes the only one.
pub struct PortRounds {
    control: Control,
    seen: HashMap<MapData, Abi<SeenKey>, Abi<Seen>>,
}

impl std::fmt::Debug for PortRounds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("PortRounds").finish_non_exhaustive()
    }
}

impl PortRounds {
    pub(super) fn take(shelf: &mut Shelf) -> Result<Self, EbpfError> {
        Ok(Self {
            control: Control::of(shelf)?,
            seen: take(shelf, "SEEN_SOCKETS")?.try_into().map_err(failed("SEEN_SOCKETS"))?,
        })
    }

    fn word(&self) -> Result<u64, EbpfError> {
        self.control.get(ctrl::ROUND)
    }

    /// The bank that is not in use.
    ///
    /// # Errors
    /// If a map cannot be read.
    pub fn resting_bank(&self) -> Result<usize, EbpfError> {
        Ok(usize::from(self.word()? & ROUND_BANK == 0))
    }

    /// The begin of a round: from now on the other bank is in use, and what sockets do is written down.
    ///
    /// # Errors
    /// If a map cannot be written.
    pub fn begin(&mut self) -> Result<(), EbpfError> {
        let word = self.word()?;
        let next = (word >> ROUND_SHIFT) + 1;
        self.control.set(ctrl::ROUND, next << ROUND_SHIFT | ROUND_SEEING | (word & ROUND_BANK ^ ROUND_BANK))
    }

    /// What sockets have done since the round began, by their cookies.
    ///
    /// # Errors
    /// If a map cannot be read.
    pub fn witnessed(&self) -> Result<BTreeMap<u64, Witnessed>, EbpfError> {
        let round = self.word()? >> ROUND_SHIFT;
        let mut witnessed = BTreeMap::new();
        // Bounded: what is added meanwhile may come round again.
        for entry in self.seen.iter().take(2 * SEEN_SOCKETS as usize) {
            let (Abi(key), Abi(seen)) = entry.map_err(failed("SEEN_SOCKETS"))?;
            if key.round == round {
                let Seen { number, left } = seen;
                witnessed.insert(key.cookie, Witnessed { watch: number, left: left != 0 });
            }
        }
        Ok(witnessed)
    }

    /// The end of a round: nothing is written down any more, and what was is forgotten.
    ///
    /// # Errors
    /// If a map cannot be written.
    pub fn end(&mut self) -> Result<(), EbpfError> {
        let word = self.word()?;
        self.control.set(ctrl::ROUND, word & !ROUND_SEEING)?;
        let keys: Vec<_> = self.seen.keys().take(2 * SEEN_SOCKETS as usize).filter_map(Result::ok).collect();
        for key in keys {
            found(self.seen.remove(&key)).map_err(failed("SEEN_SOCKETS"))?;
        }
        Ok(())
    }

    /// How many changes might have been counted wrongly when everything was last counted anew.
    ///
    /// # Errors
    /// If a map cannot be read.
    pub fn settled(&self) -> Result<u64, EbpfError> {
        self.control.get(ctrl::PORTS_SETTLED)
    }

    /// Remembers that, for the next daemon too.
    ///
    /// # Errors
    /// If a map cannot be written.
    pub fn settle(&mut self, doubts: u64) -> Result<(), EbpfError> {
        self.control.set(ctrl::PORTS_SETTLED, doubts)
    }
}
