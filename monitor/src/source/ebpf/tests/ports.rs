//! Who listens where.

use std::net::TcpStream;
use std::os::unix::fs::MetadataExt;

use defib_core::model::{KernelEvent, KernelFact, Listener};
use defib_ebpf::{Listening, MAX_SLOTS};

use super::super::maps::Abi;
use super::{Running, World, victim};

/// What was heard of ports, and whether it was the main process's: `true` for a begin.
fn ports(events: &[KernelEvent]) -> Vec<(bool, Listener)> {
    let ports = events.iter().filter_map(|event| match event.fact {
        KernelFact::Listen(listener) => Some((true, listener)),
        KernelFact::Unlisten(listener) => Some((false, listener)),
        _ => None,
    });
    ports.collect()
}

fn netns() -> u32 {
    std::fs::metadata("/proc/self/ns/net").expect("it is there").ino() as u32
}

impl World {
    fn listeners(&self) -> usize {
        self.entries::<Abi<Listening>, u64>("LISTENERS")
    }
}

#[tokio::test(flavor = "current_thread")]
async fn a_port_is_told_from_its_begin_to_its_end() {
    let Some(mut world) = World::new() else { return };
    assert!(world.source.hears_ports());
    let Running { pid, heard, .. } =
        world.start(4, &victim::command("listen"), |pid, _| victim::is_ready(pid));
    let [(true, first), (true, second), (false, closed)] = ports(&heard)[..] else { panic!("{heard:?}") };
    assert_eq!((first.netns, second), (netns(), closed));
    assert!(first.port != 0 && first.port != second.port);
    assert!(heard.iter().all(|event| event.main && event.pid == pid && event.slot == Some(4)), "{heard:?}");
    // A connection is no end of the listening.
    drop(TcpStream::connect(("127.0.0.1", first.port)).expect("it listens"));
    assert_eq!(ports(&world.heard()), []);
    assert_eq!(world.listeners(), 1);

    world.keeper.run(&format!("kill -KILL {pid}"));
    let events = world.reap(pid);
    assert_eq!(ports(&events), [(false, first)]);
    let end = events.iter().position(|event| matches!(event.fact, KernelFact::Exit(_)));
    let closed = events.iter().position(|event| matches!(event.fact, KernelFact::Unlisten(_)));
    assert!(end < closed, "its sockets are closed after it has ended: {events:?}");
    assert!(events.iter().all(|event| event.main && event.slot == Some(4)));
    assert_eq!(world.listeners(), 0);
}

#[tokio::test(flavor = "current_thread")]
async fn a_socket_that_was_never_bound_has_no_port_at_first() {
    let Some(mut world) = World::new() else { return };
    let command = victim::command("listen-unbound");
    let Running { pid, heard, .. } = world.start(4, &command, |pid, _| victim::is_ready(pid));
    assert_eq!(ports(&heard), [(true, Listener { port: 0, netns: netns() })]);
    world.keeper.run(&format!("kill -KILL {pid}"));
    let [(false, Listener { port, .. })] = ports(&world.reap(pid))[..] else {
        panic!("its end was not heard")
    };
    assert_ne!(port, 0, "the kernel had chosen one");
}

#[tokio::test(flavor = "current_thread")]
async fn a_descendant_may_listen_and_a_stranger_is_not_heard() {
    let Some(mut world) = World::new() else { return };
    let line = format!("/bin/sh -c '({}) & wait'", victim::command("listen").replace('\'', "\""));
    let heard_of_two = |_, events: &[KernelEvent]| ports(events).len() == 3;
    let Running { pid, heard, .. } = world.start(6, &line, heard_of_two);
    let of_ports = heard.iter().filter(|event| matches!(event.fact, KernelFact::Listen(_)));
    let of_ports: Vec<_> = of_ports.collect();
    assert!(of_ports.iter().all(|event| !event.main && event.pid != pid && event.slot == Some(6)));
    let listener = of_ports[0].pid;
    world.keeper.run(&format!("kill -KILL {listener}"));
    let events = world.reap(pid);
    assert_eq!(ports(&events).len(), 1, "{events:?}");
    let _stranger = std::net::TcpListener::bind("127.0.0.1:0").expect("there is a port");
    assert_eq!(ports(&world.heard()), []);
}

#[tokio::test(flavor = "current_thread")]
async fn a_descendant_with_many_ports_is_cut_short_and_every_begin_has_its_end() {
    let Some(mut world) = World::new() else { return };
    let line = format!("/bin/sh -c '({}) & wait'", victim::command("listen-often").replace('\'', "\""));
    let Running { pid, mut heard, .. } = world.start(7, &line, |_, events| ports(events).len() >= 64);
    let child = heard.iter().find(|event| !event.main).expect("it listens").pid;
    while !victim::is_ready(child) {
        world.keeper.run("sleep 0.02");
    }
    world.keeper.run(&format!("kill -KILL {child}"));
    heard.extend(world.reap(pid));
    let ports = ports(&heard);
    let begins = ports.iter().filter(|(begins, _)| *begins).count();
    assert!((64..=130).contains(&begins), "{begins} of 200");
    assert_eq!(ports.len(), 2 * begins);
    let counted = world.slot(7);
    // The signal that ended it is none: it was the keeper's.
    assert_eq!(counted.told + counted.suppressed, 200, "{counted:?}");
    assert_eq!(world.source.stats().suppressed, counted.suppressed);
    assert_eq!((counted.listeners, world.listeners()), (0, 0));
    assert_eq!(world.slot(MAX_SLOTS - 1), defib_ebpf::Slot::default());
}
