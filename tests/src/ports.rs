//! Ports of the loopback, and who connects to them.

use std::net::{Ipv4Addr, TcpListener};

/// A port of the loopback on which nobody listens.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    listener.local_addr().expect("an address").port()
}
