//! Who sent the signal, and what is said of it.

use std::fs;
use std::path::{Path, PathBuf};

use defib_core::model::{Blame, KernelEvent, KernelFact, Sender, Signal, WaitStatus};
use defib_ebpf::Group;

use super::super::load::{load_for, resolve_here};
use super::{Running, World, status, the_end, victim};

/// The fatal signals among these events.
fn told(events: &[KernelEvent]) -> Vec<(Signal, Blame)> {
    let told = events.iter().filter_map(|event| match &event.fact {
        KernelFact::Signal { signal, blame } => Some((*signal, blame.clone())),
        _ => None,
    });
    told.collect()
}

fn kill(pid: u32, signal: i32) {
    // SAFETY: a system call without pointers.
    assert_eq!(unsafe { libc::kill(pid.cast_signed(), signal) }, 0);
}

/// This process as a sender.
fn myself(signal: i32) -> Blame {
    let name = fs::read_to_string("/proc/self/comm").expect("it has a name").trim().to_owned();
    // SAFETY: a system call without pointers, which cannot fail.
    let uid = unsafe { libc::getuid() };
    Blame::Process(Sender { signal: Signal(signal), pid: std::process::id(), uid, name })
}

impl World {
    fn victim(&mut self, slot: u32, way: &str) -> Running {
        self.start(slot, &victim::command(way), |pid, _| victim::is_ready(pid))
    }

    /// What a victim brings upon itself.
    fn suicide(&mut self, slot: u32, way: &str) -> Vec<KernelEvent> {
        self.run_main(slot, &victim::command(way))
    }
}

#[tokio::test(flavor = "current_thread")]
async fn a_signal_from_outside_is_told_once_with_its_sender() {
    let Some(mut world) = World::new() else { return };
    for (slot, signal) in (0..).zip([
        libc::SIGTERM,
        libc::SIGKILL,
        libc::SIGINT,
        libc::SIGSEGV,
        libc::SIGQUIT,
        libc::SIGUSR2,
        libc::SIGRTMIN() + 3,
    ]) {
        let Running { pid, start, .. } = world.victim(slot, "wait");
        kill(pid, signal);
        let events = world.reap(pid);
        let (signal, blame) = (Signal(signal), myself(signal));
        assert_eq!(told(&events), [(signal, blame.clone())], "{events:?}");
        assert!(events.iter().all(|event| event.name.as_deref() == Some("ready")), "{events:?}");
        let end = the_end(&events);
        assert_eq!((end.status, end.blame), (Some(WaitStatus(signal.0)), blame.clone()));
        let kept = world.source.take_end(pid, start).expect("it is kept");
        assert_eq!(kept.blame, blame);
    }
    let stats = world.source.stats();
    let signals = stats.kinds.iter().find(|kind| kind.kind == "signal").expect("they are counted");
    assert_eq!((signals.emitted, signals.received, signals.lost), (7, 7, 0));
    assert!(signals.host >= 7, "{signals:?}");
    assert_eq!(world.source.maps.blows(), 0, "nothing is remembered of processes that have ended");
}

#[tokio::test(flavor = "current_thread")]
async fn a_stopped_process_can_be_killed() {
    let Some(mut world) = World::new() else { return };
    let Running { pid, .. } = world.victim(0, "wait");
    kill(pid, libc::SIGSTOP);
    while !status(pid, "State:").is_some_and(|state| state.starts_with('T')) {
        world.keeper.run("sleep 0.01");
    }
    assert_eq!(told(&world.heard()), []);
    kill(pid, libc::SIGKILL);
    assert_eq!(told(&world.reap(pid)), [(Signal::KILL, myself(libc::SIGKILL))]);
}

#[tokio::test(flavor = "current_thread")]
async fn a_signal_that_was_blocked_keeps_its_sender() {
    let Some(mut world) = World::new() else { return };
    let Running { pid, .. } = world.victim(0, "blocked");
    kill(pid, libc::SIGUSR1);
    let events = world.reap(pid);
    assert_eq!(told(&events), [(Signal(libc::SIGUSR1), myself(libc::SIGUSR1))]);
    assert_eq!(the_end(&events).blame, myself(libc::SIGUSR1));
}

