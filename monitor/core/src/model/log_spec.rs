//! What becomes of the output of a service: the validated form of `[service.NAME.log]`.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// `[service.X.log]`. The core never looks inside.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct LogSpec {
    /// Whether the output is kept; otherwise it goes to /dev/null.
    pub capture: bool,
    /// One log that is rotated, or one for each life.
    pub layout: LogLayout,
    /// Whether standard error has a log of its own.
    pub streams: LogStreams,
    /// The file instead of NAME.log in the log directory; with `layout = "per-start"` the folder.
    pub path: Option<PathBuf>,
    /// A file this long, in bytes, is rotated; 0: never.
    pub max_size: u64,
    /// How many rotated files are kept, or, with `layout = "per-start"`, how many earlier lives.
    pub max_files: u32,
    /// Rotated files older than this are removed, and a file this old is rotated.
    pub max_age: Option<Duration>,
    /// More than this many bytes, all files together, are too many: the oldest files are removed.
    pub max_total: Option<u64>,
    /// How many of the latest lines are kept in memory.
    pub lines: u32,
    /// And how many bytes of them at most.
    pub memory: u64,
}

impl LogSpec {
    /// The most lines that can be kept in memory.
    pub const MAX_LINES: u32 = 100_000;
    /// The most bytes that can be kept in memory.
    pub const MAX_MEMORY: u64 = 16 << 20;
}

impl Default for LogSpec {
    fn default() -> Self {
        Self {
            capture: true,
            layout: LogLayout::Single,
            streams: LogStreams::Joined,
            path: None,
            max_size: 10 << 20,
            max_files: 5,
            max_age: None,
            max_total: None,
            lines: 1000,
            memory: 256 << 10,
        }
    }
}

/// How logs are divided into files.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum LogLayout {
    /// One log that is rotated.
    #[default]
    Single,
    /// A folder for each life.
    PerStart,
}

/// What is told apart.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogStreams {
    /// Standard output and error go to one log, in the order in which they were written.
    #[default]
    Joined,
    /// Each has its own.
    Apart,
}
