//! Both ways tell the same of real sockets.

use std::collections::BTreeSet;
use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;

use super::snapshot::{Namespace, Socket, State, States, Wanted, snapshot};
use super::{diag, proc_net};

fn push(list: &mut Vec<Socket>, socket: Socket) {
    list.push(socket);
}

fn inode(fd: &impl AsRawFd) -> u64 {
    let link = fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd())).unwrap();
    let link = link.to_str().unwrap();
    link.trim_start_matches("socket:[").trim_end_matches(']').parse().unwrap()
}

#[test]
fn listeners_and_connections_are_found_by_either_way() {
    let four = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let six = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).unwrap();
    let others: Vec<_> = (0..40).map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap()).collect();
    let client = TcpStream::connect(four.local_addr().unwrap()).unwrap();
    let place = |listener: &TcpListener| listener.local_addr().unwrap();
    let port = |listener| place(listener).port();

    // 42 ports make a program of several comparisons.
    let ports: BTreeSet<u16> = others.iter().map(port).chain([port(&four), port(&six)]).collect();
    let wanted = Wanted { states: States::OPEN, ports: Some(&ports) };
    // A port of another address may be another's, or `six` may have one of the others: so they are told by both.
    let places: BTreeSet<_> = others.iter().chain([&four, &six]).map(place).collect();
    let at = |socket: &Socket| SocketAddr::new(socket.address, socket.port);
    for mut sockets in [
        diag::open(Namespace::Own).and_then(|socket| diag::dump(&socket, wanted, None, &mut push)).unwrap(),
        proc_net::read("self", wanted, &mut push).unwrap(),
    ] {
        sockets.retain(|socket| places.contains(&at(socket)));
        sockets.sort_by_key(|socket| (socket.port, socket.state == State::Established));
        assert_eq!(sockets.len(), 43, "each once, and the server's end of the connection: {sockets:#?}");
        let of = |listener| sockets.iter().filter(|socket| at(socket) == place(listener)).collect::<Vec<_>>();
        let [listening, connected] = of(&four)[..] else { panic!("{sockets:#?}") };
        assert_eq!((listening.state, listening.inode), (State::Listen, inode(&four)));
        assert_eq!((listening.waiting, listening.address), (1, Ipv4Addr::LOCALHOST.into()));
        assert_eq!((connected.state, connected.inode), (State::Established, 0), "not accepted yet");
        let [listening] = of(&six)[..] else { panic!("{sockets:#?}") };
        assert_eq!((listening.inode, listening.address), (inode(&six), Ipv6Addr::LOCALHOST.into()));
    }
    drop(client);

    for count in 1..4 {
        let ports: BTreeSet<u16> = others.iter().take(count).map(port).collect();
        let wanted = Wanted { states: States::LISTEN, ports: Some(&ports) };
        let sockets = snapshot(Namespace::Own, wanted, push).unwrap();
        assert_eq!(sockets.iter().map(|socket| socket.port).collect::<BTreeSet<_>>(), ports);
    }
    let all =
        snapshot(Namespace::Of(std::process::id()), Wanted { states: States::LISTEN, ports: None }, push);
    assert!(all.unwrap().iter().any(|socket| socket.inode == inode(&four)));
}
