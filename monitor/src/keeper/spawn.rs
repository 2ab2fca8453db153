//! Making a process: clone3, and the few system calls of the child.
//!
//! The child shares the keeper's memory (CLONE_VM: no page table is copied, however large the keeper is) and runs
//! beside it: the keeper does not wait for the exec, because a program on a hung file system would hang it too.
//! The price: the child has a stack of its own, and nothing that it uses may be changed or freed before it has
//! executed. [`Flight`] owns all of that. Its status pipe tells how it went: it is closed by a successful execve, or
//! holds the step that failed and the error number.
#![expect(unsafe_code, reason = "clone3 and what runs between it and execve; a store to shared memory")]

use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::ptr::NonNull;
use std::rc::Rc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::mm::{MapFlags, ProtFlags};
use rustix::pipe::PipeFlags;

use super::plan::ReadyPlan;
use super::protocol::Step;
use super::raw::{self, CloneArgs};

/// The stack of a child until it executes its program. An unoptimised build needs about 2 KiB of it.
const STACK: usize = 32 * 1024;

/// clone3 flags that libc does not have as 64-bit values.
const CLONE_CLEAR_SIGHAND: u64 = 0x1_0000_0000;
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// What every child of this keeper has in common.
#[derive(Debug)]
pub(super) struct Nursery {
    /// `/dev/null`, for standard input.
    null: OwnedFd,
    /// RLIMIT_NOFILE as the keeper was started with it: the keeper raises its own.
    nofile: libc::rlimit64,
    /// Stacks that no child uses.
    stacks: Vec<Stack>,
    /// How many children there may be between clone3 and execve; the rest queues.
    flights: usize,
    /// Tells the eBPF programs to which slot the next child belongs.
    next_slot: Option<NextSlot>,
}

/// A stack, aligned as both architectures want it.
#[derive(Debug)]
struct Stack(Box<[MaybeUninit<u128>]>);

impl Stack {
    fn new() -> Self {
        // Not written to: a child touches two pages of it, and the kernel gives no more.
        Self(Box::new_uninit_slice(STACK / size_of::<u128>()))
    }
}

/// A child between clone3 and the answer of its status pipe.
#[derive(Debug)]
pub(super) struct Flight {
    /// The child's pid.
    pub(super) pid: i32,
    /// Readable when it has ended.
    pub(super) pidfd: OwnedFd,
    /// Hung up when it has executed its program.
    pub(super) status: OwnedFd,
    stack: Stack,
    /// The child reads these: they stay until it has executed or ended.
    _plan: Rc<ReadyPlan>,
    _launch: Box<Launch>,
}

/// The answer of a status pipe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    /// Nothing yet.
    Pending,
    /// The program has been executed, or a signal ended the child before.
    Executed,
    /// A step failed.
    Failed(Step, i32),
}

/// What the child is told. Plain numbers and addresses: it may not allocate, free, or lock.
#[derive(Debug)]
struct Launch {
    program: usize,
    args: usize,
    env: usize,
    cwd: usize,
    identity: bool,
    uid: u32,
    gid: u32,
    groups: usize,
    group_count: usize,
    umask: u32,
    nofile: libc::rlimit64,
    null: RawFd,
    output: [RawFd; 2],
    status: RawFd,
}

/// Where the next child is to go.
#[derive(Debug)]
pub(super) struct Berth<'a> {
    /// The slot, for the eBPF programs.
    pub(super) slot: u32,
    /// Standard output and error; `None`: /dev/null.
    pub(super) output: Option<[BorrowedFd<'a>; 2]>,
    /// The cgroup, if there are cgroups.
    pub(super) cgroup: Option<BorrowedFd<'a>>,
}

impl Nursery {
    /// At most this many children are between clone3 and execve: one stack each.
    pub(super) const FLIGHTS: usize = 16;

    /// `nofile` is the limit that the keeper was started with.
    pub(super) fn new(nofile: (u64, u64)) -> io::Result<Self> {
        let null = std::fs::File::options().read(true).write(true).open("/dev/null")?;
        let nofile = libc::rlimit64 { rlim_cur: nofile.0, rlim_max: nofile.1 };
        Ok(Self { null: null.into(), nofile, stacks: Vec::new(), flights: 0, next_slot: None })
    }

    /// Takes over the map in which the eBPF programs look for the slot of the keeper's next child.
    pub(super) fn announce_to(&mut self, map: &OwnedFd) -> io::Result<()> {
        self.next_slot = Some(NextSlot::map(map)?);
        Ok(())
    }

