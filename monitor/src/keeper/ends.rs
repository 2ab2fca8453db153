//! The ends that no daemon has acknowledged, in a file in memory: what only the keeper knows dies with it.
//!
//! The daemon makes the file, where it has a name beside the pipes, and hands it over to be held. The keeper writes down
//! each end, before it waits for the next event: never between a death and the start that follows it. An end that is
//! acknowledged has been written down by the daemon, and is marked. So whoever is killed at whatever moment, the first
//! daemon of the next keeper finds every end in the file of the daemon, or here, or in both.
//!
//! It is a ring of `KEPT` records. While nothing is owed it begins again at its first page, so it takes no more
//! memory than what was once owed at a time. If daemons acknowledge nothing for longer than that, the oldest give way,
//! which is told.

pub mod record;

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;

use record::KEPT;

use super::handover::EndsText;
use super::say;
use super::slots::Slot;

/// The name under which the daemon hands the file over.
pub const HELD: &str = "keeper-ends";

/// What is written there, and what is to be.
#[derive(Debug, Default)]
pub(super) struct Ends {
    /// Whether there is a file.
    on: bool,
    /// The number of the next record.
    next: u64,
    /// The number of the record at the beginning of the file.
    first: u64,
    /// What is to be written: the slots and the lives.
    waiting: Vec<(u32, u64)>,
    /// The numbers of those that are to be marked.
    acknowledged: Vec<u64>,
    /// By slot and life, the numbers of those that are written and not acknowledged.
    written: BTreeMap<(u32, u64), u64>,
    /// Whether it was told that there are too many.
    full: bool,
}

impl Ends {
    /// There is a new file, in which nothing is written yet.
    pub(super) fn begin(&mut self, slots: &BTreeMap<u32, Box<Slot>>) {
        *self = Self { on: true, next: 1, first: 1, ..Self::default() };
        self.want_all(slots);
    }

    /// Goes on where an earlier binary was.
    pub(super) fn go_on(&mut self, text: EndsText, slots: &BTreeMap<u32, Box<Slot>>) {
        let EndsText { next, first, written } = text;
        let written = written.into_iter().map(|(slot, life, number)| ((slot, life), number)).collect();
        *self =
            Self { on: true, next: next.max(1), first: first.min(next).max(1), written, ..Self::default() };
        self.want_all(slots);
    }

    /// As the next binary needs it.
    pub(super) fn hand_over(&self) -> Option<EndsText> {
        let written = self.written.iter().map(|((slot, life), number)| (*slot, *life, *number)).collect();
        self.on.then_some(EndsText { next: self.next, first: self.first, written })
    }

    /// Everything that is owed is to be written, if it is not.
    fn want_all(&mut self, slots: &BTreeMap<u32, Box<Slot>>) {
        let owed = slots.iter().flat_map(|(slot, it)| it.owed().map(|end| (*slot, end.incarnation)));
        self.waiting = owed.filter(|end| !self.written.contains_key(end)).collect();
        self.waiting.reverse();
    }

    /// A life has ended in this slot. To be written as soon as there is time.
    pub(super) fn ended(&mut self, slot: u32, incarnation: u64) {
        if self.on {
            self.waiting.push((slot, incarnation));
        }
    }

    /// A daemon knows of an end.
    pub(super) fn acknowledge(&mut self, slot: u32, incarnation: u64) {
        self.acknowledged.extend(self.written.remove(&(slot, incarnation)));
    }

    /// A slot is free: its ends are nobody's.
    pub(super) fn forget(&mut self, slot: u32) {
        let lives: Vec<_> =
            self.written.range((slot, 0)..=(slot, u64::MAX)).map(|((_, life), _)| *life).collect();
        for life in lives {
            self.acknowledge(slot, life);
        }
    }

    /// Writes what is to be written.
    pub(super) fn write(&mut self, file: Option<&OwnedFd>, slots: &BTreeMap<u32, Box<Slot>>) {
        if self.waiting.is_empty() && self.acknowledged.is_empty() {
            return;
        }
        if let Some(file) = file
            && let Err(error) = self.try_write(file, slots)
        {
            say(&format!("ends cannot be written down: they are lost if this keeper is killed: {error}"));
            self.on = false;
        }
        self.waiting.clear();
        self.acknowledged.clear();
    }

    fn try_write(&mut self, file: &OwnedFd, slots: &BTreeMap<u32, Box<Slot>>) -> rustix::io::Result<()> {
        for number in &self.acknowledged {
            // Its place may be another's by now.
            if self.next - number <= KEPT {
                let place = record::place(number - self.first) + record::ACKNOWLEDGED;
                rustix::io::pwrite(file, &1_u64.to_le_bytes(), place)?;
            }
        }
        if self.written.is_empty() {
            self.first = self.next;
            self.full = false;
        }
        for (slot, incarnation) in std::mem::take(&mut self.waiting) {
            let Some(it) = slots.get(&slot) else { continue };
            // Acknowledged before it was written.
            let Some(end) = it.owed().find(|end| end.incarnation == incarnation) else { continue };
            if self.next - self.first >= KEPT {
                self.give_way();
            }
            let next = it.process().map(|(life, _)| life.main()).filter(|next| next.0 == incarnation + 1);
            let next = next.map(|(_, pid, started)| (pid, started));
            let bytes = record::write(self.next, it.service(), &end, next);
            rustix::io::pwrite(file, &bytes, record::place(self.next - self.first))?;
            self.written.insert((slot, incarnation), self.next);
            self.next += 1;
        }
        Ok(())
    }

    /// The oldest one is about to be overwritten.
    fn give_way(&mut self) {
        let (oldest, before) = (self.next - KEPT, self.written.len());
        self.written.retain(|_, number| *number != oldest);
        if self.written.len() < before && !std::mem::replace(&mut self.full, true) {
            say(&format!(
                "no daemon takes note of ends: of more than {KEPT}, the oldest would be lost if this keeper were killed"
            ));
        }
    }
}
