//! One log file while it is open: the end of a row of bytes, and beside it when they came.
//!
//! Small writes are appended wherever the end is by then (O_APPEND). splice(2) refuses that, so what comes by the lane goes
//! to the end as it was a moment before.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use defib_core::model::Tick;
use jiff::Timestamp;
use rustix::fs::OFlags;

use super::lane::{self, Lane};
use super::ledger::FileId;
use super::places;
use super::times::{self, Stamp};

/// How often it is looked whether the file is still the one of its name. By then it may have a new one.
const LOOK: Duration = Duration::from_secs(1);

/// An open file.
#[derive(Debug)]
pub(super) struct LogFile {
    file: File,
    times: Option<File>,
    pub(super) path: PathBuf,
    pub(super) id: FileId,
    pub(super) len: u64,
    /// Whether the last byte ends a line; `None`: nobody has looked.
    ended: Option<bool>,
    /// When its first byte came.
    pub(super) begun: Timestamp,
    looked: Tick,
    /// Whether it is open for splice(2): not O_APPEND.
    spliced: bool,
    /// Whether it could be; `None`: nobody has tried.
    can_splice: Option<bool>,
}

impl LogFile {
    /// Opens a file, made if there is none, whose next byte came at `at`.
    pub(super) fn open(path: PathBuf, at: Timestamp, now: Tick) -> io::Result<Self> {
        let file = open(&path)?;
        let found = file.metadata()?;
        let len = found.len();
        let begun = times::first(&path).unwrap_or(at);
        let begun = if len == 0 { at } else { begun };
        let times = pen().open(places::times(&path)).ok();
        let id = FileId { device: found.dev(), inode: found.ino() };
        let (spliced, can_splice) = (false, None);
        Ok(Self { file, times, path, id, len, ended: None, begun, looked: now, spliced, can_splice })
    }

    /// Whether the last byte ends a line.
    pub(super) fn ended(&mut self) -> io::Result<bool> {
        if let Some(ended) = self.ended {
            return Ok(ended);
        }
        let mut last = [b'\n'];
        if let Some(before) = self.len.checked_sub(1) {
            self.file.read_exact_at(&mut last, before)?;
        }
        Ok(*self.ended.insert(last == *b"\n"))
    }

    /// Says when the next byte came.
    pub(super) fn add_time(&mut self, at: Timestamp) {
        let stamp = Stamp { offset: self.len, at };
        if let Some(times) = &mut self.times
            && times::add(times, stamp).is_err()
        {
            // Half a pair would shift all that follow.
            self.times = None;
        }
    }

    /// Whether it is still the file of its name; looks now and then.
    pub(super) fn is_current(&mut self, now: Tick) -> bool {
        if now.since(self.looked) < LOOK {
            return true;
        }
        self.looked = now;
        let same = |found: std::fs::Metadata| found.ino() == self.id.inode && found.dev() == self.id.device;
        // Somebody may have cut it off (`copytruncate`): the next byte then goes to another offset.
        std::fs::symlink_metadata(&self.path).is_ok_and(|found| found.len() == self.len && same(found))
    }

    /// Whether it ends where it should. Looked at before each splice: behind an end that has been cut off there would be
    /// a hole.
    pub(super) fn is_as_long(&self) -> bool {
        self.file.metadata().is_ok_and(|found| found.len() == self.len)
    }

    /// Adds bytes; how many it were.
    pub(super) fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.set_spliced(false)?;
        let count = self.file.write(bytes)?;
        self.len += count as u64;
        if count > 0 {
            self.ended = Some(bytes[count - 1] == b'\n');
        }
        if count == 0 { Err(io::ErrorKind::WriteZero.into()) } else { Ok(count) }
    }

    /// Adds all of these.
    pub(super) fn write_all(&mut self, mut bytes: &[u8]) -> io::Result<()> {
        while !bytes.is_empty() {
            let count = self.write(bytes)?;
            bytes = &bytes[count..];
        }
        Ok(())
    }

    /// Whether a lane may lead here. A file system without splice(2), or a file that may only be appended to
    /// (`chattr +a`), is written from the spool.
    pub(super) fn takes_lanes(&mut self) -> bool {
        if let Some(can) = self.can_splice {
            return can;
        }
        let can = self.set_spliced(true).is_ok() && lane::leads_to(&self.file);
        *self.can_splice.insert(can)
    }

    /// Adds the next bytes of a lane; how many it were.
    pub(super) fn pour(&mut self, lane: &Lane, count: usize) -> io::Result<usize> {
        self.set_spliced(true)?;
        let count = lane.pour(&self.file, self.len, count)?;
        self.len += count as u64;
        self.ended = None;
        if count == 0 { Err(io::ErrorKind::WriteZero.into()) } else { Ok(count) }
    }

    fn set_spliced(&mut self, spliced: bool) -> io::Result<()> {
        if self.spliced != spliced {
            let flags = rustix::fs::fcntl_getfl(&self.file)?;
            let flags = if spliced { flags - OFlags::APPEND } else { flags | OFlags::APPEND };
            rustix::fs::fcntl_setfl(&self.file, flags)?;
            self.spliced = spliced;
        }
        Ok(())
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
