//! `signal_deliver(signal, info, action)`: a process takes a signal. Runs in it, under the lock of its signals, before
//! a core is dumped.
//!
//! Fatal signals that were not so when they were sent come here: those that dump a core, and those that were blocked.

use aya_ebpf::macros::btf_tracepoint;
use aya_ebpf::programs::BtfTracePointContext;
use defib_ebpf::{BLOW_FATAL, culprit, kind};

use crate::blows::{last, strike};
use crate::maps::{count, offset};
use crate::signal::{KILL, NO_INFO, delivered, ends_by_default};
use crate::task::{current_is_unkillable, current_name, field, number, tracked_current};

#[btf_tracepoint(function = "signal_deliver")]
fn on_deliver(ctx: BtfTracePointContext) -> i32 {
    let signal = ctx.arg::<u64>(0) as u32;
    let handler_at = offset!(action_handler);
    // SAFETY: the third argument is a `struct k_sigaction *` on every kernel from 5.10 on.
    let handler: u64 = unsafe { field(ctx.arg(2), handler_at) };
    if handler != 0 || !ends_by_default(signal) {
        return 0;
    }
    // A thread that is ended with its process, or by another thread's exec, takes a SIGKILL about which nothing is
    // known. What ended the process has been told of, if it was a signal.
    let info = number(&ctx, 1);
    if info == NO_INFO {
        return 0;
    }
    count(|stats| stats.host[kind::SIGNAL as usize] += 1);
    let Some((tgid, entry)) = tracked_current() else { return 0 };
    if signal != KILL && current_is_unkillable() {
        return 0;
    }
    let mut sender = delivered(signal, info);
    if let Some(blow) = last(tgid, &entry) {
        if blow.flags & BLOW_FATAL != 0 {
            return 0;
        }
        // The sender was seen at work; that says more than what the signal carries. A fault has no such sender.
        if blow.culprit.signal == signal && sender.kind != culprit::ADDRESS {
            sender = blow.culprit;
        }
    }
    strike(tgid, &entry, sender, true, current_name());
    0
}
