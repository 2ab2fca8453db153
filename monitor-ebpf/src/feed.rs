//! The feed of the whole host: everything but main processes, while somebody listens.
//!
//! Who reads it is in no hurry. A wake-up for each of a thousand forks a second would cost the host more than all the
//! rest, so there is one in [`QUIET_NS`] at most, and the reader looks again after it.

use aya_ebpf::bindings::{BPF_RB_FORCE_WAKEUP, BPF_RB_NO_WAKEUP};
use aya_ebpf::helpers::bpf_ktime_get_ns;
use aya_ebpf::macros::map;
use aya_ebpf::maps::ring_buf::RingBufEntry;
use aya_ebpf::maps::{Array, PerCpuArray, RingBuf};
use defib_ebpf::{EVENT_DESCENDANT, Event, FeedStats, NAME_LEN, NO_SLOT, Tracked, VERSION, ctrl};

use crate::maps::set;

/// Room for what some 3,600 processes do in their lives.
#[map]
static BULK: RingBuf = RingBuf::with_byte_size(1024 * 1024, 0);

/// When the reader was last woken.
#[map]
static WOKEN: Array<u64> = Array::with_max_entries(1, 0);

#[map]
static FEED_STATS: PerCpuArray<FeedStats> = PerCpuArray::with_max_entries(1, 0);

/// How long the reader is left alone after it was woken. It looks again after twice that.
const QUIET_NS: u64 = 5_000_000;

/// Whether somebody listens. A listener says until when it does: the programs may outlive it, and the host shall not pay
/// for a feed that nobody reads. While nobody listens this is one load.
#[inline(always)]
pub(crate) fn is_on() -> bool {
    let until = set(ctrl::FEED);
    // SAFETY: the helper takes no arguments and always succeeds.
    until != 0 && unsafe { bpf_ktime_get_ns() } < until
}

/// The beginning of every record: about the process `tgid` that started at `start`. `entry` is that of a descendant of a
/// service.
#[inline(always)]
pub(crate) fn event(
    kind: u16,
    at: u64,
    tgid: u32,
    start: u64,
    entry: Option<&Tracked>,
    name: [u8; NAME_LEN],
) -> Event {
    Event {
        at,
        start: entry.map_or(start, |entry| entry.start),
        version: VERSION,
        kind,
        flags: EVENT_DESCENDANT,
        tgid,
        slot: entry.map_or(NO_SLOT, |entry| entry.slot),
        name,
    }
}

/// Room for a record. Whatever comes of it, one more event was to be told.
///
/// Counted before and after, not in one go with the room at hand: verifiers up to 6.1 take a second comparison of the
/// room with null for one that may have another outcome, and miss the submit.
#[inline(always)]
pub(crate) fn reserve<T: 'static>() -> Option<RingBufEntry<T>> {
    count(|stats| stats.emitted += 1);
    let room = BULK.reserve(0);
    if room.is_none() {
        count(|stats| stats.lost += 1);
    }
    room
}

#[inline(always)]
fn count(change: impl FnOnce(&mut FeedStats)) {
    if let Some(stats) = FEED_STATS.get_ptr_mut(0) {
        // SAFETY: the map has this entry. Nothing else on this CPU touches it: forks, execs and exits happen in
        // processes, with preemption off.
        change(unsafe { &mut *stats });
    }
}

/// Hands a written record over that was made at `at`.
#[inline(always)]
pub(crate) fn submit<T: 'static>(record: RingBufEntry<T>, at: u64) {
    let mut flags = BPF_RB_NO_WAKEUP;
    if let Some(woken) = WOKEN.get_ptr_mut(0) {
        // SAFETY: the array has this entry. Two CPUs that get here at once wake the reader twice.
        unsafe {
            if core::ptr::read_volatile(woken) + QUIET_NS <= at {
                core::ptr::write_volatile(woken, at);
                flags = BPF_RB_FORCE_WAKEUP;
            }
        }
    }
    record.submit(flags.into());
}

/// Writes a record.
#[inline(always)]
pub(crate) fn tell<T: 'static>(record: T, at: u64) {
    if let Some(mut room) = reserve::<T>() {
        room.write(record);
        submit(room, at);
    }
}
