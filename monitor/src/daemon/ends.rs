//! The latest ends that were told, in a file in memory: what a daemon tells dies with it where nobody has read it yet.
//!
//! An end is written here before the keeper is told that it is known, and its number among the events before anybody is
//! told of it. So whoever is killed at whatever moment, the next daemon finds here what was told, or was about to be:
//!
//! | killed | the keeper still has the end | here | the next daemon |
//! | --- | --- | --- | --- |
//! | before it is written here | yes | no | tells it when the keeper does |
//! | before the keeper is told | yes | yes | tells what is written here, and not what the keeper tells of it |
//! | before anybody is told | no | yes, without a number | tells it, by a new number |
//! | later | no | yes, with its number | has it among its events by that number, for who had not got so far |
//!
//! The state database keeps, in the transaction that has an end, how far it has got in this file: what is behind that is
//! written by the next daemon. The file has a name beside those of the services' pipes, so it outlives the keeper too; where
//! those have none the keeper holds it. It does not outlive the boot.

use std::collections::{BTreeMap, VecDeque};
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use defib_core::KnownLife;
use defib_core::model::{End, Incarnation, Record, ServiceName, Tick, What};
use rustix::fs::MemfdFlags;

use super::journal::{Entry, Event};
use super::keeper_ends::Lives;
use crate::effect::clock;
use crate::state::{self, Place};

/// The name under which the keeper holds it.
pub(super) const HELD: &str = "ends";

/// Its name beside the pipes.
const NAME: &str = "ends";

/// How many ends are kept. What is told within a commit of the state database must fit, and what a client may not have
/// read: at a thousand restarts in a second some hundred. An older one gives way.
const KEPT: u64 = 512;

/// Where the first one is.
const HEAD: u64 = 1024;

/// How long one may be. A page holds a whole number of them: none is written by halves, whoever is killed.
const LENGTH: usize = 1024;

/// How the file begins: to be changed with its form. One that begins otherwise is begun anew. The records are JSON, as in
/// the state database.
const FORM: &[u8; 8] = b"defib-e1";

/// How far the starts of one life may be apart, in nanoseconds: who was taken over may be known by hundredths of a second. Two
/// processes with the same number in this time are two lives of the service, with two numbers of their own.
const NEAR: u64 = 1_000_000_000;

/// Of each: its place, its number among the events, the length of the record.
const WORDS: usize = 8 + 8 + 4;

/// A life, as one process.
type Key = (ServiceName, u64, u32, Tick);

/// The ends that were told.
#[derive(Debug)]
pub(super) struct Ends {
    file: Option<File>,
    name: Option<PathBuf>,
    /// Which file this is: a place in another one means nothing in it.
    id: u64,
    next: u64,
    /// What earlier daemons have told, until this one has heard of all that the keeper has.
    earlier: BTreeMap<Key, End>,
    /// The lives whose ends have been written and not told, and where those are.
    untold: VecDeque<(ServiceName, Incarnation, Option<u64>)>,
}

/// An end that an earlier daemon has written.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Earlier {
    pub(super) place: Place,
    /// Its number among the events, if it had got one.
    seq: Option<u64>,
    pub(super) record: Record,
}

impl Ends {
    /// Opens what there is in this folder, or else what the keeper has held; or makes it. Without one nothing is lost but
    /// what dies with a daemon.
    pub(super) fn open(folder: Option<&Path>, held: Option<OwnedFd>) -> (Self, Vec<Earlier>) {
        let name = folder.map(|folder| folder.join(NAME));
        let file = match (&name, held) {
            (Some(name), _) => {
                let mut options = File::options();
                options.read(true).write(true).create(true).truncate(false).mode(0o600);
                options.custom_flags(libc::O_NOFOLLOW).open(name)
            }
            (None, Some(held)) => Ok(held.into()),
            (None, None) => {
                let made = rustix::fs::memfd_create("defib-ends", MemfdFlags::CLOEXEC);
                made.map(File::from).map_err(Into::into)
            }
        };
        let file = file.inspect_err(|error| {
            tracing::warn!(%error, "ends have no file: what a daemon has not told everybody is lost if it is killed");
        });
        let mut it =
            Self { file: file.ok(), name, id: 0, next: 1, earlier: BTreeMap::new(), untold: VecDeque::new() };
        let found = it.read().unwrap_or_else(|error| {
            tracing::error!(%error, "the ends that an earlier daemon has told cannot be read");
            it.file = None;
            Vec::new()
        });
        (it, found)
    }

