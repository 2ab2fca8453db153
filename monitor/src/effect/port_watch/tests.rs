//! The thread looks at sockets of this process, which plays a main process.

use std::net::{Ipv4Addr, Ipv6Addr, TcpListener};

use tokio::sync::mpsc::Receiver;

use super::*;

fn spec(ports: &[u16]) -> Arc<ServiceSpec> {
    let spec = ServiceSpec::new("it".parse().unwrap(), vec!["x".to_owned()]);
    Arc::new(ServiceSpec { ports: ports.iter().copied().collect(), ..spec })
}

fn subject(ports: &[u16]) -> Subject {
    Subject { spec: spec(ports), slot: 0, incarnation: Incarnation(3), main: Some(std::process::id()) }
}

fn start() -> (PortWatch, Receiver<Found>) {
    // The parent of this process plays the keeper.
    let household = Household { cgroups: None, keeper: std::os::unix::process::parent_id() };
    PortWatch::start(household).unwrap()
}

fn listen() -> (TcpListener, u16) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

fn hint(port: u16, listening: bool) -> Look {
    Look::Hint { pid: std::process::id(), listener: Listener { port, netns: 0 }, listening }
}

fn level(port: u16, listening: bool) -> Found {
    let service = "it".parse().unwrap();
    Found::Level { service, slot: 0, incarnation: Incarnation(3), port, listening }
}

#[test]
fn a_hint_is_told_as_what_the_sockets_show() {
    let (watch, mut found) = start();
    let ((one, first), (two, second)) = (listen(), listen());
    let it = || subject(&[first, second]);
    watch.ask(it(), hint(first, true));
    assert_eq!(found.blocking_recv(), Some(level(first, true)));

    // The end of another socket on a port is not the end of the port; an end that is one is told.
    watch.ask(it(), hint(first, false));
    assert_eq!(found.blocking_recv(), Some(level(first, true)));
    drop(one);
    watch.ask(it(), hint(first, false));
    assert_eq!(found.blocking_recv(), Some(level(first, false)));
    // A socket that is closed before anybody could look has not listened.
    watch.ask(it(), hint(first, true));
    watch.ask(it(), hint(first, false));
    assert_eq!(found.blocking_recv(), Some(level(first, false)));
    watch.ask(it(), hint(second, true));
    assert_eq!(found.blocking_recv(), Some(level(second, true)));
    drop(two);
}

#[test]
fn a_socket_that_listens_a_little_later_is_waited_for() {
    let (watch, mut found) = start();
    let (held, port) = listen();
    drop(held);
    watch.ask(subject(&[port]), hint(port, true));
    let late = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).unwrap();
    assert_eq!(found.blocking_recv(), Some(level(port, true)));
    drop(late);
}

#[test]
fn ports_that_are_not_named_are_told_once() {
    let (watch, mut found) = start();
    let (listener, port) = listen();
    let (_last, mark) = listen();
    for _ in 0..3 {
        watch.ask(subject(&[mark]), hint(port, true));
        watch.ask(
            subject(&[mark]),
            Look::Hint {
                pid: std::process::id(),
                listener: Listener { port: mark, netns: 1 },
                listening: true,
            },
        );
        loop {
            match found.blocking_recv() {
                Some(Found::Level { port: told, .. }) if told == mark => break,
                told => assert_eq!(told, Some(level(port, true))),
            }
        }
    }
    // Nobody listens on this one, yet: nothing is told.
    watch.ask(subject(&[mark]), hint(1, true));
    drop(listener);
    watch.ask(subject(&[mark]), hint(port, false));
    assert_eq!(found.blocking_recv(), Some(level(port, false)));
    assert_eq!(found.try_recv().ok(), None);
}

#[test]
fn a_socket_that_was_never_bound_is_found_by_its_process() {
    let (watch, mut found) = start();
    let six = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).unwrap();
    let port = six.local_addr().unwrap().port();
    watch.ask(subject(&[port]), hint(0, true));
    loop {
        // Other tests of this process listen too.
        let Some(Found::Level { port: told, listening: true, .. }) = found.blocking_recv() else { panic!() };
        if told == port {
            break;
        }
    }
}

#[test]
fn named_ports_are_looked_at_until_all_listen() {
    let (watch, mut found) = start();
    let ((one, first), (held, second)) = (listen(), listen());
    drop(held);
    watch.ask(subject(&[first, second]), Look::Ports { all: true, wait: true });
    let told = [found.blocking_recv(), found.blocking_recv()];
    assert!(told.contains(&Some(level(first, true))) && told.contains(&Some(level(second, false))));
    let late = TcpListener::bind((Ipv4Addr::LOCALHOST, second)).unwrap();
    assert_eq!(found.blocking_recv(), Some(level(second, true)), "and the first one is not told again");

    // Once, and only what listens.
    drop(one);
    watch.ask(subject(&[first, second]), Look::Ports { all: false, wait: false });
    assert_eq!(found.blocking_recv(), Some(level(second, true)));
    drop((watch, late));
    assert_eq!(found.blocking_recv(), None, "the thread has ended");
}

#[test]
fn a_life_that_is_over_is_not_waited_for() {
    let (watch, mut found) = start();
    let gone = Subject { main: None, ..subject(&[1]) };
    watch.ask(gone, Look::Ports { all: true, wait: true });
    assert_eq!(found.blocking_recv(), Some(level(1, false)));
    drop(watch);
    assert_eq!(found.blocking_recv(), None);
}
