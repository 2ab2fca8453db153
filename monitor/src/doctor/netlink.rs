//! One question to the kernel by netlink, and a bounded wait for the answer.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use nix::sys::socket::{NetlinkAddr, bind, connect};
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::net::{AddressFamily, Protocol, SocketFlags, SocketType, socket_with};

use crate::effect::clock;

/// Bytes of `struct nlmsghdr`.
pub(super) const HEADER: usize = 16;

/// Types of message that every family has.
const ERROR: u16 = 2;
pub(super) const DONE: u16 = 3;

/// Flags of a request, of those of netlink(7).
pub(super) const REQUEST: u16 = 1;
pub(super) const DUMP: u16 = 0x300;

/// A socket that talks with the kernel.
#[derive(Debug)]
pub(super) struct Netlink(OwnedFd);

impl Netlink {
    /// A socket of the protocol that is a member of the groups.
    pub(super) fn open(protocol: Protocol, groups: u32) -> io::Result<Self> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket = socket_with(AddressFamily::NETLINK, SocketType::DGRAM, flags, Some(protocol))?;
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, groups))?;
        connect(socket.as_raw_fd(), &NetlinkAddr::new(0, 0))?;
        Ok(Self(socket))
    }

    pub(super) fn send(&self, message: &[u8]) -> io::Result<()> {
        rustix::io::write(&self.0, message)?;
        Ok(())
    }

    /// Reads until `wanted` makes something of a datagram; `None` if that takes too long.
    pub(super) fn wait<T>(
        &self,
        patience: Duration,
        wanted: impl Fn(&[u8]) -> Option<T>,
    ) -> io::Result<Option<T>> {
        let deadline = clock::now() + patience;
        let mut buffer = vec![0; 32 * 1024];
        loop {
            let left = deadline.since(clock::now());
            if left.is_zero() {
                return Ok(None);
            }
            let timeout = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: left.subsec_nanos().into() };
            rustix::event::poll(&mut [PollFd::new(&self.0, PollFlags::IN)], Some(&timeout)).ok();
            match rustix::io::read(&self.0, &mut buffer) {
                Ok(length) => {
                    if let Some(found) = wanted(&buffer[..length]) {
                        return Ok(Some(found));
                    }
                }
                Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

/// A message: header and payload.
pub(super) fn message(kind: u16, flags: u16, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(HEADER + payload.len()).unwrap_or(u32::MAX);
    let mut bytes = length.to_ne_bytes().to_vec();
    bytes.extend(kind.to_ne_bytes());
    bytes.extend(flags.to_ne_bytes());
    // A sequence number, and the sender, whom the kernel fills in.
    bytes.extend([1, 0, 0, 0, 0, 0, 0, 0]);
    bytes.extend(payload);
    bytes
}

/// The first answer to a request: its type, or the kernel's error.
pub(super) fn answer(datagram: &[u8]) -> Option<Result<u16, io::Error>> {
    let kind = u16::from_ne_bytes(datagram.get(4..6)?.try_into().ok()?);
    // NLMSG_ERROR and NLMSG_DONE begin with a negated error number, or 0.
    let errno = match kind {
        ERROR | DONE => word(datagram, HEADER).map_or(0, |word| word.cast_signed().saturating_neg()),
        _ => 0,
    };
    Some(if errno > 0 { Err(io::Error::from_raw_os_error(errno)) } else { Ok(kind) })
}

/// The `u32` at a place.
pub(super) fn word(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at.checked_add(4)?)?.try_into().ok().map(u32::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_is_a_type_or_an_error() {
        let error = |number: i32| message(ERROR, 0, &number.to_ne_bytes());
        assert_eq!(answer(&error(-libc::ENOENT)).unwrap().unwrap_err().raw_os_error(), Some(libc::ENOENT));
        assert_eq!(answer(&error(0)).unwrap().unwrap(), ERROR);
        assert_eq!(answer(&error(i32::MIN)).unwrap().unwrap_err().raw_os_error(), Some(i32::MAX));
        assert_eq!(answer(&message(DONE, 0, &[])).unwrap().unwrap(), DONE);
        assert_eq!(answer(&message(20, 0, &[255; 4])).unwrap().unwrap(), 20);
        assert!(answer(b"short").is_none());
    }
}
