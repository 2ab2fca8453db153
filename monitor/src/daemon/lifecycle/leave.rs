//! The daemon leaves: everything has ended, services are left to the next keeper, or another daemon is to take over.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use super::DaemonError;
use crate::daemon::keeper_ends;
use crate::daemon::run::Daemon;
use crate::daemon::surfaces::Surfaces;
use crate::effect::output::Logs;
use crate::effect::output::folder::Folder;
use crate::effect::output::handle::Farewell;
use crate::keeper::protocol::Order;

/// How long the planner may take for what is still to be removed.
const LAST_JOBS: Duration = Duration::from_secs(2);

/// What there is beside what the supervisor thread owns.
pub(super) struct Beside {
    pub(super) surfaces: Surfaces,
    pub(super) logs: Logs,
    pub(super) last_output: Farewell,
    /// Where pipes have names.
    pub(super) folder: Option<Arc<Folder>>,
    /// The API's socket.
    pub(super) socket: PathBuf,
    pub(super) keeper: u32,
}

/// Leaves. What is another's business later is left as it is.
pub(super) async fn leave(mut daemon: Daemon, beside: Beside) -> Result<(), DaemonError> {
    let Beside { surfaces, logs, last_output, folder, socket, keeper } = beside;
    // Who still asks for something is told at once that nobody does it any more.
    daemon.asks.close();
    while daemon.asks.try_recv().is_ok() {}
    let another = daemon.leaves_for_another();
    let alive = another || daemon.leaves_alive;
    daemon.source.leave(alive);
    if !alive {
        daemon.remove_paths(daemon.sockets.paths());
    }
    logs.stop();
    let written = last_output.wait();
    surfaces.stop(daemon.journal);
    if another {
        // Everything else is the next daemon's: as after a crash, but that nothing is left to be written.
        tracing::info!("defib is restarted; services run on");
        return Ok(daemon.link.finish().await?);
    }
    fs::remove_file(&socket).ok();
    drop(daemon.planner);
    // It ends when it has done what was asked of it, or hangs, and is left alone then.
    let rest = async { while daemon.planned.recv().await.is_some() {} };
    tokio::time::timeout(LAST_JOBS, rest).await.ok();
    daemon.pid_files.finish();
    if alive {
        // What waits is written; that services have ended is not, for they have not.
        drop(daemon.memory);
    } else {
        daemon.memory.leave();
        daemon.ends.leave();
        if let (true, Some(folder)) = (written, folder) {
            keeper_ends::remove(folder.path());
            folder.clear_away();
        }
        if let Some(tree) = daemon.cgroups
            && let Err(error) = tree.remove(keeper)
        {
            tracing::warn!(cgroup = %tree.base().display(), %error, "not removed: processes are left in it");
        }
    }
    daemon.link.order(Order::Leave, vec![])?;
    daemon.link.finish().await?;
    let how = if alive {
        "services run on, for the next start to take them over"
    } else {
        "every service has ended"
    };
    tracing::info!("{how}; defib leaves");
    Ok(())
}
