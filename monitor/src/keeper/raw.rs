//! Raw system calls for where libc's wrappers will not do.
//!
//! A child made with CLONE_VM shares the keeper's memory, its `errno` and thread-local storage among it, while both
//! run. So the child may use nothing that touches those: these calls return the error number in the result.
#![expect(unsafe_code, reason = "system calls that libc and rustix do not offer, or not without errno")]

use std::arch::asm;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::sync::atomic::{AtomicI32, Ordering};

use defib_core::model::Usage;

/// The child's view of the world: six arguments in, the kernel's answer out, nothing else touched.
///
/// # Safety
/// As the system call demands.
#[cfg(target_arch = "x86_64")]
#[inline]
pub(super) unsafe fn syscall(number: i64, args: [usize; 6]) -> isize {
    let result: isize;
    // SAFETY: the kernel's calling convention; rcx and r11 are what it clobbers. The caller answers for the rest.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number as isize => result,
            in("rdi") args[0], in("rsi") args[1], in("rdx") args[2],
            in("r10") args[3], in("r8") args[4], in("r9") args[5],
            lateout("rcx") _, lateout("r11") _,
            options(nostack),
        );
    }
    result
}

/// See the other architecture.
///
/// # Safety
/// As the system call demands.
#[cfg(target_arch = "aarch64")]
#[inline]
pub(super) unsafe fn syscall(number: i64, args: [usize; 6]) -> isize {
    let result: isize;
    // SAFETY: the kernel's calling convention, which clobbers nothing but x0.
    unsafe {
        asm!(
            "svc #0",
            in("x8") number,
            inlateout("x0") args[0] => result,
            in("x1") args[1], in("x2") args[2], in("x3") args[3], in("x4") args[4], in("x5") args[5],
            options(nostack),
        );
    }
    result
}

/// `struct clone_args` of clone3(2), as of Linux 5.7 (CLONE_INTO_CGROUP).
#[repr(C)]
#[derive(Debug, Default)]
pub(super) struct CloneArgs {
    pub(super) flags: u64,
    pub(super) pidfd: u64,
    pub(super) child_tid: u64,
    pub(super) parent_tid: u64,
    pub(super) exit_signal: u64,
    pub(super) stack: u64,
    pub(super) stack_size: u64,
    pub(super) tls: u64,
    pub(super) set_tid: u64,
    pub(super) set_tid_size: u64,
    pub(super) cgroup: u64,
}

/// clone3(2) with a stack of its own for the child, which calls `entry(argument)` and never returns from it.
/// Returns the child's pid, or the negated error number.
///
/// # Safety
/// `args` names a stack of 16-byte aligned end that nothing else uses until the child has executed or ended, and
/// `entry` may do only what a child that shares this memory may do, with `argument` valid as long.
#[cfg(target_arch = "x86_64")]
pub(super) unsafe fn clone3(args: &CloneArgs, entry: extern "C" fn(usize) -> !, argument: usize) -> isize {
    let result: isize;
    // SAFETY: the parent comes out of the system call with its own stack; the child, with rax = 0, goes into
    // `entry` on the new one and never reaches the end of this block.
    unsafe {
        asm!(
            "syscall",
            "test rax, rax",
            "jnz 2f",
            "xor ebp, ebp",
            "mov rdi, r12",
            "call r13",
            "ud2",
            "2:",
            inlateout("rax") libc::SYS_clone3 as isize => result,
            in("rdi") std::ptr::from_ref(args), in("rsi") size_of::<CloneArgs>(),
            in("r12") argument, in("r13") entry,
            lateout("rcx") _, lateout("r11") _,
        );
    }
    result
}

