//! What hit a process last: a signal that ends it, or that asked it to end.

use aya_ebpf::bindings::{BPF_ANY, BPF_F_NO_PREALLOC};
use aya_ebpf::macros::map;
use aya_ebpf::maps::HashMap;
use defib_ebpf::{BLOW_FATAL, Blow, Culprit, SignalEvent, Tracked, culprit, kind};

use crate::emit::{Wake, emit, event, now};
use crate::maps::{count, keeper, tracked_by_number};
use crate::signal::{asks_to_end, is_answer};
use crate::slots::may_tell;

/// At most one for each entry of TRACKED.
#[map]
static BLOWS: HashMap<u32, Blow> = HashMap::with_max_entries(16 * 1024, BPF_F_NO_PREALLOC);

/// What hit this process last.
#[inline(always)]
pub(crate) fn last(tgid: u32, entry: &Tracked) -> Option<Blow> {
    let blow = BLOWS.get_ptr(tgid)?;
    // SAFETY: the entry stays allocated until this program returns (RCU).
    let blow = unsafe { *blow };
    (blow.start == entry.start).then_some(blow)
}

/// Remembers a blow, and tells of it if it is fatal. Both programs that call this hold the lock of the process's
/// signals, so no two blows come at once.
#[inline(always)]
pub(crate) fn strike(tgid: u32, entry: &Tracked, culprit: Culprit, fatal: bool, name: [u8; 16]) {
    let at = now();
    let flags = if fatal { BLOW_FATAL } else { 0 };
    let blow = Blow { start: entry.start, at, culprit, flags, padding: 0 };
    if BLOWS.insert(tgid, &blow, BPF_ANY.into()).is_err() {
        // It is not told either: nothing would keep it from being told a second time.
        count(|stats| stats.blows_full += 1);
        return;
    }
    if tracked_by_number(tgid).is_none() {
        // It has ended meanwhile, on another CPU, and will not take the blow with it.
        forget(tgid);
        return;
    }
    // What the keeper ends of a tree, when its main process has ended or was asked to, is no news.
    let is_news = || culprit.pid != keeper() && may_tell(entry, at);
    if fatal && (entry.is_main() || is_news()) {
        let record = SignalEvent { event: event(kind::SIGNAL, at, tgid, entry, name), culprit };
        emit(kind::SIGNAL, record, if entry.is_reported() { Wake::WithReport } else { Wake::Now });
    }
}

/// Who brought about the end of a process with this wait status; what hit it is forgotten.
#[inline(always)]
pub(crate) fn culprit_of(tgid: u32, entry: &Tracked, wait_status: u32, at: u64) -> Culprit {
    let Some(blow) = last(tgid, entry) else { return Culprit::NONE };
    forget(tgid);
    let Culprit { kind, signal, .. } = blow.culprit;
    let explains = if wait_status & 0x7f != 0 {
        wait_status & 0x7f == signal
    } else {
        kind == culprit::PROCESS && asks_to_end(signal) && is_answer(signal, blow.at, at)
    };
    if explains { blow.culprit } else { Culprit::NONE }
}

#[inline(always)]
fn forget(tgid: u32) {
    // There may be none.
    let _ = BLOWS.remove(tgid);
}
