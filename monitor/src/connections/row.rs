//! What the table tells.

use std::collections::BTreeSet;

use defib_core::model::ServiceName;

use super::counts::{Counts, Ending, Lengths, Place, Verdict};
use super::owners::Owner;
use super::snapshot::STATES;
use crate::effect::sockets::State;

/// How connections are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Method {
    /// In the kernel, as they open and close.
    Ebpf,
    /// By the sockets that are there when somebody asks, and by the ends of sockets of which the kernel tells.
    SockDiag,
}

/// The table.
#[derive(Debug)]
pub struct Table {
    /// How connections are counted.
    pub method: Method,
    /// The network namespace of defib, as the number of its inode; 0: it cannot be known.
    pub netns: u32,
    /// A row for each place, by namespace and port, defib's own namespace first.
    pub rows: Vec<Row>,
    /// What could not be looked at, and why.
    pub troubles: Vec<String>,
    /// How often everything was counted anew because the kernel had skipped a run of a probe; `None`: nobody counts.
    pub reseeds: Option<u64>,
    /// What is to be known of counts by the ends of sockets; `None`: nobody counts like that.
    pub ending: Option<Ending>,
    /// What a second count has come to, if it was asked for.
    pub verification: Option<Verification>,
}

/// What is known of one place.
#[derive(Clone, Debug)]
pub struct Row {
    /// The place.
    pub place: Place,
    /// The services that name the port.
    pub services: BTreeSet<ServiceName>,
    /// What the sockets show; `None`: they cannot be looked at.
    pub sockets: Option<Sockets>,
    /// What was counted; `None`: nobody counts, or not yet.
    pub counts: Option<Counts>,
    /// Who listens; `None`: nobody does, or it cannot be seen, or was not asked.
    pub owner: Option<Owner>,
    /// Whether defib holds a listener open; `None`: it cannot be known, or was not asked.
    pub held: Option<bool>,
}

/// What the sockets at a place show.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sockets {
    /// How many are in each state, in the order of [`State::ALL`].
    pub states: [u64; STATES],
    /// How many connections wait to be accepted, at all listeners together.
    pub waiting: u64,
    /// How many can; `None`: it cannot be known.
    pub capacity: Option<u64>,
    /// How many established connections the peer has that has most of them; `None`: that was not asked.
    pub busiest: Option<u64>,
    /// How many connections the listeners have dropped, since defib looks; `None`: it cannot be known.
    pub overflows: Option<u64>,
}

impl Sockets {
    /// How many listen.
    pub fn listeners(&self) -> u64 {
        self.states[State::Listen as usize - 1]
    }
}

impl Row {
    /// How many connections are established: by the counter, or else by the sockets.
    pub fn active(&self) -> Option<u64> {
        let seen = self.sockets.as_ref().map(|sockets| sockets.states[State::Established as usize - 1]);
        self.counts.map(|counts| counts.active).or(seen)
    }

    /// How many sockets are in each state, the established ones by the counter where there is one.
    pub fn states(&self) -> Option<[u64; STATES]> {
        let mut states = self.sockets.as_ref()?.states;
        states[State::Established as usize - 1] = self.active()?;
        Some(states)
    }
}

/// What a second count has come to.
#[derive(Debug, Default)]
pub struct Verification {
    /// How many places were counted again.
    pub checked: usize,
    /// Where both counts differ.
    pub differences: Vec<(Place, Verdict)>,
    /// Where no second count could be had, and why.
    pub failures: Vec<(Place, String)>,
}

/// A port in all namespaces together, since it is watched.
#[derive(Clone, Debug, Default)]
pub struct Sum {
    /// What the sockets show.
    pub sockets: Option<Sockets>,
    /// What was counted.
    pub counts: Option<Counts>,
}

/// Both together. What is not known of one is not known of both.
pub(super) fn merge(one: Option<Sockets>, other: &Sockets) -> Sockets {
    let Some(mut one) = one else { return other.clone() };
    one.states.iter_mut().zip(other.states).for_each(|(one, other)| *one += other);
    one.waiting += other.waiting;
    one.capacity = one.capacity.zip(other.capacity).map(|(one, other)| one + other);
    // The same address in another network may be somebody else.
    one.busiest = one.busiest.max(other.busiest);
    one.overflows = one.overflows.zip(other.overflows).map(|(one, other)| one + other);
    one
}

/// Adds counts. Resets and lengths are known only if they are known of both, or nothing has been counted yet.
pub(super) fn add(sum: &mut Counts, other: &Counts) {
    if *sum == Counts::default() {
        *sum = *other;
        return;
    }
    sum.resets = sum.resets.zip(other.resets).map(|(one, other)| one + other);
    sum.active += other.active;
    sum.opened += other.opened;
    sum.closed += other.closed;
    sum.lengths = sum.lengths.zip(other.lengths).map(|(one, other)| together(one, &other));
}

fn together(mut sum: Lengths, other: &Lengths) -> Lengths {
    sum.sum = sum.sum.saturating_add(other.sum);
    sum.unknown += other.unknown;
    sum.counts.iter_mut().zip(other.counts).for_each(|(one, other)| *one += other);
    sum
}