/// See the other architecture.
///
/// # Safety
/// See the other architecture.
#[cfg(target_arch = "aarch64")]
pub(super) unsafe fn clone3(args: &CloneArgs, entry: extern "C" fn(usize) -> !, argument: usize) -> isize {
    let result: isize;
    // SAFETY: as on x86_64.
    unsafe {
        asm!(
            "svc #0",
            "cbnz x0, 2f",
            "mov x29, xzr",
            "mov x0, x20",
            "blr x21",
            "brk #1",
            "2:",
            in("x8") libc::SYS_clone3,
            inlateout("x0") std::ptr::from_ref(args) => result,
            in("x1") size_of::<CloneArgs>(),
            in("x20") argument, in("x21") entry,
        );
    }
    result
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
compile_error!(
    "defib knows the system calls of x86_64 and aarch64 only: add those of this architecture here"
);

/// A child that has been reaped.
#[derive(Clone, Copy, Debug)]
pub(super) struct Reaped {
    /// The raw status of wait(2).
    pub(super) status: i32,
    /// What it used.
    pub(super) usage: Usage,
}

/// wait4(2) without waiting: the raw status, which no safe wrapper keeps, and the usage, which waitid lacks.
/// `None`: the child lives.
pub(super) fn reap(pid: i32) -> io::Result<Option<Reaped>> {
    let mut status = 0;
    // SAFETY: all zeroes is a valid rusage.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: both pointers are to live, writable values of the right type.
    let reaped = unsafe { libc::wait4(pid, &raw mut status, libc::WNOHANG, &raw mut usage) };
    match reaped {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(None),
        _ => Ok(Some(Reaped { status, usage: used(&usage) })),
    }
}

/// The raw status of a process that somebody has reaped: `PIDFD_GET_INFO` with `PIDFD_INFO_EXIT`, since Linux 6.15.
/// `None` before that, or if the kernel does not keep it; an error where it does not know the question.
pub(super) fn pidfd_status(pidfd: BorrowedFd<'_>) -> io::Result<Option<i32>> {
    /// `struct pidfd_info` as it was first: mask, cgroup, eleven numbers of processes and users, and the status.
    #[repr(C)]
    #[derive(Default)]
    struct Info {
        mask: u64,
        cgroup: u64,
        ids: [u32; 11],
        status: i32,
    }
    const EXIT: u64 = 1 << 3;
    const GET_INFO: u32 = rustix::ioctl::opcode::read_write::<Info>(0xFF, 11);
    let mut info = Info { mask: EXIT, ..Info::default() };
    // SAFETY: the operation has the size of `Info` in its number, and writes no more than that; any bits are an `Info`.
    match unsafe { rustix::ioctl::ioctl(pidfd, rustix::ioctl::Updater::<GET_INFO, Info>::new(&mut info)) } {
        // Of one that has been reaped, and was not kept.
        Err(rustix::io::Errno::SRCH) => Ok(None),
        Err(errno) => Err(errno.into()),
        Ok(()) => Ok((info.mask & EXIT != 0).then_some(info.status)),
    }
}

/// A child that has ended and not been reaped, whichever it is. `waitid` leaves it as it is: the main process of a slot
/// is reaped with its usage. (The safe wrappers fail on real-time signals, or do not tell the pid.)
pub(super) fn ended_child() -> Option<i32> {
    // SAFETY: all zeroes is a valid siginfo, and what it stays if there is no such child.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    let options = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
    // SAFETY: the pointer is to a live, writable siginfo.
    let found = unsafe { libc::waitid(libc::P_ALL, 0, &raw mut info, options) };
    // SAFETY: waitid has filled in the fields of a SIGCHLD, or left zeroes.
    let pid = unsafe { info.si_pid() };
    (found == 0 && pid != 0).then_some(pid)
}

/// Gives every signal its default action. What a shell or `nohup` had set to be ignored would stay ignored in every
/// service, as would SIGPIPE, which Rust's runtime ignores.
pub(super) fn default_dispositions() {
    // The kernel's own `struct sigaction` (32 bytes at most), all zeroes: SIG_DFL, no flags, no mask.
    let default = [0_u64; 4];
    for signal in 1..=64 {
        let args = [signal, default.as_ptr() as usize, 0, size_of::<u64>(), 0, 0];
        // SAFETY: SIG_DFL runs no code of ours. SIGKILL and SIGSTOP are refused: so be it. Not by libc, which refuses
        // its own two, 32 and 33, that an ignorant parent may have left ignored.
        unsafe { syscall(libc::SYS_rt_sigaction, args) };
    }
}

/// Lets no descriptor that whoever started defib left open reach a service: everything but 0 to 2 closes at execve.
pub(super) fn close_inherited_on_exec() {
    let all = [3, u32::MAX as usize, libc::CLOSE_RANGE_CLOEXEC as usize, 0, 0, 0];
    // SAFETY: sets a flag of descriptors; nothing is closed.
    if unsafe { syscall(libc::SYS_close_range, all) } == 0 {
        return;
    }
    // Before Linux 5.11, which has the flag: one by one.
    let numbers = std::fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
    for number in
        numbers.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).filter(|number| *number > 2)
    {
        let args = [number, libc::F_SETFD as usize, libc::FD_CLOEXEC as usize, 0, 0, 0];
        // SAFETY: as above; the descriptor of the folder itself may be closed by now, which is an error.
        unsafe { syscall(libc::SYS_fcntl, args) };
    }
}

