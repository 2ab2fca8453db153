//! The configuration: TOML in, [`Settings`] out, or every error at once.
//!
//! The document is walked with a typed cursor (`document.rs`) and not derived with serde, because serde stops at the
//! first error and does not know lines. What the walk yields is made of types that cannot hold a wrong value, so
//! nothing behind it checks again. [`parse()`] is pure: the daemon goes back to the held texts with it. [`load`] and
//! [`open_trusted`] are the only parts that touch the file system.
//!
//! A value is decided in this order: flag, variable, `[service.NAME]` or `[daemon]`, `[defaults]`, built in.

mod command;
mod daemon;
pub mod diff;
mod document;
pub mod env_file;
mod error;
mod listen;
mod load;
mod log;
mod members;
mod merge;
mod overrides;
mod own_log;
mod planned;
mod ports;
mod profile;
mod restart;
mod schema;
mod service;
mod settings;
mod shown;
mod sockets;
mod trust;
mod values;
mod watched;
mod whereabouts;

#[cfg(test)]
mod tests;

pub use daemon::{Backend, DaemonSettings, SourceChoice};
pub use diff::{Diff, diff};
pub use error::{ConfigErrors, Finding, Place};
pub use listen::ListenSettings;
pub use load::{Loaded, Unreadable, load, text_of};
pub use overrides::{Flags, Overrides};
pub use own_log::{LogFormat, LogTarget, OwnLog};
pub use schema::schema;
pub use settings::{Settings, parse};
pub use trust::{Untrusted, open_folder, open_trusted};
pub use watched::PortSettings;
pub use whereabouts::socket_folders;

/// The largest single configuration or environment file: far more than anybody writes, and a bound for hostile ones.
pub const MAX_FILE: u64 = 1 << 20;
