//! The connector on this kernel: real processes, real deaths. Says so where the kernel or the rights do not allow it.

#![expect(unsafe_code, reason = "the tests fork, and the children end as no safe program can")]

mod listeners;
mod lives;
mod losses;

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;

use defib_core::model::{KernelEvent, KernelFact, WaitStatus, Witness};

use super::live::ConnectorSource;
use crate::source::any::{Batch, Life};
use crate::source::clocks::boottime;
use crate::source::procfs;

/// Makes a child of this process that runs `body` and exits with 99 if that comes back.
fn fork(body: impl FnOnce()) -> u32 {
    // SAFETY: the child runs a few lines of these tests, which take no lock that another thread may have held.
    match unsafe { libc::fork() } {
        0 => {
            // Files of other tests, whose locks would last as long as this process.
            // SAFETY: nothing in the child uses a descriptor from before.
            unsafe { libc::syscall(libc::SYS_close_range, 3, u32::MAX, 0) };
            body();
            exit_group(99)
        }
        pid => u32::try_from(pid).expect("a pid"),
    }
}

/// A thousand processes of a shell, which has so little memory that they are made quickly.
const BURST: &str = "i=0; while [ $i -lt 1000 ]; do (exit 0); i=$((i+1)); done";

/// Waits for a child, and returns its raw status.
fn reap(pid: u32) -> WaitStatus {
    let mut status = 0;
    // SAFETY: `status` is there to be written.
    let reaped = unsafe { libc::waitpid(pid.cast_signed(), &raw mut status, 0) };
    assert_eq!(reaped, pid.cast_signed());
    WaitStatus(status)
}

fn exit_group(code: i32) -> ! {
    // SAFETY: ends the process.
    unsafe { libc::_exit(code) }
}

/// Ends this thread only.
fn exit_thread(code: i32) {
    // SAFETY: ends the thread, whose memory is the kernel's to clean up with the process.
    unsafe { libc::syscall(libc::SYS_exit, code) };
}

/// Ends this process by a signal, without a core.
fn die_of(signal: i32) {
    // SAFETY: plain system calls of a child that has nothing to lose.
    unsafe {
        let none = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
        libc::setrlimit(libc::RLIMIT_CORE, &raw const none);
        libc::signal(signal, libc::SIG_DFL);
        libc::kill(libc::getpid(), signal);
    }
    nap();
}

fn execute(script: &str) {
    let [shell, option, script] =
        ["/bin/sh", "-c", script].map(|word| std::ffi::CString::new(word).expect("no zero"));
    let argv = [shell.as_ptr(), option.as_ptr(), script.as_ptr(), std::ptr::null()];
    // SAFETY: strings that end with zero, in a list that ends with null.
    unsafe { libc::execv(shell.as_ptr(), argv.as_ptr()) };
}

#[expect(clippy::disallowed_methods, reason = "tests wait")]
fn nap() {
    thread::sleep(std::time::Duration::from_millis(20));
}

/// Waits in a child until its leading thread has left.
fn wait_for_leader() {
    while procfs::stat(std::process::id()).is_some_and(|stat| !stat.left) {
        thread::yield_now();
    }
}

/// What these tests do one after the other: this process is the keeper of all their sources, and of children that
/// nobody claims a source keeps few in mind.
struct Alone {
    _held: MutexGuard<'static, ()>,
}

fn alone() -> Alone {
    static ONE: Mutex<()> = Mutex::new(());
    // A test that has failed leaves nothing behind.
    Alone { _held: ONE.lock().unwrap_or_else(PoisonError::into_inner) }
}

/// A source whose keeper is this process.
fn source(room: usize) -> Option<ConnectorSource> {
    match ConnectorSource::with_room(std::process::id(), room) {
        Ok(source) => Some(source),
        Err(error) => {
            eprintln!("skipped: needs the proc connector ({error})");
            None
        }
    }
}

/// How long something may take that should be quick, in seconds: machines are shared.
const PATIENCE: u64 = 60;

/// Reads until `until` holds of what was heard of `pid`, or patience is at an end.
fn hear(source: &mut ConnectorSource, batch: &mut Batch, until: impl Fn(&[KernelEvent]) -> bool) {
    hear_for(PATIENCE, source, batch, until);
}

fn hear_for(
    seconds: u64,
    source: &mut ConnectorSource,
    batch: &mut Batch,
    until: impl Fn(&[KernelEvent]) -> bool,
) {
    let began = boottime();
    while !until(&batch.events) && boottime().since(began).as_secs() < seconds {
        source.drain(batch);
        thread::yield_now();
    }
}

fn exit_of(events: &[KernelEvent]) -> Option<&Witness> {
    events.iter().find_map(|event| match &event.fact {
        KernelFact::Exit(witness) => Some(witness),
        _ => None,
    })
}

/// One life in slot 5, as the keeper would make and report it: its status, its events, and what is known of its end.
fn live(source: &mut ConnectorSource, body: impl FnOnce()) -> (WaitStatus, Vec<KernelEvent>, Witness) {
    let mut batch = Batch::default();
    let started = boottime();
    let pid = fork(body);
    let life = Life { slot: 5, pid, started };
    let status = reap(pid);
    source.drain(&mut batch);
    source.claim(&life, &mut batch);
    hear(source, &mut batch, |events| exit_of(events).is_some());
    let witness = source.take_end(&life, status).expect("it always knows something");
    batch.events.retain(|event| event.pid == pid);
    assert_eq!(batch.lost, 0);
    assert!(batch.events.iter().all(|event| event.main && event.slot == Some(5)), "{:?}", batch.events);
    assert!(batch.events.is_sorted_by_key(|event| event.at), "{:?}", batch.events);
    assert_eq!(
        batch.events.first().map(|event| &event.fact),
        Some(&KernelFact::Fork { parent: std::process::id() })
    );
    assert!(witness.at.is_some_and(|at| at > started && at < boottime()), "{witness:?}");
    assert!(!source.follows(pid));
    (status, batch.events, witness)
}

/// Sends SIGKILL.
fn die(pid: u32) {
    // SAFETY: to a child of ours that has not been reaped.
    unsafe { libc::kill(pid.cast_signed(), libc::SIGKILL) };
}
