//! `sched_process_exit(task[, group_dead])`: the end of a process, which is the end of its last thread.
//!
//! Runs in the ending thread, before its parent can learn of it: when the keeper's pidfd fires, everything that this
//! program writes is there.

use aya_ebpf::macros::btf_tracepoint;
use aya_ebpf::programs::BtfTracePointContext;
use defib_ebpf::{EVENT_OOM, End, EndKey, kind};

use crate::emit::{Wake, emit, event, now};
use crate::maps::{count, fact, record_end, tracked, untrack};
use crate::task::Task;

#[btf_tracepoint(function = "sched_process_exit")]
fn on_exit(ctx: BtfTracePointContext) -> i32 {
    // SAFETY: the first argument is a task on every kernel from 5.10 on.
    let task = unsafe { Task::new(ctx.arg(0)) };
    let last = if fact!(exit_has_group_dead) != 0 {
        // Where the argument does not exist the verifier prunes this load with its branch.
        ctx.arg::<u64>(1) as u8 != 0
    } else {
        task.all_threads_ended()
    };
    if !last {
        return 0;
    }
    count(|stats| stats.host[kind::EXIT as usize] += 1);

    let tgid = task.tgid();
    let Some(entry) = tracked(tgid, task.start()) else { return 0 };
    // Without the argument two threads may see the last end. Whoever deletes the entry reports it, and that is still
    // before the process can be reaped: both run ahead of their own thread's release.
    if !untrack(tgid) {
        return 0;
    }
    let end = End {
        at: now(),
        wait_status: task.wait_status(),
        flags: if task.oom_victim() { EVENT_OOM } else { 0 },
    };
    if entry.is_main() {
        record_end(&EndKey::new(tgid, entry.start), &end);
    } else {
        count(|stats| stats.descendant_exits += 1);
        // A build or a shell script ends thousands of them; only what the kernel killed for memory is news.
        if end.flags & EVENT_OOM == 0 {
            return 0;
        }
    }
    let mut exit = event(kind::EXIT, end.at, tgid, &entry);
    exit.flags |= end.flags;
    exit.wait_status = end.wait_status;
    emit(exit, if entry.is_reported() { Wake::WithReport } else { Wake::Now });
    0
}
