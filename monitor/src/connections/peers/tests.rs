//! Peers of connections that are made up, and of real ones.

use std::net::{Ipv4Addr, TcpListener, TcpStream};

use super::*;
use crate::effect::sockets::Namespace;

const SECOND: u64 = 1_000_000_000;
const NOW: Tick = Tick(1000 * SECOND);

/// An established connection of that age in seconds; 0: it is not known.
fn seen(address: &str, age: u64) -> Seen {
    let address = match address.parse().unwrap() {
        IpAddr::V4(address) => address.to_ipv6_mapped(),
        IpAddr::V6(address) => address,
    };
    let since = if age == 0 { 0 } else { NOW.0 - age * SECOND };
    Seen { address, state: State::Established, since }
}

fn told(crowd: &Crowd) -> Vec<(String, u64)> {
    crowd.peers.iter().map(|peer| (peer.address.to_string(), peer.connections())).collect()
}

#[test]
fn an_address_is_one_peer_whatever_family_its_socket_has() {
    let all = ["10.0.0.1", "::ffff:10.0.0.1", "2001:db8::1", "10.0.0.2", "10.0.0.1"];
    let crowd = crowd(all.map(|address| seen(address, 1)).to_vec(), NOW, 20);
    let expected = [("10.0.0.1", 3), ("10.0.0.2", 1), ("2001:db8::1", 1)];
    assert_eq!(told(&crowd), expected.map(|(address, count)| (address.to_owned(), count)));
    assert_eq!((crowd.connections, crowd.addresses, crowd.networks.len()), (5, 3, 0));
}

#[test]
fn ages_are_of_what_this_end_has_not_closed() {
    let with = |state, age| Seen { state, ..seen("10.0.0.1", age) };
    let all = vec![
        seen("10.0.0.1", 5),
        with(State::CloseWait, 70),
        with(State::FinWait2, 900),
        with(State::TimeWait, 0),
        with(State::SynRecv, 0),
    ];
    let one = crowd(all.clone(), NOW, 20);
    let [peer] = &one.peers[..] else { panic!("{one:?}") };
    assert_eq!((peer.connections(), one.connections), (4, 4), "what waits for late packets is over");
    let known = Some(Span { oldest: 70 * SECOND, newest: 5 * SECOND });
    assert_eq!(peer.ages, Ages { known, unknown: 0 });
    let older = crowd([all, vec![seen("10.0.0.1", 0)]].concat(), NOW, 20);
    assert_eq!(older.peers[0].ages, Ages { known, unknown: 1 });
    let late = crowd(vec![Seen { since: NOW.0 + 1, ..seen("10.0.0.1", 1) }], NOW, 20);
    assert_eq!(late.peers[0].ages.known, Some(Span { oldest: 0, newest: 0 }));
}

#[test]
fn those_with_most_are_told_and_all_are_counted() {
    let address = |number: u32| Ipv4Addr::from_bits(0x0a00_0000 + number).to_string();
    let all: Vec<Seen> =
        (1..=300).flat_map(|number| vec![seen(&address(number), 1); (number % 7 + 1) as usize]).collect();
    let (count, crowd) = (all.len() as u64, crowd(all, NOW, 3));
    assert_eq!((crowd.connections, crowd.addresses), (count, 300));
    let expected = [6, 13, 20].map(|number| (address(number), 7));
    assert_eq!(told(&crowd), expected, "of equals the lower addresses");
    assert_eq!(super::crowd(Vec::new(), NOW, 3), Crowd::default());
}

#[test]
fn networks_of_several_addresses_are_told_besides() {
    let all = ["2001:db8::1", "2001:db8::2", "2001:db8::2", "2001:db8:0:1::1", "::1", "10.0.0.1", "10.0.0.2"];
    let crowd = crowd(all.map(|address| seen(address, 1)).to_vec(), NOW, 20);
    let first = "2001:db8::".parse().unwrap();
    assert_eq!(crowd.networks, [Network { first, addresses: 2, connections: 3 }]);
    assert_eq!(crowd.addresses, 6);
}

#[test]
fn the_busiest_is_told_of_each_port() {
    let (mut busiest, address) = (Busiest::default(), Ipv4Addr::LOCALHOST.into());
    let mut see = |port, state, remote: &str| {
        let (remote, inode, uid, cookie) = (remote.parse().unwrap(), 0, 0, 0);
        let (waiting, capacity, drops, memory) = (0, None, None, None);
        busiest.see(&Socket {
            state,
            remains: false,
            port,
            address,
            remote,
            inode,
            uid,
            cookie,
            waiting,
            capacity,
            drops,
            memory,
        });
    };
    for remote in ["10.0.0.1", "10.0.0.2", "::ffff:10.0.0.2", "2001:db8::1"] {
        see(80, State::Established, remote);
    }
    for remote in ["10.0.0.1", "2001:db8::1", "2001:db8::2", "2001:db8::3"] {
        see(443, State::Established, remote);
    }
    for _ in 0..9 {
        see(80, State::TimeWait, "10.0.0.1");
    }
    assert_eq!(busiest.of_ports().collect::<Vec<_>>(), [(80, 2), (443, 3)]);
}

#[test]
fn real_connections_have_peers() {
    let server = TcpListener::bind((Ipv6Addr::UNSPECIFIED, 0)).unwrap();
    let port = server.local_addr().unwrap().port();
    let _held = [
        TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap(),
        TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap(),
        TcpStream::connect((Ipv6Addr::LOCALHOST, port)).unwrap(),
    ];
    let crowd = look(&Sight::open(Namespace::Own), port, None, 20).unwrap();
    assert_eq!(told(&crowd), [("127.0.0.1".to_owned(), 2), ("::1".to_owned(), 1)]);
    assert_eq!(crowd.peers[0].ages, Ages { known: None, unknown: 2 });
}
