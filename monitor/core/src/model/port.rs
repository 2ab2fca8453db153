//! Ports that services listen on.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A process that holds what a service wants.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// Its pid.
    pub pid: u32,
    /// Its name: at most 15 bytes, which it can choose.
    pub name: String,
}

/// A port that a service is to listen on, and on which another process listens already.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TakenPort {
    /// The port.
    pub port: u16,
    /// Who listens; `None` if that process cannot be seen.
    pub holder: Option<Holder>,
}

impl fmt::Display for TakenPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { port, holder } = self;
        match holder {
            Some(Holder { pid, name }) => write!(f, "port {port} is taken by pid {pid} ({name})"),
            None => write!(f, "port {port} is taken by a process that defib cannot see"),
        }
    }
}
