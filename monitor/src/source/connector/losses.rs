//! How many messages were missed.

use std::collections::HashMap;

/// Counts gaps in the numbers of the messages, which the kernel counts on each CPU.
///
/// A gap shows when the next message of that CPU arrives. Until then the socket's word that something did not fit counts
/// as one message, which is taken off the gap when that is found: the sum never shrinks, and is exact in the end.
#[derive(Debug, Default)]
pub(super) struct Losses {
    /// The next number of each CPU. As many as the machine has.
    next: HashMap<u32, u32>,
    found: u64,
    owed: u64,
    overflows: u64,
    told: u64,
}

impl Losses {
    /// A message arrived.
    pub(super) fn arrived(&mut self, cpu: u32, number: u32) {
        let expected = self.next.insert(cpu, number.wrapping_add(1)).unwrap_or(number);
        let gap = number.wrapping_sub(expected);
        // The numbers wrap around; what seems to be half of all of them is a number that came late.
        if gap < u32::MAX / 2 {
            self.found += u64::from(gap);
            self.owed = self.owed.saturating_sub(u64::from(gap));
        }
    }

    /// The number of the next message of a CPU, if there has been one.
    #[cfg(test)]
    pub(super) fn expected(&self, cpu: u32) -> Option<u32> {
        self.next.get(&cpu).copied()
    }

    /// The socket had no room.
    pub(super) fn overflowed(&mut self) {
        self.owed += 1;
        self.overflows += 1;
    }

    /// All that is known to be lost.
    pub(super) fn total(&self) -> u64 {
        self.found + self.owed
    }

    /// What has been lost since the last time.
    pub(super) fn news(&mut self) -> u64 {
        let (total, told) = (self.total(), self.told);
        self.told = total;
        total - told
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gap_is_counted_once() {
        let mut losses = Losses::default();
        for (cpu, number, total) in
            [(0, 5, 0), (1, u32::MAX, 0), (0, 6, 0), (0, 9, 2), (1, 0, 2), (1, 3, 4), (0, 10, 4)]
        {
            losses.arrived(cpu, number);
            assert_eq!(losses.total(), total, "{cpu} {number}");
        }
        assert_eq!((losses.news(), losses.news()), (4, 0));
    }

    #[test]
    fn an_overflow_is_part_of_the_gap_that_it_made() {
        let mut losses = Losses::default();
        losses.arrived(0, 1);
        losses.arrived(1, 1);
        losses.overflowed();
        assert_eq!(losses.news(), 1);
        losses.arrived(0, 5);
        assert_eq!((losses.total(), losses.news()), (3, 2));
        losses.arrived(1, 4);
        assert_eq!((losses.total(), losses.news()), (5, 2));
        assert_eq!(losses.overflows, 1);
    }

    #[test]
    fn a_number_from_the_past_is_no_loss() {
        let mut losses = Losses::default();
        for number in [10, 11, 9] {
            losses.arrived(0, number);
        }
        assert_eq!(losses.total(), 0);
    }
}
