use super::*;
use crate::source::testing::Random;

/// A record, written field by field as the kernel side lays it out.
fn record(kind: u16, flags: u32, slot: u32, rest: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(11u64.to_ne_bytes());
    bytes.extend(12u64.to_ne_bytes());
    bytes.extend(VERSION.to_ne_bytes());
    bytes.extend(kind.to_ne_bytes());
    for word in [flags, 13, slot] {
        bytes.extend(u32::to_ne_bytes(word));
    }
    bytes.extend(b"api\0\0\0\0\0\0\0\0\0\0\0\0\0");
    bytes.extend(rest);
    bytes
}

fn words(words: &[u32]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

/// A signal 15.
fn blow(kind: u32) -> Vec<u8> {
    let mut bytes = 0xdeadu64.to_ne_bytes().to_vec();
    bytes.extend(words(&[kind, 15, 812, 1000]));
    bytes.extend(b"deploy\0junkjunk!");
    bytes
}

fn exit(kind: u32, wait_status: u32) -> Vec<u8> {
    [blow(kind), words(&[wait_status, 0])].concat()
}

fn event(main: bool, fact: KernelFact) -> KernelEvent {
    KernelEvent { at: Tick(11), pid: 13, start: 12, slot: Some(15), main, name: Some("api".into()), fact }
}

fn deploy() -> Blame {
    Blame::Process(Sender { signal: Signal::TERM, pid: 812, uid: 1000, name: "deploy".into() })
}

fn ended(status: i32, oom: bool, blame: Blame) -> KernelFact {
    let (at, status) = (Some(Tick(11)), Some(WaitStatus(status)));
    KernelFact::Exit(Witness { at, status, oom: Some(oom), blame })
}

const NOWHERE: Blame = Blame::Kernel { address: None };

/// One of each kind, with what it means.
fn samples() -> Vec<(Vec<u8>, KernelEvent)> {
    let path = |path: &[u8]| {
        let mut bytes = path.to_vec();
        bytes.resize(64, 0);
        bytes
    };
    let port = |kind| record(kind, 0, 15, &[words(&[7]), vec![0x90, 0x1f, 0, 0]].concat());
    let listener = Listener { port: 8080, netns: 7 };
    let oom = EVENT_OOM | EVENT_DESCENDANT;
    vec![
        (record(kind::FORK, 0, 15, &words(&[14, 0])), event(true, KernelFact::Fork { parent: 14 })),
        (
            record(kind::EXEC, 0, 15, &path(b"/bin/x\0junk")),
            event(true, KernelFact::Exec { filename: "/bin/x".into() }),
        ),
        (record(kind::EXIT, 0, 15, &exit(culprit::PROCESS, 15)), event(true, ended(15, false, deploy()))),
        (record(kind::EXIT, oom, 15, &exit(culprit::NONE, 9)), event(false, ended(9, true, NOWHERE))),
        (record(kind::OOM, oom, 15, b""), event(false, KernelFact::Oom)),
        (
            record(kind::SIGNAL, 0, 15, &blow(culprit::PROCESS)),
            event(true, KernelFact::Signal { signal: Signal::TERM, blame: deploy() }),
        ),
        (port(kind::LISTEN), event(true, KernelFact::Listen(listener))),
        (port(kind::UNLISTEN), event(true, KernelFact::Unlisten(listener))),
    ]
}

#[test]
fn each_kind_becomes_its_event() {
    for (bytes, expected) in samples() {
        assert_eq!(decode(&bytes, true).map(|decoded| decoded.event), Some(expected));
    }
}

#[test]
fn a_stranger_has_no_slot_and_nobody_to_blame() {
    let bytes = record(kind::EXIT, EVENT_DESCENDANT, NO_SLOT, &exit(culprit::NONE, 9));
    let event = decode(&bytes, true).expect("it is a record").event;
    assert_eq!((event.slot, event.main), (None, false));
    assert_eq!(event.fact, ended(9, false, Blame::Unknown));
    let mut nameless = record(kind::OOM, 0, 15, b"");
    nameless[offset_of!(Event, name)] = 0;
    assert_eq!(decode(&nameless, true).expect("it is a record").event.name, None);
}

#[test]
fn who_is_to_blame_follows_from_the_blow_and_the_status() {
    let fault = Blame::Kernel { address: Some(0xdead) };
    let table = [
        // the blow, the wait status, whether it is a victim of the out-of-memory killer, signals heard, whom to blame
        (culprit::PROCESS, 15, false, true, deploy()),
        (culprit::PROCESS, 0, false, true, deploy()),
        (culprit::ADDRESS, 11, false, true, fault),
        (culprit::KERNEL, 14, false, true, NOWHERE),
        (culprit::NONE, 9, false, true, NOWHERE),
        (culprit::NONE, 0x700, false, true, Blame::Nobody),
        (culprit::NONE, 9, false, false, Blame::Unknown),
        (culprit::NONE, 0, false, false, Blame::Unknown),
        (culprit::PROCESS, 9, true, true, NOWHERE),
        (culprit::NONE, 9, true, false, NOWHERE),
    ];
    for (kind, wait_status, oom, heard, expected) in table {
        let flags = if oom { EVENT_OOM } else { 0 };
        let bytes = record(kind::EXIT, flags, 15, &exit(kind, wait_status));
        let event = decode(&bytes, heard).expect("it is a record").event;
        assert_eq!(event.fact, ended(wait_status.cast_signed(), oom, expected), "{kind} {wait_status:#x}");
    }
}

#[test]
fn another_version_kind_or_length_is_nothing() {
    assert_eq!(decode(&record(kind::COUNT as u16, 0, 15, &[0; 64]), true), None);
    assert_eq!(decode(&record(kind::SIGNAL, 0, 15, &blow(culprit::NONE)), true), None, "of nobody");
    for (whole, _) in samples() {
        let mut other = whole.clone();
        other[offset_of!(Event, version)] ^= 0x40;
        assert_eq!(decode(&other, true), None);
        let kind = u16::from_ne_bytes([whole[18], whole[19]]);
        let needed = match kind {
            kind::EXEC => offset_of!(ExecEvent, filename),
            kind::EXIT => offset_of!(ExitEvent, padding),
            kind::FORK => offset_of!(ForkEvent, padding),
            kind::LISTEN | kind::UNLISTEN => offset_of!(PortEvent, padding),
            _ => whole.len(),
        };
        for len in 0..needed {
            assert_eq!(decode(&whole[..len], true), None, "{len} bytes of kind {kind}");
        }
    }
}

#[test]
fn the_samples_are_as_long_as_the_records() {
    for (bytes, event) in samples() {
        let len = match event.fact {
            KernelFact::Fork { .. } => size_of::<ForkEvent>(),
            KernelFact::Exec { .. } => size_of::<ExecEvent>(),
            KernelFact::Exit(_) => size_of::<ExitEvent>(),
            KernelFact::Signal { .. } => size_of::<SignalEvent>(),
            KernelFact::Listen(_) | KernelFact::Unlisten(_) => size_of::<PortEvent>(),
            KernelFact::Oom => size_of::<Event>(),
        };
        assert_eq!(bytes.len(), len, "{event:?}");
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
        decoded += usize::from(decode(&bytes, true).is_some());
    }
    assert!(decoded > 100, "the loop must also reach the fields, {decoded}");
}
