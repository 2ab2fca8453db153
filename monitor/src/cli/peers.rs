//! `defib ports --peers`: who is at the other end of ports.

use std::collections::BTreeSet;

use super::output::{Printer, complain_of, span, table};
use super::session::Failure;
use crate::api::types::{PeersOfPort, PortMethod, PortPeer, PortPeers, PortTable, WatchedPort};
use crate::client::Client;

/// Shows the peers of one port, also that there are none.
pub(super) async fn of_one(
    client: &Client,
    printer: &mut Printer,
    port: u16,
    limit: u16,
) -> Result<(), Failure> {
    show(printer, &client.peers(port, limit).await?)
}

/// Shows the peers of the ports of a table that have some.
pub(super) async fn of_all(
    client: &Client,
    printer: &mut Printer,
    of: &PortTable,
    limit: u16,
) -> Result<(), Failure> {
    let (method, netns, troubles) = (of.method, of.netns, of.troubles.clone());
    let mut all = PortPeers { ports: Vec::new(), method, netns, troubles };
    for port in with_connections(of) {
        let found = client.peers(port, limit).await?;
        all.ports.extend(found.ports);
        all.troubles.extend(found.troubles);
    }
    // Each port may have the same one.
    all.troubles.sort();
    all.troubles.dedup();
    show(printer, &all)
}

/// The ports of a table that have connections, or of which that cannot be known. If it is one port only, that.
fn with_connections(of: &PortTable) -> BTreeSet<u16> {
    // A port is there once for each network namespace.
    let all: BTreeSet<u16> = of.ports.iter().map(|port| port.port).collect();
    let busy = |port: &&WatchedPort| {
        let mut states = port.states.iter().flatten();
        port.states.is_none() || states.any(|(state, count)| *count > 0 && state != "listen")
    };
    if all.len() == 1 { all } else { of.ports.iter().filter(busy).map(|port| port.port).collect() }
}

fn show(printer: &mut Printer, found: &PortPeers) -> Result<(), Failure> {
    if printer.json {
        return printer.print_json(found);
    }
    for trouble in &found.troubles {
        complain_of(&format!("not all can be looked at: {trouble}"));
    }
    if found.ports.is_empty() {
        complain_of("no watched port has a connection");
        return Ok(());
    }
    printer.print(&text(found))
}

fn text(found: &PortPeers) -> String {
    let elsewhere = found.ports.iter().any(|port| Some(port.netns) != found.netns);
    let mut lines = Vec::new();
    for port in &found.ports {
        if !lines.is_empty() {
            lines.push(String::new());
        }
        lines.extend(of_port(port, elsewhere));
    }
    if found.method == PortMethod::SockDiag {
        lines.push("Without eBPF nobody knows since when connections are established.".to_owned());
    }
    lines.into_iter().map(|line| line + "\n").collect()
}

fn of_port(port: &PeersOfPort, elsewhere: bool) -> Vec<String> {
    let place = if elsewhere { format!(" (netns {})", port.netns) } else { String::new() };
    let (Some(connections), Some(addresses)) = (port.connections, port.addresses) else {
        return vec![format!("Port {}{place}: its connections cannot be looked at.", port.port)];
    };
    let counted = format!("{} of {}", count(connections, "connection"), count_of_addresses(addresses));
    let mut lines = vec![format!("Port {}{place}: {counted}", port.port)];
    if !port.peers.is_empty() {
        let head = ["ADDRESS", "CONNECTIONS", "SHARE", "OLDEST", "NEWEST", "OTHER STATES"];
        lines.extend(table(&head, port.peers.iter().map(peer).collect()));
    }
    if port.more.addresses > 0 {
        let more = &port.more;
        let connections = count(more.connections, "connection");
        lines.push(format!("and {} more with {connections}", count_of_addresses(more.addresses)));
    }
    if !port.networks.is_empty() {
        let rows = port.networks.iter().map(|network| {
            vec![
                format!("{}/{}", network.network, network.prefix),
                network.connections.to_string(),
                percent(network.share),
                network.addresses.to_string(),
            ]
        });
        lines.extend(table(&["NETWORK", "CONNECTIONS", "SHARE", "ADDRESSES"], rows.collect()));
    }
    lines
}

fn peer(peer: &PortPeer) -> Vec<String> {
    // What is older than the counting is of no known age.
    let oldest = peer.oldest_seconds.map(|age| {
        let more = if peer.unknown_ages > 0 { ">" } else { "" };
        format!("{more}{}", span(age))
    });
    let others = peer.states.iter().filter(|(state, count)| *state != "established" && **count > 0);
    let others: Vec<String> = others.map(|(state, count)| format!("{state} {count}")).collect();
    vec![
        peer.address.to_string(),
        peer.connections.to_string(),
        percent(peer.share),
        oldest.unwrap_or_default(),
        peer.newest_seconds.map(span).unwrap_or_default(),
        others.join(", "),
    ]
}

fn percent(share: f64) -> String {
    format!("{:.0}%", share * 100.0)
}

fn count(number: u64, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

fn count_of_addresses(number: u64) -> String {
    format!("{number} address{}", if number == 1 { "" } else { "es" })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::types::{MorePeers, PeerNetwork};

    fn one(address: &str, connections: u64, oldest: Option<f64>, unknown_ages: u64) -> PortPeer {
        PortPeer {
            address: address.parse().unwrap(),
            connections,
            share: connections as f64 / 10.0,
            states: [("established".to_owned(), connections), ("time_wait".to_owned(), 2)].into(),
            oldest_seconds: oldest,
            newest_seconds: oldest.map(|_| 0.25),
            unknown_ages,
        }
    }

    #[test]
    fn what_is_not_known_is_not_told() {
        let port = PeersOfPort {
            port: 80,
            protocol: "tcp".to_owned(),
            netns: 1,
            connections: Some(10),
            addresses: Some(4),
            peers: vec![
                one("10.0.0.1", 5, Some(90.0), 0),
                one("10.0.0.2", 2, Some(90.0), 1),
                one("::1", 1, None, 1),
            ],
            more: MorePeers { addresses: 1, connections: 2 },
            networks: vec![PeerNetwork {
                network: "2001:db8::".parse().unwrap(),
                prefix: 64,
                addresses: 2,
                connections: 3,
                share: 0.3,
            }],
        };
        let unseen = PeersOfPort {
            netns: 2,
            connections: None,
            addresses: None,
            peers: vec![],
            networks: vec![],
            ..port.clone()
        };
        let method = PortMethod::SockDiag;
        let found = PortPeers { ports: vec![port, unseen], method, netns: Some(1), troubles: vec![] };
        assert_eq!(
            text(&found).lines().collect::<Vec<_>>(),
            [
                "Port 80 (netns 1): 10 connections of 4 addresses",
                "ADDRESS   CONNECTIONS  SHARE  OLDEST  NEWEST  OTHER STATES",
                "10.0.0.1  5            50%    1m30s   250ms   time_wait 2",
                "10.0.0.2  2            20%    >1m30s  250ms   time_wait 2",
                "::1       1            10%    -       -       time_wait 2",
                "and 1 address more with 2 connections",
                "NETWORK        CONNECTIONS  SHARE  ADDRESSES",
                "2001:db8::/64  3            30%    2",
                "",
                "Port 80 (netns 2): its connections cannot be looked at.",
                "Without eBPF nobody knows since when connections are established.",
            ]
        );
    }
}
