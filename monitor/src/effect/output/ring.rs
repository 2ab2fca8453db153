//! The last lines of a stream in memory: bytes as they came, cut into lines when somebody asks.

use std::collections::VecDeque;

use jiff::Timestamp;

/// Bytes that came within this time, in nanoseconds, share a time and a piece of memory.
const TOGETHER: i128 = 100_000_000;

/// A piece is at most this long before another one is begun.
const PIECE: usize = 32 * 1024;

/// Bytes that came together.
#[derive(Clone, Debug)]
pub(super) struct Piece {
    pub(super) at: Timestamp,
    pub(super) bytes: Vec<u8>,
    newlines: usize,
}

/// How much is kept.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) lines: usize,
    pub(super) memory: usize,
}

/// The end of a stream. Positions count all bytes that were captured.
#[derive(Debug, Default)]
pub(super) struct Ring {
    pieces: VecDeque<Piece>,
    /// The position behind the last byte.
    end: u64,
    bytes: usize,
    newlines: usize,
}

impl Ring {
    /// Takes what came at `at`: first `skipped` bytes that nobody looked at, then `bytes`.
    pub(super) fn push(&mut self, at: Timestamp, skipped: u64, bytes: &[u8], limits: Limits) {
        if skipped > 0 {
            self.clear();
        }
        self.end += skipped + bytes.len() as u64;
        let newlines = bytes.iter().filter(|byte| **byte == b'\n').count();
        match self.pieces.back_mut() {
            Some(last)
                if last.bytes.len() + bytes.len() <= PIECE
                    && (at.as_nanosecond() - last.at.as_nanosecond()).abs() < TOGETHER =>
            {
                last.bytes.extend_from_slice(bytes);
                last.newlines += newlines;
            }
            _ if bytes.is_empty() => {}
            _ => self.pieces.push_back(Piece { at, bytes: bytes.to_vec(), newlines }),
        }
        self.bytes += bytes.len();
        self.newlines += newlines;
        self.trim(limits);
    }

    fn trim(&mut self, limits: Limits) {
        while let Some(first) = self.pieces.front_mut() {
            let excess = self.bytes.saturating_sub(limits.memory);
            // Lines that are too many go with the whole piece; who asks gets no more than wanted.
            let too_many = self.newlines - first.newlines >= limits.lines && self.pieces.len() > 1;
            let Some(first) = self.pieces.front_mut() else { return };
            if excess >= first.bytes.len() || too_many {
                self.bytes -= first.bytes.len();
                self.newlines -= first.newlines;
                self.pieces.pop_front();
            } else if excess > 0 {
                let gone = first.bytes.drain(..excess).filter(|byte| *byte == b'\n').count();
                first.newlines -= gone;
                (self.bytes, self.newlines) = (self.bytes - excess, self.newlines - gone);
            } else {
                return;
            }
        }
    }

    fn clear(&mut self) {
        self.pieces.clear();
        (self.bytes, self.newlines) = (0, 0);
    }

    /// The position behind the last byte.
    pub(super) fn end(&self) -> u64 {
        self.end
    }

    /// How many whole lines there are.
    pub(super) fn lines(&self) -> usize {
        self.newlines
    }

    /// What is kept from a position on, and how many bytes from there on are not kept any more.
    pub(super) fn since(&self, pos: u64) -> (u64, Vec<Piece>) {
        let start = self.end - self.bytes as u64;
        let missed = start.saturating_sub(pos);
        let mut skip = usize::try_from(pos.saturating_sub(start)).unwrap_or(usize::MAX);
        let mut found = Vec::new();
        for piece in &self.pieces {
            if skip >= piece.bytes.len() {
                skip -= piece.bytes.len();
                continue;
            }
            found.push(Piece { at: piece.at, bytes: piece.bytes[skip..].to_vec(), newlines: 0 });
            skip = 0;
        }
        (missed, found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits { lines: 3, memory: 100 };

    fn at(ms: i64) -> Timestamp {
        Timestamp::from_millisecond(ms).unwrap()
    }

    fn text(ring: &Ring, pos: u64) -> (u64, String) {
        let (missed, pieces) = ring.since(pos);
        (missed, pieces.into_iter().map(|piece| String::from_utf8(piece.bytes).unwrap()).collect())
    }

    #[test]
    fn memory_is_bounded_to_the_byte() {
        let mut ring = Ring::default();
        for n in 0..50 {
            ring.push(at(n * 1000), 0, &[b'x'; 30], LIMITS);
            assert!(ring.bytes <= 100);
        }
        assert_eq!((ring.end(), text(&ring, 0).0), (1500, 1400));
        ring.push(at(0), 0, &[b'y'; 300], LIMITS);
        assert_eq!(text(&ring, 1750), (0, "y".repeat(50)));
    }

    #[test]
    fn lines_are_bounded_by_whole_pieces() {
        let mut ring = Ring::default();
        for n in 0..10 {
            ring.push(at(n * 1000), 0, b"line\n", LIMITS);
        }
        assert_eq!((ring.lines(), text(&ring, 35)), (3, (0, "line\nline\nline\n".to_owned())));
    }

    #[test]
    fn what_was_skipped_is_missed() {
        let mut ring = Ring::default();
        ring.push(at(0), 0, b"old", LIMITS);
        ring.push(at(1), 1000, b"new", LIMITS);
        assert_eq!(text(&ring, 0), (1003, "new".to_owned()));
        assert_eq!(text(&ring, 1004), (0, "ew".to_owned()));
        assert_eq!(text(&ring, 1006), (0, String::new()));
    }
}
