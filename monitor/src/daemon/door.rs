//! The TCP socket of the metrics: bound when the daemon starts, changed when its address is, held by the keeper.
//!
//! The keeper holds it as it holds the API's: a scrape that comes while there is no daemon waits for the next one. An
//! address that cannot be had is a warning. Services are restarted with or without metrics.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use tokio::sync::watch;

use super::handle::Doors;
use super::link::{KeeperLink, LinkError};
use crate::effect::holders::holders_of;
use crate::effect::sockets::{Namespace, Socket, Wanted, snapshot};
use crate::keeper::protocol::Order;

/// The name under which the keeper holds it.
pub(super) const HELD: &str = "metrics";

/// The supervisor thread's end: here the socket is changed, on the surfaces' thread it is served.
#[derive(Debug)]
pub(super) struct Door {
    current: watch::Sender<Option<Arc<TcpListener>>>,
}

impl Door {
    /// Takes over the socket that the keeper holds, if it has the wanted address, or binds a new one.
    ///
    /// # Errors
    /// If the keeper cannot be told.
    pub(super) fn open(
        wanted: Option<SocketAddr>,
        held: Option<OwnedFd>,
        link: &mut KeeperLink,
    ) -> Result<(Self, Doors), LinkError> {
        let held = held.map(TcpListener::from).filter(|listener| listener.local_addr().is_ok());
        let (current, doors) = watch::channel(held.map(Arc::new));
        let mut door = Self { current };
        door.rebind(wanted, link)?;
        Ok((door, doors))
    }

    /// Serves at another address from now on, or nowhere. Where the new one cannot be had, the old one stays. Requests
    /// that are under way are answered.
    ///
    /// # Errors
    /// If the keeper cannot be told.
    pub(super) fn rebind(
        &mut self,
        wanted: Option<SocketAddr>,
        link: &mut KeeperLink,
    ) -> Result<(), LinkError> {
        let present = self.current.borrow().as_ref().and_then(|listener| listener.local_addr().ok());
        let Some(wanted) = wanted else {
            if present.is_some() {
                // What takes the place of a descriptor under its name lets the keeper close it.
                hold(File::open("/dev/null").map(OwnedFd::from), link)?;
                self.current.send_replace(None);
                tracing::info!("metrics are no longer served over TCP");
            }
            return Ok(());
        };
        if present.is_some_and(|present| serves(present, wanted)) {
            return Ok(());
        }
        match bind(wanted) {
            Ok(listener) => {
                hold(listener.as_fd().try_clone_to_owned(), link)?;
                let address = listener.local_addr().unwrap_or(wanted);
                tracing::info!(%address, "metrics are served at http://{address}/metrics");
                self.current.send_replace(Some(Arc::new(listener)));
            }
            Err(error) => complain(wanted, error),
        }
        Ok(())
    }
}

/// Gives the keeper a descriptor to hold. Where there is none to give, the next daemon binds anew: no reason to end.
fn hold(fd: io::Result<OwnedFd>, link: &mut KeeperLink) -> Result<(), LinkError> {
    match fd {
        Ok(fd) => link.order(Order::Hold { name: HELD.to_owned() }, vec![fd]),
        Err(error) => {
            tracing::warn!(%error, "the keeper does not hold the socket of the metrics");
            Ok(())
        }
    }
}

fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let listener = TcpListener::bind(address)?;
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Whether a socket at one address does what is wanted. Port 0 lets the kernel choose, and a choice stays.
fn serves(present: SocketAddr, wanted: SocketAddr) -> bool {
    present == wanted || (wanted.port() == 0 && present.ip() == wanted.ip())
}

/// Says why an address cannot be had. Who holds it takes a look at all processes, on a thread of its own: no start waits
/// for that.
fn complain(address: SocketAddr, error: io::Error) {
    let tell = move || {
        let holder = if error.kind() == io::ErrorKind::AddrInUse { holder(address) } else { None };
        tracing::warn!(
            %address,
            %error,
            holder,
            "metrics are not served there; free the address, or set `metrics` in [listen] to another one or to \"\""
        );
    };
    if let Err(error) = std::thread::Builder::new().name("defib-holder".into()).spawn(tell) {
        tracing::warn!(%address, %error, "metrics are not served there, and nobody can look who holds the address");
    }
}

