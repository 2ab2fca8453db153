//! What one slot may tell in a second: a service with ten thousand children, or as many ports, floods nobody.

use aya_ebpf::macros::map;
use aya_ebpf::maps::Array;
use defib_ebpf::{DESCENDANT_EVENTS, MAIN_PORTS, MAX_SLOTS, SLOT_LISTENERS, Slot, Tracked, WINDOW_NS};

use crate::maps::{add, suppressed};

#[map]
static SLOTS: Array<Slot> = Array::with_max_entries(MAX_SLOTS, 0);

/// Whether an event of a descendant, or a port, may be told now; if not, it is counted.
///
/// Windows and budgets are changed without a lock: where two CPUs tell of one slot at once a few events more get
/// through. The counters are exact.
#[inline(always)]
pub(crate) fn may_tell(entry: &Tracked, now: u64) -> bool {
    let Some(slot) = SLOTS.get_ptr_mut(entry.slot) else {
        suppressed();
        return false;
    };
    // SAFETY: the array has this entry for as long as the program runs.
    let (window, descendant_events, main_ports, told, refused) = unsafe {
        let Slot { window, descendant_events, main_ports, told, suppressed, .. } = &mut *slot;
        (window, descendant_events, main_ports, told, suppressed)
    };
    // Another CPU may have begun the window a little later than `now`.
    if now > *window + WINDOW_NS {
        *window = now;
        *descendant_events = 0;
        *main_ports = 0;
    }
    let (used, budget) =
        if entry.is_main() { (main_ports, MAIN_PORTS) } else { (descendant_events, DESCENDANT_EVENTS) };
    if *used < budget {
        *used += 1;
        add(told, 1);
        true
    } else {
        add(refused, 1);
        suppressed();
        false
    }
}

/// Counts the end of a descendant.
#[inline(always)]
pub(crate) fn descendant_ended(entry: &Tracked) {
    if let Some(slot) = SLOTS.get_ptr_mut(entry.slot) {
        // SAFETY: as above.
        add(unsafe { &raw mut (*slot).descendant_exits }, 1);
    }
}

/// Takes one of the places for listening sockets of a slot. False if all are taken.
#[inline(always)]
pub(crate) fn take_place(entry: &Tracked) -> bool {
    let Some(slot) = SLOTS.get_ptr_mut(entry.slot) else { return false };
    // SAFETY: as above.
    let listeners = unsafe { &raw mut (*slot).listeners };
    // SAFETY: as above; volatile, because other CPUs change it.
    if unsafe { core::ptr::read_volatile(listeners) } >= SLOT_LISTENERS {
        return false;
    }
    add(listeners, 1);
    true
}

/// Gives such a place back.
#[inline(always)]
pub(crate) fn give_place(slot: u32) {
    if let Some(slot) = SLOTS.get_ptr_mut(slot) {
        // SAFETY: as above.
        add(unsafe { &raw mut (*slot).listeners }, -1);
    }
}
