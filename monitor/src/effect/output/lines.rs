//! Lines, as they are given to whoever asks.

use jiff::Timestamp;

use super::Kind;

/// A longer line is given in pieces.
pub(super) const LONGEST: usize = 64 * 1024;

/// A line, or a piece of one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// When its first byte came, to about 100 ms; `None`: the file has no times.
    pub at: Option<Timestamp>,
    /// From which stream.
    pub stream: Kind,
    /// What was written, whatever it is, without the newline.
    pub bytes: Vec<u8>,
    /// Whether the line goes on: it is longer than 64 KiB, or has no end yet.
    pub partial: bool,
}

/// Cuts bytes into lines.
#[derive(Debug)]
pub(super) struct Cutter {
    stream: Kind,
    rest: Vec<u8>,
    at: Option<Timestamp>,
}

impl Cutter {
    pub(super) fn new(stream: Kind) -> Self {
        Self { stream, rest: Vec::new(), at: None }
    }

    pub(super) fn stream(&self) -> Kind {
        self.stream
    }

    /// Takes bytes that came at a time, and gives what has become a line.
    pub(super) fn push(&mut self, at: Option<Timestamp>, bytes: &[u8], mut give: impl FnMut(Line)) {
        for part in bytes.split_inclusive(|byte| *byte == b'\n') {
            let (part, whole) = part.strip_suffix(b"\n").map_or((part, false), |part| (part, true));
            for piece in Pieces(part, self.rest.len()) {
                if self.rest.is_empty() {
                    self.at = at;
                }
                self.rest.extend_from_slice(piece);
                if self.rest.len() == LONGEST {
                    give(self.line(true));
                }
            }
            if whole {
                if self.rest.is_empty() {
                    self.at = at;
                }
                give(self.line(false));
            }
        }
    }

    /// What has no end yet.
    pub(super) fn finish(&mut self) -> Option<Line> {
        (!self.rest.is_empty()).then(|| self.line(true))
    }

    fn line(&mut self, partial: bool) -> Line {
        Line { at: self.at, stream: self.stream, bytes: std::mem::take(&mut self.rest), partial }
    }
}

/// A text in pieces so that none makes the line before it longer than it may be.
struct Pieces<'a>(&'a [u8], usize);

impl<'a> Iterator for Pieces<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        if self.0.is_empty() {
            return None;
        }
        let (piece, rest) = self.0.split_at(self.0.len().min(LONGEST - self.1 % LONGEST));
        *self = Self(rest, 0);
        Some(piece)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(parts: &[&[u8]]) -> Vec<(Vec<u8>, bool)> {
        let mut cutter = Cutter::new(Kind::Joined);
        let mut lines = Vec::new();
        parts.iter().for_each(|part| cutter.push(None, part, |line| lines.push(line)));
        lines.extend(cutter.finish());
        lines.into_iter().map(|line| (line.bytes, line.partial)).collect()
    }

    #[test]
    fn lines_are_the_same_wherever_the_bytes_were_cut() {
        let whole = cut(&[b"one\n\ntwo\nrest"]);
        assert_eq!(whole.len(), 4);
        assert_eq!(whole[3], (b"rest".to_vec(), true));
        assert_eq!(cut(&[b"on", b"e\n", b"\nt", b"wo", b"\nre", b"st"]), whole);
    }

    #[test]
    fn a_long_line_comes_in_pieces_and_loses_nothing() {
        let long = vec![b'x'; 3 * LONGEST + 5];
        let mut with_end = long.clone();
        with_end.extend_from_slice(b"\nshort\n");
        let lines = cut(&[&with_end[..100], &with_end[100..]]);
        let pieces: Vec<_> = lines.iter().map(|(bytes, partial)| (bytes.len(), *partial)).collect();
        assert_eq!(pieces, [(LONGEST, true), (LONGEST, true), (LONGEST, true), (5, false), (5, false)]);
    }
}
