//! Who dealt the blow of which a process died.

use super::event::NAME_LEN;

/// Who it was.
pub mod culprit {
    /// No signal was seen that explains the end.
    pub const NONE: u32 = 0;
    /// The kernel.
    pub const KERNEL: u32 = 1;
    /// The kernel, for the use of a memory address or of the instruction there.
    pub const ADDRESS: u32 = 2;
    /// A process.
    pub const PROCESS: u32 = 3;
}

/// A signal and its sender.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Culprit {
    /// [`culprit::ADDRESS`]: the address.
    pub address: u64,
    /// One of [`culprit`].
    pub kind: u32,
    /// The number of the signal.
    pub signal: u32,
    /// [`culprit::PROCESS`]: the thread group.
    pub pid: u32,
    /// [`culprit::PROCESS`]: the real user.
    pub uid: u32,
    /// [`culprit::PROCESS`]: the name, ended by a zero; empty if only the signal itself told of its sender.
    pub name: [u8; NAME_LEN],
}

impl Culprit {
    /// Nobody.
    pub const NONE: Self =
        Self { address: 0, kind: culprit::NONE, signal: 0, pid: 0, uid: 0, name: [0; NAME_LEN] };

    /// The kernel, for whatever reason.
    pub const fn kernel(signal: u32) -> Self {
        Self { kind: culprit::KERNEL, signal, ..Self::NONE }
    }
}

/// Set in [`Blow::flags`] if the process will die of it: user space was told, and nothing can come after it.
pub const BLOW_FATAL: u32 = 1;

/// Value of the map `BLOWS`, whose key is the thread group id: the last signal that ends the process or asks it to end.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Blow {
    /// [`Tracked::start`](super::Tracked::start) of the process that was hit.
    pub start: u64,
    /// When, in nanoseconds of `CLOCK_BOOTTIME`.
    pub at: u64,
    /// What it was, and who dealt it.
    pub culprit: Culprit,
    /// `BLOW_*` bits.
    pub flags: u32,
    /// Zero.
    pub padding: u32,
}

const _: () = assert!(size_of::<Culprit>() == 40 && size_of::<Blow>() == 64);
