//! The child: what runs between clone3 and execve, in the memory of the keeper.

use std::os::fd::RawFd;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::keeper::plan::PidText;
use crate::keeper::protocol::Step;
use crate::keeper::raw;
use crate::keeper::window::{FIRST_PASSED, Numbers};

/// What the child is told. Plain numbers and addresses: it may not allocate, free, or lock.
#[derive(Debug)]
pub(super) struct Launch {
    /// Whether the child begins with the keeper's table and has to take a copy of its low end.
    pub(super) shares: bool,
    /// Set by the child when it has that copy.
    pub(super) has_own_table: AtomicBool,
    pub(super) numbers: Numbers,
    /// How many sockets are passed.
    pub(super) sockets: usize,
    /// Where the texts of its pid are, and how many.
    pub(super) pids: (usize, usize),
    pub(super) program: usize,
    pub(super) args: usize,
    pub(super) env: usize,
    pub(super) cwd: usize,
    pub(super) identity: bool,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) groups: usize,
    pub(super) group_count: usize,
    pub(super) umask: u32,
    pub(super) nofile: libc::rlimit64,
}

impl Launch {
    /// That of nobody yet.
    pub(super) fn empty(numbers: Numbers, nofile: libc::rlimit64) -> Self {
        Self {
            shares: false,
            has_own_table: AtomicBool::new(false),
            numbers,
            sockets: 0,
            pids: (0, 0),
            program: 0,
            args: 0,
            env: 0,
            cwd: 0,
            identity: false,
            uid: 0,
            gid: 0,
            groups: 0,
            group_count: 0,
            umask: 0,
            nofile,
        }
    }
}

/// The child. Between clone3 and execve only raw system calls: see [`raw`]. All signals are blocked, as in the
/// keeper, until the last moment, so that a stop signal that comes early is not lost.
pub(super) extern "C" fn child(launch: usize) -> ! {
    // SAFETY: the keeper's `Flight` keeps the `Launch` until this child has executed or ended.
    let launch = unsafe { &*(launch as *const Launch) };
    let (step, errno) = become_program(launch);
    let bytes = [step as u32, errno as u32];
    // SAFETY: `bytes` is readable; exit_group ends this process only, and never returns.
    unsafe {
        raw::syscall(libc::SYS_write, [launch.numbers.status as usize, bytes.as_ptr() as usize, 8, 0, 0, 0]);
        loop {
            raw::syscall(libc::SYS_exit_group, [127, 0, 0, 0, 0, 0]);
        }
    }
}

/// Makes the child what the plan says. Returns only if a step fails.
fn become_program(launch: &Launch) -> (Step, i32) {
    let run = |step: Step, number: i64, args: [usize; 6]| {
        // SAFETY: every address is of the launch or of what it points to, valid until execve has copied it.
        let result = unsafe { raw::syscall(number, args) };
        if result < 0 { Err((step, -result as i32)) } else { Ok(()) }
    };
    let all = || -> Result<(), (Step, i32)> {
        let numbers = &launch.numbers;
        if launch.shares {
            own_table(launch, &run)?;
        }
        run(Step::Session, libc::SYS_setsid, [0; 6])?;
        // Without O_CLOEXEC: these stay open over execve, all others close.
        let stay = |step, from: RawFd, to: RawFd| {
            run(step, libc::SYS_dup3, [from as usize, to as usize, 0, 0, 0, 0])
        };
        stay(Step::Streams, numbers.null, 0)?;
        stay(Step::Streams, numbers.output[0], 1)?;
        stay(Step::Streams, numbers.output[1], 2)?;
        for index in 0..launch.sockets as RawFd {
            stay(Step::Sockets, numbers.sockets + index, FIRST_PASSED + index)?;
        }
        write_pid(launch);
        let nofile = (&raw const launch.nofile) as usize;
        run(Step::Limit, libc::SYS_prlimit64, [0, libc::RLIMIT_NOFILE as usize, nofile, 0, 0, 0])?;
        run(Step::Session, libc::SYS_umask, [launch.umask as usize, 0, 0, 0, 0, 0])?;
        if launch.identity {
            let (uid, gid) = (launch.uid as usize, launch.gid as usize);
            run(Step::Groups, libc::SYS_setgroups, [launch.group_count, launch.groups, 0, 0, 0, 0])?;
            run(Step::Group, libc::SYS_setresgid, [gid, gid, gid, 0, 0, 0])?;
            run(Step::User, libc::SYS_setresuid, [uid, uid, uid, 0, 0, 0])?;
        }
        // As the user: what root may enter, the service need not be able to.
        run(Step::Directory, libc::SYS_chdir, [launch.cwd, 0, 0, 0, 0, 0])?;
        let none: u64 = 0;
        let mask = (&raw const none) as usize;
        run(Step::Signals, libc::SYS_rt_sigprocmask, [libc::SIG_SETMASK as usize, mask, 0, 8, 0, 0])?;
        run(Step::Exec, libc::SYS_execve, [launch.program, launch.args, launch.env, 0, 0, 0])
    };
    all().err().unwrap_or((Step::Exec, 0))
}

/// From the keeper's descriptor table to one of its own. Until the first call has returned, nothing here may change a
/// descriptor: it would be the keeper's.
fn own_table(
    launch: &Launch,
    run: &impl Fn(Step, i64, [usize; 6]) -> Result<(), (Step, i32)>,
) -> Result<(), (Step, i32)> {
    let Numbers { part: (first, behind), end, .. } = launch.numbers;
    let close = |from: RawFd, to: usize, flags: u32| {
        run(Step::Table, libc::SYS_close_range, [from as usize, to, flags as usize, 0, 0, 0])
    };
    close(end, u32::MAX as usize, libc::CLOSE_RANGE_UNSHARE)?;
    // Of other starts: should this program's file system hang, their status pipes must not stay open here.
    close(FIRST_PASSED, first as usize - 1, 0)?;
    if behind < end {
        close(behind, end as usize - 1, 0)?;
    }
    launch.has_own_table.store(true, Ordering::Release);
    Ok(())
}

/// Writes this process's pid into its environment.
fn write_pid(launch: &Launch) {
    // SAFETY: no memory is involved.
    let mut pid = unsafe { raw::syscall(libc::SYS_getpid, [0; 6]) };
    let mut digits = [0_u8; PidText::DIGITS];
    let mut count = 0;
    while count < digits.len() && (pid > 0 || count == 0) {
        digits[count] = b'0' + (pid % 10) as u8;
        pid /= 10;
        count += 1;
    }
    let (first, texts) = launch.pids;
    for index in 0..texts {
        // SAFETY: the plan, which the keeper's `Flight` holds, owns these texts of atomics, one behind the other.
        let text = unsafe { &*(first as *const PidText).add(index) };
        text.set(digits[..count].iter().rev().copied());
    }
}
