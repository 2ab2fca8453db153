//! When which byte of a log file came: beside each file, `FILE.times` holds pairs of an offset and a time, so that the
//! log itself is what the service wrote and nothing else.
//!
//! A pair is 16 bytes, little-endian: the offset, and nanoseconds since 1970. At most one for each 100 ms or 64 KiB. Times
//! may go back where somebody has set the clock.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::Path;

use jiff::Timestamp;

use super::places;

/// A pair.
const PAIR: u64 = 16;

/// More pairs than this are not read: 16 MiB, for more than 60 GiB of output.
const MOST: u64 = 1 << 20;

/// From this byte on, and when.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp {
    pub(super) offset: u64,
    pub(super) at: Timestamp,
}

/// Adds a pair. A log without its times is better than none: what fails is left out.
pub(super) fn add(times: &mut File, stamp: Stamp) -> io::Result<()> {
    let at = i64::try_from(stamp.at.as_nanosecond()).unwrap_or(i64::MAX);
    let mut pair = [0; PAIR as usize];
    pair[..8].copy_from_slice(&stamp.offset.to_le_bytes());
    pair[8..].copy_from_slice(&at.to_le_bytes());
    times.write_all(&pair)
}

/// The times of a log file; none if there are none, or if they are not what they should be.
pub(super) fn of(file: &Path) -> Vec<Stamp> {
    File::open(places::times(file)).and_then(read).unwrap_or_default()
}

fn read(mut file: File) -> io::Result<Vec<Stamp>> {
    let pairs = file.metadata()?.len() / PAIR;
    // The last ones: what is asked for is near the end.
    file.seek(SeekFrom::Start(pairs.saturating_sub(MOST) * PAIR))?;
    let mut bytes = Vec::new();
    file.take(MOST * PAIR).read_to_end(&mut bytes)?;
    Ok(bytes.chunks_exact(PAIR as usize).filter_map(stamp).collect())
}

fn stamp(pair: &[u8]) -> Option<Stamp> {
    let (offset, at) = pair.split_first_chunk::<8>()?;
    let at = i64::from_le_bytes(at.try_into().ok()?);
    let at = Timestamp::from_nanosecond(at.into()).ok()?;
    Some(Stamp { offset: u64::from_le_bytes(*offset), at })
}

/// The time of the first byte of a log file.
pub(super) fn first(file: &Path) -> Option<Timestamp> {
    let mut pair = [0; PAIR as usize];
    File::open(places::times(file)).and_then(|mut times| times.read_exact(&mut pair)).ok()?;
    stamp(&pair).map(|stamp| stamp.at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_read_as_they_were_written_and_half_ones_are_not() {
        let folder = tempfile::tempdir().unwrap();
        let log = folder.path().join("a.log");
        let mut times = File::create(places::times(&log)).unwrap();
        let stamps =
            [1, 2, 3].map(|n| Stamp { offset: n * 100, at: Timestamp::from_second(n as i64).unwrap() });
        stamps.iter().for_each(|stamp| add(&mut times, *stamp).unwrap());
        times.write_all(b"half").unwrap();
        assert_eq!(of(&log), stamps);
        assert_eq!(first(&log), Some(stamps[0].at));
        assert!(of(&folder.path().join("b.log")).is_empty());
    }
}
