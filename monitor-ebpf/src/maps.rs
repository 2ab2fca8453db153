//! The maps that several programs use, and the globals that user space sets before the load.

use core::arch::asm;

use aya_ebpf::bindings::{BPF_ANY, BPF_F_MMAPABLE, BPF_F_NO_PREALLOC, BPF_NOEXIST};
use aya_ebpf::macros::map;
use aya_ebpf::maps::{Array, HashMap, LruHashMap, PerCpuArray, RingBuf};
use defib_ebpf::{End, EndKey, Facts, Offsets, Stats, TRACKED_EXECUTED, Tracked, ctrl};

/// Replaced before the load; see [`offset!`].
#[unsafe(no_mangle)]
pub(crate) static OFFSETS: Offsets = Offsets::UNSET;

/// Replaced before the load; see [`fact!`].
#[unsafe(no_mangle)]
pub(crate) static FACTS: Facts = Facts {
    exit_has_group_dead: 0,
    oom_arg_is_task: 0,
    action_size: 0,
    counts_connections: 0,
    rss_at: 0,
    rss_step: 0,
};

/// The offset of a field in the running kernel. Volatile: the compiler must not fold the value of this build.
macro_rules! offset {
    ($field:ident) => {
        // SAFETY: a reference to a static is valid, aligned and initialised.
        unsafe { core::ptr::read_volatile(&raw const crate::maps::OFFSETS.$field) as usize }
    };
}

/// A fact about the running kernel, volatile as in [`offset!`].
macro_rules! fact {
    ($field:ident) => {
        // SAFETY: a reference to a static is valid, aligned and initialised.
        unsafe { core::ptr::read_volatile(&raw const crate::maps::FACTS.$field) }
    };
}

pub(crate) use {fact, offset};

/// Room for about 4,000 records. Main processes write here, and as much of their descendants as [`crate::slots`] lets
/// through.
#[map]
pub(crate) static URGENT: RingBuf = RingBuf::with_byte_size(256 * 1024, 0);

/// Every process of a supervised tree, by thread group id. Not preallocated: it is nearly empty on most hosts, and a
/// fork that gets no memory for its entry would have got none for its task either.
#[map]
static TRACKED: HashMap<u32, Tracked> = HashMap::with_max_entries(16 * 1024, BPF_F_NO_PREALLOC);

/// Ends of main processes until user space takes them. Preallocated: the end that must not be lost is the one that
/// comes when there is no memory.
#[map]
static EXITS: HashMap<EndKey, End> = HashMap::with_max_entries(16 * 1024, 0);

/// What user space sets while the programs run, and what one daemon leaves to the next: see [`ctrl`].
#[map]
static CTRL: Array<u64> = Array::with_max_entries(ctrl::COUNT, 0);

/// The slot of the child that the keeper is about to make, plus one; zero when it makes none that is supervised.
///
/// `u64`, the stride of array values, so that the keeper's store through its mapping is one aligned word. It needs no
/// ordering: the keeper has one thread, and the fork program runs on that thread, inside its clone3(2).
#[map]
static NEXT_SLOT: Array<u64> = Array::with_max_entries(1, BPF_F_MMAPABLE);

#[map]
static STATS: PerCpuArray<Stats> = PerCpuArray::with_max_entries(1, 0);

/// The ends that were seen last, where two threads may both see the end of their process: see [`first_sight`].
#[map]
static SEEN: LruHashMap<EndKey, u32> = LruHashMap::with_max_entries(4096, 0);

/// Changes this CPU's counters. Plain additions suffice: tracepoints run with preemption off, and what runs in
/// interrupts, the signals, counts under numbers of its own and with interrupts off. The one counter that both sides
/// share is changed by [`add`].
#[inline(always)]
pub(crate) fn count(change: impl FnOnce(&mut Stats)) {
    if let Some(stats) = STATS.get_ptr_mut(0) {
        // SAFETY: the map has this entry, and nothing else on this CPU touches it meanwhile.
        change(unsafe { &mut *stats });
    }
}

