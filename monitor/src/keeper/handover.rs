//! What one keeper hands over to the next, which is the same process: the keeper executes a binary in place of itself.
//!
//! Pid, children, signals that are blocked and those that wait, and the environment go over by themselves. Everything
//! else is a `Text` in a memfd, whose number the successor is told (`--handover`), and the open descriptors that it
//! names. They have close-on-exec taken away just before the execve, and get it again from the successor.
//!
//! - `text`: what there is to say, and the rules by which it may change;
//! - `bytes`: texts of any bytes, and bytes that are nobody's text;
//! - `fds`: descriptors on their way.
//!
//! The keeper's side is in `run::renew` and `run::succeed`, that of a slot in `slots::over`.

mod bytes;
mod fds;
mod text;

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::{BorrowedFd, OwnedFd, RawFd};
use std::os::unix::fs::FileExt;

use rustix::fs::MemfdFlags;

pub(super) use bytes::{Hex, Words};
pub(super) use fds::{Taken, leave_open};
pub(super) use text::*;

use super::raw;

/// The option by which a successor is told the number of the memfd.
pub const OPTION: &str = "--handover";

/// The option by which a binary is asked whether it could be the successor; the memfd is its standard input.
pub const CHECK: &str = "--check-handover";

/// What a binary says that could. The exit code alone would not do: that of `true` is 0 too.
pub const UNDERSTOOD: &str = "defib understands the hand-over";

/// No hand-over is larger: 4096 services with plans and memos of the largest size do not come near.
const MAX: u64 = 512 << 20;

/// Why a hand-over cannot be taken.
#[derive(Debug, thiserror::Error)]
pub enum HandoverError {
    /// It cannot be read.
    #[error("the hand-over cannot be read: {0}")]
    Read(#[from] io::Error),
    /// It is not what it should be.
    #[error("the hand-over is not understood: {0}")]
    Text(#[from] serde_json::Error),
    /// It is of a later version.
    #[error("the hand-over wants a reader of version {wanted}; this defib reads up to {VERSION}")]
    Newer {
        /// The version.
        wanted: u32,
    },
}

/// The text in a memfd.
pub(super) fn pack(text: &Text) -> io::Result<OwnedFd> {
    let mut file = File::from(rustix::fs::memfd_create("defib-handover", MemfdFlags::CLOEXEC)?);
    // In one piece: a memfd that is written in many small ones takes longer than the whole rest.
    file.write_all(&serde_json::to_vec(text)?)?;
    file.rewind()?;
    Ok(file.into())
}

/// Reads the text in a memfd from its beginning, wherever somebody else has read to.
fn bytes_of(file: &File) -> io::Result<Vec<u8>> {
    let length = file.metadata()?.len();
    if length > MAX {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("it has {length} bytes")));
    }
    let mut bytes = vec![0; usize::try_from(length).map_err(io::Error::other)?];
    file.read_exact_at(&mut bytes, 0)?;
    Ok(bytes)
}

/// Reads the text in the memfd of this number, which stays open.
pub(super) fn peek(number: RawFd) -> Result<Text, HandoverError> {
    parse(&bytes_of(&File::from(raw::duplicate(number, 0)?))?)
}

/// Takes the option and its number out of a command line.
pub fn forget(words: &mut Vec<OsString>) {
    while let Some(at) = words.iter().position(|word| word == OPTION) {
        words.drain(at..(at + 2).min(words.len()));
    }
}

/// Reads a text.
fn parse(bytes: &[u8]) -> Result<Text, HandoverError> {
    // First, because the rest may mean something else by then.
    let Readable { readable_by: wanted } = serde_json::from_slice(bytes)?;
    if wanted > VERSION {
        return Err(HandoverError::Newer { wanted });
    }
    Ok(serde_json::from_slice(bytes)?)
}

/// The binary that can take a hand-over back which this one does not understand: that it came from.
pub(super) fn previous(number: RawFd) -> Option<RawFd> {
    let file = File::from(raw::duplicate(number, 0).ok()?);
    let value: serde_json::Value = serde_json::from_slice(&bytes_of(&file).ok()?).ok()?;
    value.get("previous")?.as_i64()?.try_into().ok()
}

/// Whether this binary could take the hand-over on its standard input. Nothing is done with it.
///
/// # Errors
/// Why not.
pub fn check(stdin: BorrowedFd<'_>) -> Result<(), HandoverError> {
    let mut bytes = Vec::new();
    File::from(stdin.try_clone_to_owned()?).take(MAX).read_to_end(&mut bytes)?;
    parse(&bytes).map(drop)
}

