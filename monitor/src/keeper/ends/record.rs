//! The form of the file: who reads it is of the same boot, and may be of another version.

use defib_core::model::Usage;

use crate::keeper::protocol::LifeEnd;

/// How many records there are. What several services in a crash loop may owe while no daemon lives: the orders of each
/// allow for some hundred lives.
pub(super) const KEPT: u64 = 4096;

/// How long one is. A page holds a whole number of them.
const LENGTH: usize = 256;

/// How the file begins, before the name of the boot: to be changed with its form.
const FORM: &[u8; 8] = b"defib-k1";

/// Where in a record stands whether it is acknowledged: outside of what the checksum is of.
pub(super) const ACKNOWLEDGED: u64 = 8;

/// What the checksum is of begins here.
const CHECKED: usize = 16;

/// Where the name begins, and how long it may be.
const NAME: usize = 128;
const NAME_LENGTH: usize = 64;

/// An end that an earlier keeper knew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PastEnd {
    /// Grows with every end.
    number: u64,
    /// Whether a daemon had written it down.
    pub acknowledged: bool,
    /// Whose it was.
    pub service: String,
    /// The end.
    pub end: LifeEnd,
    /// The process of the next life, and when it was made, if the keeper had begun that by itself.
    pub next: Option<(u32, u64)>,
}

#[cfg(test)]
impl PastEnd {
    /// As it would be read.
    pub fn told(service: &str, end: LifeEnd, acknowledged: bool, next: Option<(u32, u64)>) -> Self {
        Self { number: end.incarnation, acknowledged, service: service.to_owned(), end, next }
    }
}

/// Where a record is.
pub(super) fn place(index: u64) -> u64 {
    // The head takes the place of one.
    (1 + index % KEPT) * LENGTH as u64
}

/// The beginning of a new file.
pub fn head(boot: &str) -> Vec<u8> {
    [&FORM[..], boot.as_bytes()].concat()
}

/// The largest file.
pub const MAX_FILE: u64 = (1 + KEPT) * LENGTH as u64;

pub(super) fn write(number: u64, service: &[u8], end: &LifeEnd, next: Option<(u32, u64)>) -> [u8; LENGTH] {
    let mut bytes = [0; LENGTH];
    let name = &service[..service.len().min(NAME_LENGTH)];
    let LifeEnd { incarnation, pid, started, at, status, usage } = end;
    let Usage { user_us, system_us, max_rss_kib, read_bytes, written_bytes } = usage;
    let (next_pid, next_started) = next.unwrap_or_default();
    let state = u64::from(status.is_some());
    let known = u64::from(status.unwrap_or(0).cast_unsigned());
    let words = [
        number,
        *incarnation,
        u64::from(*pid),
        *started,
        *at,
        state,
        known,
        *user_us,
        *system_us,
        *max_rss_kib,
        *read_bytes,
        *written_bytes,
        u64::from(next_pid) | (name.len() as u64) << 32,
        next_started,
    ];
    for (place, word) in bytes[CHECKED..NAME].as_chunks_mut::<8>().0.iter_mut().zip(words) {
        *place = word.to_le_bytes();
    }
    bytes[NAME..NAME + name.len()].copy_from_slice(name);
    let sum = checksum(&bytes[CHECKED..]);
    bytes[..8].copy_from_slice(&sum.to_le_bytes());
    bytes
}

/// What is in a file of this boot, oldest first. What is damaged is left out.
pub fn read(bytes: &[u8], boot: &str) -> Vec<PastEnd> {
    let Some((head_there, records)) = bytes.split_at_checked(LENGTH) else { return Vec::new() };
    let head = head(boot);
    if boot.is_empty()
        || !head_there.starts_with(&head)
        || head_there[head.len()..].iter().any(|byte| *byte != 0)
    {
        return Vec::new();
    }
    let mut ends: Vec<PastEnd> = records.as_chunks::<LENGTH>().0.iter().filter_map(read_one).collect();
    ends.sort_by_key(|end| end.number);
    ends
}

fn read_one(bytes: &[u8; LENGTH]) -> Option<PastEnd> {
    let words: &[[u8; 8]; NAME / 8] = bytes[..NAME].as_chunks::<8>().0.try_into().ok()?;
    let [sum, acknowledged, number, incarnation, pid, started, at, state, known, words @ ..] =
        words.map(u64::from_le_bytes);
    let [user_us, system_us, max_rss_kib, read_bytes, written_bytes, next, next_started] = words;
    if number == 0 || sum != checksum(&bytes[CHECKED..]) {
        return None;
    }
    let name = bytes[NAME..].get(..usize::try_from(next >> 32).ok()?)?;
    let next_pid = (next & u64::from(u32::MAX)) as u32;
    let usage = Usage { user_us, system_us, max_rss_kib, read_bytes, written_bytes };
    let status = (state == 1).then_some((known as u32).cast_signed());
    Some(PastEnd {
        number,
        acknowledged: acknowledged != 0,
        service: str::from_utf8(name).ok()?.to_owned(),
        end: LifeEnd { incarnation, pid: u32::try_from(pid).ok()?, started, at, status, usage },
        next: (next_pid != 0).then_some((next_pid, next_started)),
    })
}

/// FNV-1a: against a record of which only a part was written, not against malice.
fn checksum(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |sum, byte| (sum ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end(incarnation: u64) -> LifeEnd {
        let usage = Usage { user_us: 1, system_us: 2, max_rss_kib: 3, read_bytes: 4, written_bytes: 5 };
        LifeEnd { incarnation, pid: 70, started: 8, at: u64::MAX, status: Some(-1), usage }
    }

    fn file(records: &[[u8; LENGTH]]) -> Vec<u8> {
        let mut bytes = head("boot");
        bytes.resize(LENGTH, 0);
        records.iter().for_each(|record| bytes.extend(record));
        bytes
    }

    #[test]
    fn what_was_written_is_read_in_its_order() {
        let long = "n".repeat(NAME_LENGTH);
        let mut acknowledged = write(2, long.as_bytes(), &LifeEnd { status: None, ..end(1) }, Some((71, 9)));
        acknowledged[ACKNOWLEDGED as usize] = 1;
        let bytes = file(&[write(3, b"it", &end(2), None), acknowledged]);
        let ends = read(&bytes, "boot");
        assert_eq!(
            (ends[0].service.as_str(), ends[0].acknowledged, ends[0].next),
            (&*long, true, Some((71, 9)))
        );
        assert_eq!((ends[0].end.status, ends[1].end, ends[1].next), (None, end(2), None));
        assert!(!ends[1].acknowledged && ends[1].service == "it" && ends.len() == 2);
        assert_eq!(read(&bytes, "other"), []);
        assert_eq!(read(&bytes, "boo"), []);
        assert_eq!(read(&bytes, ""), []);
    }

    #[test]
    fn what_is_damaged_is_left_out() {
        let bytes = file(&[write(1, b"it", &end(1), None), write(2, b"it", &end(2), None)]);
        for length in 0..bytes.len() {
            assert!(read(&bytes[..length], "boot").len() < 2);
        }
        for at in LENGTH..bytes.len() {
            let mut bytes = bytes.clone();
            bytes[at] ^= 0x41;
            let marks = (at % LENGTH) / 8 == 1;
            assert_eq!(read(&bytes, "boot").len(), if marks { 2 } else { 1 }, "{at}");
        }
    }
}
