//! Where a stream's bytes end, from the spool or by the lane: in a file that is opened when something comes, rotated when
//! it is long or old, opened anew when somebody has moved it away.
//!
//! What cannot be written is dropped and counted; the first thing that is written after that says how much is missing.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use defib_core::model::{LogLayout, LogSpec, Tick};
use jiff::Timestamp;

use super::Kind;
use super::file::LogFile;
use super::lane::Lane;
use super::ledger::FileId;
use super::places::{self, Life};
use super::rotate::{self, Bounds};

/// How long a file that could not be written is left alone.
const RETRY: Duration = Duration::from_millis(200);

/// How often bytes that come by the lane get a time.
const TIME_EVERY: Duration = Duration::from_millis(100);

/// What the ledger is to be told while bytes are written.
pub(super) trait Account {
    /// The next byte, `ahead` of those that were handed over, goes to this place.
    fn goes_to(&self, ahead: u64, file: FileId, offset: u64);
}

/// What became of bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Outcome {
    pub(super) written: u64,
    pub(super) dropped: u64,
}

/// Where and how a file is to be.
#[derive(Debug)]
pub(super) struct Place<'a> {
    pub(super) base: &'a Path,
    pub(super) spec: &'a LogSpec,
    pub(super) kind: Kind,
}

/// The file of a stream.
#[derive(Debug, Default)]
pub(super) struct Sink {
    open: Option<LogFile>,
    life: Option<Life>,
    /// Bytes that are missing at the end of the file, and why.
    missing: u64,
    why: String,
    /// Until then nothing is tried after a failure.
    retry: Option<Tick>,
    /// When the bytes came that are written now.
    at: Option<Timestamp>,
    /// Whether `at` is not among the file's times yet.
    stamp: bool,
    /// The latest of the file's times.
    stamped: Option<Timestamp>,
    /// Whether the ledger is to be told where the next byte goes.
    untold: bool,
}

/// Bytes that are to go into a file.
#[derive(Debug)]
enum Load<'a> {
    Memory(&'a [u8]),
    /// The next so many bytes of the lane.
    Lane(&'a mut Lane, usize),
}

impl Load<'_> {
    fn len(&self) -> usize {
        match self {
            Self::Memory(bytes) => bytes.len(),
            Self::Lane(_, count) => *count,
        }
    }

    /// How many of them go into the file now; 0: it is to be rotated first.
    fn cut(&mut self, open: &mut LogFile, max: u64) -> io::Result<usize> {
        if max == 0 || open.len + self.len() as u64 <= max {
            return Ok(self.len());
        }
        let ended = open.ended()?;
        Ok(match self {
            Self::Memory(bytes) => cut(open.len, ended, bytes, max),
            Self::Lane(lane, count) => cut(open.len, ended, &lane.peek(*count)?, max),
        })
    }

    /// Adds so many of them to a file; how many it were.
    fn put(&mut self, open: &mut LogFile, most: usize) -> io::Result<usize> {
        match self {
            Self::Memory(bytes) => {
                let count = open.write(&bytes[..most])?;
                *bytes = &bytes[count..];
                Ok(count)
            }
            Self::Lane(lane, left) => {
                let count = open.pour(lane, most)?;
                *left -= count;
                Ok(count)
            }
        }
    }
}

impl Sink {
    /// From here on it is the output of this life.
    pub(super) fn begin(&mut self, life: Life, layout: LogLayout) {
        self.life = Some(life);
        if layout == LogLayout::PerStart {
            self.open = None;
        }
    }

    /// From here on the bytes came at this time.
    pub(super) fn set_time(&mut self, at: Timestamp) {
        (self.at, self.stamp) = (Some(at), true);
    }

    /// So many bytes before the next one were dropped.
    pub(super) fn miss(&mut self, bytes: u64, why: &str) {
        self.missing += bytes;
        why.clone_into(&mut self.why);
    }

    /// Closes the file until something comes.
    pub(super) fn close(&mut self) {
        self.open = None;
    }

    /// Whether it holds descriptors.
    pub(super) fn is_open(&self) -> bool {
        self.open.is_some()
    }

