//! Who is at the other end of the connections of a port.
//!
//! One look gives 32 bytes for each socket, in a list that is sorted: exact, however many addresses there are, and the
//! memory is gone with the answer. Of IPv6 addresses an attacker has as many as he likes, because the smallest network
//! that anybody is given is a /64; but a network of one's own servers is a /64 as well, and whoever looks for the one that
//! leaks wants its address. So peers are addresses, and networks of which several addresses are there are told besides.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::mem::offset_of;
use std::net::{IpAddr, Ipv6Addr};
use std::os::fd::BorrowedFd;

use defib_core::model::Tick;
use defib_ebpf::Connection;

use super::counts::Place;
use super::snapshot::STATES;
use crate::effect::clock;
use crate::effect::sockets::{Memory, NoSockets, Sight, Socket, State, States, Wanted};

/// The peers of a port in one network namespace.
#[derive(Debug)]
pub struct Peers {
    /// The place.
    pub place: Place,
    /// What the sockets show; `None`: they cannot be looked at.
    pub found: Option<Crowd>,
}

/// All peers, of which those with most connections are told.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Crowd {
    /// How many connections there are; see [`Peer::connections`].
    pub connections: u64,
    /// How many addresses have sockets there.
    pub addresses: u64,
    /// The addresses with most connections, most first.
    pub peers: Vec<Peer>,
    /// The IPv6 networks of which several addresses have sockets there, most connections first; as many as the peers at
    /// most.
    pub networks: Vec<Network>,
}

/// A remote address.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// It.
    pub address: IpAddr,
    /// How many sockets are in each state, in the order of [`State::ALL`].
    pub states: [u64; STATES],
    /// How old its connections are.
    pub ages: Ages,
}

/// An IPv6 network of 64 bits, which may be one host.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Network {
    /// Its first address.
    pub first: Ipv6Addr,
    /// How many of its addresses have sockets there.
    pub addresses: u64,
    /// How many connections they have.
    pub connections: u64,
}

/// How long the connections that this end has not closed have been established: those that a service holds, or has
/// forgotten.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ages {
    /// The oldest and the newest of which that is known.
    pub known: Option<Span>,
    /// How many there are of which it is not.
    pub unknown: u64,
}

/// Two ages, in nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    /// The longer one.
    pub oldest: u64,
    /// The shorter one.
    pub newest: u64,
}

impl Peer {
    /// How many connections it has, in whatever state. One in TIME_WAIT is over, and no service knows of it any more.
    pub fn connections(&self) -> u64 {
        connections(&self.states)
    }

    /// By what they are sorted: connections first, then what is over, then the lower address.
    fn rank(&self) -> (u64, u64, Reverse<IpAddr>) {
        (self.connections(), self.states[State::TimeWait as usize - 1], Reverse(self.address))
    }
}

fn connections(states: &[u64; STATES]) -> u64 {
    states.iter().sum::<u64>() - states[State::TimeWait as usize - 1]
}

/// A socket, as far as its peer goes.
#[derive(Clone, Copy)]
struct Seen {
    /// See [`mapped`].
    address: Ipv6Addr,
    state: State,
    /// When it became ESTABLISHED; 0: it is not known.
    since: u64,
}

const _: () = assert!(size_of::<Seen>() == 32);

impl Seen {
    fn of(socket: &Socket) -> Self {
        let address = mapped(socket.remote);
        Self { address, state: socket.state, since: socket.memory.map_or(0, |memory| since(&memory)) }
    }

    fn network(&self) -> u64 {
        u64::try_from(self.address.to_bits() >> 64).unwrap_or_default()
    }
}

/// IPv4 addresses are mapped, so one that reaches a socket of either family is the same.
fn mapped(address: IpAddr) -> Ipv6Addr {
    match address {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    }
}

/// [`Connection::since`]. What an earlier watch of the place has remembered is as right: only a client begins with the same
/// socket anew.
fn since(memory: &Memory) -> u64 {
    const AT: usize = offset_of!(Connection, since);
    const { assert!(size_of::<Memory>() == size_of::<Connection>()) };
    let bytes = memory.get(AT..AT + 8).and_then(|bytes| bytes.try_into().ok());
    bytes.map_or(0, u64::from_ne_bytes)
}

