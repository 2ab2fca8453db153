//! From fork to end.

use std::time::Duration;

use defib_core::model::{Blame, KernelEvent, KernelFact, WaitStatus, Witness};

use tokio::time::timeout;

use super::{World, life};
use crate::source::any::Batch;
use crate::source::testing::SmallGroup;

#[tokio::test(flavor = "current_thread")]
async fn a_main_process_is_heard_from_its_fork_to_its_end() {
    let Some(mut world) = World::new() else { return };
    let table = [
        // command, whether it executes a program, raw wait status
        ("(exit 7)", false, 0x700),
        ("/bin/sh -c 'exit 0'", true, 0),
        ("/bin/sh -c 'kill -TERM $$'", true, 15),
        ("/bin/sh -c 'kill -KILL $$'", true, 9),
        ("/bin/sh -c 'ulimit -c 0; kill -SEGV $$'", true, 11),
    ];
    for (slot, (line, executes, status)) in (40..).zip(table) {
        let events = world.run_main(slot, line);
        let first = events.first().expect("its fork was heard");
        assert!(events.iter().all(|event| event.main && event.slot == Some(slot)), "{line}: {events:?}");
        assert!(events.iter().all(|event| (event.pid, event.start) == (first.pid, first.start)), "{line}");
        assert!(events.windows(2).all(|pair| pair[0].at <= pair[1].at), "{line}: {events:?}");
        assert_eq!(first.fact, KernelFact::Fork { parent: world.keeper.shell.id() }, "{line}");
        let executed =
            events.iter().any(|event| event.fact == KernelFact::Exec { filename: "/bin/sh".into() });
        assert_eq!(executed, executes, "{line}: {events:?}");
        let Some(KernelFact::Exit(witness)) = events.last().map(|event| event.fact.clone()) else {
            panic!("{line}: no end was heard: {events:?}");
        };
        assert_eq!((witness.status, witness.oom), (Some(WaitStatus(status)), Some(false)), "{line}");
        match &witness.blame {
            Blame::Nobody => assert_eq!(status & 0x7f, 0, "{line}"),
            Blame::Process(sender) => {
                assert_eq!((sender.pid, sender.signal.0), (first.pid, status & 0x7f), "{line}")
            }
            other => panic!("{line}: {other:?}"),
        }
        assert_eq!(world.source.take_end(first.pid, first.start + 1), None, "another life");
        assert_eq!(world.source.take_end(first.pid, first.start), Some(witness), "{line}");
        assert_eq!(world.source.take_end(first.pid, first.start), None, "it was taken");
    }
    let stats = world.source.stats();
    assert_eq!(stats.lost(), 0, "{stats:?}");
    assert!(
        stats.kinds.iter().all(|kind| kind.emitted == kind.received && kind.host >= kind.emitted),
        "{stats:?}"
    );
}

#[tokio::test(flavor = "current_thread")]
async fn descendants_are_counted_and_strangers_are_not() {
    let Some(mut world) = World::new() else { return };
    world.keeper.run("/bin/sh -c 'exit 1'; (exit 2)");
    assert_eq!(world.heard(), [], "nothing was announced");

    let events =
        world.run_main(3, "/bin/sh -c '(exit 1); (exit 2); (/bin/sh -c \"exit 3\"; exit 4); exit 5'");
    let ends: Vec<_> = events.iter().filter(|event| matches!(event.fact, KernelFact::Exit(_))).collect();
    assert!(events.iter().all(|event| event.main), "{events:?}");
    assert_eq!(ends.len(), 1, "{events:?}");
    assert!(world.source.stats().descendant_exits >= 3);
}

#[tokio::test(flavor = "current_thread")]
async fn a_victim_of_the_out_of_memory_killer_is_marked_before_and_at_its_end() {
    let Some(mut world) = World::new() else { return };
    let Some(group) = SmallGroup::new("ebpf") else {
        eprintln!("skipped: needs a memory cgroup");
        return;
    };
    // tail(1) keeps the last line, and this one has no end.
    let hog = format!("echo $$ >{}/cgroup.procs && exec tail /dev/zero", group.0.display());
    for (line, main) in [
        (format!("/bin/sh -c '{hog}'"), true),
        (format!("/bin/sh -c '(/bin/sh -c \"{}\"); exit 1'", hog.replace('$', "\\$")), false),
    ] {
        let events = world.run_main(0, &line);
        let marked = events.iter().position(|event| event.fact == KernelFact::Oom && event.main == main);
        let ended = events.iter().position(|event| {
            event.main == main
                && matches!(
                    event.fact,
                    KernelFact::Exit(Witness { oom: Some(true), status: Some(WaitStatus(9)), .. })
                )
        });
        assert!(marked.is_some() && marked < ended, "{line}: {events:?}");
        assert!(events.iter().all(|event| event.slot == Some(0)), "{events:?}");
    }
}