    /// The file and how far it has come; `None` if it is not as the stream is: not open, or bytes are missing.
    pub(super) fn mark(&self) -> Option<(FileId, u64)> {
        self.open.as_ref().filter(|_| self.missing == 0).map(|open| (open.id, open.len))
    }

    /// Writes, rotates, drops: all bytes are dealt with when it returns.
    pub(super) fn write(
        &mut self,
        bytes: &[u8],
        place: &Place<'_>,
        account: &impl Account,
        now: Tick,
    ) -> Outcome {
        let outcome = self.write_load(&mut Load::Memory(bytes), place, account, now);
        if outcome.dropped > 0 {
            account.goes_to(outcome.written + outcome.dropped, FileId::default(), 0);
        }
        outcome
    }

    /// Whether what comes may go by a lane: opens the file, to see whether it can be spliced into.
    pub(super) fn takes_lanes(&mut self, place: &Place<'_>, now: Tick) -> io::Result<bool> {
        if self.retry.is_some_and(|retry| now < retry) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.current(place, now).map(|(open, _)| open.takes_lanes())
    }

    /// As [`Sink::write`] the next so many bytes of a lane, which came at `at`. The ledger is told where they go, and will be
    /// told where what is written after them goes.
    pub(super) fn pour(
        &mut self,
        lane: &mut Lane,
        count: usize,
        at: Timestamp,
        place: &Place<'_>,
        account: &impl Account,
        now: Tick,
    ) -> Outcome {
        let due = |last: Timestamp| at.duration_since(last).unsigned_abs() >= TIME_EVERY;
        self.at = Some(at);
        self.stamp |= self.stamped.is_none_or(due);
        self.untold = true;
        let mut load = Load::Lane(lane, count);
        let outcome = self.write_load(&mut load, place, account, now);
        if let Load::Lane(lane, left @ 1..) = load {
            lane.discard(left);
        }
        self.untold = true;
        outcome
    }

    fn write_load(
        &mut self,
        load: &mut Load<'_>,
        place: &Place<'_>,
        account: &impl Account,
        now: Tick,
    ) -> Outcome {
        let mut outcome = Outcome::default();
        if self.retry.is_some_and(|retry| now < retry) {
            return self.give_up(load.len(), outcome);
        }
        self.retry = None;
        while load.len() > 0 {
            match self.put(load, outcome.written, place, account, now) {
                Ok(count) => outcome.written += count as u64,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    if self.missing == 0 {
                        tracing::warn!(file = %self.path(place).display(), error = error.to_string(), "output is dropped: the log cannot be written");
                    }
                    self.why = error.to_string();
                    self.retry = Some(now + RETRY);
                    self.open = None;
                    return self.give_up(load.len(), outcome);
                }
            }
        }
        outcome
    }

    fn give_up(&mut self, rest: usize, outcome: Outcome) -> Outcome {
        self.missing += rest as u64;
        Outcome { dropped: rest as u64, ..outcome }
    }

    fn path(&self, place: &Place<'_>) -> PathBuf {
        places::file(place.base, place.spec.layout, place.kind, self.life)
    }

    /// The file, opened if it is not, and whether it was.
    fn current(&mut self, place: &Place<'_>, now: Tick) -> io::Result<(&mut LogFile, bool)> {
        let path = self.path(place);
        if let Some(open) = &mut self.open
            && (open.path != path || !open.is_current(now))
        {
            self.open = None;
        }
        match &mut self.open {
            Some(open) => Ok((open, false)),
            none => {
                (self.stamp, self.untold) = (true, true);
                let at = self.at.unwrap_or_else(Timestamp::now);
                Ok((none.insert(LogFile::open(path, at, now)?), true))
            }
        }
    }

    /// Writes a part of the bytes; 0 if it has only made room for them.
    fn put(
        &mut self,
        load: &mut Load<'_>,
        ahead: u64,
        place: &Place<'_>,
        account: &impl Account,
        now: Tick,
    ) -> io::Result<usize> {
        if matches!(load, Load::Lane(..)) && self.open.as_ref().is_some_and(|open| !open.is_as_long()) {
            self.open = None;
        }
        let at = self.at.unwrap_or_else(Timestamp::now);
        let spec = place.spec;
        let (open, fresh) = self.current(place, now)?;
        let aged = spec.max_age.is_some_and(|most| at.duration_since(open.begun).unsigned_abs() > most);
        let count = if aged && open.len > 0 && open.ended()? { 0 } else { load.cut(open, spec.max_size)? };
        if count == 0 {
            let path = open.path.clone();
            self.open = None;
            rotate::shift(&path, spec.max_files)?;
            tidy(&path, place);
            return Ok(0);
        }
        if fresh {
            tidy_folders(place);
        }
        let Some(open) = &mut self.open else { return Ok(0) };
        if self.untold {
            account.goes_to(ahead, open.id, open.len);
            self.untold = false;
        }
        if self.missing > 0 {
            let line = if open.ended()? { "" } else { "\n" };
            let notice =
                format!("{line}defib: {} bytes of output are missing here: {}\n", self.missing, self.why);
            account.goes_to(ahead, open.id, open.len + notice.len() as u64);
            open.write_all(notice.as_bytes())?;
            tracing::info!(file = %open.path.display(), bytes = self.missing, "the log is written again");
            self.missing = 0;
        }
        if self.stamp {
            open.add_time(at);
            (self.stamp, self.stamped) = (false, Some(at));
        }
        load.put(open, count)
    }
}

