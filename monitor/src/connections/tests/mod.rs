//! The counters on this kernel: real connections, of both families, that end in every way. Needs root; says so where it
//! cannot run.

#![expect(clippy::disallowed_methods, reason = "a test waits for threads and processes of its own")]

mod traffic;

use std::collections::{BTreeMap, BTreeSet};
use std::net::TcpListener;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

use defib_ebpf::{WATCHED_WORDS, watched_bit};

use super::counts::{Counter, Counts, Place};
use super::{Counted, LENGTHS};
use crate::effect::sockets::{Connections, Namespace};
use crate::source::{Source, SourceChoice, open};
use traffic::{End, Server, talk};

/// The probes, and who makes sense of them.
struct World {
    _runtime: tokio::runtime::Runtime,
    source: Source,
    counted: Counted,
}

impl World {
    fn new() -> Option<Self> {
        Self::named(None)
    }

    fn named(name: Option<&str>) -> Option<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let entered = runtime.enter();
        let selection = match open(&SourceChoice::Ebpf, std::process::id(), name) {
            Ok(selection) => selection,
            Err(error) => {
                eprintln!("skipped: needs CAP_BPF and an eBPF object ({})", error.chain());
                return None;
            }
        };
        drop(entered);
        let ports = selection.ports.expect("this kernel tells sockets apart");
        let counted = Counted::start(ports).expect("a thread");
        Some(Self { _runtime: runtime, source: selection.source, counted })
    }

    fn watch(&self, places: &[Place]) {
        assert_eq!(self.counted.watch(&places.iter().copied().collect()), 0);
        for place in places {
            patiently(|| self.counted.counts(*place, None));
        }
    }

    fn counts(&self, place: Place) -> Counts {
        self.counted.counts(place, None).expect("it is watched")
    }
}

fn unknown(counts: &Counts) -> u64 {
    counts.lengths.expect("they are counted").unknown
}

fn patiently<T>(mut ask: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(begun.elapsed() < Duration::from_secs(30), "waited in vain");
        std::thread::sleep(Duration::from_millis(5));
    }
}

fn here(port: u16) -> Place {
    let netns = std::fs::metadata("/proc/thread-self/ns/net").expect("it is there").ino();
    Place { netns: netns as u32, port }
}

/// How many connections there are by sock_diag, each once.
fn dumped(port: u16) -> u64 {
    let view = Connections::open(Namespace::Own).expect("sock_diag answers");
    let found: BTreeSet<_> = view.of(&BTreeSet::from([port])).expect("it answers").into_iter().collect();
    found.len() as u64
}

#[test]
fn every_way_to_end_a_connection_is_counted_once() {
    let Some(world) = World::new() else { return };
    for address in ["127.0.0.1:0", "[::1]:0", "[::]:0"] {
        let server = Server::start(TcpListener::bind(address).expect("a port"));
        let mapped = address == "[::]:0";
        let place = here(server.port);
        // Connections that are there before anybody counts.
        let early: Vec<_> = (0..7).map(|_| server.connect(mapped)).collect();
        world.watch(&[place]);
        assert_eq!(world.counts(place).active, 7, "{address}");
        let mut resets = 0;
        for round in 0..300 {
            let end = End::ALL[round % End::ALL.len()];
            talk(server.connect(mapped), end);
            resets +=
                u64::from(matches!(end, End::ClientResets | End::ServerResets | End::ServerLeavesUnread));
        }
        let quiet = patiently(|| {
            let counts = world.counts(place);
            (counts.closed == 300 && counts.resets == Some(resets)).then_some(counts)
        });
        assert_eq!((quiet.active, quiet.opened), (7, 300), "{address} {quiet:?}");
        let lengths = quiet.lengths.expect("they are counted");
        assert_eq!((lengths.unknown, lengths.count()), (0, 300));
        assert!(lengths.sum > 0);
        assert_eq!(dumped(server.port), 7);
        // Their begin was not seen, so nobody knows how long they were.
        drop(early);
        let end = patiently(|| Some(world.counts(place)).filter(|counts| counts.active == 0));
        assert_eq!((end.opened, end.closed, unknown(&end)), (300, 307, 7));
        let verdict = world.counted.verify(place).expect("it is watched");
        assert!(verdict.is_equal() && verdict.found == 0);
    }
    assert_eq!(world.counted.reseeds(), Some(0));
}