#[cfg(test)]
mod tests {
    use defib_core::model::Usage;

    use super::*;

    /// Written by the keeper of version 1. It stays as it is: a keeper of that version may be replaced by this one.
    const FIRST: &str = include_str!("handover/version-1.json");

    #[test]
    fn what_version_1_handed_over_is_understood() {
        let text = parse(FIRST.as_bytes()).unwrap();
        assert_eq!((text.version, text.ending, text.watchdog_ms), (1, true, 30_000));
        assert_eq!(text.daemon, DaemonText { short_lives: 2, protection: Some(-900) });
        assert_eq!(text.nofile, Some((1024, 524_288)));
        assert_eq!(text.queue, [2]);
        assert_eq!(text.held.len(), 2);
        let slots: Vec<_> = text.slots.iter().map(|slot| (slot.slot, &slot.state)).collect();
        let life = |incarnation, pid| LifeText {
            incarnation,
            pid,
            started: 5_000_000_000,
            service: Words(b"DEFIB_SERVICE=it".to_vec()),
            end_leftovers: true,
            leaf: true,
            stranger: false,
        };
        let end = EndText {
            incarnation: 3,
            pid: 105,
            started: 5_000_000_000,
            at: 6_000_000_000,
            status: 9,
            usage: Usage { user_us: 1, system_us: 2, max_rss_kib: 3, ..Usage::default() },
            unknown: false,
        };
        let expected = [
            (0, StateText::Empty { last: 7 }),
            (2, StateText::Queued { incarnation: 8 }),
            (3, StateText::Starting { life: life(1, 103), pidfd: 410, status: 411, failed: None }),
            (4, StateText::Living { life: life(2, 104), pidfd: 412 }),
            (
                5,
                StateText::Ended {
                    life: life(3, 105),
                    end,
                    cleared: false,
                    acknowledged: false,
                    follows: true,
                },
            ),
            (6, StateText::Failed { incarnation: 4, step: "Exec".to_owned(), errno: 2 }),
        ];
        assert_eq!(slots, expected.iter().map(|(slot, state)| (*slot, state)).collect::<Vec<_>>());
        let full = &text.slots[3];
        let plan = full.plan.clone().expect("a plan").into_plan();
        assert_eq!(plan.args, [b"sh".to_vec(), b"-c".to_vec(), vec![0xff, b'x']]);
        assert_eq!(plan.identity.as_ref().map(|it| (it.uid, it.gid, it.groups.len())), Some((7, 8, 1)));
        assert_eq!((plan.umask, plan.end_leftovers, plan.sockets), (0o27, false, 1));
        assert_eq!(full.memo, Some(Hex(vec![0, 1, 0xff])));
        assert_eq!(full.leaves, [Some(false), Some(true)]);
        assert_eq!(full.standing().expect("an order").immediate, 5);
        assert_eq!(full.followed.len(), 1);
        assert_eq!(full.followed[0].output, [10, 20]);
        assert_eq!(text.numbers(), [400, 401, 410, 411, 402, 403, 404, 405, 406, 407, 408, 409, 412, 413]);
    }

    #[test]
    fn what_is_written_is_read() {
        let text = parse(FIRST.as_bytes()).unwrap();
        assert_eq!(parse(&serde_json::to_vec(&text).unwrap()).unwrap(), text);
    }

    #[test]
    fn what_is_missing_has_its_default_and_what_is_unknown_is_passed_over() {
        let text = parse(br#"{"readable_by": 1, "slots": [{"slot": 3, "new": [1], "state": {"is": "empty"}}], "later": {}}"#);
        let text = text.unwrap();
        assert_eq!(text.slots[0].state, StateText::Empty { last: 0 });
        assert_eq!((text.version, text.nofile, text.held.len()), (0, None, 0));
    }

    #[test]
    fn a_hand_over_for_later_readers_and_garbage_are_refused() {
        let error = parse(br#"{"version": 9, "readable_by": 9, "slots": 7}"#).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!("the hand-over wants a reader of version 9; this defib reads up to {VERSION}")
        );
        for bad in [
            "",
            "{",
            "[]",
            "{}",
            "{\"readable_by\": 1, \"slots\": [{\"state\": {\"is\": \"dead\"}}]}",
            "\u{0}",
        ] {
            parse(bad.as_bytes()).unwrap_err();
        }
    }
}
