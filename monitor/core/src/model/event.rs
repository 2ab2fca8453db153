//! What an event source tells, in the same words for every source.

use serde::{Deserialize, Serialize};

use super::{Tick, WaitStatus};

/// The name of a source in JSON, metrics and logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SourceName {
    /// eBPF programs in this kernel.
    Ebpf,
    /// pidfds and wait statuses of the keeper's children.
    Pidfd,
    /// A script of events, for tests.
    Scripted,
}

impl SourceName {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ebpf => "ebpf",
            Self::Pidfd => "pidfd",
            Self::Scripted => "scripted",
        }
    }
}

/// Something that happened to a process of a supervised tree.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelEvent {
    /// The kernel's time stamp.
    pub at: Tick,
    /// The process (thread group).
    pub pid: u32,
    /// When that process started, in nanoseconds of `CLOCK_BOOTTIME`: with the pid its identity.
    pub start: u64,
    /// The keeper's slot to which the process belongs.
    pub slot: u32,
    /// Whether it is the main process of its service, not a descendant.
    pub main: bool,
    /// What happened.
    pub fact: KernelFact,
}

/// What happened to the process of a [`KernelEvent`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KernelFact {
    /// It was made by `parent`.
    Fork {
        /// The process that forked.
        parent: u32,
    },
    /// It executed a program.
    Exec {
        /// The path as it was given to execve(2), at most 63 bytes of it.
        filename: String,
    },
    /// Its last thread has ended.
    Exit(Witness),
    /// The out-of-memory killer chose it.
    Oom,
}

/// What a source knows of the end of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Witness {
    /// When the last thread ended.
    pub at: Tick,
    /// The status of the whole process.
    pub status: WaitStatus,
    /// Whether the out-of-memory killer ended it.
    pub oom: bool,
}