#[test]
fn what_is_half_closed_is_no_connection_any_more() {
    let Some(world) = World::new() else { return };
    let server = Server::start(TcpListener::bind("127.0.0.1:0").expect("a port"));
    let place = here(server.port);
    world.watch(&[place]);
    let half = server.connect(false);
    patiently(|| (world.counts(place).active == 1).then_some(()));
    half.shutdown(std::net::Shutdown::Write).expect("it is open");
    patiently(|| (world.counts(place).active == 0).then_some(()));
    assert_eq!(dumped(server.port), 0);
    drop(half);
}

#[test]
fn lengths_go_where_they_belong() {
    let Some(world) = World::new() else { return };
    let server = Server::start(TcpListener::bind("127.0.0.1:0").expect("a port"));
    let place = here(server.port);
    world.watch(&[place]);
    let connection = server.connect(false);
    patiently(|| (world.counts(place).active == 1).then_some(()));
    let begun = Instant::now();
    patiently(|| (begun.elapsed() > Duration::from_millis(120)).then_some(()));
    talk(connection, End::ClientCloses);
    let lengths = patiently(|| Some(world.counts(place)).filter(|counts| counts.closed == 1)).lengths;
    let lengths = lengths.expect("they are counted");
    let mut expected = [0; LENGTHS];
    expected[5] = 1;
    assert!(lengths.sum > 120_000_000, "{lengths:?}");
    assert!(lengths.counts == expected || lengths.sum > 500_000_000, "{lengths:?}");
}

#[test]
fn looks_at_any_instant_under_load_agree_with_the_counters() {
    let Some(world) = World::new() else { return };
    let server = Server::start(TcpListener::bind("127.0.0.1:0").expect("a port"));
    let place = here(server.port);
    world.watch(&[place]);
    let load = server.load(3, Duration::from_secs(4));
    let mut looks = BTreeMap::new();
    while !load.iter().all(std::thread::JoinHandle::is_finished) {
        let verdict = world.counted.verify(place).expect("looks agree");
        *looks.entry(verdict.is_equal()).or_insert(0) += 1;
        // Seeded anew, while connections come and go.
        if looks.values().sum::<u32>() % 5 == 0 {
            world.counted.watch(&BTreeSet::new());
            patiently(|| world.counted.counts(place, None).is_none().then_some(()));
            world.watch(&[place]);
        }
    }
    let talked: u64 = load.into_iter().map(|thread| thread.join().expect("it has not failed")).sum();
    assert_eq!(looks.get(&false), None, "{looks:?}");
    assert!(looks[&true] > 10, "{looks:?}");
    patiently(|| (world.counts(place).active == dumped(server.port)).then_some(()));
    let verdict = world.counted.verify(place).expect("it is watched");
    assert!(verdict.is_equal(), "{verdict:?}");
    eprintln!(
        "{talked} connections, {looks:?} looks, {:?} reseeds, {:?} skipped",
        world.counted.reseeds(),
        world.skipped()
    );
}

#[test]
fn what_is_counted_wrongly_is_put_right_and_no_total_falls() {
    let Some(world) = World::new() else { return };
    let server = Server::start(TcpListener::bind("127.0.0.1:0").expect("a port"));
    let place = here(server.port);
    let _kept: Vec<_> = (0..4).map(|_| server.connect(false)).collect();
    world.watch(&[place]);
    patiently(|| world.counted.is_settled(place).then_some(()));
    world.counted.spoil(place, 3);
    assert_eq!(world.counts(place).active, 7);
    // In the middle of its traffic.
    let load = server.load(1, Duration::from_secs(1));
    let verdict = world.counted.verify(place).expect("it is watched");
    assert_eq!(verdict.counted, verdict.found + 3);
    assert!(world.counted.verify(place).expect("it is watched").is_equal());
    let talked: u64 = load.into_iter().map(|thread| thread.join().expect("it has not failed")).sum();
    let counts = patiently(|| Some(world.counts(place)).filter(|counts| counts.active == 4));
    // What was too much was said to be opened, and is said to be closed now.
    assert_eq!((counts.opened, counts.closed, unknown(&counts)), (talked + 3, talked + 3, 3));

    world.counted.spoil(place, -2);
    assert_eq!(world.counts(place).active, 2);
    world.counted.doubt();
    let counts = patiently(|| Some(world.counts(place)).filter(|counts| counts.active == 4));
    assert_eq!((counts.opened, counts.closed), (talked + 5, talked + 5));
    assert_eq!(world.counted.reseeds(), Some(1));
}

