//! The pure core of defib: what is to be done when something happens to a service.
//!
//! [`Supervisor::handle`] takes the time and one [`Input`] and adds to the [`Effects`]; [`Supervisor::next_deadline`]
//! says when it wants to be called next; [`Supervisor::view`] shows a service. There is no clock, no file, no lock, no
//! randomness in here that was not handed in, so the same inputs give the same effects, byte for byte.
//!
#![doc = include_str!("states.md")]
#![forbid(unsafe_code)]
#![warn(clippy::wildcard_enum_match_arm, missing_docs)]

mod effect;
mod input;
mod memo;
pub mod model;
mod phase;
mod series;
mod service;
mod supervisor;
#[cfg(test)]
mod table_test;
mod timers;
mod waiters;

pub use effect::{Effect, Effects, Reply};
pub use input::{Input, Lost, Verb};
pub use memo::{Gist, Memo};
pub use service::KnownLife;
pub use supervisor::Supervisor;
