//! `sched_process_fork(parent, child)`: who belongs to which slot. Runs in the parent, before the child does.

use aya_ebpf::macros::btf_tracepoint;
use aya_ebpf::programs::BtfTracePointContext;
use defib_ebpf::{ForkEvent, TRACKED_MAIN, Tracked, kind};

use crate::emit::{Wake, emit, event, now};
use crate::feed;
use crate::maps::{count, keeper, next_slot, track, tracked};
use crate::task::{Task, thread_name};

#[btf_tracepoint(function = "sched_process_fork")]
fn on_fork(ctx: BtfTracePointContext) -> i32 {
    // SAFETY: both arguments are tasks on every kernel from 5.10 on.
    let (parent, child) = unsafe { (Task::new(ctx.arg(0)), Task::new(ctx.arg(1))) };
    let (parent_tgid, child_tgid) = (parent.tgid(), child.tgid());
    if parent_tgid == child_tgid {
        return 0; // a thread
    }
    count(|stats| stats.host[kind::FORK as usize] += 1);

    let entry = if parent_tgid == keeper() {
        // Without an announced slot the child is the daemon or a helper of the keeper.
        next_slot().map(|slot| Tracked { start: child.start(), slot, flags: TRACKED_MAIN })
    } else {
        let parent = tracked(parent_tgid, parent.start());
        parent.map(|parent| Tracked { start: child.start(), slot: parent.slot, flags: 0 })
    };
    if let Some(entry) = &entry {
        track(child_tgid, entry);
        if entry.is_main() {
            let event = event(kind::FORK, now(), child_tgid, entry, thread_name());
            emit(kind::FORK, ForkEvent { event, parent: parent_tgid, padding: 0 }, Wake::WithReport);
            return 0;
        }
    }
    if feed::is_on() {
        let at = now();
        let event = feed::event(kind::FORK, at, child_tgid, child.start(), entry.as_ref(), thread_name());
        feed::tell(ForkEvent { event, parent: parent_tgid, padding: 0 }, at);
    }
    0
}
