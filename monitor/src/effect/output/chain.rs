//! The files of one stream, from the oldest to the youngest, and what memory holds behind them, as one row of lines.

use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use defib_core::model::LogLayout;
use jiff::Timestamp;

use super::Kind;
use super::ledger::FileId;
use super::lines::{Cutter, Line};
use super::places;
use super::ring::Piece;
use super::stream::Mark;
use super::times::{self, Stamp};

/// What is read at once.
const BLOCK: usize = 128 * 1024;

/// The most files of one stream that are read.
const FILES: usize = 4096;

/// A part of a file.
#[derive(Debug)]
struct Part {
    file: File,
    stamps: Vec<Stamp>,
    from: u64,
    to: u64,
}

/// The row.
#[derive(Debug)]
pub(super) struct Chain {
    /// The youngest first, as they are used up from the back.
    parts: Vec<Part>,
    memory: std::vec::IntoIter<Piece>,
    cutter: Cutter,
    ready: std::collections::VecDeque<Line>,
    block: Vec<u8>,
    done: bool,
}

impl Chain {
    /// Opens the files of a stream: those up to `mark`, and `memory` behind it. A rotation meanwhile does no harm: files
    /// only move to higher numbers, so one may be met twice, and none is missed.
    pub(super) fn open(
        base: &Path,
        layout: LogLayout,
        kind: Kind,
        mark: Option<Mark>,
        memory: Vec<Piece>,
    ) -> Self {
        let mut found: Vec<(FileId, Part)> = Vec::new();
        for current in places::currents(base, layout, kind) {
            for number in 0.. {
                let path = places::rotated(&current, number);
                // Between a rotation and the next byte there is no current file.
                let Ok((id, part)) = open(&path) else { if number == 0 { continue } else { break } };
                if found.len() < FILES && found.iter().all(|(other, _)| *other != id) {
                    found.push((id, part));
                }
            }
        }
        // What is younger than the mark is in memory, too.
        if let Some(mark) = mark
            && let Some(place) = found.iter().position(|(id, _)| *id == mark.file)
        {
            found.drain(..place);
            found[0].1.to = mark.offset.min(found[0].1.to);
        }
        let parts = found.into_iter().map(|(_, part)| part).collect();
        Self { parts, ..Self::of_memory(kind, memory) }
    }

    /// What memory holds, without any file.
    pub(super) fn of_memory(kind: Kind, memory: Vec<Piece>) -> Self {
        Self {
            parts: Vec::new(),
            memory: memory.into_iter(),
            cutter: Cutter::new(kind),
            ready: Default::default(),
            block: Vec::new(),
            done: false,
        }
    }

    /// Of which stream.
    pub(super) fn kind(&self) -> Kind {
        self.cutter.stream()
    }

    /// Leaves out what came before a time, as far as the files' times say. The lines are to be looked at still.
    pub(super) fn skip_to(&mut self, since: Timestamp) {
        let mut keep = self.parts.len();
        for (index, part) in self.parts.iter_mut().enumerate() {
            let begins_before = part.stamps.first().is_none_or(|stamp| stamp.at < since);
            if begins_before {
                // The last stamp before the first one that is late enough.
                let later = part.stamps.iter().position(|stamp| stamp.at >= since);
                let from = match later {
                    Some(0) | None if part.stamps.is_empty() => 0,
                    Some(later) => part.stamps[later.saturating_sub(1)].offset,
                    None => part.stamps.last().map_or(0, |stamp| stamp.offset),
                };
                part.from = line_start(&part.file, from.min(part.to));
                keep = index + 1;
                break;
            }
        }
        self.parts.truncate(keep);
    }

    /// Leaves out all but the last lines of the files, read from their ends: `wanted` of them, or a few more.
    pub(super) fn skip_to_last(&mut self, wanted: usize) {
        // A line that goes on in the next file is counted in both.
        let mut left = wanted.saturating_add(self.parts.len());
        for index in 0..self.parts.len() {
            let part = &mut self.parts[index];
            let (from, found) = last_lines(&part.file, part.from, part.to, left);
            part.from = from;
            left -= found.min(left);
            if left == 0 {
                self.parts.truncate(index + 1);
                return;
            }
        }
    }

    fn fill(&mut self) -> io::Result<()> {
        let Self { parts, memory, cutter, ready, block, done } = self;
        if let Some(part) = parts.last_mut() {
            if part.from >= part.to {
                parts.pop();
                return Ok(());
            }
            // Up to where the bytes share a time.
            let next = part.stamps.partition_point(|stamp| stamp.offset <= part.from);
            let until = part.stamps.get(next).map_or(part.to, |stamp| stamp.offset.min(part.to));
            let at = next.checked_sub(1).map(|index| part.stamps[index].at);
            let count = usize::try_from(until - part.from).unwrap_or(BLOCK).min(BLOCK);
            block.resize(BLOCK, 0);
            let read = part.file.read_at(&mut block[..count], part.from)?;
            if read == 0 {
                part.to = part.from;
            }
            part.from += read as u64;
            cutter.push(at, &block[..read], |line| ready.push_back(line));
        } else if let Some(piece) = memory.next() {
            cutter.push(Some(piece.at), &piece.bytes, |line| ready.push_back(line));
        } else {
            *done = true;
        }
        Ok(())
    }

