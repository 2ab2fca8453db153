//! How the program ends, in a number that scripts can rely on.

use std::process::ExitCode;

use crate::client::Error;

/// The exit codes. Of several ends the highest counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Exit {
    /// It is done.
    Done = 0,
    /// It was tried and failed.
    Failed = 1,
    /// The command line makes no sense.
    Usage = 2,
    /// There is no such service.
    NotFound = 3,
    /// The user may not do that.
    Denied = 4,
    /// No daemon answers.
    Unreachable = 5,
    /// The service is disabled.
    Disabled = 6,
    /// Ctrl-C.
    Interrupted = 130,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

impl From<&Error> for Exit {
    fn from(error: &Error) -> Self {
        match error {
            Error::Unreachable { .. } | Error::Broken(_) => Self::Unreachable,
            Error::Denied(_) => Self::Denied,
            Error::NotFound(_) => Self::NotFound,
            Error::Disabled(_) => Self::Disabled,
            Error::Failed(_) | Error::Strange(_) => Self::Failed,
        }
    }
}
