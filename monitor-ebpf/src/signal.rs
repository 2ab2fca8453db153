//! Signals as the kernel numbers and describes them.

use aya_ebpf::helpers::bpf_get_current_uid_gid;
use defib_ebpf::{Culprit, culprit};

use crate::task::{current_name, current_tgid, read};

/// The signals that do nothing by default, or stop the process: CHLD, CONT, STOP, TSTP, TTIN, TTOU, URG and WINCH.
const HARMLESS: u64 = 1 << 17 | 1 << 18 | 1 << 19 | 1 << 20 | 1 << 21 | 1 << 22 | 1 << 23 | 1 << 28;
/// The signals by which programs are asked to end: HUP, INT, QUIT, ABRT, KILL and TERM.
const ASKING: u64 = 1 << HUP | 1 << 2 | 1 << 3 | 1 << 6 | 1 << KILL | 1 << 15;
/// The signals that tell of an address: ILL, TRAP, BUS, FPE, SEGV and SYS.
const FAULTS: u64 = 1 << 4 | 1 << 5 | 1 << 7 | 1 << 8 | 1 << 11 | 1 << 31;
const HUP: u32 = 1;
pub(crate) const KILL: u32 = 9;

/// Values of `struct kernel_siginfo *` that are no pointers, from include/linux/sched/signal.h: a process sent the
/// signal, or the kernel did.
pub(crate) const NO_INFO: u64 = 0;
const FROM_KERNEL: u64 = 1;

/// `SI_KERNEL`: a fault without an address.
const SI_KERNEL: i32 = 0x80;

/// How long a process may take to end after it was asked to, for the one to be put down to the other: five minutes, and
/// a second for SIGHUP, which daemons take for an order to read their configuration again.
const PATIENCE_NS: u64 = 300_000_000_000;
const HUP_PATIENCE_NS: u64 = 1_000_000_000;

fn is_in(set: u64, signal: u32) -> bool {
    // 64, the last signal, is counted as 0, which is none and in no set.
    set >> (signal & 63) & 1 != 0
}

/// Whether a signal ends a process that does not handle it.
#[inline(always)]
pub(crate) fn ends_by_default(signal: u32) -> bool {
    !is_in(HARMLESS, signal)
}

/// Whether a signal asks a process to end.
#[inline(always)]
pub(crate) fn asks_to_end(signal: u32) -> bool {
    is_in(ASKING, signal)
}

/// Whether an end at `now` may be the answer to a signal at `asked`.
#[inline(always)]
pub(crate) fn is_answer(signal: u32, asked: u64, now: u64) -> bool {
    now.wrapping_sub(asked) < if signal == HUP { HUP_PATIENCE_NS } else { PATIENCE_NS }
}

/// The head of a `struct kernel_siginfo`, whose layout is that of user space's siginfo_t on all architectures that
/// defib runs on. What follows depends on the code: pid and user of the sender, or an address.
#[repr(C)]
#[derive(Clone, Copy, Default)]
struct Info {
    signal: i32,
    errno: i32,
    code: i32,
    padding: u32,
    low: u32,
    high: u32,
}

impl Info {
    /// Whether a process sent it: `SI_USER`, `SI_QUEUE` or `SI_TKILL`. Other codes are timers, completions and faults.
    #[inline(always)]
    fn is_from_process(&self) -> bool {
        matches!(self.code, 0 | -1 | -6)
    }
}

/// Who sends `signal` to the process `target`, asked in the context of the sender.
#[inline(always)]
pub(crate) fn sender(signal: u32, info: u64, target: u32) -> Culprit {
    let by_process = match info {
        FROM_KERNEL => false,
        // What the kernel sends to a process for what it just did comes without information too (SIGPIPE, SIGXFSZ);
        // SIGKILL does when a process writes into the `cgroup.kill` of its own group.
        NO_INFO => current_tgid() != target || signal == KILL,
        info => read::<Info>(info).is_from_process(),
    };
    if !by_process {
        return Culprit::kernel(signal);
    }
    Culprit {
        kind: culprit::PROCESS,
        pid: current_tgid(),
        uid: bpf_get_current_uid_gid() as u32,
        name: current_name(),
        ..Culprit::kernel(signal)
    }
}

/// Who sent `signal`, by what is delivered with it. Without a name, and with the pid in the receiver's eyes.
#[inline(always)]
pub(crate) fn delivered(signal: u32, info: u64) -> Culprit {
    let info = read::<Info>(info);
    let base = Culprit::kernel(signal);
    if info.is_from_process() {
        Culprit { kind: culprit::PROCESS, pid: info.low, uid: info.high, ..base }
    } else if info.code > 0 && info.code != SI_KERNEL && is_in(FAULTS, signal) {
        let address = u64::from(info.high) << 32 | u64::from(info.low);
        Culprit { kind: culprit::ADDRESS, address, ..base }
    } else {
        base
    }
}
