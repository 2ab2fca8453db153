//! The output of services: from their pipes into files, and back to whoever asks.
//!
//! ```text
//! service ─pipe→ reader's thread ─spool→ writer's thread ─→ files, and beside each the times of its bytes
//!           │          └→ the last lines in memory ─→ whoever follows or asks
//!           └ while it is busy ─lane→ writer's thread ─→ files
//! ```
//!
//! - [`pipe`]: what the planner makes and the keeper holds: a pipe and a spool for each stream;
//! - [`folder`]: where they have names, so that they outlive keeper and daemon both;
//! - `reader`: the thread that moves bytes from pipes to spools, and sleeps while nobody writes;
//! - `writer`: the thread that moves them on to files: the only one that a disk can hold up;
//! - `drain`: the end of one stream in that thread;
//! - `lane`: how that thread writes what a busy service has in its pipe, without a copy in between;
//! - `stream`, `service`: what both share of one stream, and of one service;
//! - `ledger`: how much of a spool is in which file, for the next daemon;
//! - `sink`, `file`, `rotate`, `times`, `places`: where bytes end, one open file, the older ones, when which byte came, what
//!   they are called;
//! - `ring`: the last lines in memory;
//! - `history`, `chain`, `lines`: reading back;
//! - [`handle`]: what the daemon and the surfaces see.
//!
//! Invariants: a byte is moved from a pipe to a spool by splice(2), which no kill can interrupt half-way, or stays in the
//! pipe until it is in the file. Pipes and spools are held by the keeper and have names: what a daemon that dies has not
//! written to a file, the next one finds there, and writes once, even if the keeper has died with it. The
//! supervisor thread sends small messages and waits for neither thread. While files can be written, a service that is
//! faster than the disk waits at its own full pipe; while they cannot, its output is dropped, counted, and told in the
//! log when it goes on.

mod chain;
mod counters;
mod drain;
mod file;
pub mod folder;
pub mod handle;
mod history;
mod lane;
mod ledger;
mod lines;
pub mod pipe;
mod places;
mod reader;
mod ring;
mod rotate;
mod service;
mod sink;
mod stream;
mod times;
mod usage;
mod writer;

pub use counters::Count;
pub use handle::Logs;
pub use history::{Follower, Query, QueryError};
pub use lines::Line;
pub use stream::Kind;
pub use usage::{Usage, Vacuum};
