//! What the probes count of connections, seen from user space: the maps, and nothing of what their numbers mean together.
//! That is known in `connections`.

mod grace;
mod rounds;
mod tables;

pub use grace::grace;
pub use rounds::{PortRounds, Witnessed};
pub use tables::PortTables;
