//! Turns the bytes of a ring record into an event. Total and safe: any bytes give an event or nothing.

use std::mem::offset_of;

use defib_core::model::{
    Blame, KernelEvent, KernelFact, Listener, Sender, Signal, Tick, WaitStatus, Witness,
};
use defib_ebpf::{
    Culprit, EVENT_DESCENDANT, EVENT_OOM, End, Event, ExecEvent, ExitEvent, ForkEvent, NAME_LEN, NO_SLOT,
    PortEvent, SignalEvent, VERSION, culprit, kind,
};

/// A decoded record, with the kind under which it is counted.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Decoded {
    pub(super) kind: u16,
    pub(super) event: KernelEvent,
}

/// The record in `bytes`; `None` if it is too short, of another version or of no known kind. `hears_signals` says whether
/// the probes would have seen a signal.
pub(super) fn decode(bytes: &[u8], hears_signals: bool) -> Option<Decoded> {
    if u16_at(bytes, offset_of!(Event, version))? != VERSION {
        return None;
    }
    let kind = u16_at(bytes, offset_of!(Event, kind))?;
    let flags = u32_at(bytes, offset_of!(Event, flags))?;
    let at = u64_at(bytes, offset_of!(Event, at))?;
    let slot = Some(u32_at(bytes, offset_of!(Event, slot))?).filter(|&slot| slot != NO_SLOT);
    let name = name_at(bytes, offset_of!(Event, name))?;
    let fact = match kind {
        kind::FORK => KernelFact::Fork { parent: u32_at(bytes, offset_of!(ForkEvent, parent))? },
        kind::EXEC => KernelFact::Exec { filename: text(bytes.get(offset_of!(ExecEvent, filename)..)?) },
        kind::EXIT => {
            let wait_status = u32_at(bytes, offset_of!(ExitEvent, wait_status))?;
            let culprit = culprit_at(bytes, offset_of!(ExitEvent, culprit))?;
            // Signals are seen only where they hit supervised processes.
            KernelFact::Exit(witness(
                &End { at, wait_status, flags, culprit },
                hears_signals && slot.is_some(),
            ))
        }
        kind::OOM => KernelFact::Oom,
        kind::SIGNAL => {
            let culprit = culprit_at(bytes, offset_of!(SignalEvent, culprit))?;
            KernelFact::Signal { signal: Signal(culprit.signal.cast_signed()), blame: blame(&culprit)? }
        }
        kind::LISTEN => KernelFact::Listen(listener(bytes)?),
        kind::UNLISTEN => KernelFact::Unlisten(listener(bytes)?),
        _ => return None,
    };
    let event = KernelEvent {
        at: Tick(at),
        pid: u32_at(bytes, offset_of!(Event, tgid))?,
        start: u64_at(bytes, offset_of!(Event, start))?,
        slot,
        main: flags & EVENT_DESCENDANT == 0,
        name: Some(text(&name)).filter(|name| !name.is_empty()),
        fact,
    };
    Some(Decoded { kind, event })
}

/// What the kernel side knows of an end. `hears_signals`: that it knows of no signal means that none was sent.
pub(super) fn witness(end: &End, hears_signals: bool) -> Witness {
    let status = WaitStatus(end.wait_status.cast_signed());
    let oom = end.flags & EVENT_OOM != 0;
    let blame = match blame(&end.culprit) {
        _ if oom => Blame::Kernel { address: None },
        Some(blame) => blame,
        None if !hears_signals => Blame::Unknown,
        // Not every end by a signal is made by sending one: a violation of strict seccomp(2) is not.
        None if status.signal().is_some() => Blame::Kernel { address: None },
        None => Blame::Nobody,
    };
    Witness { at: Some(Tick(end.at)), status: Some(status), oom: Some(oom), blame }
}

/// Whom a blow is to be blamed on; `None` if there was none.
fn blame(culprit: &Culprit) -> Option<Blame> {
    match culprit.kind {
        culprit::KERNEL => Some(Blame::Kernel { address: None }),
        culprit::ADDRESS => Some(Blame::Kernel { address: Some(culprit.address) }),
        culprit::PROCESS => Some(Blame::Process(Sender {
            signal: Signal(culprit.signal.cast_signed()),
            pid: culprit.pid,
            uid: culprit.uid,
            name: text(&culprit.name),
        })),
        _ => None,
    }
}

fn culprit_at(bytes: &[u8], at: usize) -> Option<Culprit> {
    let bytes = bytes.get(at..)?;
    Some(Culprit {
        address: u64_at(bytes, offset_of!(Culprit, address))?,
        kind: u32_at(bytes, offset_of!(Culprit, kind))?,
        signal: u32_at(bytes, offset_of!(Culprit, signal))?,
        pid: u32_at(bytes, offset_of!(Culprit, pid))?,
        uid: u32_at(bytes, offset_of!(Culprit, uid))?,
        name: name_at(bytes, offset_of!(Culprit, name))?,
    })
}

fn listener(bytes: &[u8]) -> Option<Listener> {
    let port = u16_at(bytes, offset_of!(PortEvent, port))?;
    Some(Listener { port, netns: u32_at(bytes, offset_of!(PortEvent, netns))? })
}

fn name_at(bytes: &[u8], at: usize) -> Option<[u8; NAME_LEN]> {
    bytes.get(at..)?.first_chunk().copied()
}

/// The text before the first zero.
fn text(bytes: &[u8]) -> String {
    let text = bytes.split(|&byte| byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(text).into_owned()
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    bytes.get(at..)?.first_chunk().copied().map(u16::from_ne_bytes)
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..)?.first_chunk().copied().map(u32::from_ne_bytes)
}

pub(super) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    bytes.get(at..)?.first_chunk().copied().map(u64::from_ne_bytes)
}

#[cfg(test)]
mod tests;
