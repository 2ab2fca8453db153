//! What a service consists of at this moment, read from /proc when somebody asks: for `defib inspect`.
//!
//! - `types`: what is found, as it is told;
//! - `look`: the look as a whole;
//! - `tree`, `threads`, `files`, `peers` (the other ends of sockets), `memory`, `about`: its parts.
//!
//! All of it is bounded, and takes milliseconds: only threads ask that may be late. A process may end between two
//! reads, so every part may be missing.

mod about;
mod files;
mod look;
mod memory;
mod peers;
mod threads;
mod tree;
mod types;

pub use look::{MOST, Subject, look};
pub use types::{File, Inspection, Limit, Listed, Mapping, Memory, Process, Socket, Thread};