/// Who listens where `address` is, as in `pid 812 (nginx)`.
fn holder(address: SocketAddr) -> Option<String> {
    let ports = BTreeSet::from([address.port()]);
    let wanted = Wanted { connections: false, ports: Some(&ports) };
    let add = |found: &mut BTreeSet<u64>, socket: Socket| {
        if meet(socket.address, address.ip()) {
            found.insert(socket.inode);
        }
    };
    let sockets = snapshot(Namespace::Own, wanted, add).ok()?;
    let holder = holders_of(&sockets).into_values().next()?;
    Some(format!("pid {} ({})", holder.pid, holder.name))
}

/// Whether two addresses with the same port cannot both be listened on.
fn meet(one: IpAddr, other: IpAddr) -> bool {
    one == other || one.is_unspecified() || other.is_unspecified()
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};

    use super::*;

    /// A link, and the keeper's end of it, which takes what it gets.
    fn link() -> (KeeperLink, OwnedFd) {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let (here, there) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags).unwrap();
        (KeeperLink::new(here).unwrap(), there)
    }

    fn address(doors: &Doors) -> Option<SocketAddr> {
        doors.borrow().as_ref().map(|listener| listener.local_addr().unwrap())
    }

    #[tokio::test]
    async fn the_socket_is_taken_over_changed_and_closed() {
        let (mut link, _keeper) = link();
        let any: SocketAddr = (Ipv4Addr::LOCALHOST, 0).into();
        let (mut door, doors) = Door::open(Some(any), None, &mut link).unwrap();
        let first = address(&doors).expect("a socket");
        door.rebind(Some(first), &mut link).unwrap();
        assert_eq!(address(&doors), Some(first), "it is the one that is wanted");

        let taken = TcpListener::bind(any).unwrap();
        door.rebind(Some(taken.local_addr().unwrap()), &mut link).unwrap();
        assert_eq!(address(&doors), Some(first), "what cannot be had does not close what is there");

        let free = taken.local_addr().unwrap();
        drop(taken);
        door.rebind(Some(free), &mut link).unwrap();
        assert_eq!(address(&doors), Some(free));

        // The next daemon is handed the socket, and has no other.
        let held = doors.borrow().as_ref().unwrap().as_fd().try_clone_to_owned().unwrap();
        let (mut next, handed) = Door::open(Some(free), Some(held), &mut link).unwrap();
        assert_eq!(address(&handed), Some(free));
        next.rebind(None, &mut link).unwrap();
        assert_eq!(address(&handed), None);

        // What was held in place of a closed one is no socket.
        let nothing = File::open("/dev/null").unwrap().into();
        let (_door, none) = Door::open(None, Some(nothing), &mut link).unwrap();
        assert_eq!(address(&none), None);
        link.send_turn().unwrap();
    }

    #[test]
    fn the_holder_of_an_address_is_named() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        assert_eq!(bind(address).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        let found = holder(address).expect("this process");
        assert!(found.starts_with(&format!("pid {} (", std::process::id())), "{found}");
        let other = SocketAddr::from((Ipv4Addr::new(127, 0, 0, 9), address.port()));
        assert_eq!(holder(other), None);
        drop(listener);
        assert_eq!(holder(address), None);
    }

    #[test]
    fn a_socket_serves_where_it_is_wanted() {
        let at = |text: &str| text.parse().unwrap();
        assert!(serves(at("127.0.0.1:9977"), at("127.0.0.1:9977")));
        assert!(serves(at("127.0.0.1:40000"), at("127.0.0.1:0")));
        assert!(!serves(at("127.0.0.1:40000"), at("0.0.0.0:0")));
        assert!(!serves(at("127.0.0.1:9977"), at("127.0.0.1:9978")));
    }
}