/// dup3(2) to a number that belongs to nobody else: a reserved one. Closes at execve.
pub(super) fn place(fd: BorrowedFd<'_>, number: RawFd) -> io::Result<()> {
    let args = [fd.as_raw_fd() as usize, number as usize, libc::O_CLOEXEC as usize, 0, 0, 0];
    // SAFETY: no memory is involved; whose the number is, is the caller's business (`window`).
    match unsafe { syscall(libc::SYS_dup3, args) } {
        0.. => Ok(()),
        error => Err(io::Error::from_raw_os_error(-error as i32)),
    }
}

/// Keeps what has this number open under another one, from `least` on, for as long as this process lives. Nothing, if
/// nothing has it.
pub(super) fn keep_above(number: RawFd, least: RawFd) -> io::Result<()> {
    let args = [number as usize, libc::F_DUPFD_CLOEXEC as usize, least as usize, 0, 0, 0];
    // SAFETY: no memory is involved; the new descriptor is meant to stay.
    match unsafe { syscall(libc::SYS_fcntl, args) } {
        error if error < 0 && -error as i32 != libc::EBADF => {
            Err(io::Error::from_raw_os_error(-error as i32))
        }
        _ => Ok(()),
    }
}

/// Another descriptor for what has this number, from `least` on.
pub(super) fn duplicate(number: RawFd, least: RawFd) -> io::Result<OwnedFd> {
    let args = [number as usize, libc::F_DUPFD_CLOEXEC as usize, least as usize, 0, 0, 0];
    // SAFETY: no memory is involved.
    match unsafe { syscall(libc::SYS_fcntl, args) } {
        // SAFETY: the kernel has just made this descriptor for us.
        number @ 0.. => Ok(unsafe { OwnedFd::from_raw_fd(number as RawFd) }),
        error => Err(io::Error::from_raw_os_error(-error as i32)),
    }
}

/// Takes what an earlier program in this process has left open under this number, or gives it one from `least` on. To be
/// called once for a number.
pub(super) fn adopt(number: RawFd, least: RawFd) -> io::Result<OwnedFd> {
    if number >= least {
        // SAFETY: no memory is involved.
        let open = unsafe { syscall(libc::SYS_fcntl, [number as usize, libc::F_GETFD as usize, 0, 0, 0, 0]) };
        if open < 0 {
            return Err(io::Error::from_raw_os_error(-open as i32));
        }
        // SAFETY: it is open, and nobody in this program has opened it, so nobody else uses or closes it.
        return Ok(unsafe { OwnedFd::from_raw_fd(number) });
    }
    let own = duplicate(number, least)?;
    // SAFETY: as above.
    unsafe { syscall(libc::SYS_close, [number as usize, 0, 0, 0, 0, 0]) };
    Ok(own)
}

/// Whether what has this number is closed at execve.
pub(super) fn close_on_exec(number: RawFd, close: bool) {
    let flag = if close { libc::FD_CLOEXEC as usize } else { 0 };
    // SAFETY: sets a flag of a descriptor; one that is not open is an error.
    unsafe { syscall(libc::SYS_fcntl, [number as usize, libc::F_SETFD as usize, flag, 0, 0, 0]) };
}

/// Whether a child has been stopped, or goes on, since this was last asked; with the signal that has stopped it.
pub(super) fn stopped_child(pid: i32) -> Option<Option<i32>> {
    // SAFETY: all zeroes is a valid siginfo, and what it stays if there is no such child.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    let options = libc::WSTOPPED | libc::WCONTINUED | libc::WNOHANG;
    // SAFETY: the pointer is to a live, writable siginfo.
    let found = unsafe { libc::waitid(libc::P_PID, pid.unsigned_abs(), &raw mut info, options) };
    // SAFETY: waitid has filled in the fields of a SIGCHLD, or left zeroes.
    let (of, signal) = unsafe { (info.si_pid(), info.si_status()) };
    (found == 0 && of == pid).then(|| (info.si_code == libc::CLD_STOPPED).then_some(signal))
}

