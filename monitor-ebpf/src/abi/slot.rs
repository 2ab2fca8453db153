//! What is counted and held for each slot, so that no service can drown the others.

/// Entries of the map `SLOTS`: as many as the keeper has.
pub const MAX_SLOTS: u32 = 4096;

/// How many events of descendants are told per slot in one [`WINDOW_NS`]; about, where several CPUs tell at once.
pub const DESCENDANT_EVENTS: u32 = 64;
/// How many ports of its main process are told per slot in one [`WINDOW_NS`].
pub const MAIN_PORTS: u32 = 1024;
/// How many sockets of a slot are followed until they cease to listen.
pub const SLOT_LISTENERS: u64 = 1024;
/// The window of the budgets, in nanoseconds.
pub const WINDOW_NS: u64 = 1_000_000_000;

/// Value of the map `SLOTS`. The counters run over all lives of the slot.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Slot {
    /// When the window began that the budgets are for, in nanoseconds of `CLOCK_BOOTTIME`.
    pub window: u64,
    /// Events of descendants told in it.
    pub descendant_events: u32,
    /// Ports of the main process told in it.
    pub main_ports: u32,
    /// Ends of descendants, told or not.
    pub descendant_exits: u64,
    /// Events that a budget let through.
    pub told: u64,
    /// Events that no budget was left for.
    pub suppressed: u64,
    /// Sockets that are followed now.
    pub listeners: u64,
}

/// Value of the map `LISTENERS`, whose key is the kernel's address of the socket: one that was told of.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listening {
    /// [`Tracked::start`](super::Tracked::start) of the process that called listen(2).
    pub start: u64,
    /// Its thread group.
    pub tgid: u32,
    /// The keeper's slot that it belongs to.
    pub slot: u32,
    /// [`Tracked::flags`](super::Tracked::flags) at that moment.
    pub flags: u32,
    /// The inode number of the network namespace.
    pub netns: u32,
}

const _: () = assert!(size_of::<Slot>() == 48 && size_of::<Listening>() == 24);
