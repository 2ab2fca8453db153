//! The connections of ports: what is counted of them, who counts, and the table that is made of both and of the sockets
//! when somebody asks.
//!
//! - [`counts`]: what is counted, and by whom: programs in the kernel, where eBPF is;
//! - `counted`: counts by those programs, with `places`, what is known beside what they count, and `seed`, how that is
//!   found out;
//! - `ended`: counts by the ends of sockets, where no probe does;
//! - `watched`: at which places: ports of the host in defib's own network namespace, those of a service in the namespace
//!   in which its main process is;
//! - `snapshot`: what the sockets show of some ports;
//! - `drops`: what listeners have dropped, as a sum that does not fall when one ends;
//! - `owners`: who listens;
//! - `peers`: who is at the other end;
//! - [`table`], `row`: all of it together, and what that tells.
//!
//! A look takes from 50 µs to some 10 ms, by the number of sockets: no thread that must not wait takes one.

mod counted;
pub mod counts;
mod drops;
mod ended;
mod owners;
mod peers;
mod places;
mod row;
mod seed;
mod snapshot;
pub mod table;
#[cfg(test)]
mod tests;
mod watched;

pub use counted::Counted;
pub use counts::{BOUNDS, Counter, Counts, Ending, LENGTHS, Lengths, MAX_PLACES, Place, Verdict};
pub use ended::Ended;
pub use owners::Owner;
pub use peers::{Ages, Crowd, Network, Peer, Peers, Span};
pub use row::{Method, Row, Sockets, Sum, Table, Verification};
pub use table::{Ask, Connections, Only, PeerTable};
pub use watched::Subject;
