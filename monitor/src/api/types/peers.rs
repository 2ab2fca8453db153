//! The JSON of who is at the other end of a port.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv6Addr};

use serde::{Deserialize, Serialize};

use super::PortMethod;

/// Who is at the other end of a port, in each network namespace in which it is watched.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PortPeers {
    /// The port in each of them, defib's own first.
    pub ports: Vec<PeersOfPort>,
    /// How connections are counted: without eBPF no age is known.
    pub method: PortMethod,
    /// The network namespace of defib, as the number of its inode; `null`: it cannot be known.
    pub netns: Option<u32>,
    /// What could not be looked at, and why.
    pub troubles: Vec<String>,
}

/// Who is at the other end of a port in one network namespace.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PeersOfPort {
    /// Its number.
    pub port: u16,
    /// `tcp`.
    pub protocol: String,
    /// The network namespace, as the number of its inode.
    pub netns: u32,
    /// How many connections there are in all, in whatever state but TIME_WAIT; `null`: they cannot be looked at.
    pub connections: Option<u64>,
    /// How many addresses they are of, with those that have nothing but what is in TIME_WAIT.
    pub addresses: Option<u64>,
    /// The addresses with most connections, most first.
    pub peers: Vec<PortPeer>,
    /// What is not in that list.
    pub more: MorePeers,
    /// IPv6 networks of which several addresses have sockets there, most connections first, as many as the list may have.
    pub networks: Vec<PeerNetwork>,
}

/// A remote address.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PortPeer {
    /// It; an IPv4 address as such, whatever family the socket has.
    pub address: IpAddr,
    /// Its connections, in whatever state but TIME_WAIT.
    pub connections: u64,
    /// Those as a part of all, from 0 to 1.
    pub share: f64,
    /// How many of its sockets are in each state of TCP; the others are 0.
    pub states: BTreeMap<String, u64>,
    /// For how long its oldest connection of those that this end has not closed is established, in seconds, as far as that
    /// is known.
    pub oldest_seconds: Option<f64>,
    /// The same of its newest one.
    pub newest_seconds: Option<f64>,
    /// How many of them there are of which it is not known: mostly older ones, which were there before they were counted.
    pub unknown_ages: u64,
}

/// What had no place in the list.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MorePeers {
    /// How many addresses.
    pub addresses: u64,
    /// How many connections those have.
    pub connections: u64,
}

/// An IPv6 network, which may be one host.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PeerNetwork {
    /// Its first address.
    pub network: Ipv6Addr,
    /// How many bits of it are the network's: 64.
    pub prefix: u8,
    /// How many of its addresses have sockets there.
    pub addresses: u64,
    /// Their connections.
    pub connections: u64,
    /// Those as a part of all, from 0 to 1.
    pub share: f64,
}
