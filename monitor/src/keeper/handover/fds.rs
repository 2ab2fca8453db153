//! Descriptors on their way from one keeper to the next.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{OwnedFd, RawFd};

use crate::keeper::raw;
use crate::keeper::window;

/// Those that have come.
#[derive(Debug)]
pub(in crate::keeper) struct Taken(BTreeMap<RawFd, OwnedFd>);

impl Taken {
    /// Takes the descriptors of these numbers, out of the way of the low numbers that the keeper keeps for children.
    /// One that is not there is missed when it is wanted.
    pub(in crate::keeper) fn new(numbers: &[RawFd]) -> Self {
        // A set: no text may make two owners of one descriptor.
        let numbers: BTreeSet<RawFd> = numbers.iter().copied().filter(|number| *number > 2).collect();
        let adopt = |number| Some((number, raw::adopt(number, window::END).ok()?));
        Self(numbers.into_iter().filter_map(adopt).collect())
    }

    /// The descriptor that had this number.
    pub(in crate::keeper) fn take(&mut self, number: RawFd) -> Option<OwnedFd> {
        self.0.remove(&number)
    }

    /// Those that had these numbers, if all of them are there.
    pub(in crate::keeper) fn all(&mut self, numbers: &[RawFd]) -> Option<Vec<OwnedFd>> {
        numbers.iter().map(|number| self.take(*number)).collect()
    }
}

/// Whether these descriptors stay open over execve.
pub(in crate::keeper) fn leave_open(numbers: &[RawFd], open: bool) {
    for number in numbers {
        raw::close_on_exec(*number, !open);
    }
}
