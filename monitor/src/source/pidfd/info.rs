//! The wait status behind a pidfd, whoever the parent is: `PIDFD_GET_INFO` with `PIDFD_INFO_EXIT`, since Linux 6.15.

#![expect(unsafe_code, reason = "an ioctl writes what its caller says that there is room for")]

use std::os::fd::{AsFd, OwnedFd};
use std::sync::mpsc;
use std::thread;

use defib_core::model::WaitStatus;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::ioctl::{Updater, ioctl, opcode};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

/// `PIDFD_INFO_EXIT` of include/uapi/linux/pidfd.h: asks for the status, and says that there is one.
const EXIT: u64 = 1 << 3;

/// `PIDFD_THREAD`: the pidfd of a thread, not of its process. Since Linux 6.9.
const THREAD: PidfdFlags = PidfdFlags::from_bits_retain(libc::O_EXCL.cast_unsigned());

/// How long a thread that has ended may take to be gone.
const PATIENCE: Timespec = Timespec { tv_sec: 0, tv_nsec: 200_000_000 };

/// `struct pidfd_info` as it was first, of 64 bytes. Later kernels fill as much of theirs as there is room for.
#[repr(C)]
#[derive(Debug, Default)]
struct Info {
    mask: u64,
    cgroup: u64,
    /// pid, tgid, parent, and four pairs of user and group.
    ids: [u32; 11],
    status: i32,
}

const _: () = assert!(size_of::<Info>() == 64);

/// The wait status of a process that has been reaped. `None` before that, and where the kernel does not tell.
pub(super) fn status(pidfd: impl AsFd) -> Option<WaitStatus> {
    const GET_INFO: u32 = opcode::read_write::<Info>(0xFF, 11);
    let mut info = Info { mask: EXIT, ..Info::default() };
    // SAFETY: the operation has the size of `Info` in its number, and writes no more than that; any bits are an `Info`.
    // What is no pidfd, or one of a kernel that does not know the operation, answers with an error.
    unsafe { ioctl(pidfd, Updater::<GET_INFO, Info>::new(&mut info)) }.ok()?;
    (info.mask & EXIT != 0).then_some(WaitStatus(info.status))
}

/// Whether this kernel tells the status of the dead. A thread of our own dies for the answer: that takes no process.
pub fn tells_ends() -> bool {
    let Some((pidfd, _)) = dead_thread() else { return false };
    let gone = PollFlags::HUP;
    let mut polled = [PollFd::new(&pidfd, gone)];
    matches!(poll(&mut polled, Some(&PATIENCE)), Ok(1..)) && status(&pidfd).is_some()
}

/// The pidfd of a thread that has nothing left to do.
fn dead_thread() -> Option<(OwnedFd, Pid)> {
    let (tell, told) = mpsc::sync_channel::<Option<(OwnedFd, Pid)>>(1);
    let body = move || {
        let tid = rustix::thread::gettid();
        // If nobody listens any more the answer is of no use.
        tell.send(pidfd_open(tid, THREAD).ok().map(|pidfd| (pidfd, tid))).ok();
    };
    thread::Builder::new().name("pidfd-probe".into()).spawn(body).ok()?.join().ok()?;
    told.recv().ok()?
}