    /// The file, for the keeper, if it has no name.
    pub(super) fn to_hold(&self) -> Option<OwnedFd> {
        let file = self.file.as_ref().filter(|_| self.name.is_none())?;
        file.as_fd().try_clone_to_owned().ok()
    }

    /// Reads it, oldest first; begins it if it is not of this boot.
    fn read(&mut self) -> io::Result<Vec<Earlier>> {
        let Some(file) = &self.file else { return Ok(Vec::new()) };
        let boot = state::boot_id();
        let bytes = read_all(file)?;
        let head = [FORM, boot.as_bytes()].concat();
        let id =
            bytes.get(head.len()..head.len() + 8).and_then(|id| id.try_into().ok()).map(u64::from_le_bytes);
        match id {
            Some(id) if bytes.starts_with(&head) => self.id = id,
            Some(_) | None => {
                let id = clock::wall(clock::now()).as_nanosecond();
                self.id = u64::try_from(id).unwrap_or_default();
                file.set_len(0)?;
                file.write_all_at(&[&head[..], &self.id.to_le_bytes()].concat(), 0)?;
                return Ok(Vec::new());
            }
        }
        let rest = bytes.get(HEAD as usize..).unwrap_or_default();
        let mut found: Vec<Earlier> =
            (0..).zip(rest.chunks(LENGTH)).filter_map(|(at, bytes)| earlier(self.id, at, bytes)).collect();
        found.sort_by_key(|it| it.place.number);
        self.next = found.last().map_or(1, |last| last.place.number + 1);
        let known = found.iter().filter_map(|it| Some((key(&it.record)?, end(&it.record)?.clone())));
        self.earlier = known.collect();
        Ok(found)
    }

    /// An end is about to be told: writes it down. `false`: an earlier daemon has told it, and nobody is to be told again.
    /// To be called before the keeper is told that it is known.
    pub(super) fn take_in(&mut self, record: &Record) -> bool {
        if end(record).is_none() {
            return true;
        }
        if key(record).is_some_and(|key| self.told(key).is_some()) {
            return false;
        }
        let place = self.write(record).unwrap_or_else(|error| {
            tracing::error!(%error, "an end cannot be written down: it is lost if this daemon is killed now");
            None
        });
        self.untold.push_back((record.service.clone(), record.incarnation, place));
        true
    }

    fn write(&mut self, record: &Record) -> io::Result<Option<u64>> {
        let Some(file) = &self.file else { return Ok(None) };
        let mut bytes = [self.next.to_le_bytes(), 0_u64.to_le_bytes()].concat();
        bytes.extend([0; 4]);
        serde_json::to_writer(&mut bytes, record)?;
        if bytes.len() > LENGTH {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, "its record is too long"));
        }
        let length = (bytes.len() - WORDS) as u32;
        bytes[16..WORDS].copy_from_slice(&length.to_le_bytes());
        file.write_all_at(&bytes, at(self.next))?;
        self.next += 1;
        Ok(Some(self.next - 1))
    }

    /// A record is told now, by this number. Returns where it was written, if it is one of an end.
    pub(super) fn tell(&mut self, record: &Record, seq: u64) -> Option<Place> {
        end(record)?;
        let it = |(service, life, _): &(ServiceName, Incarnation, _)| {
            *service == record.service && *life == record.incarnation
        };
        let at = self.untold.iter().position(it)?;
        let number = self.untold.remove(at)?.2?;
        self.number(number, seq);
        Some(Place { file: self.id, number })
    }

    fn number(&self, number: u64, seq: u64) {
        if let Some(file) = &self.file
            && let Err(error) = file.write_all_at(&seq.to_le_bytes(), at(number) + 8)
        {
            tracing::error!(%error, "that an end was told cannot be written down: it may be told again");
        }
    }

    /// What was told of the end of a life, by whichever of its starts: exact, or as `/proc` has it.
    fn told(&self, (service, incarnation, pid, started): Key) -> Option<&End> {
        let at = |started| (service.clone(), incarnation, pid, Tick(started));
        let (from, to) = (started.0.saturating_sub(NEAR), started.0.saturating_add(NEAR));
        self.earlier.range(at(from)..=at(to)).next().map(|(_, end)| end)
    }

    /// How a life has ended that an earlier daemon has told the end of.
    pub(super) fn known(&self, service: &ServiceName, life: KnownLife) -> Option<&End> {
        self.told((service.clone(), life.incarnation.0, life.pid, life.started))
    }

    /// Adds what earlier daemons have told to what the keeper knew, for the lives before those: the state database may know
    /// less. Later ones may be of another service that once had the name.
    pub(super) fn add_to(&self, services: &mut BTreeMap<ServiceName, Lives>) {
        for ((service, incarnation, pid, started), end) in &self.earlier {
            let life = KnownLife { incarnation: Incarnation(*incarnation), pid: *pid, started: *started };
            if let Some(lives) = services.get_mut(service)
                && lives.last_key_value().is_some_and(|(last, _)| life.incarnation < *last)
            {
                lives.entry(life.incarnation).or_insert_with(|| (life, Some(end.clone())));
            }
        }
    }

    /// The keeper has told all that it had: from now on every end is a new one.
    pub(super) fn begin(&mut self) {
        self.earlier = BTreeMap::new();
    }

    /// Every service has ended, and all is written.
    pub(super) fn leave(self) {
        if let Some(name) = self.name {
            fs::remove_file(name).ok();
        }
    }

    /// What earlier daemons have told, for who reads on, and what they have not told anybody. `first` is the number of the
    /// first event of this daemon, and is moved behind what gets one now.
    pub(super) fn past(&self, found: &[Earlier], first: &mut u64) -> (Vec<Entry>, Vec<Record>) {
        let latest = found.iter().filter_map(|it| it.seq).max().unwrap_or(0);
        *first = latest.saturating_add(1).max(*first);
        let (mut past, mut untold) = (Vec::new(), Vec::new());
        for it in found {
            let seq = it.seq.unwrap_or_else(|| {
                self.number(it.place.number, *first);
                untold.push(it.record.clone());
                *first += 1;
                *first - 1
            });
            past.push(Entry { seq, at: it.record.at, event: Event::Service(it.record.clone()), apart: true });
        }
        past.sort_by_key(|entry| entry.seq);
        (past, untold)
    }
}