    /// Whether another child may be made before one of the present ones has executed.
    pub(super) fn has_room(&self) -> bool {
        self.flights < Self::FLIGHTS
    }

    /// Makes a process. It is a child of the keeper from here on, whatever becomes of its program.
    pub(super) fn spawn(
        &mut self,
        plan: &Rc<ReadyPlan>,
        berth: &Berth<'_>,
    ) -> Result<Flight, (Step, io::Error)> {
        let (status, answer) =
            rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(|errno| (Step::Pipe, errno.into()))?;
        let launch = Box::new(self.launch(plan, berth, answer.as_fd()));
        let mut stack = self.stacks.pop().unwrap_or_else(Stack::new);
        let mut pidfd: RawFd = -1;
        let args = CloneArgs {
            flags: libc::CLONE_VM as u64
                | libc::CLONE_PIDFD as u64
                | CLONE_CLEAR_SIGHAND
                | if berth.cgroup.is_some() { CLONE_INTO_CGROUP } else { 0 },
            pidfd: &raw mut pidfd as u64,
            exit_signal: libc::SIGCHLD as u64,
            stack: stack.0.as_mut_ptr() as u64,
            stack_size: STACK as u64,
            cgroup: berth.cgroup.map_or(0, |fd| fd.as_raw_fd() as u64),
            ..CloneArgs::default()
        };
        let argument = std::ptr::from_ref(launch.as_ref()) as usize;
        self.announce(Some(berth.slot));
        // SAFETY: `Flight` keeps the stack, the launch and the plan until the child has executed or ended, and
        // `child` does nothing but system calls. If there is no child, nothing uses them.
        let pid = unsafe { raw::clone3(&args, child, argument) };
        self.announce(None);
        if pid < 0 {
            self.stacks.push(stack);
            return Err((Step::Clone, io::Error::from_raw_os_error(-pid as i32)));
        }
        self.flights += 1;
        // SAFETY: clone3 has just made this descriptor for us.
        let pidfd = unsafe { OwnedFd::from_raw_fd(pidfd) };
        Ok(Flight { pid: pid as i32, pidfd, status, stack, _plan: Rc::clone(plan), _launch: launch })
    }

    /// Takes back the stack of a child that has executed or ended.
    pub(super) fn landed(&mut self, flight: Flight) -> OwnedFd {
        self.flights -= 1;
        self.stacks.push(flight.stack);
        flight.pidfd
    }

    fn announce(&self, slot: Option<u32>) {
        if let Some(next) = &self.next_slot {
            next.store(slot);
        }
    }

    fn launch(&self, plan: &ReadyPlan, berth: &Berth<'_>, status: BorrowedFd<'_>) -> Launch {
        let identity = plan.identity.as_ref();
        Launch {
            program: plan.program.as_ptr() as usize,
            args: plan.args.address(),
            env: plan.env.address(),
            cwd: plan.cwd.as_ptr() as usize,
            identity: identity.is_some(),
            uid: identity.map_or(0, |identity| identity.uid),
            gid: identity.map_or(0, |identity| identity.gid),
            groups: identity.map_or(0, |identity| identity.groups.as_ptr() as usize),
            group_count: identity.map_or(0, |identity| identity.groups.len()),
            umask: plan.umask,
            nofile: self.nofile,
            null: self.null.as_raw_fd(),
            output: berth.output.map_or([self.null.as_raw_fd(); 2], |fds| fds.map(|fd| fd.as_raw_fd())),
            status: status.as_raw_fd(),
        }
    }
}

impl Flight {
    /// Asks the status pipe, without waiting.
    pub(super) fn answer(&self) -> Answer {
        // The write is one of 8 bytes, so the read gets all of it or nothing. rustix has no non-blocking pipe
        // read, so the poll comes first.
        let mut poll = [rustix::event::PollFd::new(&self.status, rustix::event::PollFlags::IN)];
        match rustix::event::poll(&mut poll, Some(&rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 })) {
            Ok(1..) => {}
            Ok(_) | Err(_) => return Answer::Pending,
        }
        let mut bytes = [0; 8];
        match rustix::io::read(&self.status, &mut bytes) {
            Ok(8) => {
                let [a, b, c, d, e, f, g, h] = bytes;
                let step = usize::try_from(u32::from_ne_bytes([a, b, c, d])).ok();
                let step = step.and_then(|index| Step::ALL.get(index)).copied().unwrap_or(Step::Exec);
                Answer::Failed(step, i32::from_ne_bytes([e, f, g, h]))
            }
            Ok(_) | Err(_) => Answer::Executed,
        }
    }
}

