//! The connector on this kernel: real processes, real deaths. Says so where the kernel or the rights do not allow it.

#![expect(unsafe_code, reason = "the tests fork, and the children end as no safe program can")]

use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;

use defib_core::model::{KernelEvent, KernelFact, WaitStatus, Witness};
use rustix::net::{RecvFlags, recv};

use super::feed::ConnectorFeed;
use super::live::ConnectorSource;
use super::socket::{ROOM, Socket};
use crate::source::any::{Batch, Life};
use crate::source::clocks::boottime;
use crate::source::procfs;

/// A small generator (splitmix64): the same numbers on every run.
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(super) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ z >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ z >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ z >> 31
    }

    pub(super) fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }
}

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

#[tokio::test(flavor = "current_thread")]
async fn every_way_to_end_has_its_status() {
    let _alone = alone();
    let Some(mut source) = source(ROOM) else { return };
    for code in [0, 7, 255] {
        let (status, _, witness) = live(&mut source, || exit_group(code));
        assert_eq!((status.code(), witness.status), (u8::try_from(code).ok(), Some(status)));
    }
    let harmless = [libc::SIGCHLD, libc::SIGCONT, libc::SIGSTOP, libc::SIGTSTP, libc::SIGTTIN, libc::SIGTTOU];
    let harmless = [&harmless[..], &[libc::SIGURG, libc::SIGWINCH]].concat();
    for signal in
        (1..=31).chain([libc::SIGRTMIN(), libc::SIGRTMAX()]).filter(|signal| !harmless.contains(signal))
    {
        let (status, events, witness) = live(&mut source, || die_of(signal));
        assert_eq!((status, witness.status), (WaitStatus(signal), Some(status)), "{signal}: {events:?}");
        let told: Vec<_> = events
            .iter()
            .filter_map(|event| match event.fact {
                KernelFact::Signal { signal, .. } => Some(signal.0),
                _ => None,
            })
            .collect();
        assert!(
            told.is_empty() || told == [signal],
            "the signal of a core dump is right if it is told: {events:?}"
        );
    }
}

#[tokio::test(flavor = "current_thread")]
async fn threads_are_no_processes() {
    let _alone = alone();
    let Some(mut source) = source(ROOM) else { return };
    let others = |count, body: fn()| {
        move || {
            for _ in 0..count {
                thread::spawn(body);
            }
        }
    };
    let park = || loop {
        thread::park();
    };
    for (what, body, expected) in [
        (
            "the leading thread leaves first, and another ends the process",
            Box::new(|| {
                thread::spawn(|| {
                    wait_for_leader();
                    exit_group(7)
                });
                exit_thread(0);
            }) as Box<dyn FnOnce()>,
            None,
        ),
        (
            "the leading thread leaves first, and the other leaves like it",
            Box::new(|| {
                thread::spawn(|| {
                    wait_for_leader();
                    exit_thread(0);
                });
                exit_thread(0);
            }),
            Some(0),
        ),
        (
            "a thread executes a program",
            Box::new(move || {
                others(20, park)();
                thread::spawn(|| execute("exit 5"));
                park();
            }),
            Some(0x500),
        ),
        (
            "three hundred threads and an exit",
            Box::new(move || {
                others(300, park)();
                exit_group(3)
            }),
            Some(0x300),
        ),
        (
            "three hundred threads and a signal",
            Box::new(move || {
                others(300, park)();
                die_of(libc::SIGKILL);
            }),
            Some(9),
        ),
        (
            "threads that come and go",
            Box::new(|| {
                for _ in 0..300 {
                    thread::spawn(|| {}).join().expect("it ends");
                }
                exit_group(4)
            }),
            Some(0x400),
        ),
    ] {
        let (status, events, witness) = live(&mut source, body);
        assert_eq!(witness.status, expected.map(WaitStatus), "{what}: {status:?} {events:?}");
        assert!(expected.is_none_or(|expected| expected == status.0), "{what}: {status:?}");
        let exits = events.iter().filter(|event| matches!(event.fact, KernelFact::Exit(_))).count();
        assert_eq!(exits, 1, "{what}: {events:?}");
    }
}

