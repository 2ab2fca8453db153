//! The table beside a counter that is played.

use std::io;
use std::net::{Ipv4Addr, TcpListener, TcpStream};

use super::*;
use crate::connections::counts::{Lengths, Verdict};

/// Counts what it is told.
#[derive(Debug, Default)]
struct Played {
    watched: Mutex<BTreeSet<Place>>,
    counts: Mutex<BTreeMap<Place, Counts>>,
}

impl Counter for Played {
    fn watch(&self, places: &BTreeSet<Place>) -> usize {
        *self.watched.lock().unwrap() = places.clone();
        self.counts.lock().unwrap().retain(|place, _| places.contains(place));
        0
    }

    fn counts(&self, place: Place, _seen: Option<&Seen>) -> Option<Counts> {
        self.counts.lock().unwrap().get(&place).copied()
    }

    fn verify_all(&self, places: &BTreeSet<Place>) -> BTreeMap<Place, io::Result<Verdict>> {
        let verdict = |place: &Place| {
            let counted = self.counts(*place, None).ok_or_else(|| io::Error::other("not watched"))?.active;
            Ok(Verdict { counted, found: 2 })
        };
        places.iter().map(|place| (*place, verdict(place))).collect()
    }

    fn reseeds(&self) -> Option<u64> {
        Some(3)
    }
}

fn household() -> Household {
    Household { cgroups: None, keeper: 1 }
}

fn ask(ports: &[u16]) -> Ask {
    Ask { host: Arc::new(ports.iter().copied().collect()), ..Ask::default() }
}

fn counts(active: u64, opened: u64) -> Counts {
    let mut lengths = Lengths { sum: 5, unknown: 1, ..Lengths::default() };
    lengths.counts[0] = 2;
    Counts { active, opened, closed: opened - active, resets: Some(1), lengths: Some(lengths) }
}

#[test]
fn without_a_counter_the_sockets_tell() {
    let server = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = server.local_addr().unwrap().port();
    let _client = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    let connections = Connections::new(None, household());
    let table = connections.table(&Ask { owners: true, verify: true, ..ask(&[1, port]) });
    assert_eq!((table.method, table.reseeds), (Method::SockDiag, None));
    assert_eq!(table.troubles, [""; 0]);
    let [quiet, busy] = &table.rows[..] else { panic!("{table:?}") };
    assert_eq!((quiet.place.port, quiet.active(), quiet.held), (1, Some(0), Some(false)));
    let sockets = busy.sockets.as_ref().unwrap();
    assert_eq!((sockets.listeners(), sockets.waiting, sockets.overflows), (1, 1, Some(0)));
    assert_eq!((busy.active(), busy.counts), (Some(1), None));
    // defib itself is named of a socket only if nobody else has it, and this process plays the daemon.
    assert_eq!(busy.owner, None);
    let verification = table.verification.unwrap();
    assert_eq!((verification.checked, verification.differences.len()), (0, 0));

    let only = Some(Only { ports: BTreeSet::from([1]), ..Only::default() });
    assert_eq!(connections.table(&Ask { only, ..ask(&[1, port]) }).rows.len(), 1);
}

#[test]
fn the_counter_watches_what_is_asked_for_and_decides_what_is_open() {
    let counter = Arc::new(Played::default());
    counter.watch(&BTreeSet::from([Place { netns: 9, port: 9 }]));
    let connections = Connections::new(Some(counter.clone()), household());
    connections.watch(&BTreeSet::new(), &[]);
    assert!(counter.watched.lock().unwrap().is_empty(), "what an earlier daemon has left");
    let table = connections.table(&ask(&[1, 2]));
    let own = table.netns;
    let place = |port| Place { netns: own, port };
    assert_eq!(*counter.watched.lock().unwrap(), BTreeSet::from([place(1), place(2)]));
    assert!(table.rows.iter().all(|row| row.counts.is_none()), "not seeded yet");

    counter.counts.lock().unwrap().extend([(place(1), counts(2, 9)), (place(2), counts(5, 6))]);
    let table = connections.table(&Ask { verify: true, ..ask(&[1, 2]) });
    assert_eq!(table.rows.iter().map(Row::active).collect::<Vec<_>>(), [Some(2), Some(5)]);
    assert_eq!((table.method, table.reseeds), (Method::Ebpf, Some(3)));
    let verification = table.verification.unwrap();
    assert_eq!(verification.differences, [(place(2), Verdict { counted: 5, found: 2 })]);
    assert_eq!((verification.checked, verification.failures.len()), (2, 0));

    // What is watched no longer is forgotten, whoever asks.
    connections.watch(&BTreeSet::from([2]), &[]);
    assert_eq!(*counter.watched.lock().unwrap(), BTreeSet::from([place(2)]));
}

#[test]
fn totals_outlive_the_namespace_that_they_were_counted_in_but_not_the_configuration() {
    let counter = Arc::new(Played::default());
    let connections = Connections::new(Some(counter.clone()), household());
    let service = "a".parse().unwrap();
    let away = Place { netns: 7, port: 80 };
    connections.known.lock().unwrap().whereabouts = Whereabouts::at(&service, 7);
    let at = |main| Ask {
        subjects: vec![Subject { service: "a".parse().unwrap(), main, ports: BTreeSet::from([80]) }],
        ..ask(&[])
    };
    let (sums, trouble) = connections.sums(&at(None));
    assert!(sums[&80].counts.is_none() && sums[&80].sockets.is_none() && trouble.is_ok());
    counter.counts.lock().unwrap().insert(away, counts(3, 10));
    assert_eq!(connections.sums(&at(None)).0[&80].counts, Some(counts(3, 10)));

    // It comes back in this namespace.
    let here = at(Some(std::process::id()));
    let own = connections.table(&here).netns;
    counter.counts.lock().unwrap().insert(Place { netns: own, port: 80 }, counts(1, 4));
    let sum = connections.sums(&here).0.remove(&80).unwrap().counts.unwrap();
    assert_eq!((sum.active, sum.opened, sum.closed, sum.resets), (1, 14, 10, Some(2)));
    let lengths = sum.lengths.unwrap();
    assert_eq!((lengths.counts[0], lengths.sum, lengths.unknown), (4, 10, 2));

    connections.watch(&BTreeSet::new(), &[]);
    assert!(connections.known.lock().unwrap().retired.is_empty());
}
