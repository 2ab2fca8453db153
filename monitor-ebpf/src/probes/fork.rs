//! `sched_process_fork(parent, child)`: who belongs to which slot. Runs in the parent, before the child does.

use aya_ebpf::macros::btf_tracepoint;
use aya_ebpf::programs::BtfTracePointContext;
use defib_ebpf::{TRACKED_MAIN, Tracked, kind};

use crate::emit::{Wake, emit, event, now};
use crate::maps::{count, fact, next_slot, track, tracked};
use crate::task::Task;

#[btf_tracepoint(function = "sched_process_fork")]
fn on_fork(ctx: BtfTracePointContext) -> i32 {
    // SAFETY: both arguments are tasks on every kernel from 5.10 on.
    let (parent, child) = unsafe { (Task::new(ctx.arg(0)), Task::new(ctx.arg(1))) };
    let (parent_tgid, child_tgid) = (parent.tgid(), child.tgid());
    if parent_tgid == child_tgid {
        return 0; // a thread
    }
    count(|stats| stats.host[kind::FORK as usize] += 1);

    if parent_tgid == fact!(keeper_tgid) {
        // Without an announced slot the child is the daemon or a helper of the keeper.
        let Some(slot) = next_slot() else { return 0 };
        let entry = Tracked { start: child.start(), slot, flags: TRACKED_MAIN };
        track(child_tgid, &entry);
        let mut fork = event(kind::FORK, now(), child_tgid, &entry);
        fork.parent = parent_tgid;
        emit(fork, Wake::WithReport);
    } else if let Some(parent) = tracked(parent_tgid, parent.start()) {
        track(child_tgid, &Tracked { start: child.start(), slot: parent.slot, flags: 0 });
    }
    0
}
