//! What daemons before this one have left, and the configuration among it.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use defib_core::model::{ServiceName, ServiceSpec};

use super::places;
use super::{DaemonError, own};
use crate::config::{self, Overrides, Settings};
use crate::daemon::accepted;
use crate::daemon::adoption::Residents;
use crate::daemon::keeper_ends::Lives;
use crate::daemon::kept::{self, Kept};
use crate::daemon::link::{KeeperLink, LinkError};
use crate::daemon::remember;
use crate::keeper::protocol::{Order, Report, VERSION};
use crate::state::Remembered;

/// What an earlier daemon has left with the keeper.
#[derive(Debug, Default)]
pub(super) struct Past {
    pub(super) held: BTreeMap<String, OwnedFd>,
    pub(super) memos: BTreeMap<u32, Kept>,
    pub(super) states: Vec<Report>,
    /// For each slot the ends of its pipes, then the spools.
    pub(super) pipes: Vec<(u32, Vec<OwnedFd>)>,
    /// For each slot its sockets, and what they are.
    pub(super) sockets: Vec<(u32, Vec<u8>, Vec<OwnedFd>)>,
    pub(super) signals: Vec<i32>,
    /// What the state database holds, for the first daemon of a keeper.
    pub(super) remembered: Remembered,
    /// Who lives of an earlier keeper's, for the first daemon of the next one.
    pub(super) residents: Residents,
    /// What was known of lives that the state database may not know, for the first daemon of the next keeper.
    pub(super) unheard: BTreeMap<ServiceName, Lives>,
    /// What came of a restart of defib itself: why it failed.
    pub(super) restarted: Option<Option<String>>,
}

impl Past {
    /// Whether there was no daemon before under this keeper.
    pub(super) fn is_first(&self) -> bool {
        !self.held.contains_key(places::LOCK) && self.memos.is_empty()
    }

    /// The slots that services have had.
    pub(super) fn slots(&self, specs: &[Arc<ServiceSpec>]) -> BTreeMap<ServiceName, u32> {
        let kept = self.memos.iter().map(|(slot, kept)| (kept.service.clone(), *slot));
        kept.chain(remember::slots(&self.remembered, specs)).collect()
    }
}

pub(super) async fn meet_keeper() -> Result<(KeeperLink, Past), DaemonError> {
    let socket = own(io::stdin().as_fd(), "take the keeper's socket")?;
    let mut link = KeeperLink::new(socket).map_err(LinkError::from)?;
    link.order(Order::Hello { version: VERSION }, vec![])?;
    link.send_turn()?;
    let mut past = Past::default();
    loop {
        for (report, fds) in link.receive().await? {
            match report {
                Report::Held { name } => past.held.extend(fds.into_iter().next().map(|fd| (name, fd))),
                Report::Memo { slot, memo } => match kept::read(&memo) {
                    Ok(kept) => drop(past.memos.insert(slot, kept)),
                    Err(error) => tracing::error!(slot, %error, "whose slot this is cannot be read"),
                },
                Report::Pipes { slot, .. } => past.pipes.push((slot, fds)),
                Report::Sockets { slot, label, .. } => past.sockets.push((slot, label, fds)),
                report @ (Report::Slot { .. } | Report::Followed { .. }) => past.states.push(report),
                // Whoever waited for that has gone with the daemon before.
                Report::Withdrawn { .. } => {}
                Report::Signal(signal) => past.signals.push(signal),
                // Only a daemon that supervises is asked, or has asked.
                Report::Ping | Report::Restart { .. } => {}
                Report::Restarted { failure } => past.restarted = Some(failure),
                Report::Synced => return Ok((link, past)),
            }
        }
    }
}

pub(super) fn configuration(
    overrides: &Overrides,
    link: &mut KeeperLink,
    past: &mut Past,
) -> Result<Settings, DaemonError> {
    if let Some(held) = past.held.remove(accepted::HELD)
        && let Some(settings) = accepted::unseal(held, overrides)?
    {
        return Ok(settings);
    }
    let (path, asked) = overrides.config();
    let loaded = config::load(&path, overrides)?;
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    if !loaded.found && !asked {
        tracing::info!(file = %path.display(), "there is no configuration: defib runs without services; `defib init` writes one");
    }
    let held = accepted::seal(&loaded, &loaded.settings.daemon)
        .map_err(|cause| DaemonError::System { what: "keep the configuration", cause })?;
    link.order(Order::Hold { name: accepted::HELD.to_owned() }, vec![held])?;
    Ok(loaded.settings)
}