/// Where one is in the file.
fn at(number: u64) -> u64 {
    HEAD + number % KEPT * LENGTH as u64
}

fn read_all(file: &File) -> io::Result<Vec<u8>> {
    let most = HEAD + KEPT * LENGTH as u64;
    let mut bytes = vec![0; usize::try_from(file.metadata()?.len().min(most)).unwrap_or_default()];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}

/// What is written at a place; `None`: nothing, or nothing that this version understands.
fn earlier(file: u64, at: u64, bytes: &[u8]) -> Option<Earlier> {
    let word = |at: usize| bytes.get(at..at + 8)?.try_into().ok().map(u64::from_le_bytes);
    let (number, seq) = (word(0)?, word(8)?);
    let length = u32::from_le_bytes(bytes.get(16..WORDS)?.try_into().ok()?);
    if number == 0 || number % KEPT != at {
        return None;
    }
    let text = bytes.get(WORDS..WORDS + length as usize)?;
    let record = serde_json::from_slice(text).ok()?;
    Some(Earlier { place: Place { file, number }, seq: Some(seq).filter(|seq| *seq > 0), record })
}

fn end(record: &Record) -> Option<&End> {
    match &record.what {
        What::Exit { ending, .. } => Some(&ending.end),
        What::State { .. }
        | What::StartFailed { .. }
        | What::PortTaken(_)
        | What::Listen { .. }
        | What::Unlisten { .. }
        | What::Restart { .. } => None,
    }
}

fn key(record: &Record) -> Option<Key> {
    let What::Exit { started, .. } = &record.what else { return None };
    Some((record.service.clone(), record.incarnation.0, record.pid?, (*started)?))
}

#[cfg(test)]
mod tests {
    use defib_core::model::{Blame, By, Ending, Usage, WaitStatus};

    use super::*;

    fn exit(incarnation: u64) -> Record {
        let (at, status) = (Tick(incarnation * 10), Some(WaitStatus(9)));
        let end = End { status, at, usage: Usage::default(), oom: Some(false), blame: Blame::Unknown };
        let what = What::Exit { ending: Ending { end, by: By::Itself }, started: Some(Tick(incarnation)) };
        let service = "it".parse().unwrap();
        Record { at, service, incarnation: Incarnation(incarnation), pid: Some(7), what }
    }

    fn numbers(past: &[Entry]) -> Vec<u64> {
        past.iter().map(|entry| entry.seq).collect()
    }