#[tokio::test(flavor = "current_thread")]
async fn descendants_are_followed_and_forgotten() {
    let _alone = alone();
    let Some(mut source) = source(ROOM) else { return };
    // Other tests of this program make children of the same parent, whose descendants are counted too. None of them
    // lasts as long as this: a count that is wrong by itself is so each time.
    let mut counts = Vec::new();
    while counts.len() < 10 {
        let count = descendants(&mut source).await;
        counts.push(count);
        if count == (1000, 1002, 0) {
            return;
        }
    }
    panic!("{counts:?}");
}

/// The descendants that were counted after a burst, those after a process that outlives its main process, and the events
/// besides.
async fn descendants(source: &mut ConnectorSource) -> (u64, u64, usize) {
    let before = source.stats().descendant_exits;
    live(source, || execute(BURST));
    let burst = source.stats().descendant_exits - before;
    // The second outlives its main process, and is nobody's main process for that.
    let (_, events, _) = live(source, || {
        fork(|| {
            fork(nap);
        });
        execute("exit 0");
    });
    assert!(events.iter().any(|event| matches!(&event.fact, KernelFact::Exec { .. })), "{events:?}");
    let mut batch = Batch::default();
    let began = boottime();
    while source.stats().descendant_exits - before < 1002 && boottime().since(began).as_secs() < PATIENCE {
        source.wait(&mut batch).await;
    }
    (burst, source.stats().descendant_exits - before, batch.events.len())
}

#[tokio::test(flavor = "current_thread")]
async fn a_program_is_told_while_it_runs_and_a_process_that_ran_before_is_followed() {
    let _alone = alone();
    let Some(mut source) = source(ROOM) else { return };
    let started = boottime();
    let pid = fork(|| execute("exec sleep 1000"));
    let life = Life { slot: 1, pid, started };
    let mut batch = Batch::default();
    source.claim(&life, &mut batch);
    let runs = |events: &[KernelEvent], what: &str| {
        let mut programs = events.iter().filter_map(|event| match &event.fact {
            KernelFact::Exec { filename } => Some(filename),
            _ => None,
        });
        programs.any(|program| program.contains(what))
    };
    hear(&mut source, &mut batch, |events| runs(events, "sleep") || runs(events, "busybox"));
    assert!(runs(&batch.events, "/"), "{:?}", batch.events);
    assert!(source.follows(pid));

    let Some(mut late) = self::source(ROOM) else { return };
    let start = late.track(&life).expect("it runs");
    assert!(start <= boottime().0 && late.follows(pid));
    assert_eq!(late.track(&Life { pid: 1, ..life }), None, "no child of the keeper");
    die(pid);
    let status = reap(pid);
    let mut batch = Batch::default();
    while batch.events.is_empty() {
        late.wait(&mut batch).await;
    }
    let [event] = &batch.events[..] else { panic!("{:?}", batch.events) };
    assert_eq!((event.pid, event.start, event.slot, event.main), (pid, start, Some(1), true));
    assert_eq!(late.take_end(&life, status).and_then(|witness| witness.status), Some(WaitStatus(9)));
    assert_eq!(late.track(&life), None, "it has ended");
    late.claim(&life, &mut batch);
    assert!(!late.follows(pid));
}

/// Sends SIGKILL.
fn die(pid: u32) {
    // SAFETY: to a child of ours that has not been reaped.
    unsafe { libc::kill(pid.cast_signed(), libc::SIGKILL) };
}

