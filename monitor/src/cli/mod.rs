//! The command line: a verb, what it says to people or to scripts, and how it ends.
//!
//! Standard output carries what was asked for and standard error what went wrong, as `defib: …`. With `--json` standard
//! output is JSON in the shapes of [`api::types`](crate::api::types), one value a call, or one a line for events.

pub mod args;
pub mod check;
mod choice;
pub mod color;
pub mod daemon;
mod detail;
pub mod doctor;
pub mod events;
mod exit;
mod glob;
pub mod init;
pub mod inspect;
pub mod install;
pub mod logs;
pub mod manual;
mod names;
mod output;
mod peers;
pub mod ports;
pub mod probes;
pub mod reload;
mod rows;
pub mod schema;
mod session;
pub mod stats;
pub mod status;
mod targets;
pub mod verbs;

pub use exit::Exit;
