//! What the keeper holds of a service for the next daemon: whose slot it is, and the core's memo.
//!
//! ```text
//! FRAME  length of the name  the name  MEMO  the memo, by postcard
//! ```
//!
//! The next daemon may be of another version. The frame never changes, so it always knows whose slot it is; a memo of
//! another version it does not read, and takes the service as the keeper has it.

use defib_core::Memo;
use defib_core::model::{Incarnation, ServiceName};

use crate::keeper::protocol::{Report, SlotState};

/// The first byte of all.
const FRAME: u8 = 1;

/// The version of the memo's form.
///
/// To be raised whenever the form of [`Memo`], or of anything in it, changes: a test below compares it with the bytes of
/// this version. Whoever does that may read the old form too, here, by a copy of the old types; without, the daemon of
/// the new version knows of each service only what the keeper has: its life and its plan, but not its series of restarts,
/// its last end, or that it was stopped, paused or disabled.
const MEMO: u8 = 2;

/// What version 1 lacks: of a last life the bytes that it read and wrote, each 0 in one byte; and at the end `other_sockets`.
const SINCE_1: ([u8; 2], [u8; 1]) = ([0, 0], [0]);

/// What was kept of a service.
#[derive(Debug)]
pub(super) struct Kept {
    pub(super) service: ServiceName,
    /// The memo, unless it is unreadable.
    pub(super) memo: Result<Box<Memo>, Unreadable>,
}

/// Why something cannot be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unreadable {
    #[error("it is not what a defib has written")]
    Foreign,
    #[error("it is of version {0}, and this defib reads version {MEMO}")]
    Version(u8),
    #[error("it is damaged")]
    Damaged,
}

/// As the keeper holds it.
pub(super) fn write(service: &ServiceName, memo: &Memo) -> postcard::Result<Vec<u8>> {
    let name = service.as_str().as_bytes();
    // A name has at most 64 bytes.
    let mut bytes = vec![FRAME, name.len() as u8];
    bytes.extend(name);
    bytes.push(MEMO);
    postcard::to_extend(memo, bytes)
}

/// Reads what the keeper has held.
pub(super) fn read(bytes: &[u8]) -> Result<Kept, Unreadable> {
    let [FRAME, length, rest @ ..] = bytes else { return Err(Unreadable::Foreign) };
    let (name, rest) = rest.split_at_checked(usize::from(*length)).ok_or(Unreadable::Foreign)?;
    let name = str::from_utf8(name).ok().and_then(|name| name.parse().ok());
    let service = name.ok_or(Unreadable::Foreign)?;
    let memo = match rest {
        [MEMO, memo @ ..] => postcard::from_bytes(memo).map_err(|_damaged| Unreadable::Damaged),
        [1, memo @ ..] => read_1(memo).map_err(|_damaged| Unreadable::Damaged),
        [version, ..] => Err(Unreadable::Version(*version)),
        [] => Err(Unreadable::Damaged),
    };
    Ok(Kept { service, memo })
}

/// Reads a memo of version 1.
fn read_1(memo: &[u8]) -> postcard::Result<Box<Memo>> {
    let mut head = postcard::Deserializer::from_bytes(memo);
    let ended = Memo::pass_old_usage(&mut head)?;
    let rest = head.finalize()?;
    let head = &memo[..memo.len() - rest.len()];
    let (usage, end) = SINCE_1;
    postcard::from_bytes(&[head, if ended { &usage } else { &[] }, rest, &end].concat())
}

