//! What this kernel and these rights let defib do, looked at one by one, with the remedy: `defib doctor`.
//!
//! Every check is harmless: what it loads is unloaded, nothing is written, mounted or pinned, no packet leaves the host,
//! and each has an end in time. All run in this process, with the user's own rights: a daemon that is started in another
//! way, by systemd for one, may be allowed more or less.
//!
//! Facts are read once; a function for each group of rows makes of them what is shown. What several rows need is in
//! `facts`, and what turns the texts of `/proc` into values is pure, for they may hold anything.

mod bpf;
mod btf;
mod connector;
mod daemon;
mod facts;
mod host;
mod latency;
mod limits;
mod mounts;
mod pidfd;
mod pins;
mod ports;
mod rights;
mod row;
mod sources;
mod state;
mod trees;

use defib_core::model::SourceName;
use serde::Serialize;

pub use daemon::Running;
pub use row::{Group, Row, Verdict};

use crate::config::Overrides;
use facts::Facts;

/// What was found.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Row by row, the groups in order.
    pub rows: Vec<Row>,
    /// The source that a daemon takes here if it is told to take the best.
    pub source: SourceName,
}

impl Report {
    /// Whether a daemon can supervise here at all.
    pub fn works(&self) -> bool {
        self.rows.iter().all(|row| !row.fatal)
    }
}

/// Looks at everything. `running` is the daemon that was found, if one was. To be called on a tokio runtime with I/O.
pub fn examine(overrides: &Overrides, running: &Running) -> Report {
    let facts = Facts::gather(overrides);
    let mut rows = host::rows(&facts);
    let (source, found) = sources::rows(&facts, running);
    rows.extend(found);
    rows.extend(trees::rows(&facts));
    rows.extend(state::rows(&facts, running));
    rows.extend(ports::rows(&facts));
    rows.extend(latency::rows(&facts));
    rows.extend(limits::rows(&facts));
    Report { rows, source }
}
