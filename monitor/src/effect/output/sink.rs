//! One log file, as the writer's thread writes it: opened when something comes, rotated when it is long or old, opened
//! anew when somebody has moved it away.
//!
//! What cannot be written is dropped and counted; the first thing that is written after that says how much is missing.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use defib_core::model::{LogLayout, LogSpec, Tick};
use jiff::Timestamp;

use super::Kind;
use super::ledger::FileId;
use super::places::{self, Life};
use super::rotate::{self, Bounds};
use super::times::{self, Stamp};

/// How often it is looked whether the file is still the one of its name. By then it may have a new one.
const LOOK: Duration = Duration::from_secs(1);

/// How long a file that could not be written is left alone.
const RETRY: Duration = Duration::from_millis(200);

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
    open: Option<Open>,
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
}

#[derive(Debug)]
struct Open {
    file: File,
    times: Option<File>,
    path: PathBuf,
    id: FileId,
    len: u64,
    /// Whether the last byte ends a line.
    ended: bool,
    begun: Timestamp,
    looked: Tick,
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
        let mut outcome = Outcome::default();
        let mut rest = bytes;
        if self.retry.is_some_and(|retry| now < retry) {
            return self.give_up(rest, outcome, account);
        }
        self.retry = None;
        while !rest.is_empty() {
            match self.put(rest, bytes.len() - rest.len(), place, account, now) {
                Ok(count) => {
                    outcome.written += count as u64;
                    rest = &rest[count..];
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    if self.missing == 0 {
                        tracing::warn!(file = %self.path(place).display(), error = error.to_string(), "output is dropped: the log cannot be written");
                    }
                    self.why = error.to_string();
                    self.retry = Some(now + RETRY);
                    self.open = None;
                    let ahead = bytes.len() - rest.len();
                    return self.give_up(&bytes[ahead..], outcome, account);
                }
            }
        }
        outcome
    }

    fn give_up(&mut self, rest: &[u8], mut outcome: Outcome, account: &impl Account) -> Outcome {
        outcome.dropped = rest.len() as u64;
        self.missing += outcome.dropped;
        account.goes_to(outcome.written + outcome.dropped, FileId::default(), 0);
        outcome
    }

    fn path(&self, place: &Place<'_>) -> PathBuf {
        places::file(place.base, place.spec.layout, place.kind, self.life)
    }

    /// Writes a part of the bytes; 0 if it has only made room for them.
    fn put(
        &mut self,
        bytes: &[u8],
        ahead: usize,
        place: &Place<'_>,
        account: &impl Account,
        now: Tick,
    ) -> io::Result<usize> {
        let at = self.at.unwrap_or_else(Timestamp::now);
        let path = self.path(place);
        if let Some(open) = &mut self.open
            && (open.path != path || !open.is_current(now))
        {
            self.open = None;
        }
        let mut fresh = false;
        let open = match &mut self.open {
            Some(open) => open,
            none => {
                fresh = true;
                self.stamp = true;
                none.insert(Open::new(path, at, now)?)
            }
        };
        let spec = place.spec;
        let aged = spec.max_age.is_some_and(|most| at.duration_since(open.begun).unsigned_abs() > most);
        let count = if aged && open.ended && open.len > 0 {
            0
        } else {
            cut(open.len, open.ended, bytes, spec.max_size)
        };
        if count == 0 {
            let path = open.path.clone();
            self.open = None;
            rotate::shift(&path, spec.max_files)?;
            tidy(&path, place);
            return Ok(0);
        }
        if fresh {
            account.goes_to(ahead as u64, open.id, open.len);
            tidy_folders(place);
        }
        if self.missing > 0 {
            let line = if open.ended { "" } else { "\n" };
            let notice =
                format!("{line}defib: {} bytes of output are missing here: {}\n", self.missing, self.why);
            account.goes_to(ahead as u64, open.id, open.len + notice.len() as u64);
            open.file.write_all(notice.as_bytes())?;
            tracing::info!(file = %open.path.display(), bytes = self.missing, "the log is written again");
            open.len += notice.len() as u64;
            open.ended = true;
            self.missing = 0;
        }
        if self.stamp {
            open.add_time(at);
            self.stamp = false;
        }
        let count = open.file.write(&bytes[..count])?;
        open.len += count as u64;
        open.ended = count > 0 && bytes[count - 1] == b'\n';
        if count == 0 { Err(io::ErrorKind::WriteZero.into()) } else { Ok(count) }
    }
}

impl Open {
    fn new(path: PathBuf, at: Timestamp, now: Tick) -> io::Result<Self> {
        let file = open(&path)?;
        let found = file.metadata()?;
        let len = found.len();
        let mut last = [b'\n'];
        if len > 0 {
            file.read_exact_at(&mut last, len - 1)?;
        }
        let begun = times::first(&path).unwrap_or(at);
        let begun = if len == 0 { at } else { begun };
        let times = pen().open(places::times(&path)).ok();
        let id = FileId { device: found.dev(), inode: found.ino() };
        Ok(Self { file, times, path, id, len, ended: last == *b"\n", begun, looked: now })
    }

    fn add_time(&mut self, at: Timestamp) {
        let stamp = Stamp { offset: self.len, at };
        if let Some(times) = &mut self.times
            && times::add(times, stamp).is_err()
        {
            // Half a pair would shift all that follow.
            self.times = None;
        }
    }

    /// Whether it is still the file of its name; looks now and then.
    fn is_current(&mut self, now: Tick) -> bool {
        if now.since(self.looked) < LOOK {
            return true;
        }
        self.looked = now;
        let same = |found: std::fs::Metadata| found.ino() == self.id.inode && found.dev() == self.id.device;
        // Somebody may have cut it off (`copytruncate`): the next byte then goes to another offset.
        std::fs::symlink_metadata(&self.path).is_ok_and(|found| found.len() == self.len && same(found))
    }
}

/// How a log and its times are opened. A link in a log folder must not lead root's pen elsewhere, and a FIFO must not stop
/// the thread.
fn pen() -> OpenOptions {
    let mut options = File::options();
    options
        .create(true)
        .read(true)
        .append(true)
        .mode(0o644)
        .custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK);
    options
}

fn open(path: &Path) -> io::Result<File> {
    let opened = match pen().open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let folder = path.parent().unwrap_or(Path::new("/"));
            DirBuilder::new().recursive(true).mode(0o755).create(folder)?;
            pen().open(path)
        }
        opened => opened,
    };
    let file = opened?;
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no regular file"));
    }
    Ok(file)
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