/// Removes what is too much of the rotated files of a log.
fn tidy(current: &Path, place: &Place<'_>) {
    let spec = place.spec;
    let bounds = Bounds { files: Some(spec.max_files), age: spec.max_age, total: spec.max_total };
    rotate::prune(&rotate::rotated(current), 0, bounds, super::usage::wall());
}

/// Removes the folders of lives that are too many, too old or too large.
fn tidy_folders(place: &Place<'_>) {
    if place.spec.layout == LogLayout::PerStart {
        super::usage::prune_folders(place.base, place.spec);
    }
}

/// How many bytes go into a file of `len` bytes that is to be rotated at `max`: whole lines if possible, and 0 if the file
/// is to be rotated first. A line that does not fit makes the file up to twice as long before it is cut.
fn cut(len: u64, ended: bool, bytes: &[u8], max: u64) -> usize {
    if max == 0 || len + bytes.len() as u64 <= max {
        return bytes.len();
    }
    let fit = |room: u64| bytes.len().min(usize::try_from(room).unwrap_or(usize::MAX));
    let room = fit(max.saturating_sub(len));
    if let Some(last) = bytes[..room].iter().rposition(|byte| *byte == b'\n') {
        return last + 1;
    }
    if ended && len > 0 {
        return 0;
    }
    let hard = fit(max.saturating_mul(2).saturating_sub(len));
    bytes[..hard].iter().position(|byte| *byte == b'\n').map_or(hard, |first| first + 1)
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::fs;

    use super::*;

    #[derive(Default)]
    struct Said(RefCell<Vec<(u64, u64)>>);

    impl Account for Said {
        fn goes_to(&self, ahead: u64, _: FileId, offset: u64) {
            self.0.borrow_mut().push((ahead, offset));
        }
    }

    #[test]
    fn lines_stay_whole_unless_they_are_longer_than_two_files() {
        for (len, ended, bytes, wanted) in [
            (0, true, &b"abc\ndef\n"[..], 8),
            (4, true, b"abc\ndef\n", 4),
            (9, true, b"abc\n", 0),
            (9, false, b"c\nabc\n", 2),
            (10, false, b"c\nabc\n", 2),
            (20, false, b"c\nabc\n", 0),
            (0, true, b"0123456789abcdefghijklm", 20),
            (0, true, b"0123456789abc\nm", 14),
        ] {
            assert_eq!(
                cut(len, ended, bytes, 10),
                wanted,
                "{len} {ended} {:?}",
                String::from_utf8_lossy(bytes)
            );
        }
    }

    #[test]
    fn what_is_missing_is_told_where_it_is_missing() {
        let folder = tempfile::tempdir().unwrap();
        let base = folder.path().join("no/a.log");
        fs::write(folder.path().join("no"), "").unwrap();
        let spec = LogSpec::default();
        let place = Place { base: &base, spec: &spec, kind: Kind::Joined };
        let (mut sink, said) = (Sink::default(), Said::default());
        let tick = |ms: u64| Tick(ms * 1_000_000);
        assert_eq!(sink.write(b"lost", &place, &said, tick(1)), Outcome { written: 0, dropped: 4 });
        fs::remove_file(folder.path().join("no")).unwrap();
        assert_eq!(sink.write(b"too", &place, &said, tick(2)).dropped, 3, "not tried again so soon");
        assert_eq!(sink.write(b"back\n", &place, &said, tick(900)).written, 5);
        let text = fs::read_to_string(&base).unwrap();
        assert!(text.starts_with("defib: 7 bytes of output are missing here: "), "{text}");
        assert!(text.ends_with("\nback\n"), "{text}");
        let notice = (text.len() - 5) as u64;
        assert_eq!(said.0.into_inner(), [(4, 0), (3, 0), (0, 0), (0, notice)]);
    }

    #[test]
    fn what_comes_by_the_lane_is_rotated_at_lines_and_the_ledger_hears_of_what_follows() {
        let folder = tempfile::tempdir().unwrap();
        let base = folder.path().join("a.log");
        let spec = LogSpec { max_size: 10, ..LogSpec::default() };
        let place = Place { base: &base, spec: &spec, kind: Kind::Joined };
        let (mut sink, said) = (Sink::default(), Said::default());
        sink.write(b"one\n", &place, &said, Tick(0));
        let pipe = super::super::lane::make().unwrap();
        rustix::io::write(&pipe, b"two\nthree\nfour\n").unwrap();
        let mut lane = Lane::new().unwrap();
        assert!(sink.takes_lanes(&place, Tick(0)).unwrap());
        assert_eq!(lane.show(&pipe), 15);
        let outcome = sink.pour(&mut lane, 15, Timestamp::UNIX_EPOCH, &place, &said, Tick(0));
        assert_eq!((outcome, lane.peek(1).is_err()), (Outcome { written: 15, dropped: 0 }, true));
        sink.write(b"5\n", &place, &said, Tick(0));
        let text = |number| fs::read_to_string(places::rotated(&base, number)).unwrap();
        assert_eq!([text(2), text(1), text(0)], ["one\ntwo\n", "three\n", "four\n5\n"]);
        assert_eq!(said.0.into_inner(), [(0, 0), (0, 4), (4, 0), (10, 0), (0, 5)]);
    }

    #[test]
    fn what_the_lane_holds_for_a_file_that_cannot_be_written_is_dropped_and_counted() {
        let folder = tempfile::tempdir().unwrap();
        let base = folder.path().join("a.log");
        let spec = LogSpec::default();
        let place = Place { base: &base, spec: &spec, kind: Kind::Joined };
        let mut sink = Sink::default();
        let pipe = super::super::lane::make().unwrap();
        rustix::io::write(&pipe, b"lost").unwrap();
        let mut lane = Lane::new().unwrap();
        fs::create_dir(&base).unwrap();
        assert_eq!(lane.show(&pipe), 4);
        let said = Said::default();
        let outcome = sink.pour(&mut lane, 4, Timestamp::UNIX_EPOCH, &place, &said, Tick(0));
        assert_eq!((outcome, lane.peek(1).is_err()), (Outcome { written: 0, dropped: 4 }, true));
        assert!(sink.takes_lanes(&place, Tick(1)).is_err(), "not tried again so soon");
    }

    #[test]
    fn a_file_that_was_moved_away_is_made_anew() {
        let folder = tempfile::tempdir().unwrap();
        let base = folder.path().join("a.log");
        let spec = LogSpec::default();
        let place = Place { base: &base, spec: &spec, kind: Kind::Joined };
        let (mut sink, said) = (Sink::default(), Said::default());
        sink.write(b"one\n", &place, &said, Tick(0));
        fs::rename(&base, folder.path().join("moved")).unwrap();
        sink.write(b"two\n", &place, &said, Tick(10));
        sink.write(b"three\n", &place, &said, Tick(2_000_000_000));
        assert_eq!(fs::read_to_string(folder.path().join("moved")).unwrap(), "one\ntwo\n");
        assert_eq!(fs::read_to_string(base).unwrap(), "three\n");
    }
}
