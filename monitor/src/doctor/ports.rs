//! Whether the kernel tells of sockets.

use std::collections::BTreeSet;

use super::facts::Facts;
use super::rights::Place;
use super::row::{Group, Row};
use crate::effect::held::share;
use crate::effect::sockets::{self, DiagError, Ends};

const GROUP: Group = Group::Ports;

pub(super) fn rows(facts: &Facts) -> Vec<Row> {
    vec![sock_diag(), ends(), network(facts), hold_ports()]
}

fn sock_diag() -> Row {
    let name = "sock-diag";
    match sockets::available() {
        Ok(()) => GROUP.ok(name, "lists TCP sockets: who listens, how many connections"),
        Err(error @ DiagError::NoModule) => GROUP.limited(
            name,
            format!("{error}; ports are read from /proc, which is slower"),
            "modprobe tcp_diag",
        ),
        Err(error) => GROUP.limited(
            name,
            format!("{error}; ports are read from /proc, which is slower"),
            "a kernel with CONFIG_INET_DIAG, and a filter that lets netlink be",
        ),
    }
}

/// By a trial: somebody listens for a moment, to the ends of sockets of a port that nobody has.
fn ends() -> Row {
    let name = "connection-ends";
    match Ends::open(&BTreeSet::from([0])) {
        Ok(_) => GROUP.ok(name, "the kernel tells of connections that end: ports have totals without eBPF"),
        Err(error) => GROUP.limited(
            name,
            format!("{error}; without eBPF nobody counts what is opened and closed"),
            "a kernel with CONFIG_INET_DIAG, and a filter that lets netlink be",
        ),
    }
}

fn network(facts: &Facts) -> Row {
    let found = match facts.namespaces.net {
        Place::Host => "the host's",
        Place::Own => "not the host's: ports are those of this one, as for every program in it",
        Place::Unknown => "whether it is the host's cannot be told; ports are those of this one",
    };
    GROUP.ok("network", found)
}

/// By a trial: the programs are loaded, and attached to nothing.
fn hold_ports() -> Row {
    let name = "hold-ports";
    match share::check() {
        Ok(()) => GROUP.ok(name, "the kernel takes the programs for it"),
        Err(why) => GROUP.missing(
            name,
            format!("{why}; hold_ports is without effect, sockets = [...] are held all the same"),
            "root, Linux 6.1 and cgroup v2",
        ),
    }
}
