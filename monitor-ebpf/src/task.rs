//! Fields of the kernel's `task_struct`.
//!
//! The tracepoints hand over pointers whose type the verifier knows. It follows plain loads through them, checks each
//! offset against the type, and a fault reads as zero: no helper call is needed.

use crate::maps::offset;

/// A `struct task_struct *` that came out of a tracepoint.
#[derive(Clone, Copy)]
pub(crate) struct Task(*const u8);

/// `SIGNAL_GROUP_EXIT` of include/linux/sched/signal.h.
const GROUP_EXIT: u32 = 4;

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
