//! From fork to end.

use std::thread;

use defib_core::model::{KernelEvent, KernelFact, WaitStatus};

use super::{
    BURST, PATIENCE, alone, die, die_of, execute, exit_group, exit_thread, fork, hear, live, nap, reap,
    source, wait_for_leader,
};
use crate::source::any::{Batch, Life};
use crate::source::clocks::boottime;
use crate::source::connector::live::ConnectorSource;
use crate::source::connector::socket::ROOM;
use crate::source::testing::SmallGroup;

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

#[tokio::test(flavor = "current_thread")]
async fn the_log_tells_a_victim_of_the_out_of_memory_killer_from_others() {
    let _alone = alone();
    let (Ok((mut source, _, why)), Some(group)) =
        (ConnectorSource::open(std::process::id()), SmallGroup::new("connector"))
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
