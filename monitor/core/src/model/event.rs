//! What an event source tells, in the same words for every source.

use serde::{Deserialize, Serialize};

use super::{Blame, Signal, Tick, WaitStatus};

/// The name of a source in JSON, metrics and logs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum SourceName {
    /// eBPF programs in this kernel.
    Ebpf,
    /// The netlink connector that tells of every process.
    ProcConnector,
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
            Self::ProcConnector => "proc-connector",
            Self::Pidfd => "pidfd",
            Self::Scripted => "scripted",
        }
    }
}

/// Something that happened to a process: of a supervised tree, or of any other where somebody asked for all.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelEvent {
    /// The kernel's time stamp.
    pub at: Tick,
    /// The process (thread group).
    pub pid: u32,
    /// When that process started, in nanoseconds of `CLOCK_BOOTTIME`: with the pid its identity.
    pub start: u64,
    /// The keeper's slot to which the process belongs; `None`: to no service, or to none that the source knows of.
    #[serde(default)]
    pub slot: Option<u32>,
    /// Whether it is the main process of its service, not a descendant.
    pub main: bool,
    /// The name of the process at that moment, at most 15 bytes, where the source tells it.
    #[serde(default)]
    pub name: Option<String>,
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
    /// A signal was sent to it of which it will die.
    Signal {
        /// The signal.
        signal: Signal,
        /// Whose it is.
        blame: Blame,
    },
    /// Its last thread has ended.
    Exit(Witness),
    /// The out-of-memory killer chose it.
    Oom,
    /// It has put a socket into the state LISTEN, which cannot be reached by clients before a moment later.
    Listen(Listener),
    /// A socket of its has left the state LISTEN. The process may have ended before.
    Unlisten(Listener),
}

/// Where a TCP socket listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Listener {
    /// The port; 0 of a socket that was never bound, whose port the kernel chooses afterwards.
    pub port: u16,
    /// The inode number of the network namespace.
    pub netns: u32,
}

/// What a source knows of the end of a process. What it cannot know stays open.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Witness {
    /// When the last thread ended.
    pub at: Option<Tick>,
    /// The status of the whole process.
    pub status: Option<WaitStatus>,
    /// Whether the out-of-memory killer ended it.
    pub oom: Option<bool>,
    /// Who dealt the blow.
    pub blame: Blame,
}
