//! Packets: several messages in one, with the descriptors that belong to them.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{Order, Report};

/// The largest packet. The largest message is a memo: the times of 256 restarts and two texts.
pub const MAX_PACKET: usize = 16 * 1024;

/// The most descriptors in a packet; SCM_RIGHTS carries 253.
pub const MAX_FDS: usize = 64;

/// A message that can be sent: it knows how many descriptors come with it.
pub trait Message: Serialize + DeserializeOwned {
    /// How many descriptors come with it.
    fn fd_count(&self) -> usize;
}

impl Message for Order {
    fn fd_count(&self) -> usize {
        self.fds()
    }
}

impl Message for Report {
    fn fd_count(&self) -> usize {
        self.fds()
    }
}

/// Sends a packet without blocking. `WouldBlock`: the other side does not read; nothing was sent.
///
/// # Errors
/// Those of sendmsg(2).
pub fn send(socket: BorrowedFd<'_>, packet: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "too many descriptors for one packet"));
    }
    let flags = SendFlags::DONTWAIT | SendFlags::NOSIGNAL;
    rustix::net::sendmsg(socket, &[IoSlice::new(packet)], &mut control, flags)?;
    Ok(())
}

/// Packs messages.
///
/// # Errors
/// If they do not fit into a packet.
pub fn pack<M: Message>(messages: &[M]) -> io::Result<Vec<u8>> {
    let packet = postcard::to_stdvec(messages).map_err(io::Error::other)?;
    if packet.len() > MAX_PACKET {
        let text = format!("a packet of {} bytes; {MAX_PACKET} is the limit", packet.len());
        return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
    }
    Ok(packet)
}

/// The messages of a packet, each with its descriptors.
pub type Received<M> = Vec<(M, Vec<OwnedFd>)>;

/// Receives a packet without blocking: its messages, each with its descriptors. `None`: the other side is gone.
///
/// # Errors
/// Those of recvmsg(2); `WouldBlock` when there is none; `InvalidData` when it is not what the protocol allows.
pub fn receive<M: Message>(socket: impl AsFd) -> io::Result<Option<Received<M>>> {
    let mut packet = [0; MAX_PACKET];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
    let received = rustix::net::recvmsg(socket, &mut [IoSliceMut::new(&mut packet)], &mut control, flags)?;
    let mut fds = control.drain().filter_map(|message| match message {
        RecvAncillaryMessage::ScmRights(fds) => Some(fds),
        _ => None,
    });
    let mut fds: Vec<OwnedFd> = fds.by_ref().flatten().collect();
    if received.bytes == 0 {
        return Ok(None);
    }
    let wrong = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
    if received.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) {
        return Err(wrong("a packet was cut off"));
    }
    let messages: Vec<M> = postcard::from_bytes(&packet[..received.bytes]).map_err(io::Error::other)?;
    if messages.iter().map(M::fd_count).sum::<usize>() != fds.len() {
        return Err(wrong("a packet came with another number of descriptors than it tells"));
    }
    let mut fds = fds.drain(..);
    Ok(Some(
        messages
            .into_iter()
            .map(|message| {
                let own = fds.by_ref().take(message.fd_count()).collect();
                (message, own)
            })
            .collect(),
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::net::{AddressFamily, SocketFlags, SocketType};

    fn pair() -> (OwnedFd, OwnedFd) {
        rustix::net::socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)
            .expect("a socket pair")
    }

    #[test]
    fn orders_arrive_together_with_their_descriptors() {
        let (here, there) = pair();
        let orders = [
            Order::Acknowledge { slot: 3, incarnation: 7, followed: false },
            Order::Hold { name: "lock".to_owned() },
            Order::Spawn { slot: 3, incarnation: 8 },
        ];
        let packet = pack(&orders).expect("a packet");
        send(here.as_fd(), &packet, &[here.as_fd()]).expect("sent");
        let got = receive::<Order>(&there).expect("received").expect("a packet");
        assert_eq!(got.iter().map(|(_, fds)| fds.len()).collect::<Vec<_>>(), [0, 1, 0]);
        assert!(got.iter().map(|(order, _)| order).eq(&orders));
        drop((got, here));
        assert!(receive::<Order>(&there).expect("an end").is_none());
    }

    #[test]
    fn a_missing_descriptor_and_garbage_are_refused() {
        let (here, there) = pair();
        let packet = pack(&[Order::Hold { name: "lock".to_owned() }]).expect("a packet");
        send(here.as_fd(), &packet, &[]).expect("sent");
        assert_eq!(receive::<Order>(&there).expect_err("no fd").kind(), io::ErrorKind::InvalidData);
        send(here.as_fd(), &[255; 40], &[]).expect("sent");
        receive::<Order>(&there).expect_err("garbage");
        assert_eq!(receive::<Order>(&there).expect_err("nothing").kind(), io::ErrorKind::WouldBlock);
    }

    #[test]
    fn a_reader_that_sleeps_never_blocks_the_sender() {
        let (here, _there) = pair();
        let packet = pack(&[Report::Memo { slot: 1, memo: vec![7; 8000] }]).expect("a packet");
        let full = (0..10_000).find_map(|_| send(here.as_fd(), &packet, &[]).err()).expect("a full socket");
        assert_eq!(full.kind(), io::ErrorKind::WouldBlock);
    }
}
