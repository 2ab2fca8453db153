//! `signal_generate(signal, info, task, group, result)`: a signal is sent. Runs in the context of the sender, which is a
//! process or an interrupt, under the lock of the receiver's signals.
//!
//! A signal that ends a process without a core dump has ended it here: the kernel has marked the whole process already.

use aya_ebpf::macros::btf_tracepoint;
use aya_ebpf::programs::BtfTracePointContext;
use defib_ebpf::{BLOW_FATAL, Culprit, culprit, kind};

use crate::blows::{last, strike};
use crate::emit::now;
use crate::maps::{count, tracked};
use crate::signal::{asks_to_end, ends_by_default, is_answer, sender};
use crate::task::{Task, number};

/// `TRACE_SIGNAL_DELIVERED` of include/trace/events/signal.h: neither ignored nor pending already.
const DELIVERED: u32 = 0;

#[btf_tracepoint(function = "signal_generate")]
fn on_generate(ctx: BtfTracePointContext) -> i32 {
    let signal = ctx.arg::<u64>(0) as u32;
    if ctx.arg::<u64>(4) as u32 != DELIVERED || !ends_by_default(signal) {
        return 0;
    }
    // SAFETY: the third argument is a task on every kernel from 5.10 on.
    let target = unsafe { Task::new(ctx.arg(2)) };
    let fatal = target.dies_of() == signal;
    if fatal {
        count(|stats| stats.host[kind::SIGNAL as usize] += 1);
    }
    let tgid = target.tgid();
    let Some(entry) = tracked(tgid, target.start()) else { return 0 };
    let before = last(tgid, &entry);
    if before.is_some_and(|blow| blow.flags & BLOW_FATAL != 0) {
        return 0;
    }
    let mut sender = sender(signal, number(&ctx, 1), tgid);
    if !fatal {
        // Of what the kernel sends, the delivery tells more. Of what a process sends, the name of the sender is known
        // only here; it counts if the receiver is asked to end, or may die when the signal is delivered.
        let counts = asks_to_end(signal) || !target.handles(signal);
        if sender.kind != culprit::PROCESS || !counts {
            return 0;
        }
    }
    // Well-behaved programs clean up when they are asked to end, and then send themselves the same signal.
    if let Some(blow) = before {
        let Culprit { kind, signal: asked, .. } = blow.culprit;
        if sender.pid == tgid
            && asked == signal
            && kind == culprit::PROCESS
            && is_answer(signal, blow.at, now())
        {
            sender = blow.culprit;
        }
    }
    strike(tgid, &entry, sender, fatal, target.name());
    0
}
