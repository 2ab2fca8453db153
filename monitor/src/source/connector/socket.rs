//! The subscription: a netlink socket on which the kernel tells of every process.

use std::fmt;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::netlink::{self, SocketAddrNetlink};
use rustix::net::sockopt;
use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, bind, recvfrom, send, socket_with,
};
use tokio::io::unix::AsyncFd;

use super::super::clocks::monotonic;
use super::super::{namespace, watch};
use super::error::ConnectorError;
use super::losses::Losses;
use super::message::{Fact, Message, Request, decode, encode};

/// Messages that one turn reads at most: a flood must not hold the thread that restarts services.
const TURN: usize = 512;

/// What a message takes of the room, with what the kernel keeps about it.
pub(super) const MESSAGE: usize = 768;

/// Room for messages in the kernel. It gives twice of what it is asked for, so that is for 21,845 messages.
pub(super) const ROOM: usize = 8 << 20;

/// How long the kernel may take to answer the subscription, which it does within the call that sends it.
const ANSWER: u64 = 200_000_000;

/// The multicast group of the process events (CN_IDX_PROC), as a bit.
const GROUP: u32 = 1;

/// A subscription. Dropping it cancels it.
pub(super) struct Socket {
    fd: AsyncFd<OwnedFd>,
    pub(super) losses: Losses,
    /// Datagrams that are no message of the kernel's.
    pub(super) malformed: u64,
    /// The room that the kernel granted.
    pub(super) room: usize,
}

impl fmt::Debug for Socket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Socket").field("losses", &self.losses).finish_non_exhaustive()
    }
}

/// A failed call, with what was to be done.
fn failed(what: &'static str) -> impl Fn(Errno) -> ConnectorError {
    move |errno| ConnectorError::Socket { what, cause: errno.into() }
}

impl Socket {
    /// Subscribes with this much room, and waits until the kernel says that it tells. To be called on the runtime that
    /// will read.
    pub(super) fn open(room: usize) -> Result<Self, ConnectorError> {
        namespace::check()?;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let fd = socket_with(AddressFamily::NETLINK, SocketType::DGRAM, flags, Some(netlink::CONNECTOR));
        let fd = fd.map_err(|errno| match errno {
            Errno::PROTONOSUPPORT => ConnectorError::NoConnector,
            errno => failed("open")(errno),
        })?;
        // The first needs CAP_NET_ADMIN, the second gives no more than net.core.rmem_max.
        if sockopt::set_socket_recv_buffer_size_force(&fd, room).is_err() {
            sockopt::set_socket_recv_buffer_size(&fd, room).map_err(failed("give room to"))?;
        }
        let room = sockopt::socket_recv_buffer_size(&fd).map_err(failed("ask"))?;
        bind(&fd, &SocketAddrNetlink::new(0, GROUP)).map_err(|errno| match errno {
            Errno::PERM => ConnectorError::Capability,
            errno => failed("bind")(errno),
        })?;
        let mark = monotonic() as u32;
        ask(&fd, Request::Listen, mark).map_err(|errno| match errno {
            Errno::CONNREFUSED => ConnectorError::Network,
            Errno::PERM => ConnectorError::Capability,
            errno => failed("write to")(errno),
        })?;
        let fd = watch::readable(fd).map_err(|cause| ConnectorError::Socket { what: "poll", cause })?;
        // From here on it is cancelled when this is left.
        let mut socket = Self { fd, losses: Losses::default(), malformed: 0, room };
        match socket.answer(mark)? {
            0 => Ok(socket),
            error => {
                let errno = Errno::from_raw_os_error(error.cast_signed());
                let refused = ConnectorError::Refused(errno.into());
                Err(if errno == Errno::PERM { ConnectorError::Capability } else { refused })
            }
        }
    }

    /// Waits for messages and adds those of one turn to `inbox`. Cancelling it loses nothing.
    pub(super) async fn wait(&mut self, inbox: &mut Vec<Message>) {
        match self.fd.readable().await {
            Ok(mut ready) => {
                // Readiness is an edge: it is given up only when the socket was seen empty.
                if read(ready.get_inner(), &mut self.losses, &mut self.malformed, inbox) {
                    ready.clear_ready();
                }
            }
            Err(error) => {
                // The runtime is shutting down.
                tracing::debug!(%error, "the proc connector is not polled any more");
                std::future::pending().await
            }
        }
    }

    /// Adds the messages of one turn that are there already; true if that were all.
    pub(super) fn drain(&mut self, inbox: &mut Vec<Message>) -> bool {
        read(self.fd.get_ref(), &mut self.losses, &mut self.malformed, inbox)
    }

    #[cfg(test)]
    pub(super) fn fd(&self) -> std::os::fd::BorrowedFd<'_> {
        std::os::fd::AsFd::as_fd(self.fd.get_ref())
    }

    /// The kernel's answer to the request of that mark. Whatever else arrives before it is of no use yet.
    fn answer(&mut self, mark: u32) -> Result<u32, ConnectorError> {
        let end = monotonic() + ANSWER;
        let mut inbox = Vec::new();
        loop {
            while !self.drain(&mut inbox) && inbox.len() < 64 * TURN {}
            let answer = inbox.iter().find_map(|message| match message.fact {
                Fact::Answer { mark: of, error } if of == mark => Some(error),
                _ => None,
            });
            if let Some(error) = answer {
                return Ok(error);
            }
            inbox.clear();
            let left = end.saturating_sub(monotonic());
            if left == 0 {
                return Err(ConnectorError::Silent);
            }
            let left = Timespec { tv_sec: 0, tv_nsec: left.cast_signed() };
            match poll(&mut [PollFd::new(self.fd.get_ref(), PollFlags::IN)], Some(&left)) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(failed("wait for")(errno)),
            }
        }
    }
}

impl Drop for Socket {
    /// Closing the socket is not enough: the kernel counts its listeners by their requests alone, and would go on making
    /// messages of every process for nobody.
    fn drop(&mut self) {
        if let Err(errno) = ask(self.fd.get_ref(), Request::Ignore, 0) {
            let error = io::Error::from(errno);
            tracing::warn!(%error, "the proc connector cannot be told to be silent");
        }
    }
}

fn ask(fd: &OwnedFd, request: Request, mark: u32) -> Result<(), Errno> {
    let datagram = encode(request, mark).ok_or(Errno::INVAL)?;
    // Without an address it goes to the kernel.
    send(fd, &datagram, SendFlags::empty()).map(drop)
}

/// Reads the messages of one turn; true if the socket is empty now.
fn read(fd: &OwnedFd, losses: &mut Losses, malformed: &mut u64, inbox: &mut Vec<Message>) -> bool {
    // The kernel's messages have 76 bytes.
    let mut buffer = [MaybeUninit::uninit(); 512];
    for _ in 0..TURN {
        match recvfrom(fd, &mut buffer, RecvFlags::DONTWAIT) {
            Ok(((datagram, _), _, sender)) => {
                let from_kernel = sender
                    .and_then(|sender| SocketAddrNetlink::try_from(sender).ok())
                    .is_some_and(|sender| sender.pid() == 0);
                match from_kernel.then(|| decode(datagram)).flatten() {
                    Some(message) => {
                        losses.arrived(message.cpu, message.number);
                        inbox.push(message);
                    }
                    // Whoever may may write to the group; it is not the kernel's word.
                    None => *malformed += 1,
                }
            }
            Err(Errno::NOBUFS) => losses.overflowed(),
            Err(Errno::INTR) => {}
            Err(_) => return true,
        }
    }
    false
}