    #[test]
    fn what_was_written_is_told_once_whoever_dies_when() {
        let folder = tempfile::tempdir().unwrap();
        let (mut ends, found) = Ends::open(Some(folder.path()), None);
        assert_eq!(found, []);
        assert!(ends.take_in(&exit(1)) && ends.take_in(&exit(2)) && ends.take_in(&exit(3)));
        let place = ends.tell(&exit(1), 40).unwrap();
        assert_eq!((place.number, ends.tell(&exit(2), 42).unwrap().number), (1, 2));
        drop(ends);

        let (mut ends, found) = Ends::open(Some(folder.path()), None);
        assert_eq!(found.iter().map(|it| it.record.clone()).collect::<Vec<_>>(), [exit(1), exit(2), exit(3)]);
        assert_eq!(found[0].place, place);
        let mut first = 100;
        let (past, untold) = ends.past(&found, &mut first);
        assert_eq!((numbers(&past), untold, first), (vec![40, 42, 100], vec![exit(3)], 101));
        // The keeper tells again what it had not been told to forget.
        assert!(!ends.take_in(&exit(3)) && ends.take_in(&exit(4)));
        assert_eq!(ends.tell(&exit(4), 101).unwrap(), Place { number: 4, ..place });
        let life = |incarnation| KnownLife {
            incarnation: Incarnation(incarnation),
            pid: 7,
            started: Tick(incarnation),
        };
        let it: ServiceName = "it".parse().unwrap();
        assert!(ends.known(&it, life(2)).is_some() && ends.known(&it, life(4)).is_none());
        let rounded = KnownLife { started: Tick(life(2).started.0 + 9_999_999), ..life(2) };
        assert!(ends.known(&it, rounded).is_some(), "a start by hundredths of a second");
        ends.begin();
        drop(ends);

        let (ends, found) = Ends::open(Some(folder.path()), None);
        // A clock that was set back does not make numbers that were used.
        let mut first = 7;
        let (past, untold) = ends.past(&found, &mut first);
        assert_eq!((numbers(&past), untold, first), (vec![40, 42, 100, 101], vec![], 102));
        ends.leave();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn the_latest_are_kept_and_what_is_damaged_is_left_out() {
        let (mut ends, _) = Ends::open(None, None);
        for life in 1..=KEPT + 10 {
            assert!(ends.take_in(&exit(life)));
            ends.tell(&exit(life), life);
        }
        let held = ends.to_hold().unwrap();
        let file = File::from(held.try_clone().unwrap());
        file.write_all_at(b"{}", at(20) + WORDS as u64).unwrap();
        let (ends, found) = Ends::open(None, Some(held));
        let kept: Vec<u64> = found.iter().map(|it| it.place.number).collect();
        assert_eq!(kept, (11..=KEPT + 10).filter(|number| *number != 20).collect::<Vec<_>>());
        assert_eq!(ends.next, KEPT + 11);
        // Of another boot, or of another form.
        file.write_all_at(b"x", 12).unwrap();
        let (other, found) = Ends::open(None, Some(file.try_clone().unwrap().into()));
        assert!(found.is_empty() && other.next == 1 && other.id != ends.id);
        file.set_len(3).unwrap();
        assert!(Ends::open(None, Some(file.into())).1.is_empty());
    }

    #[test]
    fn what_was_told_of_lives_before_those_that_the_keeper_knew_is_added() {
        let folder = tempfile::tempdir().unwrap();
        let (mut ends, _) = Ends::open(Some(folder.path()), None);
        (1..=4).for_each(|life| assert!(ends.take_in(&exit(life))));
        let (ends, _) = Ends::open(Some(folder.path()), None);
        let third = KnownLife { incarnation: Incarnation(3), pid: 1, started: Tick(3) };
        let lives = Lives::from([(Incarnation(3), (third, None))]);
        let mut services = BTreeMap::from([("it".parse().unwrap(), lives)]);
        ends.add_to(&mut services);
        let lives = &services[&"it".parse().unwrap()];
        let known: Vec<_> = lives.iter().map(|(life, (_, end))| (life.0, end.is_some())).collect();
        assert_eq!(known, [(1, true), (2, true), (3, false)]);
        let mut others = BTreeMap::new();
        ends.add_to(&mut others);
        assert!(others.is_empty());
    }

    #[test]
    fn other_records_pass() {
        let (mut ends, _) = Ends::open(None, None);
        let record = Record { what: What::Listen { port: 1 }, ..exit(1) };
        assert!(ends.take_in(&record));
        assert_eq!((ends.tell(&record, 1), ends.next), (None, 1));
    }
}