#[tokio::test(flavor = "current_thread")]
async fn an_overflow_is_counted_exactly() {
    let _alone = alone();
    // The large one hears first and is drained last: what the small one has heard, it has heard too,
    // whatever other tests do on the host meanwhile.
    let (Ok(mut large), Ok(mut small)) = (Socket::open(ROOM), Socket::open(4096)) else {
        eprintln!("skipped: needs the proc connector");
        return;
    };
    let (mut few, mut all) = (Vec::new(), Vec::new());
    // The answer to the request to listen has a number too, and is read while the socket is opened.
    let opened: Vec<Option<u32>> = (0..1024).map(|cpu| small.losses.expected(cpu)).collect();
    for _ in 0..3 {
        reap(fork(|| execute(BURST)));
        while !large.drain(&mut all) {}
        while !small.drain(&mut few) {}
        // What comes afterwards shows the gap.
        reap(fork(|| exit_group(0)));
        while !small.drain(&mut few) {}
        while !large.drain(&mut all) {}
    }
    assert_eq!(large.losses.total(), 0);
    let cpus: std::collections::BTreeSet<u32> = few.iter().map(|message| message.cpu).collect();
    let mut lost = 0;
    for &cpu in &cpus {
        let of = |messages: &[super::message::Message]| -> Vec<u32> {
            messages.iter().filter(|message| message.cpu == cpu).map(|message| message.number).collect()
        };
        let (few, all) = (of(&few), of(&all));
        let (Some(first), Some(last)) = (few.first(), few.last()) else { continue };
        let first = opened[cpu as usize].as_ref().unwrap_or(first);
        let sent = all.iter().filter(|number| (first..=last).contains(number)).count();
        lost += sent - few.len();
    }
    assert!(lost > 1000, "the buffer was not small enough: {lost}");
    // At most one message more is owed for an overflow whose gap has not shown yet, on each CPU.
    let counted = small.losses.total() as usize;
    assert!((lost..=lost + cpus.len()).contains(&counted), "{counted} of {lost}");
}

#[tokio::test(flavor = "current_thread")]
async fn a_loss_is_told_and_what_was_missed_is_looked_up() {
    let _alone = alone();
    let Some(mut source) = source(4096) else { return };
    let mut batch = Batch::default();
    let started = boottime();
    let pid = fork(|| {
        loop {
            nap();
        }
    });
    let life = Life { slot: 2, pid, started };
    source.drain(&mut batch);
    source.claim(&life, &mut batch);
    assert!(source.follows(pid));
    let other = Life { slot: 3, started: boottime(), pid: 0 };
    let other = Life {
        pid: fork(|| {
            execute(&format!("{BURST}; exec sleep 1000"));
        }),
        ..other
    };
    while batch.lost == 0 {
        nap();
        source.drain(&mut batch);
    }
    source.wait(&mut batch).await;
    assert!(source.follows(pid), "it is still there");
    source.claim(&other, &mut batch);
    assert!(source.follows(other.pid), "its fork may have been lost");
    for life in [life, other] {
        die(life.pid);
        let status = reap(life.pid);
        // Its end may be among what was lost.
        hear_for(1, &mut source, &mut batch, |_| false);
        let witness = source.take_end(&life, status).expect("it always knows something");
        assert!(witness.status.is_none_or(|told| told == status), "{witness:?}");
        assert!(!source.follows(life.pid));
    }
    assert!(source.stats().lost() >= batch.lost);
}