/// Adds to a counter that others may be adding to. Inline assembly, because the compiler has no atomic addition for
/// this target; the verifier of 5.10 knows it.
#[inline(always)]
pub(crate) fn add(counter: *mut u64, amount: i64) {
    // SAFETY: the callers pass counters in map values, which stay allocated until this program returns.
    unsafe { asm!("lock *(u64 *)({0} + 0) += {1}", in(reg) counter, in(reg) amount) };
}

/// Counts an event that is not told. See [`crate::slots`].
#[inline(always)]
pub(crate) fn suppressed() {
    if let Some(stats) = STATS.get_ptr_mut(0) {
        // SAFETY: the map has this entry.
        add(unsafe { &raw mut (*stats).suppressed }, 1);
    }
}

/// What user space has set. One load: the verifier makes the look-up an address.
#[inline(always)]
pub(crate) fn set(index: u32) -> u64 {
    // SAFETY: the array has this entry. Volatile: user space writes it.
    CTRL.get_ptr(index).map_or(0, |value| unsafe { core::ptr::read_volatile(value) })
}

/// The thread group of the keeper. No constant: programs that are pinned outlive it, and serve the next one.
#[inline(always)]
pub(crate) fn keeper() -> u32 {
    set(ctrl::KEEPER) as u32
}

/// The slot that the keeper has announced.
#[inline(always)]
pub(crate) fn next_slot() -> Option<u32> {
    let announced = NEXT_SLOT.get_ptr(0)?;
    // SAFETY: the map has this entry. Volatile: user space writes it.
    let announced = unsafe { core::ptr::read_volatile(announced) };
    announced.checked_sub(1).map(|slot| slot as u32)
}

/// The entry under a thread group id, copied out, whichever life it is about. For tracepoints that tell no more.
#[inline(always)]
pub(crate) fn tracked_by_number(tgid: u32) -> Option<Tracked> {
    let entry = TRACKED.get_ptr(tgid)?;
    // SAFETY: the entry stays allocated until this program returns (RCU).
    Some(unsafe { *entry })
}

/// The entry of the process `tgid` that started at `start`, copied out.
#[inline(always)]
pub(crate) fn tracked(tgid: u32, start: u64) -> Option<Tracked> {
    tracked_by_number(tgid).filter(|entry| entry.is(start))
}

/// Tracks a new process. What an earlier life with the same number left behind is overwritten.
#[inline(always)]
pub(crate) fn track(tgid: u32, entry: &Tracked) {
    if TRACKED.insert(tgid, entry, BPF_ANY.into()).is_err() {
        count(|stats| stats.tracked_full += 1);
    }
}

/// Notes that a main process has executed a program; true if this is the first time.
#[inline(always)]
pub(crate) fn first_exec(tgid: u32) -> bool {
    let Some(entry) = TRACKED.get_ptr_mut(tgid) else { return false };
    // SAFETY: the entry stays allocated until this program returns (RCU), and only the process's own exec changes it.
    let flags = unsafe { &mut (*entry).flags };
    let first = *flags & TRACKED_EXECUTED == 0;
    *flags |= TRACKED_EXECUTED;
    first
}

/// Stops tracking. True for one caller only, however many threads see the end of the process.
#[inline(always)]
pub(crate) fn untrack(tgid: u32) -> bool {
    TRACKED.remove(tgid).is_ok()
}

/// True for the first of the threads that see the end of this process, tracked or not.
#[inline(always)]
pub(crate) fn first_sight(key: &EndKey) -> bool {
    SEEN.insert(key, 0, BPF_NOEXIST.into()).is_ok()
}

/// Records the end of a main process.
#[inline(always)]
pub(crate) fn record_end(key: &EndKey, end: &End) {
    if EXITS.insert(key, end, BPF_ANY.into()).is_err() {
        count(|stats| stats.exits_full += 1);
    }
}
