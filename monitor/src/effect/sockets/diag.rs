//! Sockets from sock_diag(7).

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::os::fd::BorrowedFd;
use std::time::Duration;

use netlink_packet_core::{
    DecodeError, DefaultNla, Emitable, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkDeserializable,
    NetlinkHeader, NetlinkMessage, NetlinkPayload, NetlinkSerializable, NlasIterator, Parseable,
};
use netlink_packet_sock_diag::inet::{
    ExtensionFlags, InetRequest, InetResponseHeader, SocketId, StateFlags, Timer,
};
use netlink_packet_sock_diag::{AF_INET, AF_INET6, IPPROTO_TCP, SOCK_DIAG_BY_FAMILY};
use netlink_sys::protocols::NETLINK_SOCK_DIAG;
use nix::sched::{CloneFlags, setns};
use rustix::net::sockopt::{Timeout, set_socket_timeout};

use super::snapshot::{MAX_SOCKETS, Memory, Namespace, Socket, State, States, Wanted};
use super::{filter, memory};

/// How often a look is repeated during which the sockets changed. The last one counts in any case.
const LOOKS: usize = 4;

/// The kernel answers a dump while it is asked; one that it does not answer is not worth a thread.
const PATIENCE: Duration = Duration::from_secs(5);

/// The kernel fills at most 32 KiB of a dump at a time.
const BUFFER: usize = 64 * 1024;

/// Why sock_diag does not answer.
#[derive(Debug, thiserror::Error)]
pub enum DiagError {
    /// No socket.
    #[error("socket(NETLINK_SOCK_DIAG): {0}: a seccomp filter may forbid it")]
    Socket(io::Error),
    /// The network namespace of a process cannot be entered.
    #[error("setns: {0}: it takes CAP_SYS_ADMIN to look into another network namespace")]
    Enter(io::Error),
    /// The request could not be sent, or its answer not be received.
    #[error("{call} on NETLINK_SOCK_DIAG: {cause}")]
    Transfer {
        /// The system call.
        call: &'static str,
        /// The kernel's answer.
        cause: io::Error,
    },
    /// The kernel has no sock_diag for TCP.
    #[error("the kernel has no tcp_diag: load it with `modprobe tcp_diag`, or set CONFIG_INET_TCP_DIAG")]
    NoModule,
    /// The kernel refuses.
    #[error("sock_diag: {0}")]
    Refused(io::Error),
    /// The answer cannot be read.
    #[error("an answer of sock_diag cannot be read: {0}")]
    Malformed(String),
    /// There are too many sockets.
    #[error("more than {MAX_SOCKETS} sockets")]
    TooMany,
}

/// Whether sock_diag answers.
///
/// # Errors
/// If it does not. As with `ss`, the kernel may load `tcp_diag` for the question.
pub fn available() -> Result<(), DiagError> {
    // Port 0 is nobody's, so the answer is empty.
    let ports = BTreeSet::from([0]);
    let wanted = Wanted { states: States::LISTEN, ports: Some(&ports) };
    dump::<()>(&open(Namespace::Own)?, wanted, None, &mut |(), _| {})
}

/// A socket that tells of a network namespace, wherever it is used.
pub(super) fn open(namespace: Namespace) -> Result<netlink_sys::Socket, DiagError> {
    let socket = match namespace {
        Namespace::Own => netlink_sys::Socket::new(NETLINK_SOCK_DIAG).map_err(DiagError::Socket)?,
        Namespace::Of(pid) => {
            let there = File::open(format!("/proc/{pid}/ns/net")).map_err(DiagError::Enter)?;
            // A thread of its own goes there, and ends: what it has opened belongs to the namespace, it to nobody.
            let enter = move || {
                setns(there, CloneFlags::CLONE_NEWNET).map_err(|errno| DiagError::Enter(errno.into()))?;
                netlink_sys::Socket::new(NETLINK_SOCK_DIAG).map_err(DiagError::Socket)
            };
            let thread = std::thread::Builder::new().name("defib-netns".into()).spawn(enter);
            let entered = thread.map_err(DiagError::Enter)?.join();
            // It does not panic.
            entered
                .unwrap_or_else(|_panic| Err(DiagError::Enter(io::Error::other("the thread has failed"))))?
        }
    };
    set_socket_timeout(&socket, Timeout::Recv, Some(PATIENCE))
        .map_err(|errno| DiagError::Transfer { call: "setsockopt", cause: errno.into() })?;
    Ok(socket)
}

