//! The TCP socket of the metrics: bound when the daemon starts, changed when its address is, held by the keeper.
//!
//! The keeper holds it as it holds the API's: a scrape that comes while there is no daemon waits for the next one. An
//! address that cannot be had is a warning, and so that nobody gets in unasked, nothing listens where the web
//! configuration cannot be used from the start. Services are restarted with or without metrics.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use nix::unistd::Uid;
use tokio::sync::{oneshot, watch};

use super::handle::{Doors, Entrance};
use super::link::{KeeperLink, LinkError};
use crate::config::ListenSettings;
use crate::effect::holders::holders_of;
use crate::effect::sockets::{Namespace, Socket, States, Wanted, snapshot};
use crate::keeper::protocol::Order;
use crate::web::{WebError, WebFile};

/// The name under which the keeper holds it.
pub(super) const HELD: &str = "metrics";

/// How long the reading of a web configuration may hold up the start of a daemon. It takes a millisecond; only a disk that
/// hangs takes longer.
const READING: Duration = Duration::from_secs(1);

/// What is wanted of the socket.
#[derive(Debug)]
pub(super) struct Wish {
    /// Where; `None`: nowhere.
    pub(super) address: Option<SocketAddr>,
    /// Who may come in.
    pub(super) web: WebWish,
}

/// A web configuration that was read, or why it cannot be used; `None` inside: everybody may come in.
pub(super) type WebWish = Result<Option<Arc<WebFile>>, WebError>;

impl Wish {
    /// Reads what the settings name. It waits for the disk.
    pub(super) fn read(listen: &ListenSettings) -> Self {
        let read = |path: &PathBuf| WebFile::open(path, Uid::effective().as_raw()).map(Arc::new);
        Self { address: listen.metrics, web: listen.web_config.as_ref().map(read).transpose() }
    }

    /// The same on a thread of its own, and not for long.
    pub(super) async fn read_soon(listen: &ListenSettings) -> Self {
        let address = listen.metrics;
        let Some(path) = &listen.web_config else { return Self { address, web: Ok(None) } };
        let (told, reading) = oneshot::channel();
        let there = listen.clone();
        // Nobody may wait for it any more.
        let read = move || drop(told.send(Self::read(&there)));
        let started = std::thread::Builder::new().name("defib-web".into()).spawn(read);
        let failed = |why: String| Self { address, web: Err(WebError::new(path, why)) };
        if let Err(error) = started {
            return failed(format!("no thread to read it: {error}"));
        }
        match tokio::time::timeout(READING, reading).await {
            Ok(Ok(wish)) => wish,
            _ => failed(format!("not read within {} s", READING.as_secs())),
        }
    }
}

/// The supervisor thread's end: here the socket is changed, on the surfaces' thread it is served.
#[derive(Debug)]
pub(super) struct Door {
    current: watch::Sender<Option<Arc<Entrance>>>,
}

impl Door {
    /// Takes over the socket that the keeper holds, if it has the wanted address, or binds a new one.
    ///
    /// # Errors
    /// If the keeper cannot be told.
    pub(super) fn open(
        wish: Wish,
        held: Option<OwnedFd>,
        link: &mut KeeperLink,
    ) -> Result<(Self, Doors), LinkError> {
        let held = held.map(TcpListener::from).filter(|listener| listener.local_addr().is_ok());
        let wish = match wish.web {
            // It could be used when this socket was opened, so it is as with one that becomes bad later.
            Err(error) if held.is_some() && wish.address.is_some() => {
                tracing::error!("nobody is answered over TCP until this is mended: {error}");
                let web = WebFile::refusing(error, Uid::effective().as_raw());
                Wish { web: web.map(|web| Some(Arc::new(web))), ..wish }
            }
            web => Wish { web, ..wish },
        };
        // Nobody is let in before the wish is known: the surfaces' thread does not run yet.
        let held = held.map(|listener| Arc::new(Entrance { listener, web: None }));
        let (current, doors) = watch::channel(held);
        let mut door = Self { current };
        door.change(wish, link)?;
        Ok((door, doors))
    }

    /// Serves at another address from now on, or nowhere, or others than before. Where the new address cannot be had, the
    /// old one stays. Requests that are under way are answered.
    ///
    /// # Errors
    /// If the keeper cannot be told.
    pub(super) fn change(&mut self, wish: Wish, link: &mut KeeperLink) -> Result<(), LinkError> {
        let present = self.current.borrow().clone();
        let Some(address) = wish.address else { return self.close(link) };
        let web = match wish.web {
            Ok(None) => None,
            // One that is in use knows who was let in, and whether it has changed.
            Ok(Some(web)) => match present.as_ref().and_then(|present| present.web.clone()) {
                Some(used) if used.path() == web.path() => Some(used),
                _ => Some(web),
            },
            Err(error) => match present.as_ref().and_then(|present| present.web.clone()) {
                // It refuses by itself, and lets in again when the file is mended.
                Some(used) if used.path() == error.file() => Some(used),
                _ => {
                    tracing::error!(
                        "metrics are not served over TCP; mend this and run `defib reload`: {error}"
                    );
                    return self.close(link);
                }
            },
        };
        let here =
            present.filter(|present| present.listener.local_addr().is_ok_and(|at| serves(at, address)));
        if let Some(here) = here {
            self.let_in(&here, web);
            return Ok(());
        }
        match bind(address) {
            Ok(listener) => {
                hold(listener.as_fd().try_clone_to_owned(), link)?;
                let at = listener.local_addr().unwrap_or(address);
                let tls = if web.as_ref().is_some_and(|web| web.encrypts()) { "s" } else { "" };
                tracing::info!(address = %at, "metrics are served at http{tls}://{at}/metrics");
                self.current.send_replace(Some(Arc::new(Entrance { listener, web })));
            }
            Err(error) => {
                complain(address, error);
                // The old address stays, and lets in whom the new configuration lets in.
                let present = self.current.borrow().clone();
                if let Some(present) = present {
                    self.let_in(&present, web);
                }
            }
        }
        Ok(())
    }