#[tokio::test(flavor = "current_thread")]
async fn a_process_that_ran_before_is_known_by_its_coarse_start() {
    let Some(mut world) = World::new() else { return };
    let pid: u32 = world.keeper.run("sleep 1000 & echo $!").parse().expect("a pid");
    let start = world.source.track(&life(pid, 9)).expect("there is room").expect("it runs");
    world.keeper.run(&format!("kill -KILL {pid}; wait {pid}"));

    // Through the reactor this time, not by a look at the ring.
    let mut batch = Batch::default();
    world.source.wait(&mut batch).await;
    // The shell's child may not have become `sleep` yet when it was tracked.
    batch.events.retain(|event| !matches!(event.fact, KernelFact::Exec { .. } | KernelFact::Signal { .. }));
    let [
        KernelEvent {
            pid: heard,
            start: same,
            slot: Some(9),
            main: true,
            fact: KernelFact::Exit(witness),
            ..
        },
    ] = &batch.events[..]
    else {
        panic!("{:?}", batch.events);
    };
    assert_eq!((*heard, *same, witness.status), (pid, start, Some(WaitStatus(9))));
    assert_eq!(world.source.take_end(pid, start), Some(witness.clone()));
    assert_eq!(world.source.track(&life(pid, 9)).expect("there is room"), None, "it has ended");
}

#[tokio::test(flavor = "current_thread")]
async fn an_end_that_nobody_saw_leaves_nothing_behind() {
    let Some(mut world) = World::new() else { return };
    // A zombie, so that its entry is made after its end. The shell reaps it only at its own `wait`.
    let pid: u32 = world.keeper.run("(exit 0) & echo $!; sleep 0.1").parse().expect("a pid");
    let start = world.source.track(&life(pid, 9)).expect("there is room");
    if let Some(start) = start {
        assert_eq!(world.source.take_end(pid, start), None);
        assert_eq!(world.source.maps.tracked(pid).expect("the map can be read"), None);
    }
}

impl World {
    /// Waits through the reactor until an execution is heard.
    async fn executes(&mut self, pid: u32) {
        let mut batch = Batch::default();
        let exec = |event: &KernelEvent| event.pid == pid && matches!(event.fact, KernelFact::Exec { .. });
        let heard = timeout(Duration::from_secs(20), async {
            while !batch.events.iter().any(exec) {
                self.source.wait(&mut batch).await;
            }
        });
        assert!(heard.await.is_ok(), "nobody was woken: {:?}", batch.events);
    }
}

#[tokio::test(flavor = "current_thread")]
async fn an_exec_that_comes_after_the_report_of_it_is_heard() {
    let Some(mut world) = World::new() else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let go = folder.path().join("go").display().to_string();
    world.keeper.run(&format!("mkfifo {go}"));
    let line = format!("(read -r line <{go}; exec sleep 1000) >/dev/null & echo $!");
    let pid = world.announced(4, &line).parse().expect("a pid");
    // As the keeper's report has it read, which comes of what the kernel does before the program is told.
    let heard = world.heard();
    assert!(matches!(heard[..], [KernelEvent { fact: KernelFact::Fork { .. }, .. }]), "{heard:?}");
    world.keeper.run(&format!("echo >{go}"));
    world.executes(pid).await;
    world.keeper.run(&format!("kill -KILL {pid}; wait {pid}"));
}

#[tokio::test(flavor = "current_thread")]
async fn what_wakes_nobody_keeps_nothing_else_from_being_heard() {
    let Some(mut world) = World::new() else { return };
    let folder = tempfile::tempdir().expect("a folder");
    let [go, never] = ["go", "never"].map(|name| folder.path().join(name).display().to_string());
    world.keeper.run(&format!("mkfifo {go} {never}"));
    let line = format!("/bin/sh -c 'read -r line <{go}; exec sleep 1000'");
    let running = world.start(4, &line, |_, heard| heard.len() == 2);
    // One that executes nothing is not reported, and its fork stays unread.
    let other = world.announced(5, &format!("(read -r line <{never}) >/dev/null & echo $!"));
    world.keeper.run(&format!("echo >{go}"));
    world.executes(running.pid).await;
    world.keeper.run(&format!("kill -KILL {0} {other}; wait {0} {other}", running.pid));
}
