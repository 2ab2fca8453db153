//! Memory is given back when a burst is over.
//!
//! The start of the daemon, and of many services at once, leaves free memory behind, and the program's own pages mapped of
//! which nothing that follows makes use. While the burst lasts they would only come back. So a date is set when it
//! begins, moved while there is something to do, and met once: nothing ticks when nothing happens. The first restart
//! after that maps again what a restart needs, by some 16 page faults; later ones have it.

use std::time::Duration;

use super::Keeper;
use crate::effect::clock;
use crate::keeper::raw;

/// How long there must have been nothing to do.
const CALM: Duration = Duration::from_secs(1);

impl Keeper {
    /// A burst has begun, or goes on.
    pub(super) fn expect_calm(&mut self) {
        self.calm_at = Some(clock::now() + CALM);
    }

    /// The date has come.
    pub(super) fn calm_due(&mut self) {
        let busy = !(self.queue.is_empty() && self.unready.is_empty() && self.unread.is_empty());
        if busy || self.quiet_until.is_some() {
            return self.expect_calm();
        }
        self.calm_at = None;
        raw::give_back_memory();
    }
}