#[tokio::test(flavor = "current_thread")]
async fn the_feed_tells_of_everybody() {
    let _alone = alone();
    let mut feed = ConnectorFeed::default();
    if let Err(error) = feed.start() {
        eprintln!("skipped: needs the proc connector ({error})");
        return;
    }
    let old = fork(|| execute("exec sleep 1000"));
    for _ in 0..2 {
        let pid = fork(|| {
            execute("exit 3");
        });
        assert_eq!(reap(pid), WaitStatus(0x300));
        let mut batch = Batch::default();
        while exit_of(&of(&batch, pid)).is_none() {
            feed.read(&mut batch).await;
        }
        let events = of(&batch, pid);
        let [fork, exec, exit] = &events[..] else { panic!("{events:?}") };
        assert!(events.iter().all(|event| !event.main && event.slot.is_none() && event.start == fork.start));
        assert_eq!(fork.fact, KernelFact::Fork { parent: std::process::id() });
        assert!(matches!(&exec.fact, KernelFact::Exec { .. }) && exec.at < exit.at, "{events:?}");
        let KernelFact::Exit(witness) = &exit.fact else { panic!("{events:?}") };
        assert_eq!((witness.status, witness.at), (Some(WaitStatus(0x300)), Some(exit.at)));
    }
    feed.stop();
    feed.start().expect("it could before");
    // Now it is one that ran before.
    let mut batch = Batch::default();
    for _ in 0..200 {
        reap(fork(|| exit_group(0)));
        feed.read(&mut batch).await;
    }
    die(old);
    reap(old);
    while exit_of(&of(&batch, old)).is_none() {
        feed.read(&mut batch).await;
    }
    let events = of(&batch, old);
    assert_eq!(events.len(), 1, "{events:?}");
    assert!(events[0].start > 0 && events[0].name.is_some(), "{events:?}");
    assert_eq!(exit_of(&events).and_then(|witness| witness.status), Some(WaitStatus(9)));
}

fn of(batch: &Batch, pid: u32) -> Vec<KernelEvent> {
    batch.events.iter().filter(|event| event.pid == pid).cloned().collect()
}

/// A memory cgroup of v1 or v2 that holds 16 MiB; `None` where none can be made.
struct SmallGroup(PathBuf);

impl SmallGroup {
    fn new() -> Option<Self> {
        let name = format!("defib-test-connector-{}", std::process::id());
        for (hierarchy, limit) in [("memory", "memory.limit_in_bytes"), (".", "memory.max")] {
            let group = Self(Path::new("/sys/fs/cgroup").join(hierarchy).join(&name));
            if fs::create_dir(&group.0).is_ok() && fs::write(group.0.join(limit), "16M").is_ok() {
                return Some(group);
            }
        }
        None
    }
}

impl Drop for SmallGroup {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir(&self.0) {
            eprintln!("{} stays behind: {error}", self.0.display());
        }
    }
}

#[tokio::test(flavor = "current_thread")]
async fn the_log_tells_a_victim_of_the_out_of_memory_killer_from_others() {
    let _alone = alone();
    let (Ok((mut source, _, why)), Some(group)) =
        (ConnectorSource::open(std::process::id()), SmallGroup::new())
    else {
        eprintln!("skipped: needs the proc connector and a memory cgroup");
        return;
    };
    if why.len() > 1 {
        eprintln!("skipped: needs the kernel's log ({why:?})");
        return;
    }
    // tail(1) keeps the last line, and this one has no end.
    let hog = format!("echo $$ >{}/cgroup.procs && exec tail /dev/zero", group.0.display());
    for life in 0..20 {
        let (status, _, witness) = live(&mut source, || execute(&hog));
        assert_eq!((status.0, witness.oom), (9, Some(true)), "{life}");
        let (_, _, witness) = live(&mut source, || die_of(9));
        assert_eq!(witness.oom, Some(false), "{life}");
    }
    let (_, _, witness) = live(&mut source, || exit_group(1));
    assert_eq!(witness.oom, Some(false));
}

/// Whether the kernel tells a socket of what happens next.
fn hears(socket: &OwnedFd) -> bool {
    let mut buffer = [0; 512];
    while recv(socket, &mut buffer, RecvFlags::DONTWAIT).is_ok() {}
    reap(fork(|| exit_group(0)));
    recv(socket, &mut buffer, RecvFlags::DONTWAIT).is_ok()
}

/// Before Linux 6.6 this hears as long as anybody listens, or has left without a word.
#[tokio::test(flavor = "current_thread")]
async fn leaving_is_told_to_the_kernel() {
    let _alone = alone();
    let Ok(socket) = Socket::open(ROOM) else {
        eprintln!("skipped: needs the proc connector");
        return;
    };
    let open_still = socket.fd().try_clone_to_owned().expect("a descriptor");
    assert!(hears(&open_still));
    drop(socket);
    assert!(!hears(&open_still));
}
