//! `iter/task`: shows every thread of the host to whoever reads the iterator, which is attached to nothing. It writes down
//! what those of services use.
//!
//! A thread takes up to 2 µs (measured on 6.18); the files of /proc and of cgroups take some 60 for a service with one process.

use core::ffi::c_void;

use aya_ebpf::bindings::seq_file;
use aya_ebpf::helpers::generated::bpf_seq_write;
use defib_ebpf::{TaskUse, ctrl};

use crate::maps::{fact, offset, set};
use crate::task::read;

/// Groups above a thread that are looked at. A service that makes deeper ones hides what is in them.
const DEPTH: u32 = 32;

/// Of include/uapi/asm-generic/resource.h, on all architectures that matter here.
const RLIMIT_NOFILE: u64 = 7;
/// `sizeof(struct rlimit)`: soft and hard.
const RLIMIT: u64 = 16;

/// Of the counters in include/linux/mm_types_task.h: pages of files, anonymous ones, and shared ones. Between them are
/// those that are swapped out.
const RESIDENT: [u64; 3] = [0, 1, 3];

/// `struct bpf_iter__task`. The verifier knows the types of both.
#[repr(C)]
struct Visit {
    meta: *const *mut seq_file,
    task: u64,
}

#[unsafe(no_mangle)]
#[unsafe(link_section = "iter/task")]
fn on_task(visit: *const Visit) -> i32 {
    // SAFETY: it is what the kernel calls this program with. The task is null in the last call.
    let (task, seq) = unsafe { ((*visit).task, *(*visit).meta) };
    let services = set(ctrl::SERVICES);
    if task == 0 || services == 0 {
        return 0;
    }
    let at = |offset: usize| task + offset as u64;
    let signal = read::<u64>(at(offset!(task_signal)));
    // What has ended and is not reaped yet is in no group, as cgroup.procs tells it.
    if signal == 0 || read::<u32>(signal + offset!(signal_live) as u64) == 0 {
        return 0;
    }
    let css_set = read::<u64>(at(offset!(task_cgroups)));
    let group = service_of(read(css_set + offset!(css_set_dfl_cgrp) as u64), services);
    if group == 0 {
        return 0;
    }
    let mut found = TaskUse {
        group,
        read: read(at(offset!(task_read_bytes))),
        written: read(at(offset!(task_write_bytes))),
        tgid: read(at(offset!(task_tgid))),
        ..TaskUse::default()
    };
    if read::<u64>(at(offset!(task_group_leader))) == task {
        of_process(&mut found, signal, read(at(offset!(task_mm))));
    }
    // SAFETY: the iterator's own file, and a record on the stack. What does not fit is told again by the kernel, into a
    // new buffer.
    unsafe { bpf_seq_write(seq, (&raw const found).cast::<c_void>(), size_of::<TaskUse>() as u32) };
    0
}

/// The inode number of the group right below `services` in which a cgroup is; zero if it is not below it.
#[inline(always)]
fn service_of(mut cgroup: u64, services: u64) -> u64 {
    let mut below = 0;
    for _ in 0..DEPTH {
        if cgroup == 0 {
            return 0;
        }
        let node = read::<u64>(cgroup + offset!(cgroup_kn) as u64);
        let number = read::<u64>(node + offset!(kernfs_node_id) as u64);
        if number == services {
            return below;
        }
        below = number;
        let parent = read::<u64>(cgroup + offset!(cgroup_parent) as u64);
        if parent == 0 {
            return 0;
        }
        cgroup = parent - offset!(cgroup_self) as u64;
    }
    0
}

#[inline(always)]
fn of_process(found: &mut TaskUse, signal: u64, mm: u64) {
    let at = |offset: usize| signal + offset as u64;
    found.threads = read(at(offset!(signal_nr_threads)));
    found.read += read::<u64>(at(offset!(signal_read_bytes)));
    found.written += read::<u64>(at(offset!(signal_write_bytes)));
    found.max_files = read(at(offset!(signal_rlim)) + RLIMIT_NOFILE * RLIMIT);
    // The first thread may have ended before the others.
    if mm == 0 {
        return;
    }
    found.virtual_pages = read(mm + offset!(mm_total_vm) as u64);
    for counter in RESIDENT {
        let counter = mm + u64::from(fact!(rss_at)) + counter * u64::from(fact!(rss_step));
        // Counters of several CPUs may be below zero for a moment.
        found.resident_pages += read::<i64>(counter).max(0) as u64;
    }
}
