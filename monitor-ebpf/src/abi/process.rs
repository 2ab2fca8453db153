//! What the programs remember of a process while it lives, and what they leave behind of its end.

use super::blow::Culprit;

/// Set in [`Tracked::flags`] of the main process of a service; clear for its descendants.
pub const TRACKED_MAIN: u32 = 1;
/// Set in [`Tracked::flags`] if [`Tracked::start`] is rounded down to a multiple of [`COARSE_NS`].
pub const TRACKED_COARSE: u32 = 2;
/// Set in [`Tracked::flags`] of a main process once it has executed a program.
pub const TRACKED_EXECUTED: u32 = 4;

/// The step of start times in `/proc/PID/stat`: `USER_HZ` is 100 wherever eBPF runs.
pub const COARSE_NS: u64 = 10_000_000;

/// Value of the map `TRACKED`, whose key is the thread group id.
///
/// A pid is not an identity, so every look-up compares the start time with that of the task at hand.
/// `start` is the one name of this life on both sides: it is what [`EndKey`] and the ring records carry. A process
/// that user space put into the map itself is known only by the coarse time that `/proc` shows, and goes by it.
/// That is enough to tell two lives apart: a pid cannot come round again within 10 ms.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tracked {
    /// When the process started, in nanoseconds of `CLOCK_BOOTTIME`.
    pub start: u64,
    /// The keeper's slot that it belongs to.
    pub slot: u32,
    /// `TRACKED_*` bits.
    pub flags: u32,
}

impl Tracked {
    /// Whether this entry is about the process that started at `start`.
    #[inline(always)]
    pub fn is(&self, start: u64) -> bool {
        let coarse = self.flags & TRACKED_COARSE != 0;
        self.start == if coarse { start - start % COARSE_NS } else { start }
    }

    /// Whether the keeper tells user space of this process's start and end by itself, right after the kernel has: then
    /// the ring need not wake anybody, and the events are read with the keeper's report. Each wake-up of an idle CPU
    /// costs a virtual machine tens of microseconds, in the middle of a restart.
    #[inline(always)]
    pub fn is_reported(&self) -> bool {
        self.is_main() && self.flags & TRACKED_COARSE == 0
    }

    /// Whether it is the main process of its service.
    #[inline(always)]
    pub fn is_main(&self) -> bool {
        self.flags & TRACKED_MAIN != 0
    }
}

/// Key of the map `EXITS`.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndKey {
    /// [`Tracked::start`].
    pub start: u64,
    /// The thread group id.
    pub tgid: u32,
    /// Zero: the kernel compares all bytes of a key.
    pub padding: u32,
}

impl EndKey {
    /// The key of one life.
    pub const fn new(tgid: u32, start: u64) -> Self {
        Self { start, tgid, padding: 0 }
    }
}

/// Value of the map `EXITS`: the end of a main process.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    /// When its last thread ended, in nanoseconds of `CLOCK_BOOTTIME`.
    pub at: u64,
    /// The raw status that wait(2) reports.
    pub wait_status: u32,
    /// [`EVENT_OOM`](super::EVENT_OOM) or zero.
    pub flags: u32,
    /// Who dealt the blow.
    pub culprit: Culprit,
}

const _: () = assert!(size_of::<Tracked>() == 16 && size_of::<EndKey>() == 16 && size_of::<End>() == 56);
