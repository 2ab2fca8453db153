//! Writing into the urgent ring, and counting what had no room.

use aya_ebpf::bindings::{BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP};
use aya_ebpf::helpers::bpf_ktime_get_boot_ns;
use aya_ebpf::maps::ring_buf::RingBufEntry;
use defib_ebpf::{EVENT_DESCENDANT, Event, NAME_LEN, Tracked, VERSION};

use crate::maps::{URGENT, count};

/// Nanoseconds of `CLOCK_BOOTTIME`.
#[inline(always)]
pub(crate) fn now() -> u64 {
    // SAFETY: the helper takes no arguments and always succeeds (5.8).
    unsafe { bpf_ktime_get_boot_ns() }
}

/// The beginning of every record about a tracked process.
#[inline(always)]
pub(crate) fn event(kind: u16, at: u64, tgid: u32, entry: &Tracked, name: [u8; NAME_LEN]) -> Event {
    Event {
        at,
        start: entry.start,
        version: VERSION,
        kind,
        flags: if entry.is_main() { 0 } else { EVENT_DESCENDANT },
        tgid,
        slot: entry.slot,
        name,
    }
}

/// Room for a record, or one more loss of its kind.
#[inline(always)]
pub(crate) fn reserve<T: 'static>(kind: u16) -> Option<RingBufEntry<T>> {
    let room = URGENT.reserve(0);
    if room.is_none() {
        count(|stats| stats.lost[kind as usize] += 1);
    }
    room
}

/// When the reader is to learn of a record.
///
/// By itself the kernel wakes the reader only if it has read all that is before the record. So behind a record that wakes
/// nobody no other would, until a report comes; and that may be long after: a program can hang in execve(2), and a process
/// that dies can dump its memory for minutes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wake {
    /// At once, whatever is unread before it.
    Now,
    /// With the keeper's report of the same thing, which is on its way: see [`Tracked::is_reported`].
    WithReport,
    /// With a report that is on its way if the record of the process before this one is still unread, else at once: the
    /// report may have been there before the record was. What the reader has not read yet it reads when it is told.
    IfCaughtUp,
}

/// Hands a written record over.
#[inline(always)]
pub(crate) fn submit<T: 'static>(kind: u16, record: RingBufEntry<T>, wake: Wake) {
    let flags = match wake {
        Wake::Now => BPF_RB_FORCE_WAKEUP,
        Wake::WithReport => BPF_RB_NO_WAKEUP,
        Wake::IfCaughtUp => 0,
    };
    record.submit(flags.into());
    count(|stats| stats.emitted[kind as usize] += 1);
}

/// Writes a record.
#[inline(always)]
pub(crate) fn emit<T: 'static>(kind: u16, record: T, wake: Wake) {
    if let Some(mut room) = reserve::<T>(kind) {
        room.write(record);
        submit(kind, room, wake);
    }
}
