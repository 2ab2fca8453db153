//! Who holds an address that is wanted.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use defib_core::model::SocketAddress;

use crate::effect::holders;

/// The process at this address, in words, if it can be seen.
pub(super) fn at(address: &SocketAddress) -> Option<String> {
    let inodes = match address {
        SocketAddress::Tcp(address) => internet(["tcp", "tcp6"], address.port(), Some("0A")),
        SocketAddress::Udp(address) => internet(["udp", "udp6"], address.port(), None),
        SocketAddress::Unix(path) | SocketAddress::UnixDatagram(path) => unix(path),
    };
    let holder = holders::holders_of(&inodes).into_values().next()?;
    Some(format!("pid {} ({}) has it", holder.pid, holder.name))
}

/// The sockets of a port in the tables of `/proc/self/net`, those of one state if that is given: proc_pid_net(5).
fn internet(tables: [&str; 2], port: u16, state: Option<&str>) -> BTreeSet<u64> {
    let port = format!(":{port:04X}");
    let of_line = |line: &str| {
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        let at = fields.get(1)?.ends_with(&port) && state.is_none_or(|state| fields.get(3) == Some(&state));
        if at { fields.get(9)?.parse().ok() } else { None }
    };
    let texts = tables.map(|table| fs::read_to_string(format!("/proc/self/net/{table}")).unwrap_or_default());
    texts.iter().flat_map(|text| text.lines().filter_map(of_line)).filter(|inode| *inode != 0).collect()
}

/// Those of a path in `/proc/self/net/unix`.
fn unix(path: &Path) -> BTreeSet<u64> {
    let text = fs::read_to_string("/proc/self/net/unix").unwrap_or_default();
    let of_line = |line: &str| {
        let mut fields = line.split_ascii_whitespace().skip(6);
        let inode = fields.next()?.parse().ok()?;
        (fields.next().map(Path::new) == Some(path)).then_some(inode)
    };
    text.lines().filter_map(of_line).collect()
}
