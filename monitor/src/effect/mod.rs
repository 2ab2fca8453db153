//! The edges outwards: what carries out effects and reads the world for them.

pub mod census;
pub mod cgroup;
pub mod clock;
mod descriptors;
pub mod failure;
mod group_look;
pub mod held;
pub mod holders;
pub mod identity;
pub mod inspect;
pub mod needs;
pub mod output;
pub mod pid_files;
pub mod planner;
mod port_look;
pub mod port_status;
pub mod port_watch;
mod proc_folder;
mod proc_stat;
mod queue;
pub mod sockets;
pub mod usage;
