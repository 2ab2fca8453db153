//! Children between clone3 and execve, as the keeper sees them.

use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::atomic::Ordering;

use super::Stack;
use super::child::Launch;
use crate::keeper::plan::ReadyPlan;
use crate::keeper::protocol::Step;
use crate::keeper::window::Part;

/// A child between clone3 and the answer of its status pipe.
#[derive(Debug)]
pub(in crate::keeper) struct Flight {
    /// The child's pid.
    pub(in crate::keeper) pid: i32,
    /// Readable when it has ended.
    pub(in crate::keeper) pidfd: OwnedFd,
    /// Hung up when it has executed its program.
    pub(in crate::keeper) status: OwnedFd,
    /// Its part of the window, until it has a table of its own.
    pub(super) part: Option<Part>,
    /// `None` for a child of the program that this process ran before, whose memory the child keeps for itself.
    pub(super) memory: Option<Memory>,
}

/// What the child uses: it stays until that has executed or ended.
#[derive(Debug)]
pub(super) struct Memory {
    pub(super) stack: Stack,
    pub(super) _plan: Rc<ReadyPlan>,
    pub(super) launch: Box<Launch>,
}

/// The answer of a status pipe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::keeper) enum Answer {
    /// Nothing yet.
    Pending,
    /// The program has been executed, or a signal ended the child before.
    Executed,
    /// A step failed.
    Failed(Step, i32),
}

impl Flight {
    /// Whether the child needs its part of the window no more. Until that has been taken back, the keeper's own writing
    /// end of the status pipe is open too, and an execve cannot be seen.
    pub(in crate::keeper) fn has_own_table(&self) -> bool {
        let told = |memory: &Memory| memory.launch.has_own_table.load(Ordering::Acquire);
        self.part.is_none() || self.memory.as_ref().is_none_or(told)
    }

    /// The step that failed, of a child that has ended.
    pub(in crate::keeper) fn failure(&self) -> Option<(Step, i32)> {
        match self.answer() {
            Answer::Failed(step, errno) => Some((step, errno)),
            // The keeper's own writing end may be open still: there is nothing in the pipe.
            Answer::Executed | Answer::Pending => None,
        }
    }

    /// Asks the status pipe, without waiting.
    pub(in crate::keeper) fn answer(&self) -> Answer {
        // The write is one of 8 bytes, so the read gets all of it or nothing. rustix has no non-blocking pipe
        // read, so the poll comes first.
        let mut poll = [rustix::event::PollFd::new(&self.status, rustix::event::PollFlags::IN)];
        match rustix::event::poll(&mut poll, Some(&rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 })) {
            Ok(1..) => {}
            Ok(_) | Err(_) => return Answer::Pending,
        }
        let mut bytes = [0; 8];
        match rustix::io::read(&self.status, &mut bytes) {
            Ok(8) => {
                let [a, b, c, d, e, f, g, h] = bytes;
                let step = usize::try_from(u32::from_ne_bytes([a, b, c, d])).ok();
                let step = step.and_then(|index| Step::ALL.get(index)).copied().unwrap_or(Step::Exec);
                Answer::Failed(step, i32::from_ne_bytes([e, f, g, h]))
            }
            Ok(_) | Err(_) => Answer::Executed,
        }
    }
}
