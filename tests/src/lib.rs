//! What the tests share: a real daemon on a configuration of its own ([`Daemon`]), the simulated world of the core
//! ([`sim`]), and a minute in which everything dies ([`chaos`]).
#![expect(
    clippy::disallowed_methods,
    clippy::print_stderr,
    reason = "tests start programs, wait for them, and tell what they saw when they fail"
)]

pub mod chaos;
mod daemon;
mod ear;
pub mod http;
mod hunger;
mod install;
mod lease;
mod ports;
pub mod sim;
mod words;

pub use daemon::{
    Daemon, Options, Said, beside, children, defib, descriptors, lives, metrics_address, patience, patiently,
    pid, program, said, signal, victim,
};
pub use ear::Ear;
pub use hunger::Hunger;
pub use install::{install, install_text};
pub use lease::Lease;
pub use ports::{Callers, SERVER, free_port};
pub use words::{assert_harmless, assert_said};
