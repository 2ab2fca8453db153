//! Both ends of the sockets of a process, from `/proc/PID/net`: its own network namespace.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};

use super::files::Files;
use super::types::{Listed, Socket};
use crate::effect::sockets::address_of;

/// A table of sockets is read up to here: some 200 000 lines.
const TABLE: u64 = 32 << 20;

/// The states of TCP in the order of `include/net/tcp_states.h`, from 1.
const STATES: [&str; 12] = [
    "ESTABLISHED",
    "SYN_SENT",
    "SYN_RECV",
    "FIN_WAIT1",
    "FIN_WAIT2",
    "TIME_WAIT",
    "CLOSE",
    "CLOSE_WAIT",
    "LAST_ACK",
    "LISTEN",
    "CLOSING",
    "NEW_SYN_RECV",
];

/// The first `most` of the sockets among `files`, by descriptor. Those of other families, netlink for one, are only
/// among the files.
pub(super) fn sockets(pid: u32, files: &Files, most: usize) -> Listed<Socket> {
    let wanted = files.sockets();
    if wanted.is_empty() {
        return Listed::default();
    }
    let mut found = Vec::new();
    for protocol in ["tcp", "tcp6", "udp", "udp6", "unix"] {
        let parse = if protocol == "unix" { unix } else { inet };
        for line in lines(pid, protocol) {
            if let Some((inode, socket)) = parse(&line, protocol)
                && let Some(fd) = wanted.get(&inode)
            {
                found.push(Socket { fd: *fd, ..socket });
            }
        }
    }
    found.sort_by_key(|socket| socket.fd);
    Listed::first(found, most)
}

fn lines(pid: u32, table: &str) -> impl Iterator<Item = String> {
    let file = File::open(format!("/proc/{pid}/net/{table}")).ok();
    // The name of a unix socket may be any bytes.
    let lines = file.into_iter().flat_map(|file| BufReader::new(file.take(TABLE)).split(b'\n'));
    lines.map_while(Result::ok).skip(1).map(|line| String::from_utf8_lossy(&line).into_owned())
}

/// proc_pid_net(5): number, local, remote, state, queues, timers, retransmits, uid, timeout, inode.
fn inet(line: &str, protocol: &str) -> Option<(u64, Socket)> {
    let fields: Vec<&str> = line.split_ascii_whitespace().collect();
    let [_, local, remote, state, _, _, _, _, _, inode, ..] = fields[..] else { return None };
    let number = usize::from_str_radix(state, 16).ok()?;
    let state = STATES.get(number.checked_sub(1)?)?;
    // A datagram socket is CLOSE until it is connected, which says nothing.
    let state = if protocol.starts_with("udp") && *state == "CLOSE" { "UNCONNECTED" } else { state };
    let socket = Socket {
        fd: 0,
        protocol: protocol.to_owned(),
        local: end(local)?,
        remote: end(remote)?,
        state: state.to_owned(),
    };
    Some((inode.parse().ok()?, socket))
}

/// One end; port 0 is no end at all.
fn end(text: &str) -> Option<Option<String>> {
    let (address, port) = text.split_once(':')?;
    let (address, port) = (address_of(address)?, u16::from_str_radix(port, 16).ok()?);
    Some((port != 0).then(|| std::net::SocketAddr::new(address, port).to_string()))
}

/// proc_pid_net(5): number, references, protocol, flags, type, state, inode, and a path if it has one.
fn unix(line: &str, protocol: &str) -> Option<(u64, Socket)> {
    let mut fields = line.split_ascii_whitespace();
    let flags = u32::from_str_radix(fields.nth(3)?, 16).ok()?;
    let state = fields.nth(1)?;
    let inode = fields.next()?;
    // The path stands behind one blank, and may hold blanks itself.
    let path = line.split_once(&format!(" {inode} ")).map(|(_, path)| path.to_owned());
    // SO_ACCEPTCON of include/linux/net.h
    let listens = flags & 0x1_0000 != 0;
    let state = match state {
        _ if listens => "LISTEN",
        "03" => "ESTABLISHED",
        "02" => "CONNECTING",
        "04" => "DISCONNECTING",
        _ => "UNCONNECTED",
    };
    let socket =
        Socket { fd: 0, protocol: protocol.to_owned(), local: path, remote: None, state: state.to_owned() };
    Some((inode.parse().ok()?, socket))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_endian = "little")]
    fn both_ends_are_read() {
        let line = "   0: 0100007F:1F90 0200007F:9C40 01 00000000:00000000 00:00000000 00000000  1000        0 4711 1 0";
        let (inode, socket) = inet(line, "tcp").unwrap();
        assert_eq!((inode, socket.state.as_str()), (4711, "ESTABLISHED"));
        assert_eq!(socket.local.as_deref(), Some("127.0.0.1:8080"));
        assert_eq!(socket.remote.as_deref(), Some("127.0.0.2:40000"));
        let line = "   1: 00000000000000000000000001000000:01BB 00000000000000000000000000000000:0000 0A 0:0 0:0 0 0 0 12 1 0";
        let (_, socket) = inet(line, "tcp6").unwrap();
        assert_eq!((socket.local.as_deref(), socket.remote), (Some("[::1]:443"), None));
        for cut in 0..line.len() {
            inet(&line[..cut], "tcp6");
        }
    }

    #[test]
    fn the_path_of_a_unix_socket_may_hold_blanks() {
        let line = "ffff8881: 00000002 00000000 00010000 0001 01 77 /run/a b.sock";
        let (inode, socket) = unix(line, "unix").unwrap();
        assert_eq!(
            (inode, socket.state.as_str(), socket.local.as_deref()),
            (77, "LISTEN", Some("/run/a b.sock"))
        );
        let (_, socket) = unix("ffff8881: 00000003 00000000 00000000 0001 03 78", "unix").unwrap();
        assert_eq!((socket.state.as_str(), socket.local), ("ESTABLISHED", None));
    }
}