/// Whether a child can begin with this process's descriptor table and take a copy of a part of it: close_range(2) with
/// CLOSE_RANGE_UNSHARE, since Linux 5.9, and not where a seccomp filter refuses it. A child tries it, on no descriptor
/// at all, while this process waits.
pub(super) fn can_unshare_table() -> bool {
    extern "C" fn attempt(answer: usize) -> ! {
        let nothing = [u32::MAX as usize, u32::MAX as usize, libc::CLOSE_RANGE_UNSHARE as usize, 0, 0, 0];
        // SAFETY: the parent waits (CLONE_VFORK), so the integer on its stack is there; the rest are plain calls.
        unsafe {
            let result = syscall(libc::SYS_close_range, nothing);
            (*(answer as *const AtomicI32)).store(result as i32, Ordering::SeqCst);
            loop {
                syscall(libc::SYS_exit_group, [0; 6]);
            }
        }
    }
    let answer = AtomicI32::new(-1);
    let mut stack = vec![0_u128; 1024];
    let args = CloneArgs {
        flags: (libc::CLONE_VM | libc::CLONE_VFORK | libc::CLONE_FILES) as u64,
        exit_signal: libc::SIGCHLD as u64,
        stack: stack.as_mut_ptr() as u64,
        stack_size: size_of_val(stack.as_slice()) as u64,
        ..CloneArgs::default()
    };
    // SAFETY: with CLONE_VFORK the child has ended when this returns, and with it all use of the stack and of `answer`.
    let pid = unsafe { clone3(&args, attempt, std::ptr::from_ref(&answer) as usize) };
    if pid < 0 {
        return false;
    }
    // SAFETY: no status is asked for. It waits for a child that has ended already.
    unsafe { libc::waitpid(pid as i32, std::ptr::null_mut(), 0) };
    answer.load(Ordering::SeqCst) == 0
}

/// pidfd_send_signal(2) for any number: the safe wrapper takes only signals that have a name.
pub(super) fn pidfd_send_signal(pidfd: &OwnedFd, signal: i32) -> io::Result<()> {
    let args = [pidfd.as_raw_fd() as usize, signal as usize, 0, 0, 0, 0];
    // SAFETY: the descriptor is open, the third argument (siginfo) is null, which means that of kill(2).
    match unsafe { syscall(libc::SYS_pidfd_send_signal, args) } {
        0.. => Ok(()),
        error => Err(io::Error::from_raw_os_error(-error as i32)),
    }
}

fn used(usage: &libc::rusage) -> Usage {
    let micros = |time: libc::timeval| {
        let (seconds, micros) = (u64::try_from(time.tv_sec), u64::try_from(time.tv_usec));
        seconds.unwrap_or(0) * 1_000_000 + micros.unwrap_or(0)
    };
    // The kernel counts bytes, and tells blocks of 512 (task_io_get_inblock), whatever the device has.
    let blocks = |count: libc::c_long| u64::try_from(count).unwrap_or(0).saturating_mul(512);
    Usage {
        user_us: micros(usage.ru_utime),
        system_us: micros(usage.ru_stime),
        max_rss_kib: u64::try_from(usage.ru_maxrss).unwrap_or(0),
        read_bytes: blocks(usage.ru_inblock),
        written_bytes: blocks(usage.ru_oublock),
    }
}
/// Gives back what only the start needed.
///
/// Free memory, which glibc by itself keeps for good: the parser of the command line leaves half a MiB, and the kernel's
/// types, which are read for the eBPF programs, some 18 MiB. And the mapping of the program's own code and constants, of
/// which a start touches nearly all. They stay in the page cache; what is used again comes back at first use, 64 KiB for
/// each page fault.
pub(crate) fn give_back_memory() {
    #[cfg(target_env = "gnu")]
    // SAFETY: it only returns free pages to the kernel; nothing that is in use moves.
    unsafe {
        libc::malloc_trim(0);
    }
    // SAFETY: `unmap_unwritten` keeps nothing of what it is handed.
    unsafe { libc::dl_iterate_phdr(Some(unmap_unwritten), std::ptr::null_mut()) };
}

/// Forgets the pages of the program's segments that nobody can write. Only of the first object, which is the program
/// itself: there it is known that no relocation has changed its code.
extern "C" fn unmap_unwritten(info: *mut libc::dl_phdr_info, _: usize, _: *mut libc::c_void) -> libc::c_int {
    const STOP: libc::c_int = 1;
    // SAFETY: dl_iterate_phdr hands over the description of an object, and its table of so many headers.
    let (base, headers) = unsafe {
        let info = &*info;
        (info.dlpi_addr, std::slice::from_raw_parts(info.dlpi_phdr, info.dlpi_phnum.into()))
    };
    for header in headers.iter().filter(|it| it.p_type == libc::PT_LOAD && it.p_flags & libc::PF_W == 0) {
        // Whole pages only: a segment that can be written may begin in the last one. The alignment is at least a page.
        let page = header.p_align.max(1);
        let start = (base + header.p_vaddr).next_multiple_of(page);
        let end = (base + header.p_vaddr + header.p_filesz) / page * page;
        let args =
            [start as usize, end.saturating_sub(start) as usize, libc::MADV_DONTNEED as usize, 0, 0, 0];
        // SAFETY: a private mapping of a file of which no page was ever written reads the same after it.
        unsafe { syscall(libc::SYS_madvise, args) };
    }
    STOP
}
