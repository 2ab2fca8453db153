//! The connector's messages: bytes to facts, and the two requests that it takes.

use std::io::Cursor;

use neli::connector::{CnMsg, CnMsgBuilder, ProcEvent, ProcEventHeader};
use neli::consts::connector::{CnMsgIdx, CnMsgVal, ProcCnMcastOp};
use neli::consts::nl::{NlmF, Nlmsg};
use neli::nl::{NlPayload, Nlmsghdr, NlmsghdrBuilder};
use neli::{FromBytes, ToBytes};

/// The headers before the data: nlmsghdr and cn_msg.
const HEADERS: usize = 16 + 20;

/// One message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Message {
    /// The CPU on which it was written.
    pub(super) cpu: u32,
    /// Its number on that CPU. An answer has one like any other message, whatever number the request had.
    pub(super) number: u32,
    /// When it was written, in nanoseconds of `CLOCK_MONOTONIC`.
    pub(super) stamp: u64,
    /// What it says.
    pub(super) fact: Fact,
}

/// What a message says. A process is its `tgid`, a thread its `tid`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fact {
    /// The answer to the request that was marked with `mark`: 0 or an error number. Every listener gets it.
    Answer { mark: u32, error: u32 },
    /// A thread was made, of a new process if both are the same.
    ///
    /// `parent` is the real parent, so of a further thread it is the parent of the whole process (copy_process in
    /// kernel/fork.c: CLONE_THREAD and CLONE_PARENT hand it on).
    Fork { parent: u32, tid: u32, tgid: u32 },
    /// A process executed a program. Its other threads have been ended.
    Exec { tgid: u32 },
    /// A process has chosen a new name for its leading thread.
    Name { tgid: u32, name: [u8; 16] },
    /// A process will dump its core.
    Core { tgid: u32 },
    /// A thread has ended.
    Exit { tid: u32, tgid: u32, code: i32 },
    /// Users, sessions, tracers.
    Other,
}

/// What can be asked of the connector.
#[derive(Clone, Copy, Debug)]
pub(super) enum Request {
    /// Tell.
    Listen,
    /// Be silent.
    Ignore,
}

/// The message in a datagram; `None` if it is none of the proc connector.
pub(super) fn decode(datagram: &[u8]) -> Option<Message> {
    // neli 0.7.5 subtracts from lengths that it believes, so what is not of the kernel's form is not shown to it.
    let half = |at: usize| datagram.get(at..)?.first_chunk().copied().map(u16::from_ne_bytes);
    let length = usize::try_from(u32::from_ne_bytes(*datagram.first_chunk()?)).ok()?;
    let (kind, flags, data) = (half(4)?, half(6)?, half(HEADERS - 4)?);
    let plain = kind == u16::from(Nlmsg::Done) && flags == 0;
    if !plain || length > datagram.len() || length < HEADERS + usize::from(data) {
        return None;
    }
    let datagram: Nlmsghdr<Nlmsg, CnMsg<ProcEventHeader>> =
        Nlmsghdr::from_bytes(&mut Cursor::new(datagram)).ok()?;
    let message = datagram.get_payload()?;
    if (message.idx(), message.val()) != (&CnMsgIdx::Proc, &CnMsgVal::Proc) {
        return None;
    }
    let ProcEventHeader { cpu, timestamp_ns, event } = *message.payload();
    Some(Message { cpu, number: *message.seq(), stamp: timestamp_ns, fact: fact(event, *message.ack())? })
}

fn fact(event: ProcEvent, acknowledged: u32) -> Option<Fact> {
    let id = |number: i32| u32::try_from(number).ok();
    Some(match event {
        // The kernel adds one.
        ProcEvent::Ack { err } => Fact::Answer { mark: acknowledged.wrapping_sub(1), error: err },
        ProcEvent::Fork { parent_tgid, child_pid, child_tgid, .. } => {
            Fact::Fork { parent: id(parent_tgid)?, tid: id(child_pid)?, tgid: id(child_tgid)? }
        }
        ProcEvent::Exec { process_tgid, .. } => Fact::Exec { tgid: id(process_tgid)? },
        ProcEvent::Comm { process_pid, process_tgid, comm } if process_pid == process_tgid => {
            Fact::Name { tgid: id(process_tgid)?, name: comm }
        }
        ProcEvent::Coredump { process_tgid, .. } => Fact::Core { tgid: id(process_tgid)? },
        ProcEvent::Exit { process_pid, process_tgid, exit_code, .. } => {
            Fact::Exit { tid: id(process_pid)?, tgid: id(process_tgid)?, code: exit_code.cast_signed() }
        }
        ProcEvent::Comm { .. }
        | ProcEvent::Uid { .. }
        | ProcEvent::Gid { .. }
        | ProcEvent::Sid { .. }
        | ProcEvent::Ptrace { .. } => Fact::Other,
    })
}

