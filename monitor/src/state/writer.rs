//! The thread that has the database open. It sleeps until something waits, writes all of it in one transaction, and looks
//! again no sooner than 50 ms later, unless somebody waits for it. While it cannot write it tries again, less and less often.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use std::time::Duration;

use defib_core::model::Tick;
use jiff::Timestamp;
use tokio::sync::Notify;

use super::health::Health;
use super::open::{self, OpenError, Opened};
use super::pending::{Pending, Waiting};
use super::rows::{self, Boot, Gap};
use super::{Remembered, boot};
use crate::effect::clock;

/// What belongs together comes within this time: the steps of a restart. They make one transaction, and no thread is busy
/// beside the process that has just been started.
const GATHER: Duration = Duration::from_millis(20);

/// Between two transactions.
const APART: Duration = Duration::from_millis(50);

/// Between two attempts, at first and at most.
const AGAIN: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// What the thread owns.
#[derive(Debug)]
pub(super) struct Writer {
    path: PathBuf,
    pending: Arc<Pending>,
    health: Arc<Health>,
    /// Told when all that is to be remembered is wanted anew.
    wants: Arc<Notify>,
    boot: Boot,
    /// Since when it cannot be written.
    down: Option<Timestamp>,
}

impl Writer {
    pub(super) fn new(path: PathBuf, pending: Arc<Pending>, health: Arc<Health>, wants: Arc<Notify>) -> Self {
        Self { path, pending, health, wants, boot: Boot { id: boot::id(), zero: 0 }, down: None }
    }

    /// Until nothing more comes. `answer` waits for what is remembered.
    pub(super) fn run(mut self, answer: Option<SyncSender<Remembered>>) {
        let mut db = self.open(answer);
        let mut again = AGAIN.0;
        loop {
            if db.is_some() {
                self.pending.wait();
                self.pending.gather(GATHER);
            } else {
                self.pending.pause(again);
                again = (again * 2).min(AGAIN.1);
            }
            let waiting = self.pending.take();
            let (closed, told) = (waiting.closed, waiting.told);
            if db.is_none() {
                db = self.open(None);
            }
            db = match db {
                Some(db) => self.write(db, waiting),
                None => {
                    self.pending.put_back(waiting);
                    None
                }
            };
            if db.is_some() {
                self.pending.wrote(told);
            }
            if closed {
                return;
            }
            if db.is_some() {
                again = AGAIN.0;
                self.pending.gather(APART.saturating_sub(GATHER));
            }
        }
    }

    fn open(&mut self, answer: Option<SyncSender<Remembered>>) -> Option<Opened> {
        self.boot.zero = zero();
        self.health.begin();
        // Whoever waits for an answer hears that there is none only when it has been told why.
        let asker = answer.clone();
        let opened = open::open(&self.path).and_then(|opened| {
            let Some(answer) = answer else { return Ok(opened) };
            match rows::read(&opened.db, &self.boot) {
                // Whoever waited may have given up.
                Ok(remembered) => drop(answer.send(remembered)),
                Err(cause) if open::is_damage(&cause) => {
                    drop(opened);
                    self.set_aside(&cause.to_string());
                    return open::open(&self.path);
                }
                Err(cause) => return Err(OpenError::Sqlite { path: self.path.clone(), cause }),
            }
            Ok(opened)
        });
        self.health.answered();
        match opened {
            Ok(opened) => {
                if opened.empty && asker.is_none() {
                    self.wants.notify_one();
                }
                Some(opened)
            }
            Err(error) => {
                self.fails(&error.to_string());
                None
            }
        }
    }

    /// Gives the database back if it can be used further.
    fn write(&mut self, mut opened: Opened, waiting: Waiting) -> Option<Opened> {
        if waiting.is_empty() && self.down.is_none() {
            return Some(opened);
        }
        self.boot.zero = zero();
        let gap = self.gap(&waiting);
        self.health.begin();
        if !opened.is_at(&self.path) {
            drop(opened);
            tracing::error!(file = %self.path.display(), "the state database was removed: it is made anew");
            opened = match self.open(None) {
                Some(opened) => opened,
                None => {
                    self.pending.put_back(waiting);
                    return None;
                }
            };
        }
        let written = rows::write(&mut opened.db, &waiting, gap.as_ref(), &self.boot);
        let hung = self.health.answered();
        match written {
            Ok(()) => {
                self.works(gap, hung);
                Some(opened)
            }
            Err(cause) => {
                // It goes again with the next attempt.
                self.pending.put_back(waiting);
                let damaged = open::is_damage(&cause);
                drop(opened);
                self.fails(&format!("{}: {cause}", self.path.display()));
                if damaged {
                    self.set_aside(&cause.to_string());
                }
                None
            }
        }
    }

    fn set_aside(&self, why: &str) {
        match open::set_aside(&self.path, "damaged") {
            Ok(aside) => {
                tracing::error!(why, aside = %aside.display(), "the state database is damaged: it was set aside");
            }
            Err(error) => {
                tracing::error!(why, %error, "the state database is damaged, and cannot be set aside")
            }
        }
    }

    /// What could not be written until now, if there is such a time behind us.
    fn gap(&self, waiting: &Waiting) -> Option<Gap> {
        let lost = waiting.lost;
        let began = self.down.or(lost.map(|lost| lost.since))?;
        let why = self.health.trouble().unwrap_or_else(|| "the disk was too slow".to_owned());
        Some(Gap { began, ended: clock::wall(clock::now()), lost: lost.map_or(0, |lost| lost.count), why })
    }

    fn works(&mut self, gap: Option<Gap>, hung: bool) {
        self.down = None;
        let failed = self.health.fails(None).is_some();
        let lost = gap.map_or(0, |gap| gap.lost);
        self.health.lose(lost);
        if failed || hung || lost > 0 {
            tracing::warn!(lost, "the state database is written again");
        }
    }

    /// Said once, until it works again.
    fn fails(&mut self, why: &str) {
        self.down.get_or_insert_with(|| clock::wall(clock::now()));
        if self.health.fails(Some(why.to_owned())).is_none() {
            tracing::error!(
                why,
                "the state database cannot be used: services are supervised as ever; it is tried again"
            );
        }
    }
}

/// The wall time of tick 0, in nanoseconds since 1970.
fn zero() -> i64 {
    i64::try_from(clock::wall(Tick(0)).as_nanosecond()).unwrap_or_default()
}
