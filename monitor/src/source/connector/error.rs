//! Why the proc connector cannot be had, and what to do about it.

use std::io;

use super::super::namespace::Foreign;

/// Why the proc connector cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum ConnectorError {
    /// The kernel tells nobody outside its first pid namespace, and speaks of the host's pids.
    #[error(
        "defib is in a {namespace} namespace of its own, to which the kernel tells nothing; run it in the host's"
    )]
    Namespace {
        /// `pid`, `user` or `time`.
        namespace: &'static str,
    },
    /// The connector is in the host's network namespace only.
    #[error("defib is in a network namespace of its own, which has no proc connector; run it in the host's")]
    Network,
    /// The kernel would not let us. Since Linux 6.6 it lets everybody.
    #[error(
        "defib lacks CAP_NET_ADMIN, which the proc connector needs before Linux 6.6; run it as root or grant it"
    )]
    Capability,
    /// No connector at all.
    #[error(
        "this kernel has no connector; it must be built with CONFIG_CONNECTOR (and its module `cn` loaded)"
    )]
    NoConnector,
    /// A connector without the process events.
    #[error("the proc connector does not answer; the kernel must be built with CONFIG_PROC_EVENTS")]
    Silent,
    /// The subscription was refused with an error number that nobody expects.
    #[error("the proc connector refused the subscription")]
    Refused(#[source] io::Error),
    /// `/proc` does not tell what has to be known.
    #[error("cannot read {path}")]
    Proc {
        /// The file.
        path: &'static str,
        /// Why not.
        #[source]
        cause: io::Error,
    },
    /// A system call that never fails has failed.
    #[error("cannot {what} the proc connector's socket")]
    Socket {
        /// What was to be done with it.
        what: &'static str,
        /// Why not.
        #[source]
        cause: io::Error,
    },
}

impl From<Foreign> for ConnectorError {
    fn from(foreign: Foreign) -> Self {
        match foreign {
            Foreign::Namespace(namespace) => Self::Namespace { namespace },
            Foreign::Unreadable(path, cause) => Self::Proc { path, cause },
        }
    }
}
