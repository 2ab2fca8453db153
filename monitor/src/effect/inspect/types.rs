//! What is found, as it is told: also the JSON of `defib inspect`.
//!
//! Spans are seconds, sizes bytes, `null` stands where nothing is known.

use defib_core::model::ServiceName;
use serde::{Deserialize, Serialize};

/// So many of a kind, and how many there are besides.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listed<T> {
    /// Those that are shown.
    pub items: Vec<T>,
    /// How many more there are.
    pub more: u64,
}

impl<T> Default for Listed<T> {
    fn default() -> Self {
        Self { items: Vec::new(), more: 0 }
    }
}

impl<T> Listed<T> {
    /// The first `most` of them.
    pub(super) fn first(mut items: Vec<T>, most: usize) -> Self {
        let more = items.len().saturating_sub(most) as u64;
        items.truncate(most);
        Self { items, more }
    }
}

/// A service at one moment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Inspection {
    /// The service.
    pub service: ServiceName,
    /// Its main process, of which all but `processes` tells.
    pub pid: Option<u32>,
    /// What an operator has set for the start of defib with `enable --boot` or `disable --boot`.
    pub boot: Option<bool>,
    /// All its processes, each after its parent.
    pub processes: Listed<Process>,
    /// The threads, those first that have used the most CPU time.
    pub threads: Listed<Thread>,
    /// The open files by their numbers, sockets among them.
    pub files: Listed<File>,
    /// Those of the open files that are sockets of the network or of the file system.
    pub sockets: Listed<Socket>,
    /// The memory.
    pub memory: Option<Memory>,
    /// The resource limits.
    pub limits: Vec<Limit>,
    /// The path in the unified hierarchy of cgroups.
    pub cgroup: Option<String>,
    /// The names of the environment variables that it was started with. Values may be secrets.
    pub environment: Listed<String>,
    /// What could not be read, and why.
    pub notes: Vec<String>,
}

/// A process.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Process {
    /// Its number.
    pub pid: u32,
    /// Its parent.
    pub parent: u32,
    /// How far below the top of the tree it is.
    pub depth: u32,
    /// Its user by name, or by number where it has none.
    pub user: String,
    /// One letter: `R` runs, `S` and `D` wait, `T` is stopped, `Z` is a zombie.
    pub state: String,
    /// How many threads it has.
    pub threads: u64,
    /// CPU time of its own.
    pub cpu_seconds: f64,
    /// Resident memory.
    pub memory_bytes: u64,
    /// Its name, at most 15 bytes.
    pub name: String,
    /// Its program and arguments, cut to 4 KiB; empty of a zombie.
    pub command: Vec<String>,
}

/// A thread.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Thread {
    /// Its number.
    pub tid: u32,
    /// Its name, at most 15 bytes.
    pub name: String,
    /// One letter, as of a process.
    pub state: String,
    /// CPU time.
    pub cpu_seconds: f64,
    /// The function of the kernel in which it waits.
    pub wchan: Option<String>,
}

/// An open file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct File {
    /// The number of the descriptor.
    pub fd: u32,
    /// What it leads to: a path, or what the kernel calls it, as in `socket:[4711]`.
    pub target: Option<String>,
}

/// A socket.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Socket {
    /// The number of the descriptor.
    pub fd: u32,
    /// `tcp`, `tcp6`, `udp`, `udp6` or `unix`.
    pub protocol: String,
    /// This end: an address with a port, or the path of a unix socket.
    pub local: Option<String>,
    /// The other end.
    pub remote: Option<String>,
    /// In the words of the kernel: `LISTEN`, `ESTABLISHED`, …
    pub state: String,
}

/// The memory of a process.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// Resident.
    pub rss_bytes: u64,
    /// Its share of it: a page that n processes map counts as an n-th.
    pub pss_bytes: u64,
    /// Swapped out.
    pub swap_bytes: u64,
    /// By what is mapped, the largest resident first; several mappings of one file are one.
    pub mappings: Listed<Mapping>,
}

/// What a process has mapped.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mapping {
    /// A path, or what the kernel calls it, as in `[heap]`; `[anonymous]` for memory without a name.
    pub name: String,
    /// Addresses in use.
    pub size_bytes: u64,
    /// Resident.
    pub rss_bytes: u64,
    /// Its share of it.
    pub pss_bytes: u64,
    /// Swapped out.
    pub swap_bytes: u64,
}

/// A resource limit, in the words of `/proc/PID/limits`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limit {
    /// As in `Max open files`.
    pub name: String,
    /// What holds.
    pub soft: String,
    /// Up to where it may raise it itself.
    pub hard: String,
    /// What is counted; `null`: numbers of their own.
    pub unit: Option<String>,
}
