//! `defib daemon restart`: the daemon leaves for one of the binary that is on the disk now. Services stay.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use tokio::sync::oneshot;

use super::link::LinkError;
use super::run::Daemon;
use crate::config::{Untrusted, open_trusted};
use crate::keeper::protocol::Order;

/// Why defib does not restart itself.
#[derive(Debug, thiserror::Error)]
pub enum RestartRefused {
    /// The binary cannot be found.
    #[error("where the keeper was started from cannot be read: {0}")]
    Lost(io::Error),
    /// It may not be used.
    #[error("the new binary is not used: {0}")]
    Untrusted(#[from] Untrusted),
    /// It cannot be read.
    #[error("{} cannot be read: {cause}", path.display())]
    Unreadable {
        /// Where it is.
        path: PathBuf,
        /// The system's answer.
        cause: io::Error,
    },
    /// Everything is being ended.
    #[error("defib is shutting down")]
    Leaving,
    /// Somebody has asked before.
    #[error("defib is being restarted already")]
    Busy,
    /// What the keeper says.
    #[error("nothing has changed: {0}")]
    Keeper(String),
    /// The thread that looks for the binary has failed.
    #[error("the new binary could not be looked at: {0}")]
    Failed(String),
}

/// Where the answer goes.
pub(super) type Answer = oneshot::Sender<Result<(), RestartRefused>>;

/// How far a restart is.
#[derive(Debug, Default)]
pub(super) enum Restart {
    /// Nobody wants one.
    #[default]
    None,
    /// The keeper has been asked.
    Asked(Answer),
    /// The keeper waits for this daemon to leave.
    Agreed,
}

/// Opens the binary at the place where that of the keeper was when it was started, and reads it through: when the keeper
/// executes it, no disk is waited for. Blocks.
pub(super) fn open_binary(keeper: u32, euid: u32) -> Result<OwnedFd, RestartRefused> {
    let link = std::fs::read_link(format!("/proc/{keeper}/exe")).map_err(RestartRefused::Lost)?;
    let name = link.as_os_str().as_bytes();
    let path = PathBuf::from(std::ffi::OsString::from_vec(
        name.strip_suffix(b" (deleted)").unwrap_or(name).to_vec(),
    ));
    let mut file = open_trusted(&path, euid)?;
    let read = io::copy(&mut file, &mut io::sink());
    read.map_err(|cause| RestartRefused::Unreadable { path, cause })?;
    Ok(file.into())
}

impl Daemon {
    /// Somebody wants defib to go on as this binary.
    pub(super) fn restart(&mut self, binary: OwnedFd, reply: Answer) -> Result<(), LinkError> {
        let refused = match self.restart {
            _ if self.leaving_since.is_some() => RestartRefused::Leaving,
            Restart::Asked(_) | Restart::Agreed => RestartRefused::Busy,
            Restart::None => {
                tracing::info!("asked to restart defib itself");
                self.restart = Restart::Asked(reply);
                self.link.order(Order::Restart, vec![binary])?;
                return self.link.send_turn();
            }
        };
        // The client may have gone away.
        reply.send(Err(refused)).ok();
        Ok(())
    }

    /// What the keeper says to that.
    pub(super) fn restart_answered(&mut self, refused: Option<String>) {
        let Restart::Asked(reply) = std::mem::take(&mut self.restart) else { return };
        let answer = match refused {
            Some(why) => {
                tracing::error!(why, "defib is not restarted");
                Err(RestartRefused::Keeper(why))
            }
            None => {
                self.restart = Restart::Agreed;
                Ok(())
            }
        };
        reply.send(answer).ok();
    }

    /// Whether this daemon is to leave for another.
    pub(super) fn leaves_for_another(&self) -> bool {
        matches!(self.restart, Restart::Agreed)
    }
}

/// Who runs: what clients are told of defib itself.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The version of the daemon, which is that of the keeper.
    pub version: &'static str,
    /// The daemon's process.
    pub daemon: u32,
    /// The keeper's process.
    pub keeper: u32,
    /// Why the last restart of defib itself has failed; `None`: it has not, or there was none.
    pub restart_failure: Option<String>,
}
