//! The daemon: one thread that decides, and what it shares with the surfaces.
//!
//! - `lifecycle`: what is opened in which order, and closed again;
//! - `run`: the loop of the supervisor thread: one input at a time into the core, its effects out;
//! - `link`: the socket to the keeper;
//! - `own_log`: what the daemon tells of itself, and where;
//! - `capture`: the pipes for the output of services;
//! - `follow`: how the source keeps sight of the main processes;
//! - `slots`: which service is in which slot of the keeper, and what its reports mean to the core;
//! - `ports`: what the source and looks tell of the services' ports;
//! - `connections`: what is watched of connections follows the services;
//! - `accepted`: the configuration in force, as the keeper holds it for the next daemon;
//! - `kept`: what the keeper holds of each service for the next daemon;
//! - `keeper_ends`: the ends that only an earlier keeper knew;
//! - `restart`: the daemon leaves for one of another binary;
//! - `reload`: a configuration that was read again comes into force;
//! - `ends`: the latest ends that were told, so that none dies with a daemon;
//! - `remember`: what is told to the state database, and read from it;
//! - `boot`: what operators have set for the start of defib;
//! - `count`, `door`: what it tells the metrics, and the socket on which they are served;
//! - `burst`: when the memory is given back that a burst of events took;
//! - `surfaces`: the thread on which the API lives;
//! - [`handle`], [`journal`], [`feed`]: what the surfaces see of it.
//!
//! Invariant: nothing that the supervisor thread calls can block on a disk, a network or another thread.

mod accepted;
mod adoption;
mod boot;
mod burst;
mod capture;
mod connections;
mod count;
mod door;
mod ends;
pub mod feed;
mod follow;
pub mod handle;
pub mod journal;
mod keeper_ends;
mod kept;
mod lifecycle;
mod link;
mod own_log;
mod ports;
pub mod purge;
mod reload;
mod remember;
mod restart;
mod run;
mod slots;
mod sockets;
mod surfaces;
mod usage;

pub use lifecycle::{check_handover, run};
pub use surfaces::Serve;
