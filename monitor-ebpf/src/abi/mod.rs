//! One file per record that crosses the border.

mod event;
mod kernel;
mod process;
mod stats;

pub use event::{EVENT_DESCENDANT, EVENT_OOM, Event, ExecEvent, FILENAME_LEN, kind};
pub use kernel::{ABSENT, Facts, Offsets};
pub use process::{COARSE_NS, End, EndKey, TRACKED_COARSE, TRACKED_EXECUTED, TRACKED_MAIN, Tracked};
pub use stats::Stats;

/// Raised with every change of a layout in this crate. Each ring record carries it, so that a reader
/// never takes the bytes of another version for its own.
pub const VERSION: u16 = 1;
