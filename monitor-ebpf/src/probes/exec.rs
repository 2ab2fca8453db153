//! `sched_process_exec(task, old_pid, bprm)`: a main process has become its program.

use aya_ebpf::helpers::bpf_probe_read_kernel_str_bytes;
use aya_ebpf::macros::btf_tracepoint;
use aya_ebpf::programs::BtfTracePointContext;
use defib_ebpf::{ExecEvent, FILENAME_LEN, kind};

use crate::emit::{Wake, event, now, reserve, submit};
use crate::maps::{count, first_exec, offset, tracked};
use crate::task::{Task, field};

#[btf_tracepoint(function = "sched_process_exec")]
fn on_exec(ctx: BtfTracePointContext) -> i32 {
    count(|stats| stats.host[kind::EXEC as usize] += 1);
    // SAFETY: the first argument is a task on every kernel from 5.10 on.
    let task = unsafe { Task::new(ctx.arg(0)) };
    let tgid = task.tgid();
    let Some(entry) = tracked(tgid, task.start()) else { return 0 };
    if !entry.is_main() {
        return 0;
    }
    let Some(mut record) = reserve::<ExecEvent>(kind::EXEC) else { return 0 };
    let exec = record
        .write(ExecEvent { event: event(kind::EXEC, now(), tgid, &entry), filename: [0; FILENAME_LEN] });
    let filename_at = offset!(bprm_filename);
    // SAFETY: the third argument is a `struct linux_binprm *`, its filename a pointer to a string of the kernel.
    unsafe {
        let filename: *const u8 = field(ctx.arg(2), filename_at);
        // A name that cannot be read stays empty: the event counts, not its path.
        let _ = bpf_probe_read_kernel_str_bytes(filename, &mut exec.filename);
    }
    // The keeper tells of the first exec, which makes the start complete, and knows nothing of later ones.
    let wake = if first_exec(tgid) && entry.is_reported() { Wake::WithReport } else { Wake::Now };
    submit(kind::EXEC, record, wake);
    0
}
