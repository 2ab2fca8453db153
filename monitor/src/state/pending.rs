//! What waits to be written. Of a service only the newest counts, so that no disk is too slow for it; ends are history, and
//! what does not fit in is dropped and counted.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use defib_core::Memo;
use defib_core::model::{Record, ServiceName, What};
use jiff::Timestamp;
use tokio::sync::watch;

use super::{Place, RememberedLife};
use crate::effect::clock;

/// How many services may wait: as many as there can be, and as many that have just been removed. One more is not
/// remembered, and counted as lost.
const SERVICES: usize = 8192;

/// How many ends may wait: at the highest rate of restarts some seconds of a disk that hangs.
const ENDS: usize = 4096;

/// What is to be changed of a service.
#[derive(Debug, Default)]
pub(super) struct Change {
    /// Whether what was written of it is to be removed first.
    pub(super) forget: bool,
    /// Its slot and its memo.
    pub(super) memo: Option<(u32, Box<Memo>)>,
    /// Its main process.
    pub(super) life: Option<Option<RememberedLife>>,
}

/// The end of a life.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) service: ServiceName,
    pub(super) incarnation: u64,
    pub(super) pid: Option<u32>,
    pub(super) started: Option<Timestamp>,
    pub(super) at: Timestamp,
    /// The whole record; its ticks are of the present boot.
    pub(super) record: Box<Record>,
    /// Where it was written down before it was told.
    pub(super) place: Option<Place>,
    /// Whether an earlier daemon was told it: it may be in the table.
    pub(super) earlier: bool,
}

impl Ended {
    /// What a record tells of an end, if it tells of one.
    pub(super) fn of(record: &Record) -> Option<Self> {
        let What::Exit { started, .. } = &record.what else { return None };
        Some(Self {
            service: record.service.clone(),
            incarnation: record.incarnation.0,
            pid: record.pid,
            started: started.map(clock::wall),
            at: clock::wall(record.at),
            record: Box::new(record.clone()),
            place: None,
            earlier: false,
        })
    }
}

/// What was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Lost {
    pub(super) since: Timestamp,
    pub(super) count: u64,
}

/// What waits, and whether more can come.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    pub(super) changes: BTreeMap<ServiceName, Change>,
    /// Who there was before these changes; everybody else has been forgotten.
    pub(super) only: Option<BTreeSet<ServiceName>>,
    pub(super) ends: VecDeque<Ended>,
    pub(super) lost: Option<Lost>,
    /// Whether defib leaves in order.
    pub(super) left: bool,
    /// Whether nothing more comes.
    pub(super) closed: bool,
    /// How often something has been told.
    pub(super) told: u64,
    /// Whether somebody waits until it is written.
    pub(super) urgent: bool,
}

impl Waiting {
    pub(super) fn remember(&mut self, service: ServiceName, slot: u32, memo: Box<Memo>) {
        if let Some(change) = self.change(service) {
            change.memo = Some((slot, memo));
        }
    }

    pub(super) fn lives(&mut self, service: &ServiceName, life: Option<RememberedLife>) {
        if let Some(change) = self.change(service.clone()) {
            change.life = Some(life);
        }
    }

    pub(super) fn forget(&mut self, service: &ServiceName) {
        if let Some(change) = self.change(service.clone()) {
            *change = Change { forget: true, memo: None, life: None };
        }
    }

    pub(super) fn only(&mut self, services: BTreeSet<ServiceName>) {
        self.only = Some(services);
    }

    pub(super) fn ended(&mut self, ended: Ended) {
        if self.ends.len() < ENDS {
            self.ends.push_back(ended);
        } else {
            self.lose();
        }
    }