#[tokio::test(flavor = "current_thread")]
async fn what_a_process_does_to_itself_is_the_kernels_word_or_its_own() {
    let Some(mut world) = World::new() else { return };
    let kernel = |address| Some(Blame::Kernel { address });
    let table = [
        // how, the wait status, whether a signal is told, whom to blame; `None`: the process itself
        ("null", libc::SIGSEGV, true, kernel(Some(0))),
        ("address", libc::SIGSEGV, true, kernel(Some(0xdead_0000))),
        ("abort", libc::SIGABRT, true, None),
        ("kill-thread", libc::SIGTERM, true, None),
        ("alarm", libc::SIGALRM, true, kernel(None)),
        ("timer", libc::SIGALRM, true, kernel(None)),
        ("pipe", libc::SIGPIPE, true, kernel(None)),
        ("seccomp", libc::SIGKILL, false, kernel(None)),
        ("exit-with-threads", 0x700, false, Some(Blame::Nobody)),
        ("exec-in-thread", 0x300, false, Some(Blame::Nobody)),
    ];
    for (slot, (way, wait_status, is_told, blame)) in (0..).zip(table) {
        let events = world.suicide(slot, way);
        let end = the_end(&events);
        assert_eq!(end.status, Some(WaitStatus(wait_status)), "{way}: {events:?}");
        let pid = events[0].pid;
        let told = told(&events);
        assert_eq!(told.len(), usize::from(is_told), "{way}: {told:?}");
        for blamed in told.iter().map(|(_, blame)| blame).chain([&end.blame]) {
            match (&blame, blamed) {
                (None, Blame::Process(sender)) => assert_eq!(sender.pid, pid, "{way}"),
                (expected, blamed) => assert_eq!(expected.as_ref(), Some(blamed), "{way}"),
            }
        }
        assert!(told.iter().all(|(signal, _)| signal.0 == wait_status), "{way}: {told:?}");
    }
}

/// Whether a process has a handler for SIGTERM.
fn catches_term(pid: u32) -> bool {
    let caught = status(pid, "SigCgt:").and_then(|mask| u64::from_str_radix(&mask, 16).ok());
    caught.is_some_and(|mask| mask >> (libc::SIGTERM - 1) & 1 != 0)
}

#[tokio::test(flavor = "current_thread")]
async fn who_asked_for_an_end_is_remembered_until_it_comes() {
    let Some(mut world) = World::new() else { return };
    for (slot, (trap, wait_status)) in (0..).zip([
        ("exit 0", 0),
        ("exit 3", 0x300),
        // The way of well-behaved programs: the sender is still the one who asked.
        ("trap - TERM; kill -TERM $$", libc::SIGTERM),
    ]) {
        let command = format!("/bin/sh -c 'trap \"{trap}\" TERM; while :; do sleep 0.01; done'");
        let command = command.replace("$$", "\\$\\$");
        let Running { pid, .. } = world.start(slot, &command, |pid, _| catches_term(pid));
        kill(pid, libc::SIGTERM);
        let events = world.reap(pid);
        assert_eq!(told(&events).len(), usize::from(wait_status == libc::SIGTERM), "{events:?}");
        let end = the_end(&events);
        assert_eq!((end.status, end.blame), (Some(WaitStatus(wait_status)), myself(libc::SIGTERM)), "{trap}");
    }
    // A signal that asks for nothing explains no exit, and another signal no other death.
    let command = "/bin/sh -c 'trap \"exit 0\" TERM; trap \"exit 4\" USR1; while :; do sleep 0.01; done'";
    let Running { pid, .. } = world.start(9, command, |pid, _| catches_term(pid));
    world.keeper.run("sleep 0.1");
    kill(pid, libc::SIGUSR1);
    let end = the_end(&world.reap(pid));
    assert_eq!((end.status, end.blame), (Some(WaitStatus(0x400)), Blame::Nobody));
}

