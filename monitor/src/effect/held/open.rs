//! Opens one socket.

use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;

use defib_core::model::{SocketAddress, SocketSpec, StartFailure, StartFailureKind};
use nix::unistd::{Gid, Uid};
use rustix::fs::Mode;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, sockopt};

use super::occupant;
use crate::effect::{failure, identity};

type Outcome<T> = Result<T, StartFailure>;

/// Makes the socket. Clients can reach it from here on.
pub(super) fn open(spec: &SocketSpec) -> Outcome<OwnedFd> {
    let (family, kind) = match &spec.listen {
        SocketAddress::Tcp(address) => (family(address.is_ipv6()), SocketType::STREAM),
        SocketAddress::Udp(address) => (family(address.is_ipv6()), SocketType::DGRAM),
        SocketAddress::Unix(_) => (AddressFamily::UNIX, SocketType::STREAM),
        SocketAddress::UnixDatagram(_) => (AddressFamily::UNIX, SocketType::DGRAM),
    };
    let socket = rustix::net::socket_with(family, kind, SocketFlags::CLOEXEC, None)
        .map_err(|errno| refused(spec, "make a socket for", errno.into()))?;
    match &spec.listen {
        SocketAddress::Tcp(address) | SocketAddress::Udp(address) => {
            let options = || -> rustix::io::Result<()> {
                if spec.listen.listens() {
                    sockopt::set_socket_reuseaddr(&socket, true)?;
                }
                if address.is_ipv6() {
                    sockopt::set_ipv6_v6only(&socket, spec.v6only)?;
                }
                rustix::net::bind(&socket, address)
            };
            options().map_err(|errno| refused(spec, "bind", errno.into()))?;
        }
        SocketAddress::Unix(path) | SocketAddress::UnixDatagram(path) => {
            bind_path(spec, &socket, path, kind)?
        }
    }
    renew(spec, socket.as_fd())?;
    Ok(socket)
}

/// Lets everything hold for a bound socket that can be changed: owner and permissions before its queue, which is what
/// makes a stream socket reachable. One whose reader has shut it down listens again.
pub(super) fn renew(spec: &SocketSpec, socket: BorrowedFd<'_>) -> Outcome<()> {
    if let Some(path) = spec.listen.path() {
        let uid = spec.owner.as_deref().map(identity::uid_of).transpose()?;
        let gid = spec.group.as_deref().map(identity::gid_of).transpose()?;
        let (uid, gid) = (uid.unwrap_or_else(Uid::effective), gid.unwrap_or_else(Gid::effective));
        std::os::unix::fs::lchown(path, Some(uid.as_raw()), Some(gid.as_raw()))
            .map_err(|error| refused(spec, "chown", error))?;
        fs::set_permissions(path, fs::Permissions::from_mode(spec.mode))
            .map_err(|error| refused(spec, "chmod", error))?;
    }
    if spec.listen.listens() {
        let backlog = i32::try_from(spec.backlog).unwrap_or(i32::MAX);
        rustix::net::listen(socket, backlog).map_err(|errno| refused(spec, "listen at", errno.into()))?;
    }
    Ok(())
}

fn family(v6: bool) -> AddressFamily {
    if v6 { AddressFamily::INET6 } else { AddressFamily::INET }
}

fn bind_path(spec: &SocketSpec, socket: &OwnedFd, path: &Path, kind: SocketType) -> Outcome<()> {
    clear_the_way(spec, path, kind)?;
    let bind = || -> rustix::io::Result<()> {
        // Linux gives the path the permissions that the socket has: nobody else gets in before they are settled.
        rustix::fs::fchmod(socket, Mode::from_raw_mode(0o600))?;
        rustix::net::bind(socket, &SocketAddrUnix::new(path)?)
    };
    bind().map_err(|errno| refused(spec, "bind", errno.into()))
}

/// Removes a socket that nobody listens at: what an earlier process has left.
fn clear_the_way(spec: &SocketSpec, path: &Path, kind: SocketType) -> Outcome<()> {
    let found = match fs::symlink_metadata(path) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(refused(spec, "look at", error)),
    };
    if !found.file_type().is_socket() {
        return Err(StartFailure {
            kind: StartFailureKind::Socket,
            call: format!("bind {}", spec.listen),
            errno: Some(libc::EADDRINUSE),
            error: "there is something at this path that is no socket".to_owned(),
            remedy: "move it away, or choose another path".to_owned(),
        });
    }
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let knock = rustix::net::socket_with(AddressFamily::UNIX, kind, flags, None)
        .and_then(|knock| rustix::net::connect(&knock, &SocketAddrUnix::new(path)?));
    match knock {
        Err(rustix::io::Errno::CONNREFUSED) => {
            fs::remove_file(path).map_err(|error| refused(spec, "remove the old socket of", error))
        }
        // Somebody answers, has a full queue, or is of another kind.
        _ => Err(refused(spec, "bind", io::Error::from_raw_os_error(libc::EADDRINUSE))),
    }
}

fn refused(spec: &SocketSpec, call: &str, error: io::Error) -> StartFailure {
    let remedy = match error.raw_os_error() {
        Some(libc::EADDRINUSE) => "end whoever has it, or choose another address",
        Some(libc::EADDRNOTAVAIL) => "this machine has no such address: correct it, or write 0.0.0.0 or [::]",
        Some(libc::EACCES | libc::EPERM) => {
            "ports below 1024 and others' folders and owners need root (or CAP_NET_BIND_SERVICE, CAP_CHOWN)"
        }
        Some(libc::ENOENT) => "create the folder of the path",
        Some(libc::EMFILE | libc::ENFILE) => "defib is out of file descriptors: raise its RLIMIT_NOFILE",
        Some(libc::EAFNOSUPPORT) => "this kernel has no sockets of that family",
        _ => "see the manual page of the call",
    };
    let in_use = error.raw_os_error() == Some(libc::EADDRINUSE);
    let call = format!("{call} {}", spec.listen);
    let mut failure = failure::of_call(StartFailureKind::Socket, call, &error, remedy.to_owned());
    if let Some(occupant) = in_use.then(|| occupant::at(&spec.listen)).flatten() {
        failure.error = format!("{}: {occupant}", failure.error);
    }
    failure
}
