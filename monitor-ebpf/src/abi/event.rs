//! The records of the rings.

use super::blow::Culprit;

/// What an [`Event`] tells, and the index of its counters in [`Stats`](super::Stats).
pub mod kind {
    /// A process was made; the record is a [`ForkEvent`](super::ForkEvent).
    pub const FORK: u16 = 0;
    /// A process executed a program; the record is an [`ExecEvent`](super::ExecEvent).
    pub const EXEC: u16 = 1;
    /// A process has lost its last thread; the record is an [`ExitEvent`](super::ExitEvent).
    pub const EXIT: u16 = 2;
    /// The out-of-memory killer chose a process.
    pub const OOM: u16 = 3;
    /// A process was sent a signal of which it will die; the record is a [`SignalEvent`](super::SignalEvent).
    pub const SIGNAL: u16 = 4;
    /// A process listens on a TCP port; the record is a [`PortEvent`](super::PortEvent).
    pub const LISTEN: u16 = 5;
    /// A socket has ceased to listen; the record is a [`PortEvent`](super::PortEvent).
    pub const UNLISTEN: u16 = 6;
    /// How many kinds there are.
    pub const COUNT: usize = 7;
    /// Their names in metrics and logs, by kind.
    pub const NAMES: [&str; COUNT] = ["fork", "exec", "exit", "oom", "signal", "listen", "unlisten"];
}

/// Set in [`Event::flags`] of a process that is not the main process of its service.
pub const EVENT_DESCENDANT: u32 = 1;
/// Set in [`Event::flags`] and [`End::flags`](super::End::flags) if the out-of-memory killer had chosen the process.
pub const EVENT_OOM: u32 = 2;

/// [`Event::slot`] of a process that belongs to no service.
pub const NO_SLOT: u32 = u32::MAX;

/// Room for the path of an exec, its terminating zero included.
pub const FILENAME_LEN: usize = 64;
/// Room for the name of a process, its terminating zero included: `TASK_COMM_LEN`.
pub const NAME_LEN: usize = 16;

/// One thing that happened to a process. Every record begins with it; some are no more.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// `bpf_ktime_get_boot_ns()`: nanoseconds of `CLOCK_BOOTTIME`.
    pub at: u64,
    /// When the process started, as in [`Tracked::start`](super::Tracked::start).
    pub start: u64,
    /// [`VERSION`](super::VERSION).
    pub version: u16,
    /// One of [`kind`].
    pub kind: u16,
    /// `EVENT_*` bits.
    pub flags: u32,
    /// The thread group: what user space calls a pid.
    pub tgid: u32,
    /// The keeper's slot that the process belongs to, or [`NO_SLOT`].
    pub slot: u32,
    /// The name of the process, ended by a zero; empty where it cannot be had cheaply.
    pub name: [u8; NAME_LEN],
}

/// The record of a fork.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ForkEvent {
    /// Who and when. The name is still its parent's.
    pub event: Event,
    /// The thread group of the parent.
    pub parent: u32,
    /// Zero.
    pub padding: u32,
}

/// The record of an exec.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExecEvent {
    /// Who and when.
    pub event: Event,
    /// The path as it was given to execve(2), cut and terminated by a zero.
    pub filename: [u8; FILENAME_LEN],
}

/// The record of an end.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExitEvent {
    /// Who and when.
    pub event: Event,
    /// Who dealt the blow.
    pub culprit: Culprit,
    /// The raw status that wait(2) reports.
    pub wait_status: u32,
    /// Zero.
    pub padding: u32,
}

/// The record of a fatal signal.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SignalEvent {
    /// Who and when.
    pub event: Event,
    /// The signal, and who sent it.
    pub culprit: Culprit,
}

/// The record of the begin and the end of listening.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortEvent {
    /// Who and when. The end of listening may come after that of the process.
    pub event: Event,
    /// The inode number of the network namespace.
    pub netns: u32,
    /// The port in host order; zero of a socket that was never bound, whose port the kernel chooses afterwards.
    pub port: u16,
    /// Zero.
    pub padding: u16,
}

const _: () = assert!(size_of::<Event>() == 48 && size_of::<ForkEvent>() == 56);
const _: () = assert!(size_of::<ExecEvent>() == 112 && size_of::<ExitEvent>() == 96);
const _: () = assert!(size_of::<SignalEvent>() == 88 && size_of::<PortEvent>() == 56);
