//! Connections as the probes in the kernel count them.
//!
//! Whoever asks reads the kernel's counters, and adds what is known beside them ([`super::places`]). A thread finds that
//! out for places that are new, and again when the kernel may have skipped a run of both probes. Otherwise it sleeps.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::Duration;

use defib_core::model::Tick;

use super::counts::{Counter, Counts, MAX_PLACES, Place, Verdict};
use super::places::Places;
use super::seed::{Found, lock, round};
use super::snapshot::Seen;
use crate::effect::clock;
use crate::source::{PortRounds, PortTables};

/// How many looks are taken until two in a row agree. What the last one shows counts in any case.
const LOOKS: usize = 6;

/// The time between two looks at everything because runs were skipped: under a load that makes the kernel skip them all
/// the time, looks shall not be a load of their own.
const PAUSE: Duration = Duration::from_secs(10);

/// When a look failed, the next is taken after this, then twice that, up to a minute.
const RETRY: Duration = Duration::from_millis(200);

/// Counts by the probes.
#[derive(Debug)]
pub struct Counted(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    /// Held for some microseconds; a round goes on without it.
    places: Mutex<Places>,
    /// Held for a round. Taken before `places`, where both are.
    rounds: Mutex<PortRounds>,
    todo: Mutex<Todo>,
    news: Condvar,
    reseeds: AtomicU64,
    /// The map of what is remembered of each connection.
    memory: OwnedFd,
    /// How many changes might have been counted wrongly when everything was last looked at.
    settled: AtomicU64,
}

/// What the thread is to do.
#[derive(Debug, Default)]
struct Todo {
    wanted: Option<BTreeSet<Place>>,
    reseed: bool,
    stop: bool,
}

impl Counted {
    /// Takes over what is watched, and starts the thread. It ends when this is dropped.
    ///
    /// # Errors
    /// If the maps cannot be read, or no thread can be made.
    pub fn start((tables, rounds): (PortTables, PortRounds)) -> io::Result<Self> {
        let memory = tables.memory()?;
        let settled = rounds.settled().map_err(io::Error::other)?;
        let shared = Arc::new(Shared {
            places: Mutex::new(Places::new(tables)?),
            rounds: Mutex::new(rounds),
            todo: Mutex::default(),
            news: Condvar::new(),
            reseeds: AtomicU64::new(0),
            memory,
            settled: AtomicU64::new(settled),
        });
        let of_thread = Arc::clone(&shared);
        std::thread::Builder::new().name("defib-counts".into()).spawn(move || of_thread.run())?;
        Ok(Self(shared))
    }

    /// As if the probes had counted so many connections too many.
    #[cfg(test)]
    pub(super) fn spoil(&self, place: Place, by: i64) {
        let mut places = lock(&self.0.places);
        let number = places.number(place).expect("it is watched");
        let known = places.known(place, number).expect("it is known");
        places.learn(place, number, known + by, true).expect("there is room");
    }

    /// Counts the connections at one place once more.
    #[cfg(test)]
    pub(super) fn verify(&self, place: Place) -> io::Result<Verdict> {
        self.verify_all(&BTreeSet::from([place])).remove(&place).expect("it was asked for")
    }

    /// Whether the thread has nothing left to find out about a place.
    #[cfg(test)]
    pub(super) fn is_settled(&self, place: Place) -> bool {
        lock(&self.0.places).is_confirmed(place)
    }

    /// As if the kernel had kept something from both probes.
    #[cfg(test)]
    pub(super) fn doubt(&self) {
        self.0.ask(|todo| todo.reseed = true);
    }

    /// How often each of the probes was not run.
    #[cfg(test)]
    pub(super) fn misses(&self) -> [Option<u64>; 2] {
        lock(&self.0.places).tables.misses()
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.ask(|todo| todo.stop = true);
    }
}