/// Folds the wanted sockets of both families, with what a map remembers of each if there is one.
pub(super) fn dump<T: Default>(
    socket: &netlink_sys::Socket,
    wanted: Wanted<'_>,
    map: Option<BorrowedFd<'_>>,
    add: &mut impl FnMut(&mut T, Socket),
) -> Result<T, DiagError> {
    let mut buffer = Vec::with_capacity(BUFFER);
    let mut looks = 1;
    loop {
        let (mut found, mut count, mut intact) = (T::default(), 0, true);
        for family in [AF_INET, AF_INET6] {
            let request = request(family, wanted, map);
            let took = family_dump(socket, &mut buffer, &request, wanted, &mut |socket| {
                count += 1;
                add(&mut found, socket);
                count <= MAX_SOCKETS
            });
            intact &= match took {
                // A kernel without IPv6 has no such sockets.
                Err(DiagError::NoModule) if family == AF_INET6 => true,
                other => other?,
            };
        }
        if intact || looks == LOOKS {
            return Ok(found);
        }
        looks += 1;
    }
}

/// Dumps what a request asks for. Returns whether nothing changed meanwhile.
fn family_dump(
    socket: &netlink_sys::Socket,
    buffer: &mut Vec<u8>,
    request: &[u8],
    wanted: Wanted<'_>,
    add: &mut impl FnMut(Socket) -> bool,
) -> Result<bool, DiagError> {
    socket.send(request, 0).map_err(|cause| DiagError::Transfer { call: "send", cause })?;
    let mut intact = true;
    loop {
        buffer.clear();
        socket.recv(buffer, 0).map_err(|cause| DiagError::Transfer { call: "recv", cause })?;
        let mut rest = &buffer[..];
        while !rest.is_empty() {
            let message = NetlinkMessage::<Exchange>::deserialize(rest).map_err(malformed)?;
            intact &= message.header.flags & NLM_F_DUMP_INTR == 0;
            match message.payload {
                NetlinkPayload::InnerMessage(Exchange::Answer(header, attributes)) => {
                    if let Some(socket) = found(&header, attributes).filter(|socket| wanted.has(socket.port))
                        && !add(socket)
                    {
                        return Err(DiagError::TooMany);
                    }
                }
                NetlinkPayload::Done(done) if done.code == 0 => return Ok(intact),
                NetlinkPayload::Done(done) => return Err(refused(done.code)),
                NetlinkPayload::Error(error) => return Err(refused(error.raw_code())),
                _ => {}
            }
            // Messages are aligned to 4 bytes, but for the end of the last one.
            let length = (message.header.length as usize).next_multiple_of(4);
            rest = rest.get(length..).unwrap_or_default();
        }
    }
}

fn malformed(error: DecodeError) -> DiagError {
    DiagError::Malformed(error.to_string())
}

/// `code` is a negative errno.
fn refused(code: i32) -> DiagError {
    match code.saturating_neg() {
        libc::ENOENT => DiagError::NoModule,
        errno => DiagError::Refused(io::Error::from_raw_os_error(errno)),
    }
}