    /// What has no end yet, when everything has been read.
    pub(super) fn rest(&mut self) -> Option<Line> {
        self.cutter.finish()
    }
}

impl Iterator for Chain {
    type Item = Line;

    fn next(&mut self) -> Option<Line> {
        loop {
            if let Some(line) = self.ready.pop_front() {
                return Some(line);
            }
            if self.done {
                return None;
            }
            if let Err(error) = self.fill() {
                tracing::warn!(%error, "a log cannot be read");
                self.parts.pop();
            }
        }
    }
}

fn open(path: &Path) -> io::Result<(FileId, Part)> {
    let file = File::options().read(true).custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path)?;
    let found = file.metadata()?;
    if !found.is_file() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    let id = FileId { device: found.dev(), inode: found.ino() };
    Ok((id, Part { file, stamps: times::of(path), from: 0, to: found.len() }))
}

/// The start of the line that a byte belongs to, if that is near; else the byte.
fn line_start(file: &File, at: u64) -> u64 {
    let from = at.saturating_sub(BLOCK as u64);
    let mut block = vec![0; usize::try_from(at - from).unwrap_or(0)];
    if file.read_exact_at(&mut block, from).is_err() {
        return at;
    }
    match block.iter().rposition(|byte| *byte == b'\n') {
        Some(newline) => from + newline as u64 + 1,
        None if from == 0 => 0,
        None => at,
    }
}

/// Where the last `wanted` lines of a part begin, and how many there are if it has fewer.
fn last_lines(file: &File, from: u64, to: u64, wanted: usize) -> (u64, usize) {
    if wanted == 0 {
        return (to, 0);
    }
    let (mut end, mut found) = (to, 0);
    let mut block = vec![0; BLOCK];
    while end > from {
        let begin = end.saturating_sub(BLOCK as u64).max(from);
        let count = usize::try_from(end - begin).unwrap_or(0);
        if file.read_exact_at(&mut block[..count], begin).is_err() {
            return (end, found);
        }
        for index in (0..count).rev().filter(|index| block[*index] == b'\n') {
            let after = begin + index as u64 + 1;
            // The newline at the very end ends the last line.
            if after < to {
                found += 1;
                if found == wanted {
                    return (after, found);
                }
            }
        }
        end = begin;
    }
    (from, found + usize::from(to > from))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn row(mut chain: Chain) -> Vec<String> {
        let mut lines: Vec<_> = chain.by_ref().collect();
        lines.extend(chain.rest());
        lines.into_iter().map(|line| String::from_utf8(line.bytes).unwrap()).collect()
    }

    #[test]
    fn the_last_lines_are_found_from_the_end_over_several_files() {
        let folder = tempfile::tempdir().unwrap();
        let base = folder.path().join("a.log");
        fs::write(places::rotated(&base, 2), "1\n2\n").unwrap();
        fs::write(places::rotated(&base, 1), "3\n4\nfi").unwrap();
        fs::write(&base, "ve\n6\nse").unwrap();
        let open = || Chain::open(&base, LogLayout::Single, Kind::Joined, None, Vec::new());
        assert_eq!(row(open()), ["1", "2", "3", "4", "five", "6", "se"]);
        for wanted in 1..5 {
            let mut chain = open();
            chain.skip_to_last(wanted);
            let row = row(chain);
            assert!(row.len() >= wanted && row.len() <= wanted + 3, "{wanted}: {row:?}");
            assert!(row.ends_with(&["se".to_owned()]));
        }
        let mut all = open();
        all.skip_to_last(100);
        assert_eq!(row(all).len(), 7);
    }

    #[test]
    fn what_is_in_memory_is_not_read_from_the_file_too() {
        let folder = tempfile::tempdir().unwrap();
        let base = folder.path().join("a.log");
        fs::write(&base, "one\ntwo\nthree\n").unwrap();
        let found = fs::metadata(&base).unwrap();
        let mark = Mark { file: FileId { device: found.dev(), inode: found.ino() }, offset: 6, captured: 6 };
        let mut ring = super::super::ring::Ring::default();
        let limits = super::super::ring::Limits { lines: 10, memory: 100 };
        ring.push(Timestamp::now(), 0, b"one\ntwo\nthree\n", limits);
        let memory = ring.since(mark.captured).1;
        let chain = Chain::open(&base, LogLayout::Single, Kind::Joined, Some(mark), memory);
        assert_eq!(row(chain), ["one", "two", "three"]);
    }
}
