//! The simulation of the core: random histories against named invariants, with replay.
//!
//! A [`World`] has one real `Supervisor` and simulates everything around it: keeper, kernel, planner, operators, the
//! clock, and the death of the daemon itself. What happens is a list of [`Action`]s, concrete enough to be done again
//! without any chance; [`run`] invents one, [`replay`] does one again, and the invariants are checked after every turn
//! of the core.

mod action;
mod chance;
mod event_log;
mod invariants;
mod keeper;
mod orders;
mod past;
mod replay;
mod world;

pub use action::{Action, Setup};
pub use chance::Chance;
pub use event_log::EventLog;
pub use invariants::Violation;
pub use replay::{replay, run};
pub use world::World;