#[tokio::test(flavor = "current_thread")]
async fn a_debugger_passes_signals_on() {
    let Some(mut world) = World::new() else { return };
    let Running { pid, .. } = world.victim(0, "wait");
    let tracee = pid.cast_signed();
    let nothing = std::ptr::null_mut::<libc::c_void>();
    // SAFETY: the requests take numbers for pointers; the status is written before it is read.
    unsafe {
        assert_eq!(libc::ptrace(libc::PTRACE_SEIZE, tracee, nothing, nothing), 0);
        kill(pid, libc::SIGTERM);
        let mut stopped = 0;
        assert_eq!(libc::waitpid(tracee, &mut stopped, libc::__WALL), tracee);
        assert!(libc::WIFSTOPPED(stopped) && libc::WSTOPSIG(stopped) == libc::SIGTERM);
        assert_eq!(told(&world.heard()), [], "it may never get it");
        assert_eq!(libc::ptrace(libc::PTRACE_CONT, tracee, nothing, libc::SIGTERM as usize), 0);
        assert_eq!(libc::waitpid(tracee, &mut stopped, libc::__WALL), tracee);
    }
    let events = world.reap(pid);
    assert_eq!(told(&events), [(Signal::TERM, myself(libc::SIGTERM))]);
    assert_eq!(the_end(&events).blame, myself(libc::SIGTERM));
}

/// A cgroup of v2; `None` where none can be made.
struct Group2(PathBuf);

impl Group2 {
    fn new() -> Option<Self> {
        let name = format!("defib-test-kill-{}", std::process::id());
        for hierarchy in ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"] {
            let group = Self(Path::new(hierarchy).join(&name));
            if fs::create_dir(&group.0).is_ok() && group.0.join("cgroup.kill").exists() {
                return Some(group);
            }
        }
        None
    }
}

impl Drop for Group2 {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir(&self.0) {
            eprintln!("{} stays behind: {error}", self.0.display());
        }
    }
}

#[tokio::test(flavor = "current_thread")]
async fn whoever_kills_a_cgroup_kills_its_processes() {
    let Some(mut world) = World::new() else { return };
    let Some(group) = Group2::new() else {
        eprintln!("skipped: needs cgroup.kill");
        return;
    };
    let Running { pid, .. } = world.victim(0, "wait");
    fs::write(group.0.join("cgroup.procs"), pid.to_string()).expect("it may be moved");
    fs::write(group.0.join("cgroup.kill"), "1").expect("it may be killed");
    let events = world.reap(pid);
    assert_eq!(told(&events), [(Signal::KILL, myself(libc::SIGKILL))]);
    assert_eq!(the_end(&events).blame, myself(libc::SIGKILL));
}

#[tokio::test(flavor = "current_thread")]
async fn descendants_die_of_signals_too() {
    let Some(mut world) = World::new() else { return };
    let events = world.run_main(5, "/bin/sh -c '/bin/sh -c \"kill -KILL \\$\\$\"; exit 1'");
    let signals: Vec<_> =
        events.iter().filter(|event| matches!(event.fact, KernelFact::Signal { .. })).collect();
    let [KernelEvent { main: false, slot: Some(5), pid, .. }] = signals[..] else { panic!("{events:?}") };
    assert!(matches!(&told(&events)[0].1, Blame::Process(sender) if sender.pid == *pid));
    assert_eq!(the_end(&events).blame, Blame::Nobody);
}

#[tokio::test(flavor = "current_thread")]
async fn without_the_probes_of_signals_nobody_is_accused() {
    let blind = |keeper| {
        let mut resolved = resolve_here()?;
        resolved.forget(Group::Signals);
        load_for(&resolved, keeper)
    };
    let Some(mut world) = World::with(blind) else { return };
    let left_out: Vec<_> =
        world.source.probes.reports.iter().filter(|report| report.outcome.is_err()).collect();
    assert_eq!(left_out.len(), 2, "{left_out:?}");
    assert!(world.source.hears_ports());
    for (line, wait_status) in [("/bin/sh -c 'kill -TERM $$'", 15), ("/bin/sh -c 'exit 2'", 0x200)] {
        let events = world.run_main(0, line);
        assert_eq!(told(&events), []);
        let end = the_end(&events);
        assert_eq!((end.status, end.blame), (Some(WaitStatus(wait_status)), Blame::Unknown));
    }
}