/// Looks who is at the other end of a port, and tells of the `most` addresses with most connections.
pub(super) fn look(
    sight: &Sight,
    port: u16,
    map: Option<BorrowedFd<'_>>,
    most: usize,
) -> Result<Crowd, NoSockets> {
    let ports = BTreeSet::from([port]);
    let wanted = Wanted { states: States::OTHERS, ports: Some(&ports) };
    let seen =
        sight.remembered(wanted, map, &mut |seen: &mut Vec<Seen>, socket| seen.push(Seen::of(&socket)))?;
    Ok(crowd(seen, clock::now(), most))
}

fn crowd(mut seen: Vec<Seen>, now: Tick, most: usize) -> Crowd {
    seen.sort_unstable_by_key(|seen| seen.address);
    let (mut peers, mut networks) = (Top::new(most), Top::new(most));
    let mut crowd = Crowd::default();
    for network in seen.chunk_by(|one, other| one.network() == other.network()) {
        let (mut addresses, mut inside) = (0, 0);
        for sockets in network.chunk_by(|one, other| one.address == other.address) {
            let Some(peer) = peer(sockets, now) else { continue };
            addresses += 1;
            inside += peer.connections();
            peers.offer(peer.rank(), peer);
        }
        crowd.addresses += addresses;
        crowd.connections += inside;
        // All IPv4 is one such network.
        let first = Ipv6Addr::from_bits(u128::from(network.first().map_or(0, Seen::network)) << 64);
        if addresses > 1 && first != Ipv6Addr::UNSPECIFIED {
            let network = Network { first, addresses, connections: inside };
            networks.offer((inside, addresses, Reverse(first)), network);
        }
    }
    Crowd { peers: peers.into_list(), networks: networks.into_list(), ..crowd }
}

/// All sockets of one address.
fn peer(sockets: &[Seen], now: Tick) -> Option<Peer> {
    let address = sockets.first()?.address.to_canonical();
    let (mut states, mut ages) = ([0; STATES], Ages::default());
    for Seen { state, since, .. } in sockets {
        states[*state as usize - 1] += 1;
        if !matches!(state, State::Established | State::CloseWait) {
            continue;
        }
        if *since == 0 {
            ages.unknown += 1;
            continue;
        }
        let age = now.0.saturating_sub(*since);
        let span = ages.known.get_or_insert(Span { oldest: age, newest: age });
        *span = Span { oldest: span.oldest.max(age), newest: span.newest.min(age) };
    }
    Some(Peer { address, states, ages })
}

/// The best of many, in as little memory as they take themselves. No two have the same rank.
struct Top<K, T> {
    most: usize,
    found: BTreeMap<K, T>,
}

impl<K: Ord, T> Top<K, T> {
    fn new(most: usize) -> Self {
        Self { most, found: BTreeMap::new() }
    }

    fn offer(&mut self, rank: K, one: T) {
        self.found.insert(rank, one);
        if self.found.len() > self.most {
            self.found.pop_first();
        }
    }

    /// The best first.
    fn into_list(self) -> Vec<T> {
        self.found.into_values().rev().collect()
    }
}

/// Who has most of the connections that are established, in a look at several ports: for the metrics, which name nobody.
/// A network of IPv6 counts as one peer, as it does for those who keep attackers off.
#[derive(Debug, Default)]
pub(super) struct Busiest(Vec<(u16, [u8; 16])>);

impl Busiest {
    pub(super) fn see(&mut self, socket: &Socket) {
        if socket.state != State::Established {
            return;
        }
        let address = mapped(socket.remote);
        let network = || Ipv6Addr::from_bits(address.to_bits() >> 64 << 64);
        // All IPv4 is in one network of IPv6.
        let peer = if address.to_ipv4_mapped().is_some() { address } else { network() };
        self.0.push((socket.port, peer.octets()));
    }

    /// How many connections the peer of each port has that has most of them. A port without any is missing.
    pub(super) fn of_ports(mut self) -> impl Iterator<Item = (u16, u64)> {
        self.0.sort_unstable();
        let mut most: Vec<(u16, u64)> = Vec::new();
        for same in self.0.chunk_by(|one, other| one == other) {
            let (Some((port, _)), count) = (same.first(), same.len() as u64) else { continue };
            match most.last_mut() {
                Some((last, most)) if last == port => *most = count.max(*most),
                _ => most.push((*port, count)),
            }
        }
        most.into_iter()
    }
}

#[cfg(test)]
mod tests;
