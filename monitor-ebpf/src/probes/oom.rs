//! `mark_victim(task | pid)`: the out-of-memory killer has chosen, and the process will die. Runs in whoever asked for
//! memory.

use aya_ebpf::macros::btf_tracepoint;
use aya_ebpf::programs::BtfTracePointContext;
use defib_ebpf::{EVENT_OOM, NAME_LEN, kind};

use crate::emit::{Wake, emit, event, now};
use crate::maps::{count, fact, tracked, tracked_by_number};
use crate::slots::may_tell;
use crate::task::Task;

#[btf_tracepoint(function = "mark_victim")]
fn on_oom(ctx: BtfTracePointContext) -> i32 {
    count(|stats| stats.host[kind::OOM as usize] += 1);
    let (tgid, entry, name) = if fact!(oom_arg_is_task) != 0 {
        // SAFETY: the fact says that the argument is a task.
        let victim = unsafe { Task::new(ctx.arg(0)) };
        let tgid = victim.tgid();
        (tgid, tracked(tgid, victim.start()), victim.name())
    } else {
        // Until 6.1 the number of a thread that still has memory, nearly always the leader's. Where it is another's
        // there is no early warning; the end says `oom` all the same.
        let pid = ctx.arg::<u64>(0) as u32;
        (pid, tracked_by_number(pid), [0; NAME_LEN])
    };
    let Some(entry) = entry else { return 0 };
    let at = now();
    if entry.is_main() || may_tell(&entry, at) {
        let mut oom = event(kind::OOM, at, tgid, &entry, name);
        oom.flags |= EVENT_OOM;
        emit(kind::OOM, oom, Wake::Now);
    }
    0
}
