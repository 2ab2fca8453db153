//! The ends of TCP sockets, as the kernel tells them on two multicast groups of sock_diag(7): one for each family.
//!
//! What a message holds, by trial on Linux 6.18 (the groups are there since 4.2):
//!
//! - It comes when a socket is freed: some 40 µs after its last user has let go of it, by way of a work queue,
//!   which is thousands behind where nothing is left of the CPUs.
//! - It is told of sockets of this network namespace only, to every user, also without any capability.
//! - Its state is always CLOSE, so that says nothing. The port at this end is always there, that of the other end and the
//!   counts of bytes are not: a socket that is closed with a reset of its own forgets them.
//! - `tcpi_rcv_space` is set when a connection becomes ESTABLISHED and never taken back, so it tells a connection from a
//!   socket that has listened, that was only bound, or that asked for a connection in vain: there it is 0.
//! - What was only asked for, and what waits in TIME_WAIT, is no socket of its own to the kernel: the former is not told, of
//!   the latter the socket before was.
//!
//! A filter in the kernel keeps from us what is of other ports, so that nobody wakes up for it. Nobody is told anything
//! while nobody listens.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use netlink_packet_core::{
    DecodeError, NetlinkDeserializable, NetlinkHeader, NetlinkMessage, NetlinkPayload, NlasIterator,
    Parseable,
};
use netlink_packet_sock_diag::inet::InetResponseHeader;
use rustix::net::sockopt;
use socket2::{SockFilter, SockRef};

use super::diag::{self, DiagError};
use super::filter;
use super::snapshot::Namespace;

/// `SKNLGRP_INET_TCP_DESTROY` and `SKNLGRP_INET6_TCP_DESTROY` of linux/sock_diag.h.
const GROUPS: [u32; 2] = [1, 3];

/// Room for messages in the kernel, which gives twice of what it is asked for, and takes 720 to 1,280 bytes for each: that
/// is for 13,000 or more. Without CAP_NET_ADMIN it gives no more than net.core.rmem_max.
const ROOM: usize = 8 << 20;

/// More messages are not read at a time.
const TURN: usize = 64 * 1024;

/// The kernel tries one range of ports behind the other on each socket that ends; of more than this, neighbours are joined.
const MAX_RANGES: usize = 256;

/// The end of a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct End {
    /// The port at its end.
    pub port: u16,
    /// Whether it has ever been an ESTABLISHED connection.
    pub connected: bool,
}

/// What was read at a time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Turn {
    /// How many messages.
    pub read: usize,
    /// How often the kernel had no room for one or more others.
    pub overruns: u64,
}

/// A subscription. It ends when this is dropped.
pub struct Ends(netlink_sys::Socket);

impl std::fmt::Debug for Ends {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Ends")
    }
}

impl AsFd for Ends {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn failed(call: &'static str) -> impl Fn(io::Error) -> DiagError {
    move |cause| DiagError::Transfer { call, cause }
}

impl Ends {
    /// Subscribes to the ends of sockets with one of these ports, in defib's own network namespace.
    ///
    /// # Errors
    /// If the kernel has no sock_diag for TCP, or no such groups, or does not let us.
    pub fn open(ports: &BTreeSet<u16>) -> Result<Self, DiagError> {
        // Without tcp_diag nothing is told of TCP; the question has it loaded.
        diag::available()?;
        let mut socket = diag::open(Namespace::Own)?;
        if sockopt::set_socket_recv_buffer_size_force(&socket, ROOM).is_err() {
            let sized = sockopt::set_socket_recv_buffer_size(&socket, ROOM);
            sized.map_err(|errno| failed("setsockopt(SO_RCVBUF)")(errno.into()))?;
        }
        // What has no number of its own is told nothing.
        socket.bind_auto().map_err(failed("bind"))?;
        let ends = Self(socket);
        ends.only(ports)?;
        for group in GROUPS {
            ends.0.add_membership(group).map_err(failed("setsockopt(NETLINK_ADD_MEMBERSHIP)"))?;
        }
        Ok(ends)
    }

    /// From now on these ports.
    ///
    /// # Errors
    /// If the kernel refuses the filter.
    pub fn only(&self, ports: &BTreeSet<u16>) -> Result<(), DiagError> {
        let program: Vec<SockFilter> =
            program(&joined(filter::ranges(ports))).into_iter().map(instruction).collect();
        SockRef::from(&self.0).attach_filter(&program).map_err(failed("setsockopt(SO_ATTACH_FILTER)"))
    }

    /// Takes what is there, without waiting.
    pub fn read(&self, add: &mut impl FnMut(End)) -> Turn {
        let (mut turn, mut buffer) = (Turn::default(), Vec::with_capacity(2048));
        while turn.read < TURN {
            buffer.clear();
            match self.0.recv_from(&mut buffer, libc::MSG_DONTWAIT) {
                Ok((_, sender)) => {
                    turn.read += 1;
                    // Only the kernel's word counts.
                    if sender.port_number() == 0
                        && let Some(end) = end(&buffer)
                    {
                        add(end);
                    }
                }
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => turn.overruns += 1,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => break,
            }
        }
        turn
    }
}

/// What a message tells.
fn end(message: &[u8]) -> Option<End> {
    match NetlinkMessage::<Told>::deserialize(message).ok()?.payload {
        NetlinkPayload::InnerMessage(Told(end)) => Some(end),
        _ => None,
    }
}

#[derive(Debug)]
struct Told(End);

impl NetlinkDeserializable for Told {
    type Error = DecodeError;