impl Counter for Counted {
    fn watch(&self, places: &BTreeSet<Place>) -> usize {
        self.0.ask(|todo| todo.wanted = Some(places.iter().take(MAX_PLACES).copied().collect()));
        places.len().saturating_sub(MAX_PLACES)
    }

    fn counts(&self, place: Place, _seen: Option<&Seen>) -> Option<Counts> {
        let shared = &self.0;
        let mut places = lock(&shared.places);
        let doubts = places.tables.doubts().unwrap_or(0);
        if doubts > shared.settled.load(Ordering::Relaxed) {
            shared.ask(|todo| todo.reseed = true);
        }
        places.counts(place).unwrap_or_else(|error| {
            tracing::warn!(place.port, %error, "the counters of a port cannot be read");
            None
        })
    }

    fn verify_all(&self, places: &BTreeSet<Place>) -> BTreeMap<Place, io::Result<Verdict>> {
        self.0.verify(places)
    }

    fn memory(&self) -> Option<BorrowedFd<'_>> {
        Some(self.0.memory.as_fd())
    }

    fn reseeds(&self) -> Option<u64> {
        Some(self.0.reseeds.load(Ordering::Relaxed))
    }
}

impl Shared {
    fn ask(&self, change: impl FnOnce(&mut Todo)) {
        change(&mut lock(&self.todo));
        self.news.notify_one();
    }

    /// Waits until there is something to do, or it is `due`.
    fn wait(&self, due: Option<Tick>) -> Todo {
        let mut todo = lock(&self.todo);
        while todo.wanted.is_none() && !todo.reseed && !todo.stop {
            let left = due.map(|due| due.since(clock::now()));
            todo = match left {
                Some(Duration::ZERO) => break,
                Some(left) => self.news.wait_timeout(todo, left).unwrap_or_else(PoisonError::into_inner).0,
                None => self.news.wait(todo).unwrap_or_else(PoisonError::into_inner),
            };
        }
        std::mem::take(&mut todo)
    }

    fn run(&self) {
        let (mut reseed, mut reseeded): (bool, Option<Tick>) = (false, None);
        let (mut retry, mut patience): (Option<Tick>, Duration) = (None, RETRY);
        loop {
            let allowed = reseeded.map_or_else(clock::now, |reseeded| reseeded + PAUSE);
            let due = [reseed.then_some(allowed), retry].into_iter().flatten().min();
            let todo = self.wait(due);
            if todo.stop {
                return;
            }
            reseed |= todo.reseed;
            if let Some(wanted) = todo.wanted {
                if let Err(error) = lock(&self.places).watch(&wanted) {
                    tracing::warn!(%error, "not every port can be watched");
                }
                (retry, patience) = (Some(clock::now()), RETRY);
            }
            let now = clock::now();
            if retry.is_some_and(|retry| retry <= now) {
                retry = None;
                let unknown = lock(&self.places).numbers(true);
                if !unknown.is_empty() && !self.look(unknown) {
                    retry = Some(clock::now() + patience);
                    patience = (2 * patience).min(Duration::from_secs(60));
                }
            }
            if reseed && now >= allowed {
                (reseed, reseeded) = (false, Some(clock::now()));
                self.reseed();
            }
        }
    }

    /// Looks at all places, because some of what happened there may have been missed.
    fn reseed(&self) {
        let (doubts, all) = {
            let mut places = lock(&self.places);
            (places.tables.doubts().unwrap_or(0), places.numbers(false))
        };
        self.reseeds.fetch_add(1, Ordering::Relaxed);
        if !self.look(all) {
            return;
        }
        self.settled.store(doubts, Ordering::Relaxed);
        if let Err(error) = lock(&self.rounds).settle(doubts) {
            tracing::warn!(%error, "the next daemon will count connections once more");
        }
    }

