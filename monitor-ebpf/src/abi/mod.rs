//! One file per record that crosses the border.

mod blow;
mod control;
mod event;
mod kernel;
mod ports;
mod process;
mod slot;
mod stats;
mod task_use;

pub use blow::{BLOW_FATAL, Blow, Culprit, culprit};
pub use control::ctrl;
pub use event::{
    EVENT_DESCENDANT, EVENT_OOM, Event, ExecEvent, ExitEvent, FILENAME_LEN, ForkEvent, NAME_LEN, NO_SLOT,
    PortEvent, SignalEvent, kind,
};
pub use kernel::{ABSENT, Facts, Group, Offsets};
pub use ports::{
    Bank, CONNECTION_CLOSED, CONNECTION_NEW, CONNECTION_OPEN, CONNECTION_RESET, Connection, LENGTH_BOUNDS,
    LENGTHS, PortBase, PortCounts, PortKey, PortStats, ROUND_BANK, ROUND_SEEING, ROUND_SHIFT, Seen, SeenKey,
    WATCHED_WORDS, watched_bit,
};
pub use process::{COARSE_NS, End, EndKey, TRACKED_COARSE, TRACKED_EXECUTED, TRACKED_MAIN, Tracked};
pub use slot::{DESCENDANT_EVENTS, Listening, MAIN_PORTS, MAX_SLOTS, SLOT_LISTENERS, Slot, WINDOW_NS};
pub use stats::{FeedStats, Stats, ending};
pub use task_use::TaskUse;

/// Raised with every change of a layout in this crate. Each ring record carries it, so that a reader
/// never takes the bytes of another version for its own.
pub const VERSION: u16 = 6;
