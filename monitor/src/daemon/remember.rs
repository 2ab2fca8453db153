//! What the state database is told of the services, and what the first daemon of a keeper takes from it.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use defib_core::model::{Record, ServiceName, ServiceSpec, What};
use defib_core::{Input, Memo};

use super::ends::Earlier;
use super::link::LinkError;
use super::run::Daemon;
use crate::keeper::protocol::{MAX_SLOTS, SlotState};
use crate::metrics::StateCounters;
use crate::state::{Change, Commits, Health, Place, Remembered, RememberedLife, StateDb};

/// The way to the state database. It is told after the keeper: no thread is to be woken between a death and the order for
/// the next life.
#[derive(Debug)]
pub(super) struct Memory {
    db: StateDb,
    /// What is to be remembered of this turn: what it says of a service and the ends that it tells are written together.
    turn: Vec<Change>,
}

/// How the state database is, for the metrics.
#[derive(Debug)]
pub(super) struct Keeping(pub(super) Arc<Health>);

impl StateCounters for Keeping {
    fn works(&self) -> bool {
        self.0.trouble().is_none()
    }

    fn lost(&self) -> u64 {
        self.0.lost()
    }
}

impl Memory {
    /// Opens the database in a state directory. The `first` daemon of a keeper is given what it holds.
    pub(super) fn open(state_dir: &Path, first: bool) -> std::io::Result<(Self, Remembered)> {
        let (db, remembered) = if first {
            StateDb::open(state_dir)?
        } else {
            (StateDb::go_on(state_dir)?, Remembered::default())
        };
        Ok((Self { db, turn: Vec::new() }, remembered))
    }

    /// The keeper is to keep this memo.
    pub(super) fn note(&mut self, service: ServiceName, slot: u32, memo: Box<Memo>) {
        self.turn.push(Change::Memo(service, slot, memo));
    }

    /// The keeper has been told, and everybody else.
    pub(super) fn flush(&mut self) {
        self.db.change(self.turn.drain(..));
    }

    /// The keeper has told how a slot is.
    pub(super) fn hear(&self, service: &ServiceName, state: &SlotState) {
        match *state {
            SlotState::Living { incarnation, pid, started } => {
                self.db.lives(service, Some(RememberedLife { incarnation, pid, started }));
            }
            SlotState::Ended { .. } | SlotState::Empty { .. } => self.db.lives(service, None),
            SlotState::Starting { .. } | SlotState::Failed { .. } => {}
        }
    }

    /// The keeper has begun the next life by itself. Who it is follows.
    pub(super) fn followed(&self, service: &ServiceName) {
        self.db.lives(service, None);
    }

    /// A record is told. `place`: where it was written down, if it is one of an end.
    pub(super) fn record(&mut self, record: &Record, place: Option<Place>) {
        if let What::Exit { .. } = record.what {
            self.turn.push(Change::Ended(record.clone(), place));
        }
    }

    /// Earlier daemons have told these, and may not have come to write them.
    pub(super) fn told_earlier(&self, found: Vec<Earlier>) {
        self.db.change(found.into_iter().map(|it| Change::EndedEarlier(it.record, it.place)));
    }

    /// A service that was removed is gone.
    pub(super) fn forget(&mut self, service: &ServiceName) {
        self.turn.push(Change::Forget(service.clone()));
    }

    /// These are the services that the keeper knows: others are gone, and a daemon that was killed may not have written that.
    pub(super) fn only(&self, services: BTreeSet<ServiceName>) {
        self.db.only(services);
    }

    /// How the database is.
    pub(super) fn health(&self) -> Arc<Health> {
        self.db.health()
    }

    /// For who promises something.
    pub(super) fn commits(&self) -> Commits {
        self.db.commits()
    }

    /// Waits until everything has to be told again.
    pub(super) async fn wanted(&self) {
        self.db.wanted().await;
    }

    /// Every service has ended, and defib leaves.
    pub(super) fn leave(self) {
        self.db.leave();
    }
}

/// The slots that services of the configuration have had.
pub(super) fn slots(remembered: &Remembered, specs: &[Arc<ServiceSpec>]) -> BTreeMap<ServiceName, u32> {
    let configured: BTreeSet<&ServiceName> = specs.iter().map(|spec| &spec.name).collect();
    let mut taken = BTreeSet::new();
    let mut sound = |slot: u32| slot < MAX_SLOTS && taken.insert(slot);
    let known = remembered.services.iter().filter(|it| configured.contains(&it.service));
    known.filter(|it| sound(it.slot)).map(|it| (it.service.clone(), it.slot)).collect()
}

impl Daemon {
    /// Tells everything again: what had been written is lost.
    pub(super) fn tell_memory(&mut self) {
        for (service, memo) in self.core.memos() {
            if let Some(slot) = self.slots.slot(service) {
                self.memory.note(service.clone(), slot, Box::new(memo.clone()));
            }
        }
        self.memory.flush();
        for view in self.core.views() {
            let life = view.pid.zip(view.started).map(|(pid, started)| RememberedLife {
                incarnation: view.incarnation.0,
                pid,
                started: started.0,
            });
            self.memory.db.lives(&view.name, life);
        }
    }

    /// Tells the core what is remembered of services of which no process is left.
    pub(super) fn recall(&mut self, remembered: Remembered) -> Result<(), LinkError> {
        let Remembered { services, left } = remembered;
        for it in services {
            if self.slots.spec(&it.service).is_none() {
                // It is configured no longer.
                self.memory.forget(&it.service);
                continue;
            }
            let torn = it.same_boot && !left;
            tracing::debug!(service = %it.service, torn, "recalled");
            self.turn([Input::Recall { service: it.service, memo: it.memo, torn }])?;
        }
        Ok(())
    }
}