/// The datagram for a request with a mark by which its answer is known. `None` if neli could not build it, which would be a mistake here.
pub(super) fn encode(request: Request, mark: u32) -> Option<Vec<u8>> {
    let operation = match request {
        Request::Listen => ProcCnMcastOp::Listen,
        Request::Ignore => ProcCnMcastOp::Ignore,
    };
    let message = CnMsgBuilder::default().idx(CnMsgIdx::Proc).val(CnMsgVal::Proc).ack(mark);
    let message = message.payload(operation).build().ok()?;
    let datagram = NlmsghdrBuilder::default().nl_type(Nlmsg::Done).nl_flags(NlmF::empty());
    let datagram = datagram.nl_payload(NlPayload::Payload(message)).build().ok()?;
    let mut bytes = Cursor::new(Vec::new());
    datagram.to_bytes(&mut bytes).ok()?;
    Some(bytes.into_inner())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::testing::Random;

    /// A datagram as the kernel lays it out: nlmsghdr, cn_msg, proc_event.
    fn datagram(idx: u32, what: u32, data: [u32; 6]) -> Vec<u8> {
        let mut event = Vec::new();
        for word in [what, 3] {
            event.extend(u32::to_ne_bytes(word));
        }
        event.extend(77_u64.to_ne_bytes());
        event.extend(data.iter().flat_map(|word| word.to_ne_bytes()));
        let mut bytes = Vec::new();
        bytes.extend(u32::try_from(16 + 20 + event.len()).expect("short").to_ne_bytes());
        bytes.extend([3_u16, 0].iter().flat_map(|half| half.to_ne_bytes()));
        bytes.extend([0_u32, 0, idx, 1, 9, 6].iter().flat_map(|word| word.to_ne_bytes()));
        bytes.extend(
            [u16::try_from(event.len()).expect("short"), 0].iter().flat_map(|half| half.to_ne_bytes()),
        );
        bytes.extend(event);
        bytes
    }

    #[test]
    fn each_kind_becomes_its_fact() {
        let name = *b"a\0\0\0b\0\0\0c\0\0\0d\0\0\0";
        let words = [0x61_u32, 0x62, 0x63, 0x64];
        for (what, data, expected) in [
            (0, [1, 0, 0, 0, 0, 0], Fact::Answer { mark: 5, error: 1 }),
            (1, [4, 5, 6, 7, 0, 0], Fact::Fork { parent: 5, tid: 6, tgid: 7 }),
            (2, [4, 5, 0, 0, 0, 0], Fact::Exec { tgid: 5 }),
            (4, [4, 5, 0, 0, 0, 0], Fact::Other),
            (0x200, [5, 5, words[0], words[1], words[2], words[3]], Fact::Name { tgid: 5, name }),
            (0x200, [4, 5, 0, 0, 0, 0], Fact::Other),
            (0x4000_0000, [4, 5, 6, 7, 0, 0], Fact::Core { tgid: 5 }),
            (0x8000_0000, [4, 5, 0x8b, 17, 6, 7], Fact::Exit { tid: 4, tgid: 5, code: 0x8b }),
        ] {
            let message = Message { cpu: 3, number: 9, stamp: 77, fact: expected };
            assert_eq!(decode(&datagram(1, what, data)), Some(message));
        }
        assert_eq!(decode(&datagram(2, 1, [1; 6])), None, "another connector");
        assert_eq!(decode(&datagram(1, 0x1000, [1; 6])), None, "a kind that is not known yet");
        assert_eq!(decode(&datagram(1, 1, [u32::MAX; 6])), None, "no pid");
    }

    #[test]
    fn any_bytes_are_survived() {
        let mut random = Random::new(4);
        let mut decoded = 0;
        for _ in 0..20_000 {
            let mut bytes = datagram(1, 1 << random.below(32), [7; 6]);
            for _ in 0..random.below(4) {
                let at = random.below(bytes.len());
                bytes[at] = random.next() as u8;
            }
            bytes.truncate(bytes.len() - random.below(2) * random.below(70));
            decoded += usize::from(decode(&bytes).is_some());
        }
        assert!(decoded > 100, "the loop must also reach the fields, {decoded}");
    }

    #[test]
    fn a_request_is_what_the_kernel_takes() {
        let bytes = encode(Request::Listen, 5).expect("it can be built");
        assert_eq!(bytes.len(), 16 + 20 + 4);
        assert_eq!((bytes[0], bytes[4], bytes[28], bytes[36]), (40, 3, 5, 1));
        assert_eq!(encode(Request::Ignore, 5).expect("it can be built")[36], 2);
    }
}
