//! Sockets from `/proc/PID/net/tcp` and `tcp6`, which show the network namespace of a process: proc_pid_net(5).

use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::snapshot::{MAX_SOCKETS, NoSockets, Socket, State, States, Wanted};

/// Folds the wanted sockets of the namespace of `process`, which is a pid or `self`.
pub(super) fn read<T: Default>(
    process: &str,
    wanted: Wanted<'_>,
    add: &mut impl FnMut(&mut T, Socket),
) -> Result<T, NoSockets> {
    let unreadable = |cause| NoSockets::Unreadable { process: process.to_owned(), cause };
    let (mut found, mut count) = (T::default(), 0);
    for table in ["tcp", "tcp6"] {
        let file = match File::open(format!("/proc/{process}/net/{table}")) {
            Ok(file) => file,
            // A kernel without IPv6 has no such sockets.
            Err(error) if table == "tcp6" && error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(unreadable(error)),
        };
        for line in BufReader::new(file).lines().skip(1) {
            count += 1;
            if count > MAX_SOCKETS {
                return Err(NoSockets::TooMany);
            }
            match parse(&line.map_err(unreadable)?) {
                // The kernel lists those that listen first.
                Some(socket) if socket.state != State::Listen && wanted.states == States::LISTEN => break,
                Some(socket) if wanted.has(socket.port) && wanted.states.has(socket.state) => {
                    add(&mut found, socket);
                }
                Some(_) | None => {}
            }
        }
    }
    Ok(found)
}

/// A line.
fn parse(line: &str) -> Option<Socket> {
    let fields: Vec<&str> = line.split_ascii_whitespace().collect();
    let [_, local, remote, state, queues, timer, _, uid, _, inode, ..] = fields[..] else { return None };
    let state = State::numbered(u8::from_str_radix(state, 16).ok()?)?;
    let (address, port) = local.split_once(':')?;
    let (remote, _) = remote.split_once(':')?;
    let (_, received) = queues.split_once(':')?;
    Some(Socket {
        state,
        remains: timer.starts_with("03:"),
        port: u16::from_str_radix(port, 16).ok()?,
        address: address_of(address)?,
        remote: address_of(remote)?,
        inode: inode.parse().ok()?,
        uid: uid.parse().ok()?,
        cookie: 0,
        waiting: if state == State::Listen { u32::from_str_radix(received, 16).ok()? } else { 0 },
        capacity: None,
        drops: None,
        memory: None,
    })
}

/// An address as the kernel prints it: words of 4 bytes, each a number of this machine.
pub(in crate::effect) fn address_of(text: &str) -> Option<IpAddr> {
    let word = |at: usize| Some(u32::from_str_radix(text.get(at..at + 8)?, 16).ok()?.to_ne_bytes());
    match text.len() {
        8 => Some(Ipv4Addr::from(word(0)?).into()),
        32 => {
            let words = [word(0)?, word(8)?, word(16)?, word(24)?];
            let bytes: [u8; 16] = words.concat().try_into().ok()?;
            Some(Ipv6Addr::from(bytes).into())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[cfg(target_endian = "little")]
    fn lines_of_both_families_are_read() {
        let line = "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000003 00:00000000 00000000  1000        0 4711 1 0";
        let socket = Socket {
            state: State::Listen,
            remains: false,
            port: 8080,
            address: Ipv4Addr::LOCALHOST.into(),
            remote: Ipv4Addr::UNSPECIFIED.into(),
            inode: 4711,
            uid: 1000,
            cookie: 0,
            waiting: 3,
            capacity: None,
            drops: None,
            memory: None,
        };
        assert_eq!(parse(line), Some(socket));
        let line = "   1: 00000000000000000000000001000000:01BB 00000000000000000000000001000000:9C40 01 \
                    00000000:00000000 00:00000000 00000000     0        0 12 1 0";
        let socket = Socket {
            state: State::Established,
            remains: false,
            port: 443,
            address: Ipv6Addr::LOCALHOST.into(),
            remote: Ipv6Addr::LOCALHOST.into(),
            inode: 12,
            uid: 0,
            cookie: 0,
            waiting: 0,
            capacity: None,
            drops: None,
            memory: None,
        };
        assert_eq!(parse(line), Some(socket));
        let late = parse(&line.replace(" 01 ", " 06 "));
        assert_eq!(late.map(|late| late.state), Some(State::TimeWait));
        assert_eq!(parse(&line.replace(" 01 ", " 7F ")), None, "no state");
        for cut in 0..line.len() {
            assert!(parse(&line[..cut]).is_none_or(|socket| socket.port == 443));
        }
    }
}
