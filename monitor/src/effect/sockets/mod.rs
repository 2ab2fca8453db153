//! The TCP sockets of a network namespace: a snapshot, taken when somebody asks.
//!
//! - `diag`: from sock_diag(7), which the kernel filters;
//! - `filter`: of ports, for the kernel;
//! - `memory`: what a map of the kernel remembers of each socket, from the same;
//! - `established`: connections by their cookies, from the same;
//! - `ends`: of sockets, as the kernel tells them;
//! - `proc_net`: from `/proc/PID/net/tcp`, where sock_diag cannot be had, or not in the network namespace of a process;
//! - `snapshot`: the choice between the two.
//!
//! A snapshot takes 20 µs and more; no thread that must not wait takes one.

mod diag;
mod ends;
mod established;
mod filter;
mod memory;
mod proc_net;
mod snapshot;

pub use diag::{DiagError, available};
pub use ends::{End, Ends, Turn};
pub use established::Connections;
pub(super) use proc_net::address_of;
pub use snapshot::{Memory, Namespace, NoSockets, Sight, Socket, State, States, Wanted, snapshot};

#[cfg(test)]
mod tests;