fn found(header: &InetResponseHeader, Attributes { drops, memory }: Attributes) -> Option<Socket> {
    let state = State::numbered(header.state)?;
    let listens = state == State::Listen;
    Some(Socket {
        state,
        remains: matches!(header.timer, Some(Timer::TimeWait)),
        port: header.socket_id.source_port,
        address: header.socket_id.source_address,
        remote: header.socket_id.destination_address,
        inode: header.inode.into(),
        uid: header.uid,
        cookie: u64::from_ne_bytes(header.socket_id.cookie),
        waiting: if listens { header.recv_queue } else { 0 },
        capacity: listens.then_some(header.send_queue),
        drops: drops.filter(|_| listens),
        memory,
    })
}

/// The request for one family, ready to be sent.
fn request(family: u8, wanted: Wanted<'_>, map: Option<BorrowedFd<'_>>) -> Vec<u8> {
    let states = StateFlags::from_bits_retain(wanted.states.bits());
    let socket_id = if family == AF_INET { SocketId::new_v4() } else { SocketId::new_v6() };
    // Of each connection that would be 40 bytes more to read.
    let drops = wanted.states == States::LISTEN;
    let extensions = if drops { ExtensionFlags::SKMEMINFO } else { ExtensionFlags::empty() };
    let request = InetRequest { family, protocol: IPPROTO_TCP, extensions, states, socket_id };
    let filter = wanted.ports.and_then(filter::of);
    let attributes = filter.into_iter().chain(map.map(memory::request)).collect();
    let mut message = NetlinkMessage::new(
        NetlinkHeader::default(),
        NetlinkPayload::InnerMessage(Exchange::Ask(request, attributes)),
    );
    message.header.flags = NLM_F_REQUEST | NLM_F_DUMP;
    message.finalize();
    let mut bytes = vec![0; message.buffer_len()];
    message.serialize(&mut bytes);
    bytes
}

/// What is read of the attributes of an answer.
#[derive(Clone, Copy, Debug, Default)]
struct Attributes {
    drops: Option<u32>,
    memory: Option<Memory>,
}

impl Attributes {
    fn parse(attributes: &[u8]) -> Self {
        const SKMEMINFO: u16 = 7;
        /// The last number of `INET_DIAG_SKMEMINFO`.
        const DROPS: usize = 8;
        let mut found = Self::default();
        for attribute in NlasIterator::new(attributes).flatten() {
            match attribute.kind() {
                SKMEMINFO => {
                    let number = attribute.value().get(4 * DROPS..4 * DROPS + 4);
                    found.drops = number.and_then(|number| number.try_into().ok()).map(u32::from_ne_bytes);
                }
                memory::KIND => found.memory = memory::parse(attribute.value()),
                _ => {}
            }
        }
        found
    }
}

/// What goes over the socket: the crate's request with the attributes that it has no place for, and the head of an
/// answer, with the little that is read of its attributes: the crate would make a list of all of them.
#[derive(Debug)]
enum Exchange {
    Ask(InetRequest, Vec<DefaultNla>),
    Answer(InetResponseHeader, Attributes),
}

impl NetlinkSerializable for Exchange {
    fn message_type(&self) -> u16 {
        SOCK_DIAG_BY_FAMILY
    }

    fn buffer_len(&self) -> usize {
        match self {
            Self::Ask(request, attributes) => request.buffer_len() + attributes.as_slice().buffer_len(),
            Self::Answer(header, _) => header.buffer_len(),
        }
    }

    fn serialize(&self, buffer: &mut [u8]) {
        match self {
            Self::Ask(request, attributes) => {
                let (head, tail) = buffer.split_at_mut(request.buffer_len());
                request.emit(head);
                attributes.as_slice().emit(tail);
            }
            Self::Answer(header, _) => header.emit(buffer),
        }
    }
}

impl NetlinkDeserializable for Exchange {
    type Error = DecodeError;

    fn deserialize(_header: &NetlinkHeader, payload: &[u8]) -> Result<Self, DecodeError> {
        // `struct inet_diag_msg`.
        let attributes = payload.get(72..).unwrap_or_default();
        InetResponseHeader::parse(payload).map(|header| Self::Answer(header, Attributes::parse(attributes)))
    }
}
