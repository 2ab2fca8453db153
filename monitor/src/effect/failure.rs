//! A start that failed, in the words of an operator: what was tried, the kernel's answer, and what helps.

use std::io;
use std::path::Path;

use defib_core::model::{Launch, StartFailure, StartFailureKind};
use nix::errno::Errno;

use crate::keeper::protocol::Step;

/// The failure of a step that the keeper, or its child, took.
pub fn of_step(step: Step, errno: i32, launch: &Launch) -> StartFailure {
    use StartFailureKind as Kind;
    let user = launch.user.as_deref().unwrap_or("the user of the service");
    let (kind, call) = match step {
        Step::Refused if errno == libc::ECANCELED => (Kind::Fork, "start".to_owned()),
        Step::Refused => (Kind::Fork, "take the plan".to_owned()),
        Step::Pipe => (Kind::Fork, "pipe2".to_owned()),
        Step::Cgroup => (Kind::Cgroup, "make the leaf cgroup".to_owned()),
        Step::Clone => (Kind::Fork, "clone3".to_owned()),
        Step::Session => (Kind::Fork, "setsid".to_owned()),
        Step::Table => (Kind::Fork, "close_range".to_owned()),
        Step::Streams => (Kind::Output, "dup3".to_owned()),
        Step::Sockets => (Kind::Socket, "pass the sockets".to_owned()),
        Step::Limit => (Kind::Limit, "prlimit RLIMIT_NOFILE".to_owned()),
        Step::Groups => (Kind::User, format!("setgroups for {user}")),
        Step::Group => (Kind::User, format!("setresgid for {user}")),
        Step::User => (Kind::User, format!("setresuid to {user}")),
        Step::Directory => (Kind::Directory, format!("chdir {}", launch.cwd.display())),
        Step::Signals => (Kind::Fork, "rt_sigprocmask".to_owned()),
        Step::Exec => (Kind::Exec, format!("execve {}", program(launch))),
    };
    StartFailure {
        kind,
        call,
        errno: Some(errno),
        error: words(Errno::from_raw(errno)),
        remedy: remedy(step, Errno::from_raw(errno), launch),
    }
}

/// The failure of a system call that the planner made.
pub fn of_call(kind: StartFailureKind, call: String, error: &io::Error, remedy: String) -> StartFailure {
    let errno = error.raw_os_error();
    let error = errno.map_or_else(|| error.to_string(), |errno| words(Errno::from_raw(errno)));
    StartFailure { kind, call, errno, error, remedy }
}

/// `No such file or directory (ENOENT)`.
fn words(errno: Errno) -> String {
    format!("{} ({errno:?})", errno.desc())
}

fn remedy(step: Step, errno: Errno, launch: &Launch) -> String {
    match (step, errno) {
        (Step::Exec, Errno::ENOENT) => match interpreter(Path::new(program(launch))) {
            Some(interpreter) => {
                format!("the file is there, but its interpreter {interpreter} is not: correct its first line")
            }
            None => "install the program, or correct `command`".to_owned(),
        },
        (Step::Exec, Errno::EACCES) => {
            "make the file executable (chmod +x), and its folders accessible to the user of the service; a \
             file system mounted noexec executes nothing"
                .to_owned()
        }
        (Step::Exec, Errno::ENOEXEC) => {
            "the file is no program for this machine: a script needs a first line like #!/bin/sh".to_owned()
        }
        (Step::Exec, Errno::E2BIG) => "shorten the arguments and the environment".to_owned(),
        (Step::Exec, Errno::ETXTBSY) => "the program is open for writing: install it by renaming".to_owned(),
        (Step::Directory, Errno::ENOENT) => "create the folder, or correct `cwd`".to_owned(),
        (Step::Directory, _) => {
            "the user of the service needs the right to enter it and its parents".to_owned()
        }
        (Step::Clone | Step::User, Errno::EAGAIN) => {
            "too many processes: raise the pids limit of the cgroup (pids.max) or of the user (RLIMIT_NPROC)"
                .to_owned()
        }
        (Step::Clone, Errno::ENOMEM) => "the machine is out of memory".to_owned(),
        (Step::Cgroup, _) => {
            "defib's part of the cgroup tree must be writable for it (Delegate=yes)".to_owned()
        }
        (Step::Sockets, _) => "its sockets were closed meanwhile: start it again".to_owned(),
        (Step::Pipe, _) => "too many open files: raise the RLIMIT_NOFILE of defib".to_owned(),
        (Step::Groups | Step::Group | Step::User, _) => "run defib as root to become another user".to_owned(),
        _ => "see the manual page of the call".to_owned(),
    }
}

fn program(launch: &Launch) -> &str {
    launch.command.first().map_or("", String::as_str)
}

/// The interpreter that a script names in its first line.
fn interpreter(program: &Path) -> Option<String> {
    use std::io::Read;
    let mut head = Vec::new();
    std::fs::File::open(program).ok()?.take(256).read_to_end(&mut head).ok()?;
    let line = head.strip_prefix(b"#!")?.split(|byte| *byte == b'\n').next()?;
    let line = String::from_utf8_lossy(line);
    Some(line.split_whitespace().next()?.to_owned())
}
