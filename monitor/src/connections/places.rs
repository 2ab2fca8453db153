//! The places that are watched, and what is known of each beside what the probes count.
//!
//! The probes count what happens since a place is watched. How many connections there were before is found out by a round
//! ([`super::seed`]), and so is what the probes have missed: both are numbers that are added.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use defib_ebpf::{Bank, PortBase, PortCounts, PortKey, watched_bit};

use super::counts::{Counts, Lengths, MAX_PLACES, Place};
use crate::source::PortTables;

/// What is known of a place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Entry {
    /// The number of this watch.
    number: u64,
    /// `None` while nothing is known.
    base: Option<PortBase>,
    /// Whether two looks have said the same.
    confirmed: bool,
}

/// All of them, and the maps behind them.
#[derive(Debug)]
pub(super) struct Places {
    pub(super) tables: PortTables,
    entries: BTreeMap<Place, Entry>,
    /// No watch has had a number as high as this.
    next: u64,
}

impl Place {
    pub(super) fn key(self) -> PortKey {
        PortKey { netns: self.netns, port: self.port, padding: 0 }
    }
}

impl Places {
    /// Takes over what an earlier daemon has watched.
    pub(super) fn new(tables: PortTables) -> io::Result<Self> {
        let found = tables.places().map_err(io::Error::other)?;
        let next = found.values().map(|(number, _)| number + 1).max().unwrap_or(1);
        let entries = found.into_iter().map(|(key, (number, base))| {
            let place = Place { netns: key.netns, port: key.port };
            (place, Entry { number, base, confirmed: base.is_some() })
        });
        Ok(Self { entries: entries.collect(), tables, next })
    }

    /// Watches these and no others.
    pub(super) fn watch(&mut self, wanted: &BTreeSet<Place>) -> io::Result<()> {
        let gone: Vec<_> = self.entries.keys().filter(|place| !wanted.contains(place)).copied().collect();
        for place in gone {
            self.entries.remove(&place);
            let bit = watched_bit(place.port);
            let last = !self.entries.keys().any(|other| watched_bit(other.port) == bit);
            self.tables.unwatch(place.key(), last).map_err(io::Error::other)?;
        }
        for place in wanted.iter().take(MAX_PLACES) {
            if !self.entries.contains_key(place) {
                let number = self.next;
                self.next += 1;
                self.tables.watch(place.key(), number).map_err(io::Error::other)?;
                self.entries.insert(*place, Entry { number, base: None, confirmed: false });
            }
        }
        Ok(())
    }

    /// The number of the watch of each place, of those that are not confirmed or of all.
    pub(super) fn numbers(&self, unconfirmed: bool) -> BTreeMap<Place, u64> {
        let entries = self.entries.iter().filter(|(_, entry)| !unconfirmed || !entry.confirmed);
        entries.map(|(place, entry)| (*place, entry.number)).collect()
    }

    /// The number of the watch of one place.
    pub(super) fn number(&self, place: Place) -> Option<u64> {
        self.entries.get(&place).map(|entry| entry.number)
    }

    /// What the probes have counted at a place in this watch.
    pub(super) fn raw(&self, place: Place, number: u64) -> io::Result<Option<PortCounts>> {
        let counts = self.tables.counts(place.key()).map_err(io::Error::other)?;
        Ok(counts.filter(|counts| counts.number == number))
    }

    /// What is to be added to the openings and subtracted from the closings that the probes count.
    pub(super) fn known(&self, place: Place, number: u64) -> Option<i64> {
        let entry = self.entries.get(&place).filter(|entry| entry.number == number)?;
        entry.base.as_ref().map(added)
    }

    /// Whether what is known of a place was seen twice.
    pub(super) fn is_confirmed(&self, place: Place) -> bool {
        self.entries.get(&place).is_some_and(|entry| entry.confirmed)
    }

    /// A look has shown what is to be added. What comes before it is confirmed differs because of the look; what comes
    /// after because the probes have missed something, of which the totals must tell, too.
    pub(super) fn learn(&mut self, place: Place, number: u64, found: i64, confirmed: bool) -> io::Result<()> {
        let Some(entry) = self.entries.get_mut(&place).filter(|entry| entry.number == number) else {
            return Ok(());
        };
        let base = match entry.base {
            Some(mut base) if entry.confirmed => {
                if !confirmed {
                    return Ok(());
                }
                let missed = found - added(&base);
                let counter = if missed > 0 { &mut base.missed.opened } else { &mut base.missed.closed };
                *counter += missed.unsigned_abs();
                base
            }
            _ => PortBase { number, before: found, missed: Bank::default() },
        };
        let news = entry.base != Some(base) || entry.confirmed != confirmed;
        entry.base = Some(base);
        entry.confirmed |= confirmed;
        // What is not confirmed the next daemon finds out for itself.
        if confirmed && news {
            self.tables.remember(place.key(), base).map_err(io::Error::other)?;
        }
        Ok(())
    }

    /// What is counted at a place, all together.
    pub(super) fn counts(&self, place: Place) -> io::Result<Option<Counts>> {
        let Some(Entry { number, base: Some(base), .. }) = self.entries.get(&place) else { return Ok(None) };
        Ok(self.raw(place, *number)?.map(|counts| together(base, &counts)))
    }
}

/// How many connections there are when as many were opened as closed.
fn added(base: &PortBase) -> i64 {
    base.before + signed(base.missed.opened) - signed(base.missed.closed)
}

fn signed(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

/// How many connections more there are than at the begin, by the counters of both banks.
pub(super) fn balance(banks: &[Bank]) -> i64 {
    banks.iter().map(|bank| signed(bank.opened) - signed(bank.closed)).sum()
}

fn together(base: &PortBase, counts: &PortCounts) -> Counts {
    let total = |of: fn(&Bank) -> u64| counts.banks.iter().map(of).sum::<u64>() + of(&base.missed);
    Counts {
        // Below zero only where the probes have missed something of which nobody knows yet.
        active: u64::try_from(added(base) + balance(&counts.banks)).unwrap_or(0),
        opened: total(|bank| bank.opened),
        closed: total(|bank| bank.closed),
        resets: Some(counts.resets),
        lengths: Some(Lengths {
            counts: counts.lengths,
            sum: counts.length,
            unknown: counts.unknown + base.missed.closed,
        }),
    }
}

#[cfg(test)]
mod tests {
    use defib_ebpf::LENGTH_BOUNDS;

    use super::*;
    use crate::connections::counts::BOUNDS;

    #[test]
    fn what_was_missed_is_in_the_totals_and_in_what_is_active() {
        let bank = |opened, closed| Bank { opened, closed };
        let mut counts = PortCounts { banks: [bank(10, 7), bank(5, 6)], ..PortCounts::default() };
        let mut base = PortBase { number: 1, before: 3, missed: bank(0, 0) };
        let Counts { active, opened, closed, .. } = together(&base, &counts);
        assert_eq!((active, opened, closed), (5, 15, 13));
        base.missed = bank(2, 1);
        let Counts { active, opened, closed, lengths, .. } = together(&base, &counts);
        assert_eq!((active, opened, closed, lengths.map(|it| it.unknown)), (6, 17, 14, Some(1)));
        counts.banks[1].closed = 100;
        assert_eq!(together(&base, &counts).active, 0);
    }

    #[test]
    fn the_bounds_are_those_of_the_probes() {
        assert_eq!(BOUNDS.map(|(bound, _)| bound), LENGTH_BOUNDS);
        for (bound, text) in BOUNDS {
            let seconds: f64 = text.parse().expect("a number");
            assert_eq!(bound as f64 / 1e9, seconds);
        }
    }
}
