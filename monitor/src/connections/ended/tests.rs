//! By looks that are played, and once by this kernel.

use std::net::{Ipv4Addr, TcpListener, TcpStream};

use super::*;

fn now(active: u64, sockets: u64) -> Now {
    Now { active, sockets }
}

/// A port of which ends are told, and looks taken.
struct Played(Port, Now);

impl Played {
    fn new(begin: Now) -> Self {
        Self(Port::default(), begin)
    }

    /// Opened and closed, after so many ends more, and by a look.
    fn see(&mut self, ends: u64, active: u64, sockets: u64) -> (u64, u64) {
        self.0.ended += ends;
        self.0.before = self.0.ended;
        self.0.see(self.1, Some(now(active, sockets)));
        (self.0.told.opened, self.0.told.closed)
    }
}

#[test]
fn totals_follow_from_ends_and_looks() {
    let mut port = Played::new(now(3, 4));
    assert_eq!(port.see(0, 3, 4), (0, 0));
    assert_eq!(port.see(0, 5, 6), (2, 0), "two have come");
    assert_eq!(port.see(0, 4, 6), (2, 1), "one is half closed");
    assert_eq!(port.see(1, 4, 5), (2, 1), "and gone");
    assert_eq!(port.see(10, 4, 5), (12, 11), "ten have come and gone");
    assert_eq!(port.see(5, 0, 0), (12, 15), "all are gone, those of the begin too: 3 + 12");
}

#[test]
fn totals_never_fall() {
    let mut port = Played::new(now(0, 0));
    assert_eq!(port.see(0, 2, 2), (2, 0));
    assert_eq!(port.see(0, 1, 1), (2, 1), "its program holds on to one that was reset");
    assert_eq!(port.see(0, 2, 2), (2, 1), "another comes, and is hidden by it");
    assert_eq!(port.see(1, 2, 2), (3, 1), "until that is let go of");
}

#[test]
fn after_a_loss_totals_go_on_from_what_they_were() {
    let mut port = Played::new(now(0, 0));
    assert_eq!(port.see(0, 100, 100), (100, 0));
    port.0.lost = true;
    assert_eq!(port.see(10, 0, 0), (100, 100), "ninety ends were not told");
    assert_eq!(port.see(1, 0, 0), (101, 101));
}

#[test]
fn what_remains_of_a_socket_is_none() {
    let mut seen = Seen::default();
    for state in State::ALL {
        seen.states[state as usize - 1] = 1;
    }
    (seen.states[State::FinWait2 as usize - 1], seen.remains) = (5, 3);
    assert_eq!(Now::from(&seen), now(1, 7), "FIN_WAIT1, CLOSE_WAIT, LAST_ACK, CLOSING, two of FIN_WAIT2");
}

#[test]
fn ports_are_counted_while_they_are_watched() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let netns = Namespace::Own.inode().unwrap();
    let (place, ports) = (Place { netns, port }, BTreeSet::from([port]));
    let counter = Ended::start().unwrap();
    let look = || {
        counter.prepare();
        let seen = snapshot::look(Namespace::Own, &ports, false).unwrap().remove(&port).unwrap_or_default();
        let counts = counter.counts(place, Some(&seen))?;
        assert_eq!((counts.resets, counts.lengths), (None, None));
        Some((counts.active, counts.opened, counts.closed))
    };
    #[expect(clippy::disallowed_methods, reason = "a test waits for another thread")]
    let until = |wanted: Option<(u64, u64, u64)>| {
        let mut found = look();
        for _ in 0..1000 {
            if found == wanted {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
            found = look();
        }
        assert_eq!(found, wanted);
    };
    let connect = || (TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap(), listener.accept().unwrap());
    let early = connect();
    assert_eq!(look(), None);
    counter.watch(&BTreeSet::from([place, Place { netns: 7, port }]));
    until(Some((1, 0, 0)));
    assert_eq!(counter.counts(Place { netns: 7, port }, None), None, "another namespace");
    let later = connect();
    (0..20).for_each(|_| drop(connect()));
    until(Some((2, 21, 20)));
    drop(early);
    until(Some((1, 21, 21)));
    assert_eq!(counter.ending(), Some(Ending { lost: 0, trouble: None }));
    counter.watch(&BTreeSet::new());
    until(None);
    drop(later);
    counter.watch(&BTreeSet::from([place]));
    until(Some((0, 0, 0)));
}