    fn deserialize(_header: &NetlinkHeader, payload: &[u8]) -> Result<Self, DecodeError> {
        // `struct inet_diag_msg`.
        let attributes = payload.get(72..).unwrap_or_default();
        let header = InetResponseHeader::parse(payload)?;
        let connected = space(attributes).is_some_and(|space| space > 0);
        Ok(Self(End { port: header.socket_id.source_port, connected }))
    }
}

/// The room that a connection has measured, in the attribute `INET_DIAG_INFO`.
fn space(attributes: &[u8]) -> Option<u32> {
    const INFO: u16 = 2;
    const RCV_SPACE: usize = std::mem::offset_of!(libc::tcp_info, tcpi_rcv_space);
    let mut found = NlasIterator::new(attributes).flatten().filter(|nla| nla.kind() == INFO);
    let number = found.next()?.value().get(RCV_SPACE..RCV_SPACE + 4)?.try_into().ok()?;
    Some(u32::from_ne_bytes(number))
}

/// Not more ranges than may be tried: what is between two near ones is told, too.
fn joined(mut ranges: Vec<(u16, u16)>) -> Vec<(u16, u16)> {
    let mut near = 2;
    while ranges.len() > MAX_RANGES {
        ranges.dedup_by(|next, last| {
            let joins = next.0.saturating_sub(last.1) <= near;
            if joins {
                last.1 = next.1;
            }
            joins
        });
        near = near.saturating_mul(2);
    }
    ranges
}

/// An instruction of linux/filter.h: code, the two jumps, the operand.
type Instruction = (u16, u8, u8, u32);

fn instruction((code, yes, no, operand): Instruction) -> SockFilter {
    SockFilter::new(code, yes, no, operand)
}

/// A program that takes messages of sockets with a port in one of these ranges, which are in order.
fn program(ranges: &[(u16, u16)]) -> Vec<Instruction> {
    /// `BPF_LD | BPF_H | BPF_ABS`, of the port at this end: behind the head of the message and four bytes.
    const LOAD: Instruction = (0x28, 0, 0, 16 + 4);
    /// `BPF_JMP | BPF_JGE | BPF_K`.
    const AT_LEAST: u16 = 0x35;
    /// `BPF_JMP | BPF_JGT | BPF_K`.
    const ABOVE: u16 = 0x25;
    /// `BPF_RET | BPF_K`.
    const TAKE: Instruction = (0x06, 0, 0, u32::MAX);
    const LEAVE: Instruction = (0x06, 0, 0, 0);
    let mut program = vec![LOAD];
    for (first, last) in ranges {
        program.extend([(AT_LEAST, 1, 0, (*first).into()), LEAVE, (ABOVE, 1, 0, (*last).into()), TAKE]);
    }
    program.push(LEAVE);
    program
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr, TcpListener, TcpStream};
    use std::time::Duration;

    use rustix::event::{PollFd, PollFlags, Timespec, poll};

    use super::*;

    /// As the kernel runs it.
    fn takes(program: &[Instruction], port: u16) -> bool {
        let mut at = 0;
        loop {
            let (code, yes, no, operand) = program[at];
            let jump = |holds: bool| usize::from(if holds { yes } else { no });
            at += 1 + match code {
                0x28 => 0,
                0x35 => jump(u32::from(port) >= operand),
                0x25 => jump(u32::from(port) > operand),
                _ => return operand > 0,
            };
        }
    }

    #[test]
    fn the_filter_takes_what_is_wanted() {
        let ports = BTreeSet::from([0, 22, 80, 81, 82, 443, u16::MAX]);
        let program = program(&joined(filter::ranges(&ports)));
        for port in 0..=u16::MAX {
            assert_eq!(takes(&program, port), ports.contains(&port), "{port}");
        }
    }

    #[test]
    fn more_ranges_than_can_be_tried_are_joined() {
        let ports: BTreeSet<u16> = (0..2000).map(|n| n * 7).chain([60_000]).collect();
        let ranges = joined(filter::ranges(&ports));
        assert!(ranges.len() <= MAX_RANGES, "{}", ranges.len());
        let program = program(&ranges);
        assert!(ports.iter().all(|port| takes(&program, *port)) && !takes(&program, 59_999));
    }

    /// What is told until so many ends were, or nothing more is.
    fn told(ends: &Ends, most: usize) -> Vec<End> {
        let mut list = Vec::new();
        let patience = Timespec::try_from(Duration::from_secs(5)).unwrap();
        while list.len() < most && poll(&mut [PollFd::new(ends, PollFlags::IN)], Some(&patience)).unwrap() > 0
        {
            assert_eq!(ends.read(&mut |end| list.push(end)).overruns, 0);
        }
        list
    }

    #[test]
    fn connections_are_told_from_other_sockets_of_both_families() {
        for listener in [
            TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap(),
            TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).unwrap(),
        ] {
            let address = listener.local_addr().unwrap();
            let port = address.port();
            let ends = Ends::open(&BTreeSet::from([port])).unwrap();
            let client = TcpStream::connect(address).unwrap();
            let (served, _) = listener.accept().unwrap();
            drop((client, served));
            assert_eq!(told(&ends, 1), [End { port, connected: true }], "of one end only");
            drop(listener);
            assert_eq!(told(&ends, 1), [End { port, connected: false }]);
        }
    }

    #[test]
    fn what_is_no_message_is_none() {
        for length in 0..200 {
            assert_eq!(end(&vec![0; length]), None);
        }
        let mut cut = vec![0xff; 380];
        cut[..4].copy_from_slice(&380_u32.to_ne_bytes());
        assert_eq!(end(&cut), None);
    }
}
