//! Writing into the urgent ring, and counting what had no room.

use aya_ebpf::bindings::BPF_RB_NO_WAKEUP;
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
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wake {
    /// At once, if it had caught up.
    Now,
    /// With the keeper's report of the same thing, which is on its way: see [`Tracked::is_reported`].
    WithReport,
}

/// Hands a written record over.
#[inline(always)]
pub(crate) fn submit<T: 'static>(kind: u16, record: RingBufEntry<T>, wake: Wake) {
    let flags = if wake == Wake::Now { 0 } else { BPF_RB_NO_WAKEUP };
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
