//! The records of the ring.

/// What an [`Event`] tells, and the index of its counters in [`Stats`](super::Stats).
pub mod kind {
    /// The keeper made a main process.
    pub const FORK: u16 = 0;
    /// A main process executed a program; the record is an [`ExecEvent`](super::ExecEvent).
    pub const EXEC: u16 = 1;
    /// A process has lost its last thread.
    pub const EXIT: u16 = 2;
    /// The out-of-memory killer chose a process.
    pub const OOM: u16 = 3;
    /// How many kinds there are.
    pub const COUNT: usize = 4;
    /// Their names in metrics and logs, by kind.
    pub const NAMES: [&str; COUNT] = ["fork", "exec", "exit", "oom"];
}

/// Set in [`Event::flags`] of a process that is not the main process of its service.
pub const EVENT_DESCENDANT: u32 = 1;
/// Set in [`Event::flags`] and [`End::flags`](super::End::flags) if the out-of-memory killer had chosen the process.
pub const EVENT_OOM: u32 = 2;

/// Room for the path of an exec, its terminating zero included.
pub const FILENAME_LEN: usize = 64;

/// One thing that happened to a tracked process.
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
    /// FORK: the thread group of the parent. Zero in the other kinds.
    pub parent: u32,
    /// The keeper's slot that the process belongs to.
    pub slot: u32,
    /// EXIT: the raw status that wait(2) reports. Zero in the other kinds.
    pub wait_status: u32,
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

const _: () = assert!(size_of::<Event>() == 40 && size_of::<ExecEvent>() == 104);
