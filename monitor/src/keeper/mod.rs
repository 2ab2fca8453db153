//! The keeper: parent and subreaper of every service, and of the daemon.
//!
//! It is the pid that systemd, a container or a shell sees. It makes processes, reaps them, holds what must
//! outlive the daemon, and starts the daemon again when that dies. It decides nothing: what to start and when is the
//! daemon's business. One thread, one epoll, no runtime, no configuration; it is meant to be read in one sitting:
//!
//! - [`protocol`]: what daemon and keeper say to each other, and how;
//! - [`plan`]: everything that a start needs, made ready before the start;
//! - `window`: the low descriptor numbers, where a child finds what it needs;
//! - `spawn` and `raw`: clone3 and the child's few system calls, the only unsafe code;
//! - `slots`: what it holds for a service, one life at a time;
//! - `sockets`: what is passed to each life of a service, and stays open between two;
//! - `ports`: what a service listens with by itself, kept open from one life to the next;
//! - `pipes`: what carries the output of a service, for its next life and for the next daemon;
//! - `stranger`: how a main process ended that is no child, because an earlier keeper made it;
//! - `tree`: what is left when a main process has ended;
//! - `link`: the socket to the daemon, which never blocks and never loses;
//! - `nurse`: the daemon as a child;
//! - [`handover`]: what goes over when the keeper executes another binary in place of itself;
//! - `oom`: who is protected from the want of memory;
//! - `notify`: what systemd is told, and its watchdog;
//! - `voice`: what the keeper says;
//! - [`ends`]: the ends that no daemon has acknowledged, where the next keeper's daemon finds them;
//! - `early`: who asks it to end before it can hear;
//! - `events`: what the epoll watches;
//! - `run`: the loop;
//! - `trial`: a start that starts nothing, for `defib doctor`.
//!
//! Invariant: a slot holds at most one life. Only an acknowledged end, with nothing left of its tree, frees it.

mod early;
pub mod ends;
mod events;
pub mod handover;
mod link;
mod notify;
mod nurse;
mod oom;
mod pipes;
pub mod plan;
mod ports;
pub mod protocol;
mod raw;
mod run;
mod slots;
mod sockets;
mod spawn;
mod stranger;
mod tree;
mod trial;
mod voice;
mod window;

pub use early::Early;
pub(crate) use raw::give_back_memory;
pub use run::{NEXT_SLOT, run};
pub use trial::{TrialError, shares_tables, trial};
pub use voice::stderr_is_journal;

use voice::say;
