//! The core is told of the past, and lets services begin.

use defib_core::Input;
use defib_core::model::Tick;

use super::past::Past;
use super::{DaemonError, watch_order};
use crate::config::Settings;
use crate::daemon::keeper_ends;
use crate::daemon::kept::{self, Kept};
use crate::daemon::link::LinkError;
use crate::daemon::run::Daemon;
use crate::effect::output::folder::Folder;
use crate::keeper;
use crate::keeper::protocol::{Order, Report, SlotState};
use crate::source::Life;

/// Tells the core of the past, and lets it begin. `folder`: where pipes have names, and what is told has files.
pub(super) fn begin(
    daemon: &mut Daemon,
    settings: Settings,
    past: Past,
    folder: Option<&Folder>,
) -> Result<(), DaemonError> {
    daemon.turn([Input::Configure(settings.services)])?;
    let mut rest = Vec::new();
    if !past.memos.is_empty() {
        daemon.memory.only(past.memos.values().map(|kept| kept.service.clone()).collect());
    }
    for (slot, Kept { service, memo }) in past.memos {
        let memo = match memo {
            Ok(memo) => memo,
            Err(error) => {
                tracing::error!(slot, %service, %error, "its memo is unreadable: it is taken as the keeper has it");
                let holds = !daemon.sockets.of(slot).is_empty();
                let autostart = daemon.slots.spec(&service).is_some_and(|spec| spec.autostart);
                Box::new(kept::found(slot, &past.states, autostart, holds))
            }
        };
        tracing::debug!(slot, %service, "resumed");
        rest.extend(daemon.orders([Input::Resume { service, memo }])?);
    }
    daemon.link.send_turn()?;
    daemon.tell_all(rest);
    let strangers = daemon.take_up(past.remembered, past.residents, past.unheard)?;
    daemon.recall(strangers)?;
    for report in past.states {
        if let Report::Slot { slot, state: SlotState::Living { pid, started, .. } } = report {
            daemon.follow(&Life { slot, pid, started: Tick(started) });
        }
        daemon.hear(report)?;
    }
    daemon.look_at_ports();
    daemon.link.order(watch_order(&daemon.settings), vec![])?;
    daemon.link.order(Order::Ready, vec![])?;
    daemon.turn([Input::Begin])?;
    for signal in past.signals {
        daemon.hear(Report::Signal(signal))?;
    }
    daemon.ends.begin();
    // Not before all that the one before it holds has been told.
    if let (false, Some(folder)) = (past.held.contains_key(keeper::ends::HELD), folder) {
        hold_ends(daemon, folder)?;
    }
    Ok(())
}

/// Gives the keeper a file for the ends that no daemon has heard of.
fn hold_ends(daemon: &mut Daemon, folder: &Folder) -> Result<(), LinkError> {
    match keeper_ends::make(folder.path()) {
        Ok(file) => {
            daemon.link.order(Order::Hold { name: keeper::ends::HELD.to_owned() }, vec![file])?;
            daemon.link.send_turn()
        }
        Err(error) => {
            tracing::warn!(%error, "the keeper has no file for ends: those that no daemon has heard of die with it");
            Ok(())
        }
    }
}
