//! What keepers and daemons before have left besides what the keeper holds: pipes that have names, ends, and who lives.

use std::os::fd::OwnedFd;
use std::sync::Arc;

use defib_core::model::{Record, Tick};
use tokio::sync::mpsc;

use super::DaemonError;
use super::past::Past;
use super::places::cgroups;
use crate::config::Settings;
use crate::daemon::adoption;
use crate::daemon::capture::{self, Names};
use crate::daemon::ends::{self, Earlier, Ends};
use crate::daemon::journal::{Entry, Journal, JournalWriter};
use crate::daemon::keeper_ends;
use crate::daemon::link::KeeperLink;
use crate::daemon::remember::Memory;
use crate::effect::cgroup::CgroupTree;
use crate::effect::clock;
use crate::keeper::protocol::Order;

/// What was left, and goes on from here.
pub(super) struct Estate {
    /// The pipes of services.
    pub(super) names: Names,
    /// The ends that are told.
    pub(super) ends: Ends,
    /// Those that earlier daemons have written.
    told: Vec<Earlier>,
    /// Where services live, if there are cgroups.
    pub(super) cgroups: Option<CgroupTree>,
}

/// The events from here on, and before.
pub(super) struct Diary {
    pub(super) journal: JournalWriter,
    pub(super) events: Arc<Journal>,
    pub(super) entries: mpsc::Receiver<Entry>,
    /// Ends of which nobody has been told.
    pub(super) untold: Vec<Record>,
}

impl Estate {
    /// Takes it over. A first daemon also finds out who lives, which it adds to the past, and ends what belongs to nobody.
    /// `pipes` are let go of as soon as they are open by their names.
    pub(super) async fn take(
        settings: &Settings,
        keeper: u32,
        pipes: Option<Vec<OwnedFd>>,
        link: &mut KeeperLink,
        past: &mut Past,
    ) -> Result<Self, DaemonError> {
        let (daemon, first) = (&settings.daemon, past.is_first());
        // Before what an earlier keeper has left is ended: what is in its pipes stays there from here on.
        let lock = past.held.remove(capture::LOCK);
        let mut names = Names::open(&daemon.runtime_dir, lock, first, link).await?;
        drop(pipes);
        let folder = names.folder.as_deref().map(|folder| folder.path());
        let (ends, told) = Ends::open(folder, past.held.remove(ends::HELD));
        if let Some(file) = ends.to_hold() {
            link.order(Order::Hold { name: ends::HELD.to_owned() }, vec![file])?;
        }
        if let (true, Some(folder)) = (first, folder) {
            past.unheard = keeper_ends::read(folder);
            ends.add_to(&mut past.unheard);
        }
        // After all that can be wrong with a configuration: a daemon that does not start leaves no groups behind.
        let cgroups = cgroups(&daemon.state_dir, keeper);
        if first {
            let (tree, services) = (cgroups.as_ref(), &settings.services);
            past.residents = adoption::census(tree, &past.remembered, &past.unheard, services, &ends);
            names.of_residents(&past.residents);
        }
        Ok(Self { names, ends, told, cgroups })
    }

    /// The events of a daemon that was started at `started`, behind those that earlier ones have told.
    pub(super) fn diary(&mut self, started: Tick, memory: &Memory) -> Diary {
        // Numbers that grow over restarts of the daemon, as long as there are fewer than a million events a second.
        let mut first = u64::try_from(clock::wall(started).as_microsecond()).unwrap_or(0);
        let told = std::mem::take(&mut self.told);
        let (past, untold) = self.ends.past(&told, &mut first);
        memory.told_earlier(told);
        let (journal, events, entries) = Journal::new(first, past);
        Diary { journal, events, entries, untold }
    }
}
