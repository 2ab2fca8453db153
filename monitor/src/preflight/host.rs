//! What the host lets a service have: ports and descriptors.

use std::collections::{BTreeMap, BTreeSet};

use defib_core::model::{Holder, ServiceSpec};
use rustix::process::{Resource, getrlimit};

use super::access::User;
use super::row::{self, Row};
use crate::effect::held::share;
use crate::effect::holders::{self, holders_of};
use crate::effect::sockets::{Namespace, Socket, States, Wanted, snapshot};

/// Below this, a server with some hundred clients comes to the end of it.
const FEW_FILES: u64 = 1024;

/// A row for each port that the service names: whether it is free.
pub(super) fn ports(spec: &ServiceSpec, user: &User) -> Vec<Row> {
    let wanted = spec.wanted_ports();
    if wanted.is_empty() {
        return Vec::new();
    }
    let look = Wanted { states: States::LISTEN, ports: Some(&wanted) };
    let add = |found: &mut BTreeMap<u16, BTreeSet<u64>>, socket: Socket| {
        found.entry(socket.port).or_default().insert(socket.inode);
    };
    let listening = match snapshot(Namespace::Own, look, add) {
        Ok(listening) => listening,
        Err(error) => {
            let found = format!("who listens is not known: {error}");
            return vec![row::warning("ports", found, "run this check as root")];
        }
    };
    let all = listening.values().flatten().copied().collect();
    let holders = holders_of(&all);
    let row = |port: &u16| match listening.get(port) {
        Some(sockets) => taken(spec, *port, sockets, &holders),
        None => free(*port, user),
    };
    wanted.iter().map(row).collect()
}

fn taken(spec: &ServiceSpec, port: u16, sockets: &BTreeSet<u64>, holders: &BTreeMap<u64, Holder>) -> Row {
    let name = format!("port {port}");
    let holding: Vec<&Holder> = sockets.iter().filter_map(|socket| holders.get(socket)).collect();
    if holding.is_empty() {
        let found = "taken by a process that cannot be seen";
        return row::error(name, found, "run this check as root to see it");
    }
    match holding.iter().find(|holder| !holders::is_of(holder.pid, &spec.name)) {
        Some(Holder { pid, name: other }) => {
            let remedy = "stop that process, or give one of the two another port";
            row::error(name, format!("taken by pid {pid} ({other})"), remedy)
        }
        None => row::ok(name, format!("the service itself listens, pid {}", holding[0].pid)),
    }
}

/// A free port may still be one that only root may have.
fn free(port: u16, user: &User) -> Row {
    let name = format!("port {port}");
    let first = std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start");
    let first = first.ok().and_then(|text| text.trim().parse().ok()).unwrap_or(1024_u16);
    if port < first && user.uid() != 0 {
        let found = format!("free, but below {first}: {user} needs CAP_NET_BIND_SERVICE for it");
        return row::warning(name, found, "setcap cap_net_bind_service+ep on the program, or a higher port");
    }
    row::ok(name, "free")
}

/// Whether its ports can be held, if they are to be.
pub(super) fn held_ports(spec: &ServiceSpec) -> Option<Row> {
    if spec.launch.hold_ports.is_empty() {
        return None;
    }
    Some(match share::check() {
        Ok(()) => row::ok("hold_ports", "the kernel takes the programs for it"),
        Err(why) => {
            let remedy = "the service runs without: clients are refused while it is restarted";
            row::warning("hold_ports", why.to_string(), remedy)
        }
    })
}

/// The limit that it inherits.
pub(super) fn open_files() -> Row {
    match getrlimit(Resource::Nofile).maximum {
        None => row::ok("open-files", "no limit"),
        Some(hard) if hard < FEW_FILES => {
            let remedy = "LimitNOFILE=524288 in defib's unit, or ulimit -Hn as root";
            row::warning("open-files", format!("at most {hard}"), remedy)
        }
        Some(hard) => row::ok("open-files", format!("at most {hard}")),
    }
}
