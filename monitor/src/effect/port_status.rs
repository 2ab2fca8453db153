//! How the ports of services are, when somebody asks.

use std::collections::{BTreeMap, BTreeSet};

use defib_core::model::{ServiceName, ServiceView};

use super::holders::Household;
use super::port_look::Round;
use super::sockets::{self, Namespace, Socket, State, States, Wanted};

/// A port of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PortStatus {
    /// The port.
    pub port: u16,
    /// Whether the service listens on it; `None`: that cannot be known.
    pub listening: Option<bool>,
    /// How many connections it has that are open, accepted or not; `None`: that cannot be known.
    pub connections: Option<u64>,
}

/// A service whose ports are to be looked at.
#[derive(Clone, Debug)]
pub struct Owner {
    service: ServiceName,
    main: Option<u32>,
    ports: Vec<u16>,
}

impl Owner {
    /// The service of a view, if it names ports.
    pub fn of(view: &ServiceView) -> Option<Self> {
        let ServiceView { name, pid, ports, .. } = view;
        (!ports.is_empty()).then(|| Self { service: name.clone(), main: *pid, ports: ports.clone() })
    }
}

/// What is seen of one port in one network namespace.
#[derive(Debug, Default)]
struct Seen {
    /// The inodes of the sockets that listen.
    listening: BTreeSet<u64>,
    connections: u64,
}

/// Looks at the ports of all owners. Those in defib's network namespace share one snapshot.
pub fn port_status(household: &Household, owners: Vec<Owner>) -> BTreeMap<ServiceName, Vec<PortStatus>> {
    let mut round = Round::default();
    let ports: BTreeSet<u16> = owners.iter().flat_map(|owner| owner.ports.iter().copied()).collect();
    let mut seen = BTreeMap::new();
    let status = |owner: Owner| {
        let Owner { service, main, ports: own } = owner;
        // Without a process there is nobody to listen, whoever else may do so.
        let Some(main) = main else {
            let down = |port| PortStatus { port, listening: Some(false), connections: Some(0) };
            return (service, own.into_iter().map(down).collect());
        };
        let namespace = if round.is_elsewhere(main) { Namespace::Of(main) } else { Namespace::Own };
        let key = (namespace != Namespace::Own).then_some(main);
        let seen: &Option<BTreeMap<u16, Seen>> = seen.entry(key).or_insert_with(|| look(namespace, &ports));
        let Some(seen) = seen else {
            let unknown = |port| PortStatus { port, listening: None, connections: None };
            return (service, own.into_iter().map(unknown).collect());
        };
        let sockets = own.iter().filter_map(|port| seen.get(port)).flat_map(|seen| seen.listening.iter());
        let held = household.held(&service, Some(main), &[main], &sockets.copied().collect());
        let one = |port| {
            let Some(Seen { listening: sockets, connections }) = seen.get(&port) else {
                return PortStatus { port, listening: Some(false), connections: Some(0) };
            };
            let listening = sockets.iter().any(|socket| held.has(*socket));
            // Connections outlive the socket that took them. But where others listen they are theirs.
            let connections = if listening || sockets.is_empty() { *connections } else { 0 };
            PortStatus { port, listening: Some(listening), connections: Some(connections) }
        };
        let statuses = own.into_iter().map(one).collect();
        (service, statuses)
    };
    owners.into_iter().map(status).collect()
}

fn look(namespace: Namespace, ports: &BTreeSet<u16>) -> Option<BTreeMap<u16, Seen>> {
    let wanted = Wanted { states: States::OPEN, ports: Some(ports) };
    let add = |found: &mut BTreeMap<u16, Seen>, socket: Socket| {
        let seen = found.entry(socket.port).or_default();
        match socket.state {
            State::Listen => drop(seen.listening.insert(socket.inode)),
            _ => seen.connections += 1,
        }
    };
    sockets::snapshot(namespace, wanted, add)
        .inspect_err(|error| tracing::debug!(%error, "how ports are is not known"))
        .ok()
}
