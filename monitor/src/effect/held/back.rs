//! Sockets of a service whose keeper is gone: the living process has them still, and gives back duplicates.

use std::net::SocketAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd, RawFd};
use std::path::Path;

use defib_core::model::{SocketAddress, SocketSpec};
use rustix::net::{SocketAddrAny, SocketAddrUnix, SocketType, ipproto, sockopt};
use rustix::process::{PidfdGetfdFlags, pidfd_getfd};

use super::Held;
use crate::effect::descriptors::sockets_of;

/// Where the first of them was passed: sd_listen_fds(3).
const FIRST: RawFd = 3;

/// The most descriptors that are looked at, of a process that has put them elsewhere.
const MOST: usize = 4096;

/// Duplicates of those among `wanted` that a process has open: first from where they were passed to it, then from
/// wherever they are. It takes the right to trace the process: without, nothing comes back.
pub fn take_back(pidfd: BorrowedFd<'_>, pid: u32, wanted: &[SocketSpec]) -> Vec<Held> {
    let get = |number| pidfd_getfd(pidfd, number, PidfdGetfdFlags::empty()).ok();
    let mut passed: Vec<_> = (FIRST..).take(wanted.len()).map(get).collect();
    let mut elsewhere: Option<Vec<OwnedFd>> = None;
    let found = wanted.iter().filter_map(|spec| {
        let fits = |fd: &Option<OwnedFd>| fd.as_ref().is_some_and(|fd| is(fd.as_fd(), spec));
        let fd = match passed.iter().position(fits) {
            Some(at) => passed[at].take(),
            None => {
                let others = elsewhere.get_or_insert_with(|| {
                    let mut left = MOST;
                    let sockets = sockets_of(pid, &mut left).into_iter().flatten().flatten();
                    sockets.filter_map(|(number, _)| get(number)).collect()
                });
                others.iter().position(|fd| is(fd.as_fd(), spec)).map(|at| others.swap_remove(at))
            }
        };
        Some(Held::taken_over(spec.clone(), fd?))
    });
    found.collect()
}

/// Whether a socket is the one that would be opened for `wanted`.
fn is(socket: BorrowedFd<'_>, wanted: &SocketSpec) -> bool {
    let look = || -> rustix::io::Result<bool> {
        let kind = sockopt::socket_type(socket)?;
        let protocol = sockopt::socket_protocol(socket)?;
        // A connection that was accepted has the address of the one that listens.
        let listens = sockopt::socket_acceptconn(socket)?;
        let name = rustix::net::getsockname(socket)?;
        Ok(match &wanted.listen {
            SocketAddress::Tcp(address) => {
                listens && protocol == Some(ipproto::TCP) && internet(name) == Some(*address)
            }
            SocketAddress::Udp(address) => protocol == Some(ipproto::UDP) && internet(name) == Some(*address),
            SocketAddress::Unix(path) => listens && kind == SocketType::STREAM && is_at(name, path),
            SocketAddress::UnixDatagram(path) => kind == SocketType::DGRAM && is_at(name, path),
        })
    };
    look().unwrap_or(false)
}

fn internet(name: SocketAddrAny) -> Option<SocketAddr> {
    name.try_into().ok()
}

/// Whether a socket is bound to a path, and can still be reached there.
fn is_at(name: SocketAddrAny, path: &Path) -> bool {
    let bound = SocketAddrUnix::try_from(name);
    let Ok(wanted) = SocketAddrUnix::new(path) else { return false };
    bound.is_ok_and(|bound| bound.path_bytes() == wanted.path_bytes()) && path.exists()
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, TcpStream, UdpSocket};
    use std::os::unix::net::UnixListener;

    use rustix::process::{Pid, PidfdFlags, pidfd_open};

    use super::*;

    #[test]
    fn sockets_are_found_by_kind_and_address_wherever_they_are() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("s");
        let tcp = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = tcp.local_addr().expect("an address");
        let udp = UdpSocket::bind(address).expect("the same port");
        let unix = UnixListener::bind(&path).expect("a path");
        // One that has the address of the listening one, and does not listen.
        let _near = TcpStream::connect(address).expect("a connection");
        let (_far, _) = tcp.accept().expect("the same connection");
        let wanted = [SocketAddress::Unix(path), SocketAddress::Udp(address), SocketAddress::Tcp(address)];
        let own = [unix.as_fd(), udp.as_fd(), tcp.as_fd()];
        let inodes = own.map(|fd| rustix::fs::fstat(fd).expect("a socket").st_ino);
        let wanted = wanted.map(SocketSpec::new);
        let pid = std::process::id();
        let pidfd = pidfd_open(Pid::from_raw(pid.cast_signed()).expect("a pid"), PidfdFlags::empty());
        let back = take_back(pidfd.expect("Linux 5.3").as_fd(), pid, &wanted);
        assert_eq!(back.len(), wanted.len());
        assert_eq!(super::super::inodes(&back), inodes.into());
        drop((unix, udp, tcp));
    }
}