/// The child. Between clone3 and execve only raw system calls: see [`raw`]. All signals are blocked, as in the
/// keeper, until the last moment, so that a stop signal that comes early is not lost.
extern "C" fn child(launch: usize) -> ! {
    // SAFETY: the keeper's `Flight` keeps the `Launch` until this child has executed or ended.
    let launch = unsafe { &*(launch as *const Launch) };
    let (step, errno) = become_program(launch);
    let bytes = [step as u32, errno as u32];
    // SAFETY: `bytes` is readable; exit_group ends this process only, and never returns.
    unsafe {
        raw::syscall(libc::SYS_write, [launch.status as usize, bytes.as_ptr() as usize, 8, 0, 0, 0]);
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
        run(Step::Session, libc::SYS_setsid, [0; 6])?;
        // Without O_CLOEXEC: these three stay open over execve, all others close.
        run(Step::Streams, libc::SYS_dup3, [launch.null as usize, 0, 0, 0, 0, 0])?;
        run(Step::Streams, libc::SYS_dup3, [launch.output[0] as usize, 1, 0, 0, 0, 0])?;
        run(Step::Streams, libc::SYS_dup3, [launch.output[1] as usize, 2, 0, 0, 0, 0])?;
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

/// The one-element array map in which the keeper announces the slot of its next child: slot + 1, or 0.
#[derive(Debug)]
struct NextSlot(NonNull<AtomicU64>);

impl NextSlot {
    fn map(fd: &OwnedFd) -> io::Result<Self> {
        let flags = ProtFlags::READ | ProtFlags::WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice.
        let page = unsafe { rustix::mm::mmap(std::ptr::null_mut(), PAGE, flags, MapFlags::SHARED, fd, 0)? };
        NonNull::new(page.cast()).map(Self).ok_or_else(|| io::Error::other("mmap at address 0"))
    }

    fn store(&self, slot: Option<u32>) {
        // SAFETY: the mapping lives as long as `self`, is page-aligned, and is only used through atomics.
        unsafe { self.0.as_ref() }.store(slot.map_or(0, |slot| u64::from(slot) + 1), Ordering::SeqCst);
    }
}

impl Drop for NextSlot {
    fn drop(&mut self) {
        // SAFETY: the mapping that `map` made, used by nobody else.
        unsafe { rustix::mm::munmap(self.0.as_ptr().cast(), PAGE) }.ok();
    }
}

/// Less than a page is mapped as a whole one.
const PAGE: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keeper::plan::Plan;

    fn spawn(program: &str, cwd: &str) -> (i32, Answer) {
        let plan = Plan {
            program: program.as_bytes().to_vec(),
            args: vec![b"sh".to_vec(), b"-c".to_vec(), b"exit 7".to_vec()],
            env: vec![],
            cwd: cwd.as_bytes().to_vec(),
            identity: None,
            umask: 0o22,
            end_leftovers: true,
        };
        let plan = Rc::new(ReadyPlan::new(plan, 1).expect("a plan"));
        let mut nursery = Nursery::new((256, 256)).expect("/dev/null");
        let berth = Berth { slot: 0, output: None, cgroup: None };
        let flight = nursery.spawn(&plan, &berth).expect("a child");
        let answer = loop {
            match flight.answer() {
                Answer::Pending => std::thread::yield_now(),
                answer => break answer,
            }
        };
        let status = loop {
            match raw::reap(flight.pid).expect("a child") {
                Some(reaped) => break reaped.status,
                None => std::thread::yield_now(),
            }
        };
        nursery.landed(flight);
        (status, answer)
    }

    #[test]
    fn a_child_runs_its_program_and_its_raw_status_comes_back() {
        assert_eq!(spawn("/bin/sh", "/"), (7 << 8, Answer::Executed));
    }

    #[test]
    fn a_child_tells_which_step_failed() {
        assert_eq!(spawn("/no/such/program", "/").1, Answer::Failed(Step::Exec, libc::ENOENT));
        assert_eq!(spawn("/bin/sh", "/no/such/folder").1, Answer::Failed(Step::Directory, libc::ENOENT));
    }
}
