//! `sched_process_exec(task, old_pid, bprm)`: a process has become its program.

use aya_ebpf::helpers::bpf_probe_read_kernel_str_bytes;
use aya_ebpf::macros::btf_tracepoint;
use aya_ebpf::maps::ring_buf::RingBufEntry;
use aya_ebpf::programs::BtfTracePointContext;
use defib_ebpf::{Event, ExecEvent, FILENAME_LEN, kind};

use crate::emit::{Wake, event, now, reserve, submit};
use crate::feed;
use crate::maps::{count, first_exec, offset, tracked};
use crate::task::{Task, field, thread_name};

#[btf_tracepoint(function = "sched_process_exec")]
fn on_exec(ctx: BtfTracePointContext) -> i32 {
    count(|stats| stats.host[kind::EXEC as usize] += 1);
    // SAFETY: the first argument is a task on every kernel from 5.10 on.
    let task = unsafe { Task::new(ctx.arg(0)) };
    let tgid = task.tgid();
    let start = task.start();
    let entry = tracked(tgid, start);
    let filename_at = offset!(bprm_filename);
    // SAFETY: the third argument is a `struct linux_binprm *`, its filename a pointer to a string of the kernel.
    let filename: *const u8 = unsafe { field(ctx.arg(2), filename_at) };
    match entry {
        Some(entry) if entry.is_main() => {
            let Some(record) = reserve::<ExecEvent>(kind::EXEC) else { return 0 };
            let event = event(kind::EXEC, now(), tgid, &entry, thread_name());
            let record = written(record, event, filename);
            // The keeper tells of the first exec, which makes the start complete, and knows nothing of later ones. It
            // learns of it when the kernel closes the status pipe, which is before this program runs: where the process
            // is preempted in between, the report is read before this record is written.
            let wake = if first_exec(tgid) && entry.is_reported() { Wake::IfCaughtUp } else { Wake::Now };
            submit(kind::EXEC, record, wake);
        }
        entry => {
            if !feed::is_on() {
                return 0;
            }
            let Some(record) = feed::reserve::<ExecEvent>() else { return 0 };
            let at = now();
            let event = feed::event(kind::EXEC, at, tgid, start, entry.as_ref(), thread_name());
            feed::submit(written(record, event, filename), at);
        }
    }
    0
}

/// Fills a record. A name that cannot be read stays empty: the event counts, not its path.
#[inline(always)]
fn written(
    mut record: RingBufEntry<ExecEvent>,
    event: Event,
    filename: *const u8,
) -> RingBufEntry<ExecEvent> {
    let exec = record.write(ExecEvent { event, filename: [0; FILENAME_LEN] });
    // SAFETY: the helper checks the address.
    let _ = unsafe { bpf_probe_read_kernel_str_bytes(filename, &mut exec.filename) };
    record
}