    /// Looks at places until what the counters lack is known. False if it is not known of all.
    fn look(&self, mut wanted: BTreeMap<Place, u64>) -> bool {
        let mut complete = true;
        let mut before: BTreeMap<Place, i64> = BTreeMap::new();
        for look in 1..=LOOKS {
            if wanted.is_empty() {
                break;
            }
            // Another may come in between two looks.
            let found = round(&mut lock(&self.rounds), &self.places, &wanted);
            let found = match found {
                Ok((found, unseen)) => {
                    for (netns, error) in unseen {
                        tracing::debug!(netns, %error, "connections there are not counted");
                        complete = false;
                    }
                    found
                }
                Err(error) => {
                    tracing::warn!(%error, "connections cannot be counted");
                    return false;
                }
            };
            let mut places = lock(&self.places);
            wanted.retain(|place, number| {
                let Some(found) = found.get(place) else { return false };
                let (known, added) = (places.known(*place, *number), found.added());
                let was_confirmed = places.is_confirmed(*place);
                let agreed =
                    was_confirmed && known == Some(added) || before.insert(*place, added) == Some(added);
                let confirmed = agreed || look == LOOKS;
                if confirmed && was_confirmed && known != Some(added) {
                    tell(*place, known.unwrap_or_default(), *found);
                }
                if let Err(error) = places.learn(*place, *number, added, confirmed) {
                    tracing::warn!(place.port, %error, "the next daemon will count from nothing");
                }
                !confirmed
            });
        }
        complete
    }

    fn verify(&self, places: &BTreeSet<Place>) -> BTreeMap<Place, io::Result<Verdict>> {
        let (mut verdicts, mut before) = (BTreeMap::new(), BTreeMap::new());
        let mut pending = BTreeMap::new();
        for place in places {
            match lock(&self.places).number(*place) {
                Some(number) => drop(pending.insert(*place, number)),
                None => drop(verdicts.insert(*place, Err(missing("the port is not watched")))),
            }
        }
        for _ in 0..LOOKS {
            if pending.is_empty() {
                break;
            }
            let mut rounds = lock(&self.rounds);
            let (found, mut unseen) = match round(&mut rounds, &self.places, &pending) {
                Ok(found) => found,
                Err(error) => {
                    let failed = |place| (place, Err(io::Error::new(error.kind(), error.to_string())));
                    verdicts.extend(pending.into_keys().map(failed));
                    return verdicts;
                }
            };
            let mut locked = lock(&self.places);
            pending.retain(|place, number| {
                let verdict = match (found.get(place), locked.known(*place, *number)) {
                    (Some(found), Some(known)) => {
                        let verdict = verdict(known, *found);
                        // By a look that was wrong itself nothing is put right.
                        let agreed = before.insert(*place, found.added()) == Some(found.added());
                        if !verdict.is_equal() && !agreed {
                            return true;
                        }
                        let learnt = if verdict.is_equal() {
                            Ok(())
                        } else {
                            tell(*place, known, *found);
                            locked.learn(*place, *number, found.added(), true)
                        };
                        learnt.map(|()| verdict)
                    }
                    (Some(_), None) => Err(missing("nothing is counted there yet")),
                    (None, _) => {
                        let unseen = unseen.remove(&place.netns);
                        Err(unseen.unwrap_or_else(|| missing("nobody can look into its network namespace")))
                    }
                };
                verdicts.insert(*place, verdict);
                false
            });
        }
        let disagree = || io::Error::other("looks at the sockets do not agree with each other");
        verdicts.extend(pending.into_keys().map(|place| (place, Err(disagree()))));
        verdicts
    }
}

fn missing(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::NotFound, what.to_owned())
}

/// What a look says of a place of which that was known.
fn verdict(known: i64, found: Found) -> Verdict {
    let counted = u64::try_from(known + found.balance).unwrap_or(0);
    Verdict { counted, found: u64::try_from(found.established).unwrap_or(0) }
}

fn tell(place: Place, known: i64, found: Found) {
    let Verdict { counted, found } = verdict(known, found);
    tracing::warn!(
        place.port,
        place.netns,
        counted,
        found,
        "connections were counted wrongly, and are put right"
    );
}