/// In place of a memo that is unreadable: what the keeper tells of the slot. If there is nothing of the service, it starts
/// if it is `wanted`.
pub(super) fn found(slot: u32, told: &[Report], wanted: bool, holds: bool) -> Memo {
    // The last one: ends that were followed are told before how the slot is.
    let state = told.iter().rev().find_map(|report| match report {
        Report::Slot { slot: of, state } if *of == slot => Some(state),
        _ => None,
    });
    let (latest, present) = match state.unwrap_or(&SlotState::Empty { last: 0 }) {
        SlotState::Empty { last } => (*last, false),
        SlotState::Starting { incarnation }
        | SlotState::Living { incarnation, .. }
        | SlotState::Failed { incarnation, .. } => (*incarnation, true),
        SlotState::Ended { end, .. } => (end.incarnation, true),
    };
    Memo::found(Incarnation(latest), present, wanted, holds)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A memo in which everything is set, and all its phases, as words.
    const WORDS: &str = include_str!("kept/memo.json");

    /// The same as the keeper holds it, a line for each phase.
    const BYTES: &str = include_str!("kept/memo.hex");

    /// The same as version 1 was.
    const BYTES_1: &str = include_str!("kept/memo.1.hex");

    #[test]
    fn the_form_of_a_memo_changes_with_its_version_only() {
        let words: serde_json::Value = serde_json::from_str(WORDS).unwrap();
        let phases = words["phases"].as_array().unwrap();
        let mut lines = BYTES.lines();
        for phase in phases {
            let mut words = words["memo"].clone();
            words["phase"] = phase.clone();
            let memo: Memo =
                serde_json::from_value(words).expect("raise MEMO, and set what is new in memo.json");
            let bytes = write(&"it".parse().unwrap(), &memo).unwrap();
            let line: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(
                lines.next(),
                Some(line.as_str()),
                "{phase}: raise MEMO, and set this line in memo.hex"
            );
            let kept = read(&bytes).unwrap();
            assert_eq!((kept.service.as_str(), *kept.memo.unwrap()), ("it", memo));
        }
        assert_eq!(lines.next(), None);
    }

    #[test]
    fn a_memo_of_version_1_is_read() {
        let memo = Memo::found(Incarnation(3), true, false, true);
        let mut bytes = write(&"it".parse().unwrap(), &memo).unwrap();
        bytes[4] = 1;
        bytes.pop();
        assert_eq!(*read(&bytes).unwrap().memo.unwrap(), memo);
        bytes.pop();
        assert_eq!(read(&bytes).unwrap().memo.unwrap_err(), Unreadable::Damaged);
    }

    #[test]
    fn a_memo_of_version_1_with_a_last_end_is_read() {
        let mut words: serde_json::Value = serde_json::from_str(WORDS).unwrap();
        let phases = words["phases"].as_array().unwrap().clone();
        words["memo"]["other_sockets"] = false.into();
        let usage = &mut words["memo"]["last_exit"]["end"]["usage"];
        (usage["read_bytes"], usage["written_bytes"]) = (0.into(), 0.into());
        assert_eq!(BYTES_1.lines().count(), phases.len());
        for (phase, line) in phases.iter().zip(BYTES_1.lines()) {
            words["memo"]["phase"] = phase.clone();
            let memo: Memo = serde_json::from_value(words["memo"].clone()).unwrap();
            let byte = |at| u8::from_str_radix(&line[at..at + 2], 16).unwrap();
            let bytes: Vec<_> = (0..line.len()).step_by(2).map(byte).collect();
            assert_eq!(*read(&bytes).unwrap().memo.unwrap(), memo, "{phase}");
            for cut in 5..bytes.len() {
                assert_eq!(read(&bytes[..cut]).unwrap().memo.unwrap_err(), Unreadable::Damaged, "{cut}");
            }
        }
    }

    #[test]
    fn whose_it_is_is_known_whatever_the_memo() {
        let memo = Memo::found(Incarnation(3), true, false, false);
        let mut bytes = write(&"some-name".parse().unwrap(), &memo).unwrap();
        let at = 2 + "some-name".len();
        for (bytes, why) in [
            (&bytes[..at], Unreadable::Damaged),
            (&bytes[..at + 1], Unreadable::Damaged),
            (&[&bytes[..at], &[MEMO + 1, 0]].concat()[..], Unreadable::Version(MEMO + 1)),
        ] {
            let kept = read(bytes).unwrap();
            assert_eq!((kept.service.as_str(), kept.memo.unwrap_err()), ("some-name", why));
        }
        bytes[0] = FRAME + 1;
        for bytes in [&bytes[..], &[], &[FRAME], &[FRAME, 9, b'a'], &[FRAME, 1, b'/', MEMO]] {
            assert_eq!(read(bytes).unwrap_err(), Unreadable::Foreign, "{bytes:?}");
        }
    }

    #[test]
    fn what_is_found_is_what_the_keeper_tells_last() {
        let told = |state| vec![Report::Synced, Report::Slot { slot: 4, state }];
        let memo = |last, present, wanted| Memo::found(Incarnation(last), present, wanted, false);
        let living = told(SlotState::Living { incarnation: 7, pid: 1, started: 1 });
        assert_eq!(found(4, &living, true, false), memo(7, true, true));
        assert_eq!(found(5, &living, true, false), memo(0, false, true), "of another slot nothing is known");
        let empty = told(SlotState::Empty { last: 7 });
        assert_eq!(found(4, &empty, true, false), memo(7, false, true));
        assert_eq!(found(4, &empty, false, false), memo(7, false, false));
    }
}
