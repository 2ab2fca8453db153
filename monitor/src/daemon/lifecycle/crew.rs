//! The threads beside the supervisor thread, and what it has of each.

use std::os::fd::{AsFd, OwnedFd};

use nix::unistd::Uid;
use tokio::sync::mpsc;

use super::past::Past;
use super::{DaemonError, own};
use crate::config::{Overrides, Settings};
use crate::daemon::capture::Names;
use crate::daemon::link::KeeperLink;
use crate::daemon::ports::Ports;
use crate::daemon::reload::Reloads;
use crate::daemon::slots::Slots;
use crate::effect::holders::Household;
use crate::effect::output::handle::{Farewell, Held};
use crate::effect::output::{self, Logs};
use crate::effect::planner::{Planned, Planner, Workshop};
use crate::effect::port_watch::PortWatch;
use crate::keeper::protocol::{LEDGER, Order};

/// What there is of threads.
pub(super) struct Crew {
    pub(super) planner: Planner,
    pub(super) planned: mpsc::Receiver<Planned>,
    pub(super) ports: Ports,
    pub(super) reloads: Reloads,
    pub(super) logs: Logs,
    /// Says when the last output is written.
    pub(super) last_output: Farewell,
}

impl Crew {
    /// Starts all of them.
    pub(super) fn start(
        overrides: &Overrides,
        settings: &Settings,
        household: &Household,
        names: &Names,
        slots: &Slots,
        link: &mut KeeperLink,
        past: &mut Past,
    ) -> Result<Self, DaemonError> {
        let workshop = Workshop {
            household: household.clone(),
            lang: std::env::var("LANG").unwrap_or_else(|_| "C.UTF-8".to_owned()),
            euid: Uid::effective().as_raw(),
            output: names.folder.clone(),
        };
        let (planner, planned) =
            Planner::start(workshop).map_err(DaemonError::system("start the planner"))?;
        let watch =
            PortWatch::start(household.clone()).map_err(DaemonError::system("start looking at ports"))?;
        let reloads = Reloads::start(overrides.config().0, overrides.clone())
            .map_err(DaemonError::system("start the thread for reloads"))?;
        let held = Held { ledger: ledger(names, slots, link, past)?, folder: names.folder.clone() };
        let (logs, last_output) = Logs::start(settings.daemon.log_dir.clone(), held)
            .map_err(DaemonError::system("start the logs"))?;
        Ok(Self { planner, planned, ports: Ports::new(watch), reloads, logs, last_output })
    }
}

/// What an earlier daemon knew of the files.
fn ledger(
    names: &Names,
    slots: &Slots,
    link: &mut KeeperLink,
    past: &mut Past,
) -> Result<OwnedFd, DaemonError> {
    if let Some(held) = past.held.remove(LEDGER) {
        return Ok(held);
    }
    let made = output::handle::ledger(names.folder.as_deref(), &names.places(slots))
        .map_err(DaemonError::system("start the logs"))?;
    let kept = own(made.as_fd(), "duplicate what the logs keep")?;
    link.order(Order::Hold { name: LEDGER.to_owned() }, vec![kept])?;
    Ok(made)
}
