//! A start that goes as far as it can without starting anything: whether this kernel, with these rights, can do what the
//! keeper does at each start.

use std::io;
use std::os::fd::BorrowedFd;
use std::rc::Rc;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{Resource, getrlimit};

use super::plan::{Plan, ReadyPlan};
use super::protocol::Step;
use super::raw;
use super::spawn::{Berth, Nursery};

/// How long the child may take, which does nothing but fail.
const PATIENCE: Timespec = Timespec { tv_sec: 2, tv_nsec: 0 };

/// Why a start would fail.
#[derive(Debug, thiserror::Error)]
#[error("{}: {cause}", self.call())]
pub struct TrialError {
    /// How far it came.
    pub step: Step,
    /// The kernel's answer.
    pub cause: io::Error,
}

impl TrialError {
    /// The system call that failed.
    pub fn call(&self) -> &'static str {
        match self.step {
            Step::Refused | Step::Cgroup | Step::Pipe => "pipe2",
            Step::Clone => "clone3",
            Step::Session => "setsid",
            Step::Table => "close_range",
            Step::Streams | Step::Sockets => "dup3",
            Step::Limit => "prlimit64",
            Step::Groups => "setgroups",
            Step::Group => "setresgid",
            Step::User => "setresuid",
            Step::Directory => "chdir",
            Step::Signals => "rt_sigprocmask",
            Step::Exec => "execve",
        }
    }
}

/// Makes a child in the way of every start, in `cgroup` if one is given, and lets it fail at its execve: what it is to
/// execute is a folder. Nothing is left of it.
///
/// # Errors
/// If a step before that fails.
pub fn trial(cgroup: Option<BorrowedFd<'_>>) -> Result<(), TrialError> {
    let prepare = |cause| TrialError { step: Step::Pipe, cause };
    let plan = Plan {
        program: b"/".to_vec(),
        args: vec![b"defib-trial".to_vec()],
        env: Vec::new(),
        cwd: b"/".to_vec(),
        identity: None,
        umask: 0o22,
        end_leftovers: true,
        sockets: 0,
    };
    let plan = Rc::new(ReadyPlan::new(plan, 1).map_err(prepare)?);
    let limit = getrlimit(Resource::Nofile);
    let limit = (limit.current.unwrap_or(u64::MAX), limit.maximum.unwrap_or(u64::MAX));
    let mut nursery = Nursery::new(limit, None).map_err(prepare)?;
    let berth = Berth { slot: 0, output: None, sockets: &[], cgroup };

    let flight = nursery.spawn(&plan, &berth).map_err(|(step, cause)| TrialError { step, cause })?;
    rustix::event::poll(&mut [PollFd::new(&flight.pidfd, PollFlags::IN)], Some(&PATIENCE)).ok();
    if !matches!(raw::reap(flight.pid), Ok(Some(_))) {
        raw::pidfd_send_signal(&flight.pidfd, libc::SIGKILL).ok();
        // It still uses its stack, and nobody can say for how long.
        std::mem::forget(flight);
        return Err(TrialError { step: Step::Exec, cause: io::ErrorKind::TimedOut.into() });
    }
    let failure = flight.failure();
    nursery.landed(flight);
    match failure {
        Some((Step::Exec, _)) | None => Ok(()),
        Some((step, errno)) => Err(TrialError { step, cause: io::Error::from_raw_os_error(errno) }),
    }
}

/// Whether a start costs the same however many descriptors the keeper holds.
pub fn shares_tables() -> bool {
    raw::can_unshare_table()
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn a_trial_works_and_leaves_no_child() {
        assert!(trial(None).is_ok());
        let no_group = File::open("/").expect("a folder");
        let error = trial(Some(no_group.as_fd())).expect_err("that is no cgroup");
        assert_eq!((error.step, error.cause.raw_os_error()), (Step::Clone, Some(libc::EBADF)));
    }
}
