//! `sched_process_exit(task[, group_dead])`: the end of a process, which is the end of its last thread.
//!
//! Runs in the ending thread, before its parent can learn of it: when the keeper's pidfd fires, everything that this
//! program writes is there.

use aya_ebpf::macros::btf_tracepoint;
use aya_ebpf::programs::BtfTracePointContext;
use defib_ebpf::{Culprit, EVENT_OOM, End, EndKey, Event, ExitEvent, ending, kind};

use crate::blows::culprit_of;
use crate::emit::{Wake, emit, event, now};
use crate::feed;
use crate::maps::{count, fact, first_sight, record_end, tracked, untrack};
use crate::slots::{descendant_ended, may_tell};
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
    let (tgid, start) = (task.tgid(), task.start());
    // Without the argument two threads may see the last end. Whoever is first reports it, and that is still before the
    // process can be reaped: both run ahead of their own thread's release.
    if fact!(exit_has_group_dead) == 0 && !first_sight(&EndKey::new(tgid, start)) {
        return 0;
    }
    let ending = ending::of(task.wait_status());
    count(|stats| match ending {
        // Each with an index that the verifier knows.
        ending::EXIT => stats.ends[ending::EXIT] += 1,
        ending::SIGNAL => stats.ends[ending::SIGNAL] += 1,
        _ => stats.ends[ending::CORE] += 1,
    });

    let Some(entry) = tracked(tgid, start) else {
        if feed::is_on() {
            let event = feed::event(kind::EXIT, now(), tgid, start, None, task.name());
            feed::tell(record(event, &end_of(task, event.at)), event.at);
        }
        return 0;
    };
    if !untrack(tgid) {
        return 0;
    }
    let mut end = end_of(task, now());
    end.culprit = culprit_of(tgid, &entry, end.wait_status, end.at);
    if entry.is_main() {
        record_end(&EndKey::new(tgid, entry.start), &end);
    } else {
        count(|stats| stats.descendant_exits += 1);
        descendant_ended(&entry);
        if feed::is_on() {
            feed::tell(
                record(feed::event(kind::EXIT, end.at, tgid, start, Some(&entry), task.name()), &end),
                end.at,
            );
        }
        // A build or a shell script ends thousands of them; only what the kernel killed for memory is news.
        if end.flags & EVENT_OOM == 0 || !may_tell(&entry, end.at) {
            return 0;
        }
    }
    let event = event(kind::EXIT, end.at, tgid, &entry, task.name());
    emit(kind::EXIT, record(event, &end), if entry.is_reported() { Wake::WithReport } else { Wake::Now });
    0
}

/// The end of a process, whoever brought it about.
#[inline(always)]
fn end_of(task: Task, at: u64) -> End {
    let flags = if task.oom_victim() { EVENT_OOM } else { 0 };
    End { at, wait_status: task.wait_status(), flags, culprit: Culprit::NONE }
}

#[inline(always)]
fn record(mut event: Event, end: &End) -> ExitEvent {
    event.flags |= end.flags;
    ExitEvent { event, culprit: end.culprit, wait_status: end.wait_status, padding: 0 }
}
