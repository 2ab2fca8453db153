//! What the listeners of a port have dropped, as a sum that does not fall.
//!
//! The kernel counts at each socket, so the number goes with it. What a socket has dropped between the last look and its
//! end is not in the sum.

use std::collections::BTreeMap;

use super::snapshot::Listener;

#[derive(Debug, Default)]
pub(super) struct Drops {
    total: u64,
    /// What each listener that is there has dropped, by its cookie.
    live: BTreeMap<u64, u32>,
}

impl Drops {
    /// The sum with what these listeners tell now; `None` if one of them does not tell.
    pub(super) fn see(&mut self, listeners: &[Listener]) -> Option<u64> {
        let now: Option<BTreeMap<u64, u32>> =
            listeners.iter().map(|listener| Some((listener.cookie, listener.drops?))).collect();
        let now = now?;
        for (cookie, drops) in &now {
            let before = self.live.get(cookie).copied().unwrap_or_default();
            // The kernel's number has 32 bits.
            self.total += u64::from(drops.wrapping_sub(before));
        }
        self.live = now;
        Some(self.total)
    }

    pub(super) fn total(&self) -> u64 {
        self.total
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listener(cookie: u64, drops: u32) -> Listener {
        Listener { inode: 1, cookie, waiting: 0, capacity: None, drops: Some(drops) }
    }

    #[test]
    fn the_sum_grows_whoever_listens() {
        let mut drops = Drops::default();
        assert_eq!(drops.see(&[]), Some(0));
        assert_eq!(drops.see(&[listener(1, 5), listener(2, 1)]), Some(6), "before the first look, too");
        assert_eq!(drops.see(&[listener(1, 7), listener(2, 1)]), Some(8));
        assert_eq!(drops.see(&[]), Some(8), "both have ended");
        assert_eq!(drops.see(&[listener(3, 2)]), Some(10));
        assert_eq!(drops.see(&[listener(3, u32::MAX)]), Some(u64::from(u32::MAX) + 8));
        assert_eq!(drops.see(&[listener(3, 1)]), Some((1 << 32) + 9), "it goes on behind its largest number");
        let silent = Listener { drops: None, ..listener(4, 0) };
        assert_eq!(drops.see(&[silent, listener(3, 9)]), None);
        assert_eq!(drops.total(), (1 << 32) + 9);
    }
}
