//! What the sockets of one network namespace show of some ports.

use std::collections::{BTreeMap, BTreeSet};

use super::peers::Busiest;
use crate::effect::sockets::{Namespace, NoSockets, Sight, Socket, State, States, Wanted};

/// How many states there are.
pub(super) const STATES: usize = State::ALL.len();

/// A socket that listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Listener {
    pub(super) inode: u64,
    pub(super) cookie: u64,
    pub(super) waiting: u32,
    pub(super) capacity: Option<u32>,
    pub(super) drops: Option<u32>,
}

/// What is seen of one port.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// How many sockets are in each state, in the order of [`State::ALL`].
    pub(super) states: [u64; STATES],
    /// Of those, in FIN_WAIT2, what the kernel keeps when the socket itself is gone.
    pub(super) remains: u64,
    pub(super) listeners: Vec<Listener>,
    /// How many established connections the peer has that has most of them; `None`: that was not asked.
    pub(super) busiest: Option<u64>,
}

impl Seen {
    fn count(&mut self, state: State) {
        self.states[state as usize - 1] += 1;
    }
}

/// Looks at all ports at a time, and with `busiest` also at who has most of the connections. Ports of which no socket has
/// the number are missing.
pub(super) fn look(
    namespace: Namespace,
    ports: &BTreeSet<u16>,
    busiest: bool,
) -> Result<BTreeMap<u16, Seen>, NoSockets> {
    type Found = BTreeMap<u16, Seen>;
    let wanted = |states| Wanted { states, ports: Some(ports) };
    let sight = Sight::open(namespace);
    // Two looks: what is asked of listeners makes the answer for each connection longer by half.
    let mut seen = sight.snapshot(wanted(States::LISTEN), &mut |found: &mut Found, socket| {
        let Socket { port, inode, cookie, waiting, capacity, drops, .. } = socket;
        let seen = found.entry(port).or_default();
        seen.count(State::Listen);
        seen.listeners.push(Listener { inode, cookie, waiting, capacity, drops });
    })?;
    let (others, peers) =
        sight.snapshot(wanted(States::OTHERS), &mut |(found, peers): &mut (Found, Busiest), socket| {
            let seen = found.entry(socket.port).or_default();
            seen.count(socket.state);
            seen.remains += u64::from(socket.remains && socket.state == State::FinWait2);
            if busiest {
                peers.see(&socket);
            }
        })?;
    for (port, other) in others {
        let Seen { states, remains, .. } = seen.entry(port).or_default();
        *remains += other.remains;
        states.iter_mut().zip(other.states).for_each(|(state, count)| *state += count);
    }
    if busiest {
        seen.values_mut().for_each(|seen| seen.busiest = Some(0));
        for (port, count) in peers.of_ports() {
            seen.entry(port).or_default().busiest = Some(count);
        }
    }
    Ok(seen)
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr, TcpListener, TcpStream};

    use super::*;

    #[test]
    fn states_are_in_the_order_of_their_numbers() {
        assert!(State::ALL.iter().enumerate().all(|(at, state)| *state as usize == at + 1));
    }

    #[test]
    fn a_dual_stack_port_is_seen_once_with_the_connections_of_both_families() {
        // The standard library's [::] takes IPv4 as well.
        let server = TcpListener::bind((Ipv6Addr::UNSPECIFIED, 0)).unwrap();
        let port = server.local_addr().unwrap().port();
        let four = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
        let six = TcpStream::connect((Ipv6Addr::LOCALHOST, port)).unwrap();
        let (accepted, _) = server.accept().unwrap();
        let ports = BTreeSet::from([port, 1]);
        let look = || look(Namespace::Own, &ports, true).unwrap();
        let seen = look().remove(&port).unwrap();
        let count = |seen: &Seen, state: State| seen.states[state as usize - 1];
        assert_eq!((count(&seen, State::Listen), count(&seen, State::Established)), (1, 2), "{seen:?}");
        assert_eq!(seen.busiest, Some(1), "one of each family");
        let [listener] = seen.listeners[..] else { panic!("{seen:?}") };
        assert_eq!((listener.waiting, listener.drops), (1, Some(0)), "{listener:?}");
        assert!(listener.capacity.is_some_and(|most| most > 0) && listener.cookie > 0, "{listener:?}");

        drop(four);
        let seen = look().remove(&port).unwrap();
        assert_eq!(count(&seen, State::CloseWait), 1, "{seen:?}");
        drop((six, accepted));
    }
}