    /// The same socket for others.
    fn let_in(&mut self, present: &Entrance, web: Option<Arc<WebFile>>) {
        let same = match (&present.web, &web) {
            (None, None) => true,
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            _ => false,
        };
        if same {
            return;
        }
        match present.listener.try_clone() {
            Ok(listener) => {
                tracing::info!(web_config = ?web.as_ref().map(|web| web.path()), "who may ask for metrics has changed");
                self.current.send_replace(Some(Arc::new(Entrance { listener, web })));
            }
            Err(error) => {
                tracing::warn!(%error, "metrics are served as before: the socket cannot be duplicated")
            }
        }
    }

    fn close(&mut self, link: &mut KeeperLink) -> Result<(), LinkError> {
        if self.current.borrow().is_some() {
            // What takes the place of a descriptor under its name lets the keeper close it.
            hold(File::open("/dev/null").map(OwnedFd::from), link)?;
            self.current.send_replace(None);
            tracing::info!("metrics are no longer served over TCP");
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
    let wanted = Wanted { states: States::LISTEN, ports: Some(&ports) };
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
        doors.borrow().as_ref().map(|entrance| entrance.listener.local_addr().unwrap())
    }

    fn at(address: Option<SocketAddr>) -> Wish {
        Wish { address, web: Ok(None) }
    }

    #[tokio::test]
    async fn the_socket_is_taken_over_changed_and_closed() {
        let (mut link, _keeper) = link();
        let any: SocketAddr = (Ipv4Addr::LOCALHOST, 0).into();
        let (mut door, doors) = Door::open(at(Some(any)), None, &mut link).unwrap();
        let first = address(&doors).expect("a socket");
        door.change(at(Some(first)), &mut link).unwrap();
        assert_eq!(address(&doors), Some(first), "it is the one that is wanted");

        let taken = TcpListener::bind(any).unwrap();
        door.change(at(Some(taken.local_addr().unwrap())), &mut link).unwrap();
        assert_eq!(address(&doors), Some(first), "what cannot be had does not close what is there");

        let free = taken.local_addr().unwrap();
        drop(taken);
        door.change(at(Some(free)), &mut link).unwrap();
        assert_eq!(address(&doors), Some(free));

        // The next daemon is handed the socket, and has no other.
        let held = doors.borrow().as_ref().unwrap().listener.as_fd().try_clone_to_owned().unwrap();
        let (mut next, handed) = Door::open(at(Some(free)), Some(held), &mut link).unwrap();
        assert_eq!(address(&handed), Some(free));
        next.change(at(None), &mut link).unwrap();
        assert_eq!(address(&handed), None);

        // What was held in place of a closed one is no socket.
        let nothing = File::open("/dev/null").unwrap().into();
        let (_door, none) = Door::open(at(None), Some(nothing), &mut link).unwrap();
        assert_eq!(address(&none), None);
        link.send_turn().unwrap();
    }

    /// Who wanted to be asked for a password is never served without.
    #[tokio::test]
    async fn a_web_configuration_decides_who_is_let_in_from_then_on() {
        let (mut link, _keeper) = link();
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("web.yml");
        let any: SocketAddr = (Ipv4Addr::LOCALHOST, 0).into();
        let wish = || {
            Wish::read(&ListenSettings {
                metrics: Some(any),
                web_config: Some(path.clone()),
                ..ListenSettings::default()
            })
        };
        let web = |doors: &Doors| doors.borrow().as_ref().map(|entrance| entrance.web.clone());
        let (mut door, doors) = Door::open(wish(), None, &mut link).unwrap();
        assert!(web(&doors).is_none(), "there is no file: nothing listens");

        door.change(at(Some(any)), &mut link).unwrap();
        let first = address(&doors).expect("a socket for everybody");
        door.change(wish(), &mut link).unwrap();
        assert!(web(&doors).is_none(), "it was not for everybody any more");

        std::fs::write(&path, "basic_auth_users: {}\n").unwrap();
        door.change(wish(), &mut link).unwrap();
        let used = web(&doors).expect("a socket").expect("a file");
        let second = address(&doors);
        std::fs::write(&path, "[").unwrap();
        door.change(wish(), &mut link).unwrap();
        assert!(Arc::ptr_eq(&used, &web(&doors).unwrap().unwrap()), "it refuses by itself");
        // Nor does the next daemon close it.
        let held = doors.borrow().as_ref().unwrap().listener.as_fd().try_clone_to_owned().unwrap();
        let (_next, handed) = Door::open(wish(), Some(held), &mut link).unwrap();
        assert_eq!(address(&handed), second);
        let refusing = web(&handed).unwrap().expect("a file");
        assert!(refusing.encrypts() && refusing.now().await.is_err());
        std::fs::write(&path, "{}").unwrap();
        assert!(refusing.now().await.is_ok(), "it is mended");

        door.change(at(Some(any)), &mut link).unwrap();
        assert!(web(&doors).unwrap().is_none() && address(&doors) == second && second != Some(first));
        std::fs::remove_file(&path).unwrap();
        let soon =
            Wish::read_soon(&ListenSettings { web_config: Some(path), ..ListenSettings::default() }).await;
        assert!(soon.web.is_err());
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
