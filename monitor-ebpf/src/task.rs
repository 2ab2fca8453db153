//! Fields of the kernel's `task_struct`.
//!
//! The tracepoints hand over pointers whose type the verifier knows. It follows plain loads through them, checks each
//! offset against the type, and a fault reads as zero: no helper call is needed.

use aya_ebpf::EbpfContext;
use aya_ebpf::helpers::generated::bpf_get_current_task;
use aya_ebpf::helpers::{bpf_get_current_comm, bpf_get_current_pid_tgid, bpf_probe_read_kernel};
use aya_ebpf::programs::BtfTracePointContext;
use defib_ebpf::{NAME_LEN, Tracked};

use crate::maps::{fact, offset, tracked_by_number};

/// A `struct task_struct *` that came out of a tracepoint.
#[derive(Clone, Copy)]
pub(crate) struct Task(*const u8);

/// `SIGNAL_GROUP_EXIT` of include/linux/sched/signal.h.
const GROUP_EXIT: u32 = 4;
/// `SIGNAL_UNKILLABLE` there: the first process of a pid namespace.
const UNKILLABLE: u32 = 0x40;

/// Loads a field of the kernel object at `object`.
///
/// # Safety
/// `object` must be a pointer that the verifier knows by its BTF type, and `T` must fit the field at `offset`.
/// The verifier refuses the program otherwise.
#[inline(always)]
pub(crate) unsafe fn field<T: Copy>(object: *const u8, offset: usize) -> T {
    // SAFETY: see above. Volatile: one load, of this width, here.
    unsafe { core::ptr::read_volatile(object.wrapping_add(offset).cast()) }
}

/// Copies `T` from an address in the kernel, zero if it cannot be read. A helper call: for what the verifier does not let
/// the programs load themselves.
#[inline(always)]
pub(crate) fn read<T: Copy + Default>(address: u64) -> T {
    // SAFETY: the helper checks the address and copies what is there.
    unsafe { bpf_probe_read_kernel(address as *const T) }.unwrap_or_default()
}

/// The number in an argument of a tracepoint that the verifier takes for a valid pointer. It believes that such a
/// pointer is never null, and removes the branches that ask; so the number is copied out of the context.
#[inline(always)]
pub(crate) fn number(ctx: &BtfTracePointContext, index: u64) -> u64 {
    read(ctx.as_ptr() as u64 + 8 * index)
}

/// The name of the thread that runs this program: what its child has, and what it has after an exec.
#[inline(always)]
pub(crate) fn thread_name() -> [u8; NAME_LEN] {
    bpf_get_current_comm().unwrap_or_default()
}

/// The name of the process that runs this program: that of its first thread, as `ps` shows it.
#[inline(always)]
pub(crate) fn current_name() -> [u8; NAME_LEN] {
    // SAFETY: the helper takes no arguments and always succeeds.
    let task = unsafe { bpf_get_current_task() };
    let leader = read::<u64>(task + offset!(task_group_leader) as u64);
    read(leader + offset!(task_comm) as u64)
}

/// The thread group that runs this program.
#[inline(always)]
pub(crate) fn current_tgid() -> u32 {
    (bpf_get_current_pid_tgid() >> 32) as u32
}

/// The process that runs this program, if it is tracked. Without pointers that the verifier knows: a helper that gives
/// one came with 5.11.
#[inline(always)]
pub(crate) fn tracked_current() -> Option<(u32, Tracked)> {
    let tgid = current_tgid();
    let entry = tracked_by_number(tgid)?;
    // SAFETY: the helper takes no arguments and always succeeds.
    let task = unsafe { bpf_get_current_task() };
    let leader = read::<u64>(task + offset!(task_group_leader) as u64);
    entry.is(read(leader + offset!(task_start_boottime) as u64)).then_some((tgid, entry))
}

/// Whether the process that runs this program is spared by all signals but SIGKILL.
#[inline(always)]
pub(crate) fn current_is_unkillable() -> bool {
    // SAFETY: as above.
    let task = unsafe { bpf_get_current_task() };
    let signal = read::<u64>(task + offset!(task_signal) as u64);
    read::<u32>(signal + offset!(signal_flags) as u64) & UNKILLABLE != 0
}

impl Task {
    /// Takes a tracepoint's argument for a task.
    ///
    /// # Safety
    /// The argument must be a `struct task_struct *` by its BTF type.
    #[inline(always)]
    pub(crate) unsafe fn new(argument: *const u8) -> Self {
        Self(argument)
    }

    #[inline(always)]
    fn get<T: Copy>(self, offset: usize) -> T {
        // SAFETY: `self.0` is a task by the contract of `new`, and each caller names a field of that width.
        unsafe { field(self.0, offset) }
    }

    #[inline(always)]
    fn leader(self) -> Self {
        Self(self.get(offset!(task_group_leader)))
    }

    #[inline(always)]
    fn signal<T: Copy>(self, offset: usize) -> T {
        let signal = self.get(offset!(task_signal));
        // SAFETY: `signal` is a `struct signal_struct *`, and each caller names a field of that width.
        unsafe { field(signal, offset) }
    }

    /// The thread group: what user space calls the pid.
    #[inline(always)]
    pub(crate) fn tgid(self) -> u32 {
        self.get(offset!(task_tgid))
    }

    /// When the process started. A thread that executes a program takes the leader's place and its start time, so
    /// this never changes in a life.
    #[inline(always)]
    pub(crate) fn start(self) -> u64 {
        self.leader().get(offset!(task_start_boottime))
    }

    /// What wait(2) will report of the process, computed as the kernel does: raw, with signal and core flag.
    #[inline(always)]
    pub(crate) fn wait_status(self) -> u32 {
        if self.signal::<u32>(offset!(signal_flags)) & GROUP_EXIT != 0 {
            self.signal(offset!(signal_group_exit_code))
        } else {
            self.leader().get(offset!(task_exit_code))
        }
    }

    /// The signal that ends the process, once that is certain; zero before, and if it ends by itself.
    #[inline(always)]
    pub(crate) fn dies_of(self) -> u32 {
        if self.signal::<u32>(offset!(signal_flags)) & GROUP_EXIT == 0 {
            return 0;
        }
        self.signal::<u32>(offset!(signal_group_exit_code)) & 0x7f
    }

    /// Whether the process has a handler for a signal, or ignores it.
    #[inline(always)]
    pub(crate) fn handles(self, signal: u32) -> bool {
        let sighand = read::<u64>(self.0 as u64 + offset!(task_sighand) as u64);
        let action = u64::from(signal.wrapping_sub(1)) * u64::from(fact!(action_size));
        let handler = offset!(sighand_action) as u64 + action + offset!(action_handler) as u64;
        read::<u64>(sighand + handler) != 0
    }

    /// The name of the process.
    #[inline(always)]
    pub(crate) fn name(self) -> [u8; NAME_LEN] {
        read(self.leader().0 as u64 + offset!(task_comm) as u64)
    }

    /// Whether every thread has begun to exit. Two threads that end at the same time may both see it.
    #[inline(always)]
    pub(crate) fn all_threads_ended(self) -> bool {
        self.signal::<u32>(offset!(signal_live)) == 0
    }

    /// Whether the out-of-memory killer has chosen the process. Read from the victim itself, so there is nothing to
    /// correlate.
    #[inline(always)]
    pub(crate) fn oom_victim(self) -> bool {
        self.signal::<u64>(offset!(signal_oom_mm)) != 0
    }
}