    /// Takes what could not be written back in, as older than what has come since.
    pub(super) fn put_back(&mut self, older: Self) {
        let newer = std::mem::replace(self, older);
        for (service, change) in newer.changes {
            match self.changes.get_mut(&service) {
                Some(older) if !change.forget => {
                    older.memo = change.memo.or(older.memo.take());
                    older.life = change.life.or(older.life);
                }
                Some(_) | None => drop(self.changes.insert(service, change)),
            }
        }
        self.only = self.only.take().or(newer.only);
        let lost = newer.lost.map_or(0, |lost| lost.count);
        for ended in newer.ends {
            self.ended(ended);
        }
        if let (Some(mine), true) = (&mut self.lost, lost > 0) {
            mine.count += lost;
        } else if self.lost.is_none() {
            self.lost = newer.lost;
        }
        self.left |= newer.left;
        self.closed |= newer.closed;
        self.told = newer.told;
        self.urgent |= newer.urgent;
    }

    /// Whether there is anything to write.
    pub(super) fn is_empty(&self) -> bool {
        self.changes.is_empty()
            && self.only.is_none()
            && self.ends.is_empty()
            && self.lost.is_none()
            && !self.left
    }

    fn change(&mut self, service: ServiceName) -> Option<&mut Change> {
        if self.changes.len() >= SERVICES && !self.changes.contains_key(&service) {
            self.lose();
            return None;
        }
        Some(self.changes.entry(service).or_default())
    }

    fn lose(&mut self) {
        let lost = self.lost.get_or_insert_with(|| Lost { since: clock::wall(clock::now()), count: 0 });
        lost.count += 1;
    }
}

/// Between who tells and who writes. Whoever has the lock puts something in or takes all of it out, and does nothing else
/// meanwhile.
#[derive(Debug, Default)]
pub(super) struct Pending {
    waiting: Mutex<Waiting>,
    come: Condvar,
    /// Up to which [`Waiting::told`] all is written.
    written: watch::Sender<u64>,
}

impl Pending {
    /// Changes what waits, and wakes the writer if nothing waited.
    pub(super) fn tell(&self, change: impl FnOnce(&mut Waiting)) {
        let mut waiting = self.lock();
        let idle = waiting.is_empty();
        waiting.told += 1;
        change(&mut waiting);
        drop(waiting);
        if idle {
            self.come.notify_one();
        }
    }

    /// Has all that was told until now written at once. Gives back what will be told of that; `None`: it is written.
    pub(super) fn hurry(&self) -> Option<(u64, watch::Receiver<u64>)> {
        let mut waiting = self.lock();
        let written = self.written.subscribe();
        let told = waiting.told;
        if *written.borrow() >= told {
            return None;
        }
        waiting.urgent = true;
        drop(waiting);
        self.come.notify_one();
        Some((told, written))
    }

    /// All that had been told by then is written.
    pub(super) fn wrote(&self, told: u64) {
        self.written.send_replace(told);
    }

    /// Nothing more comes.
    pub(super) fn close(&self) {
        self.lock().closed = true;
        self.come.notify_one();
    }

    /// Waits until there is something to write, or nothing more comes.
    pub(super) fn wait(&self) {
        let idle = |waiting: &mut Waiting| waiting.is_empty() && !waiting.closed && !waiting.urgent;
        drop(self.come.wait_while(self.lock(), idle).unwrap_or_else(PoisonError::into_inner));
    }

    /// Waits so long, or until nothing more comes.
    pub(super) fn pause(&self, time: Duration) {
        let open = |waiting: &mut Waiting| !waiting.closed;
        drop(self.come.wait_timeout_while(self.lock(), time, open).unwrap_or_else(PoisonError::into_inner));
    }

    /// The same, or until somebody waits for what is written.
    pub(super) fn gather(&self, time: Duration) {
        let calm = |waiting: &mut Waiting| !waiting.closed && !waiting.urgent;
        drop(self.come.wait_timeout_while(self.lock(), time, calm).unwrap_or_else(PoisonError::into_inner));
    }

    /// Takes all of it out. What is closed stays closed.
    pub(super) fn take(&self) -> Waiting {
        let mut waiting = self.lock();
        let (closed, told) = (waiting.closed, waiting.told);
        std::mem::replace(&mut *waiting, Waiting { closed, told, ..Waiting::default() })
    }

    /// What was taken could not be written.
    pub(super) fn put_back(&self, older: Waiting) {
        self.lock().put_back(older);
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
