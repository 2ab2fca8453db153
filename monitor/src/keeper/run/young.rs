//! Children that have just been made are left alone for a moment.
//!
//! A message to the daemon, or a look at the child, wakes or keeps busy a CPU that the child could have. On a machine of
//! few CPUs that is what a restart waits for: of two, one is the keeper's. So after a clone the keeper says nothing for
//! [`QUIET`], which most children need to execute their programs; then it looks at them, and tells everything at once.
//! Ends are dealt with as ever meanwhile, and so are orders.

use std::os::fd::AsFd;
use std::time::Duration;

use rustix::event::epoll;

use super::Keeper;
use crate::effect::clock;
use crate::keeper::events::{Token, watch};
use crate::keeper::slots::State;

/// From the clone to the first instruction of a static program it takes 0.3 ms here, to that of a linked one a few ms.
const QUIET: Duration = Duration::from_millis(1);

impl Keeper {
    /// A child has been made in this slot.
    pub(super) fn is_young(&mut self, slot: u32) {
        // The child before it in this slot may have ended as young as this one is.
        if !self.young.contains(&slot) {
            self.young.push(slot);
        }
        self.quiet_until.get_or_insert_with(|| clock::now() + QUIET);
    }

    /// Looks at the children that have been made since the last look. From here on those that have not executed their
    /// programs are watched.
    pub(super) fn look_at_young(&mut self) {
        self.quiet_until = None;
        for slot in std::mem::take(&mut self.young) {
            let Some(it) = self.slots.get_mut(&slot) else { continue };
            let State::Starting { flight, .. } = &mut it.state else { continue };
            if !flight.has_own_table() {
                // It has not even run.
                self.is_young(slot);
                continue;
            }
            self.nursery.leave_window(flight);
            watch(&self.epoll, flight.status.as_fd(), Token::Status(slot), epoll::EventFlags::IN);
            self.status_answered(slot);
        }
        self.launch_queued();
    }
}