/// The probes keep one bit for several ports.
#[test]
fn ports_that_share_a_bit_are_counted_apart() {
    let Some(world) = World::new() else { return };
    let listen = |port: u16| TcpListener::bind(("127.0.0.1", port)).map(Server::start);
    let shares =
        |port: u16| (1..8).filter_map(move |step| port.checked_add(step * 64 * WATCHED_WORDS as u16));
    let [first, second, third] = patiently(|| {
        let first = listen(0).ok()?;
        let mut others = shares(first.port).filter_map(|port| listen(port).ok());
        Some([first, others.next()?, others.next()?])
    });
    let [one, two] = [here(first.port), here(second.port)];
    assert_eq!(watched_bit(one.port), watched_bit(third.port));
    world.watch(&[one, two]);
    let closed = |place| Some(world.counts(place)).filter(|counts| counts.closed == 1);
    for server in [&first, &second, &third] {
        talk(server.connect(false), End::ServerCloses);
    }
    for place in [one, two] {
        assert_eq!(patiently(|| closed(place)).opened, 1);
    }
    // The bit stays while anybody needs it.
    world.watch(&[two]);
    patiently(|| world.counted.counts(one, None).is_none().then_some(()));
    talk(second.connect(false), End::ServerCloses);
    patiently(|| (world.counts(two).closed == 2).then_some(()));
    assert_eq!(world.counted.reseeds(), Some(0));
}

#[test]
fn a_namespace_is_counted_for_itself() {
    let Some(world) = World::new() else { return };
    let server = Server::start(TcpListener::bind("127.0.0.1:0").expect("a port"));
    let own = here(server.port);
    let inside = traffic::Elsewhere::start(server.port);
    let there = Place { netns: inside.netns, port: server.port };
    world.watch(&[own, there]);
    assert_eq!((world.counts(own).active, world.counts(there).active), (0, 3));
    talk(server.connect(false), End::ServerCloses);
    inside.talk(5);
    patiently(|| (world.counts(own).closed == 1 && world.counts(there).closed == 5).then_some(()));
    let counts = world.counts(there);
    assert_eq!((counts.opened, counts.active), (5, 3));
    let verdict = world.counted.verify(there).expect("it is watched");
    assert!(verdict.is_equal() && verdict.found == 3);
    drop(inside);
    patiently(|| (world.counts(there).active == 0).then_some(()));
    assert!(world.counted.verify(there).is_err(), "nobody can look there any more");
}

impl World {
    fn skipped(&self) -> [Option<u64>; 2] {
        self.counted.misses()
    }
}

#[test]
fn the_next_daemon_goes_on_with_what_was_counted() {
    let name = format!("test-{}-ports", std::process::id());
    let server = Server::start(TcpListener::bind("127.0.0.1:0").expect("a port"));
    let place = here(server.port);
    let kept = server.connect(false);
    for daemon in 0..3 {
        let Some(world) = World::named(Some(&name)) else { return };
        // Before it is told what to watch: nothing is forgotten meanwhile.
        if daemon > 0 {
            let counts = world.counts(place);
            assert_eq!((counts.active, counts.opened, counts.closed), (1, 20 * daemon, 20 * daemon));
        }
        world.watch(&[place]);
        // What was seen once only the next daemon finds out for itself.
        patiently(|| world.counted.is_settled(place).then_some(()));
        let World { mut source, counted, .. } = world;
        source.leave(true);
        drop((source, counted));
        // While there is none.
        for round in 0..20 {
            talk(server.connect(false), End::ALL[round % End::ALL.len()]);
        }
        // The last ones close in their own time.
        patiently(|| (dumped(server.port) == 1).then_some(()));
    }
    drop(kept);
    let Some(mut world) = World::named(Some(&name)) else { return };
    let counts = patiently(|| Some(world.counts(place)).filter(|counts| counts.active == 0));
    assert_eq!((counts.opened, counts.closed, unknown(&counts)), (60, 61, 1));
    world.counted.watch(&BTreeSet::new());
    patiently(|| world.counted.counts(place, None).is_none().then_some(()));
    world.source.leave(false);
}
