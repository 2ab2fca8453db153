//! Turns the bytes of a ring record into an event. Total and safe: any bytes give an event or nothing.

use std::mem::offset_of;

use defib_core::model::{Blame, KernelEvent, KernelFact, Tick, WaitStatus, Witness};
use defib_ebpf::{EVENT_DESCENDANT, EVENT_OOM, End, Event, ExecEvent, VERSION, kind};

/// A decoded record, with the kind under which it is counted.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Decoded {
    pub(super) kind: u16,
    pub(super) event: KernelEvent,
}

/// The record in `bytes`; `None` if it is too short, of another version or of no known kind.
pub(super) fn decode(bytes: &[u8]) -> Option<Decoded> {
    if u16_at(bytes, offset_of!(Event, version))? != VERSION {
        return None;
    }
    let kind = u16_at(bytes, offset_of!(Event, kind))?;
    let flags = u32_at(bytes, offset_of!(Event, flags))?;
    let at = Tick(u64_at(bytes, offset_of!(Event, at))?);
    let wait_status = u32_at(bytes, offset_of!(Event, wait_status))?;
    let fact = match kind {
        kind::FORK => KernelFact::Fork { parent: u32_at(bytes, offset_of!(Event, parent))? },
        kind::EXEC => KernelFact::Exec { filename: text(bytes.get(offset_of!(ExecEvent, filename)..)?) },
        kind::EXIT => KernelFact::Exit(witness(&End { at: at.0, wait_status, flags })),
        kind::OOM => KernelFact::Oom,
        _ => return None,
    };
    let event = KernelEvent {
        at,
        pid: u32_at(bytes, offset_of!(Event, tgid))?,
        start: u64_at(bytes, offset_of!(Event, start))?,
        slot: Some(u32_at(bytes, offset_of!(Event, slot))?),
        main: flags & EVENT_DESCENDANT == 0,
        name: None,
        fact,
    };
    Some(Decoded { kind, event })
}

/// What the kernel side knows of an end.
pub(super) fn witness(end: &End) -> Witness {
    Witness {
        at: Some(Tick(end.at)),
        status: Some(WaitStatus(end.wait_status.cast_signed())),
        oom: Some(end.flags & EVENT_OOM != 0),
        blame: Blame::Unknown,
    }
}

/// The text before the first zero.
fn text(bytes: &[u8]) -> String {
    let text = bytes.split(|&byte| byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(text).into_owned()
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().copied().map(u16::from_ne_bytes)
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().copied().map(u32::from_ne_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk().copied().map(u64::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::ebpf::tests::Random;

    /// A record, written field by field as the kernel side lays it out.
    fn record(kind: u16, flags: u32, filename: &[u8]) -> Vec<u8> {
        let mut bytes = Vec::new();
        bytes.extend(11u64.to_ne_bytes());
        bytes.extend(12u64.to_ne_bytes());
        bytes.extend(VERSION.to_ne_bytes());
        bytes.extend(kind.to_ne_bytes());
        for word in [flags, 13, 14, 15, 0x8b] {
            bytes.extend(u32::to_ne_bytes(word));
        }
        bytes.extend(filename);
        bytes
    }

    fn event(main: bool, fact: KernelFact) -> KernelEvent {
        KernelEvent { at: Tick(11), pid: 13, start: 12, slot: Some(15), main, name: None, fact }
    }

    #[test]
    fn each_kind_becomes_its_event() {
        let exit = |oom| {
            let (at, status) = (Some(Tick(11)), Some(WaitStatus(0x8b)));
            KernelFact::Exit(Witness { at, status, oom: Some(oom), blame: Blame::Unknown })
        };
        let table = [
            (record(kind::FORK, 0, b""), event(true, KernelFact::Fork { parent: 14 })),
            (
                record(kind::EXEC, 0, b"/bin/x\0junk"),
                event(true, KernelFact::Exec { filename: "/bin/x".into() }),
            ),
            (record(kind::EXIT, 0, b""), event(true, exit(false))),
            (record(kind::EXIT, EVENT_OOM | EVENT_DESCENDANT, b""), event(false, exit(true))),
            (record(kind::OOM, EVENT_DESCENDANT, b""), event(false, KernelFact::Oom)),
        ];
        for (bytes, expected) in table {
            assert_eq!(decode(&bytes).map(|decoded| decoded.event), Some(expected));
        }
    }

    #[test]
    fn another_version_kind_or_length_is_nothing() {
        assert_eq!(decode(&record(kind::COUNT as u16, 0, b"")), None);
        let mut other = record(kind::OOM, 0, b"");
        other[offset_of!(Event, version)] ^= 0x40;
        assert_eq!(decode(&other), None);
        let whole = record(kind::OOM, 0, b"");
        assert_eq!(whole.len(), size_of::<Event>());
        for len in 0..whole.len() {
            assert_eq!(decode(&whole[..len]), None, "{len} bytes");
        }
    }

    #[test]
    fn any_bytes_are_survived() {
        let mut random = Random::new(2);
        let mut decoded = 0;
        for _ in 0..50_000 {
            let mut bytes: Vec<u8> = (0..random.below(140)).map(|_| random.next() as u8).collect();
            if let Some(version) =
                bytes.get_mut(offset_of!(Event, version)..).and_then(|rest| rest.first_chunk_mut())
            {
                *version = VERSION.to_ne_bytes();
            }
            if let Some(kind) = bytes.get_mut(offset_of!(Event, kind) + 1) {
                *kind = 0;
            }
            decoded += usize::from(decode(&bytes).is_some());
        }
        assert!(decoded > 100, "the loop must also reach the fields, {decoded}");
    }
}
