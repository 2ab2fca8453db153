//! Processes that die in ways which no shell command has.
//!
//! The test program itself is the victim: it is run with the name of [`victim`] and a variable that says how to die.

use std::fs;
use std::io::Write;
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::process::Command;
use std::thread;

const VARIABLE: &str = "DEFIB_TEST_DIE_BY";

/// A shell command that runs the victim, in the same process.
pub(super) fn command(way: &str) -> String {
    let program = std::env::current_exe().expect("the test has a program");
    let name = "source::ebpf::tests::victim::victim";
    // On the main thread, and with no other beside it.
    let run = format!("exec {} --exact {name} --test-threads=1", program.display());
    if way == "seccomp" {
        // The mode is a thread's own, and a test program has more than one.
        let [prctl, mode, getpid] = [libc::SYS_prctl, libc::PR_SET_SECCOMP.into(), libc::SYS_getpid];
        return format!("perl -e 'syscall({prctl}, {mode}, 1); syscall({getpid})'");
    }
    format!("/bin/sh -c 'ulimit -c 0; {VARIABLE}={way} {run} >/dev/null'")
}

/// Whether a process is a victim that has come to its point: its name is the way.
pub(super) fn is_ready(pid: u32) -> bool {
    super::status(pid, "Name:").as_deref() == Some("ready")
}

fn ready() -> ! {
    fs::write("/proc/self/comm", "ready").expect("a process may choose its name");
    loop {
        thread::park();
    }
}

#[test]
#[expect(clippy::disallowed_methods, clippy::exit, reason = "it is there to die")]
fn victim() {
    let Ok(way) = std::env::var(VARIABLE) else { return };
    for signal in [libc::SIGINT, libc::SIGQUIT] {
        // SAFETY: a system call without pointers. A shell lets its background processes ignore these.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    match way.as_str() {
        "wait" => {
            // SAFETY: as above. The handler of the standard library takes it for a fault that will come again.
            unsafe { libc::signal(libc::SIGSEGV, libc::SIG_DFL) };
            ready();
        }
        // SAFETY: it is not safe at all, and is not meant to be.
        "null" => unsafe { std::ptr::null_mut::<u32>().write_volatile(1) },
        // SAFETY: as above.
        "address" => unsafe { (0xdead_0000 as *mut u32).write_volatile(1) },
        "abort" => std::process::abort(),
        "exit-with-threads" => {
            for _ in 0..8 {
                thread::spawn(thread::park);
            }
            std::process::exit(7);
        }
        "use" => {
            let write = || {
                let mut file = tempfile::tempfile_in(env!("CARGO_MANIFEST_DIR")).expect("there is room");
                file.write_all(&vec![1; 1 << 20]).and_then(|()| file.sync_all()).expect("there is room");
            };
            thread::spawn(write).join().expect("it writes");
            write();
            for _ in 0..3 {
                thread::spawn(thread::park);
            }
            ready();
        }
        "exec-in-thread" => {
            let exec = || Command::new("/bin/sh").args(["-c", "exit 3"]).exec();
            panic!("{:?}", thread::spawn(exec).join());
        }
        "kill-thread" => {
            let thread = thread::spawn(ready);
            let tids = fs::read_dir("/proc/self/task").expect("it is there");
            let tids = tids.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
            let own = std::process::id();
            for tid in tids.filter(|&tid: &i32| tid.cast_unsigned() != own) {
                // SAFETY: a system call without pointers.
                unsafe { libc::syscall(libc::SYS_tgkill, own, tid, libc::SIGTERM) };
            }
            thread.join().expect("it dies first");
        }
        "alarm" => {
            // SAFETY: a system call without pointers.
            unsafe { libc::alarm(1) };
            ready();
        }
        "timer" => {
            // SAFETY: the kernel reads and writes what is passed here, for as long as the call takes.
            unsafe {
                let mut timer: libc::timer_t = std::ptr::null_mut();
                assert_eq!(libc::timer_create(libc::CLOCK_MONOTONIC, std::ptr::null_mut(), &mut timer), 0);
                let mut soon: libc::itimerspec = std::mem::zeroed();
                soon.it_value.tv_nsec = 1_000_000;
                assert_eq!(libc::timer_settime(timer, 0, &soon, std::ptr::null_mut()), 0);
            }
            ready();
        }
        "pipe" => {
            // SAFETY: system calls on a pipe of this process; the handler is the default again.
            unsafe {
                libc::signal(libc::SIGPIPE, libc::SIG_DFL);
                let mut ends = [0; 2];
                assert_eq!(libc::pipe(ends.as_mut_ptr()), 0);
                libc::close(ends[0]);
                libc::write(ends[1], b"x".as_ptr().cast(), 1);
            }
        }
        "blocked" => {
            // SAFETY: the set is initialised by the call.
            unsafe {
                let mut set: libc::sigset_t = std::mem::zeroed();
                libc::sigemptyset(&mut set);
                libc::sigaddset(&mut set, libc::SIGUSR1);
                libc::sigprocmask(libc::SIG_BLOCK, &set, std::ptr::null_mut());
                fs::write("/proc/self/comm", "ready").expect("a process may choose its name");
                let mut pending: libc::sigset_t = std::mem::zeroed();
                while libc::sigismember(&pending, libc::SIGUSR1) != 1 {
                    libc::sched_yield();
                    libc::sigpending(&mut pending);
                }
                libc::sigprocmask(libc::SIG_UNBLOCK, &set, std::ptr::null_mut());
            }
        }
        "listen" => {
            let listener = TcpListener::bind("127.0.0.1:0").expect("there is a port");
            let other = TcpListener::bind("[::]:0").expect("there is a port");
            drop(other);
            ready_holding(listener);
        }
        "listen-unbound" => {
            // SAFETY: system calls without pointers.
            unsafe {
                let socket = libc::socket(libc::AF_INET, libc::SOCK_STREAM, 0);
                assert_eq!(libc::listen(socket, 1), 0);
            }
            ready();
        }
        "listen-often" => {
            let listeners: Vec<_> = (0..200).map(|_| TcpListener::bind("127.0.0.1:0")).collect();
            assert!(listeners.iter().all(Result::is_ok));
            ready_holding(listeners);
        }
        other => panic!("no way to die is called {other}"),
    }
    panic!("it has survived");
}

fn ready_holding<T>(_held: T) -> ! {
    ready()
}
