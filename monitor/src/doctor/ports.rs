//! Whether the kernel tells of sockets.

use std::io;
use std::time::Duration;

use rustix::net::netlink::SOCK_DIAG;

use super::facts::{Facts, brief};
use super::netlink::{DUMP, Netlink, REQUEST, answer, message};
use super::rights::Place;
use super::row::{Group, Row};

const GROUP: Group = Group::Ports;

/// How long the kernel may take; it answers within the send, unless it loads a module.
const PATIENCE: Duration = Duration::from_secs(1);

pub(super) fn rows(facts: &Facts) -> Vec<Row> {
    vec![sock_diag(), network(facts)]
}

fn sock_diag() -> Row {
    let name = "sock-diag";
    match ask() {
        Ok(true) => GROUP.ok(name, "lists TCP sockets: who listens, how many connections"),
        Ok(false) => GROUP.missing(name, "the kernel does not answer", ""),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {
            GROUP.missing(name, "the kernel lists no TCP sockets: ports are not known", "modprobe tcp_diag")
        }
        Err(error) => GROUP.missing(
            name,
            format!("{}: ports are not known", brief(&error)),
            "a kernel with CONFIG_INET_DIAG, and a filter that lets netlink be",
        ),
    }
}

/// Asks for all TCP sockets in no state at all: an empty list. As with `ss`, the kernel may load `tcp_diag` for it.
fn ask() -> io::Result<bool> {
    /// SOCK_DIAG_BY_FAMILY, and bytes of `struct inet_diag_req_v2`.
    const BY_FAMILY: u16 = 20;
    const LENGTH: usize = 56;
    let mut request = vec![libc::AF_INET as u8, libc::IPPROTO_TCP as u8];
    request.resize(LENGTH, 0);
    let socket = Netlink::open(SOCK_DIAG, 0)?;
    socket.send(&message(BY_FAMILY, REQUEST | DUMP, &request))?;
    Ok(socket.wait(PATIENCE, answer)?.transpose()?.is_some())
}

fn network(facts: &Facts) -> Row {
    let found = match facts.namespaces.net {
        Place::Host => "the host's",
        Place::Own => "not the host's: ports are those of this one, as for every program in it",
        Place::Unknown => "whether it is the host's cannot be told; ports are those of this one",
    };
    GROUP.ok("network", found)
}
