//! Connections of every kind but those that come and go at once, of both families: some that are held, at another's server,
//! which so has their other ends among its files; resets and half-closed ones at a port of the bench's own. Each client
//! waits for nobody but its server, so the traffic can be made to pause.

use std::io::{ErrorKind, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::net::sockopt::set_socket_linger;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::bench::clock;

/// What becomes of a connection. Its first byte tells the server.
#[derive(Clone, Copy)]
enum Kind {
    ClientResets = 1,
    ServerResets = 2,
    ClientHalf = 3,
    ServerHalf = 4,
}

/// Those that come and go.
const KINDS: [Kind; 4] = [Kind::ClientResets, Kind::ServerResets, Kind::ClientHalf, Kind::ServerHalf];

/// How many half-closed connections each end keeps. Then it closes the one that it has had for longest.
const HALVES: usize = 64;

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// Between two connections of a client, which would else take the CPU from all the others.
const EVERY: Duration = Duration::from_millis(1);

#[derive(Debug, Default)]
struct Shared {
    stop: AtomicBool,
    paused: AtomicBool,
    /// How many clients pause.
    parked: AtomicU64,
    /// How many have all the connections that are held.
    ready: AtomicU64,
    made: AtomicU64,
}

/// Ends with this.
#[derive(Debug)]
pub(super) struct Traffic {
    pub(super) port: u16,
    shared: Arc<Shared>,
    addresses: [SocketAddr; 2],
    clients: Vec<JoinHandle<Result<()>>>,
}

impl Traffic {
    /// A port for both families, on which nobody answers yet.
    pub(super) fn listen() -> Result<[TcpListener; 2]> {
        // The other family may have lent the port to somebody.
        for _ in 0..20 {
            let four = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
            if let Ok(six) = TcpListener::bind((Ipv6Addr::LOCALHOST, four.local_addr()?.port())) {
                return Ok([four, six]);
            }
        }
        bail!("no port is free for both families");
    }

    /// Opens the connections that are held at the port `to`, half of them of each family, and begins with the others.
    pub(super) fn start(listeners: [TcpListener; 2], to: u16, held: usize) -> Result<Self> {
        let files = held as u64 + 1024;
        let limit = getrlimit(Resource::Nofile);
        if limit.current.is_some_and(|current| current < files) {
            let maximum = limit.maximum.map(|most| most.max(files));
            setrlimit(Resource::Nofile, Rlimit { current: Some(files), maximum })
                .with_context(|| format!("{held} connections take {files} descriptors: ulimit -n"))?;
        }
        let (shared, port) = (Arc::new(Shared::default()), listeners[0].local_addr()?.port());
        let addresses = [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()];
        let addresses = addresses.map(|address| SocketAddr::new(address, port));
        for listener in listeners {
            let shared = Arc::clone(&shared);
            thread::spawn(move || serve(&listener, &shared));
        }
        let clients = addresses.map(|address| {
            let shared = Arc::clone(&shared);
            let holder = SocketAddr::new(address.ip(), to);
            thread::spawn(move || client(address, &shared, (holder, held / 2)))
        });
        let traffic = Self { port, shared, addresses, clients: clients.into() };
        traffic.until("the connections that are held", |shared| &shared.ready)?;
        Ok(traffic)
    }

    fn until(&self, what: &str, count: fn(&Shared) -> &AtomicU64) -> Result<()> {
        let all = self.clients.len() as u64;
        let there = || Ok((count(&self.shared).load(Ordering::SeqCst) == all).then_some(()));
        clock::wait(PATIENCE, there)?.with_context(|| format!("waited in vain for {what}"))
    }

    /// Returns when no client does anything.
    pub(super) fn pause(&self) -> Result<()> {
        self.shared.paused.store(true, Ordering::SeqCst);
        self.until("the clients to pause", |shared| &shared.parked)
    }

    pub(super) fn resume(&self) {
        self.shared.paused.store(false, Ordering::SeqCst);
    }

    /// How many connections there were at the bench's own port.
    pub(super) fn made(&self) -> u64 {
        self.shared.made.load(Ordering::SeqCst)
    }

    /// Ends all of it: the clients close what they hold.
    pub(super) fn stop(&mut self) -> Result<()> {
        self.shared.stop.store(true, Ordering::SeqCst);
        self.clients.drain(..).try_for_each(|client| match client.join() {
            Ok(ended) => ended,
            Err(_) => bail!("a client has panicked"),
        })
    }
}

impl Drop for Traffic {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        // So that the servers see it.
        for address in self.addresses {
            TcpStream::connect(address).ok();
        }
    }
}

/// The last half-closed ones.
#[derive(Default)]
struct Halves(Vec<TcpStream>);

impl Halves {
    fn keep(&mut self, stream: TcpStream) {
        if self.0.len() == HALVES {
            self.0.remove(0);
        }
        self.0.push(stream);
    }
}

fn serve(listener: &TcpListener, shared: &Shared) {
    let mut halves = Halves::default();
    for stream in listener.incoming() {
        if shared.stop.load(Ordering::SeqCst) {
            return;
        }
        let Ok(mut stream) = stream else { continue };
        let mut kind = [0];
        if stream.read_exact(&mut kind).is_err() {
            continue;
        }
        match kind[0] {
            kind if kind == Kind::ServerResets as u8 => {
                set_socket_linger(&stream, Some(Duration::ZERO)).unwrap_or_default()
            }
            kind if kind == Kind::ServerHalf as u8 => {
                stream.shutdown(Shutdown::Write).ok();
                halves.keep(stream);
            }
            kind => {
                // To its end, or its reset.
                stream.read_to_end(&mut Vec::new()).ok();
                if kind == Kind::ClientHalf as u8 {
                    halves.keep(stream);
                }
            }
        }
    }
}

fn client(address: SocketAddr, shared: &Shared, (holder, count): (SocketAddr, usize)) -> Result<()> {
    let connect = |to: SocketAddr| {
        TcpStream::connect_timeout(&to, PATIENCE).with_context(|| format!("cannot connect to {to}"))
    };
    let held = (0..count).map(|_| connect(holder)).collect::<Result<Vec<_>>>()?;
    shared.ready.fetch_add(1, Ordering::SeqCst);
    let begin = |kind: Kind| -> Result<TcpStream> {
        let mut stream = connect(address)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        shared.made.fetch_add(1, Ordering::SeqCst);
        stream.write_all(&[kind as u8])?;
        Ok(stream)
    };
    let mut halves = Halves::default();
    for kind in KINDS.into_iter().cycle() {
        if shared.paused.load(Ordering::SeqCst) {
            shared.parked.fetch_add(1, Ordering::SeqCst);
            while shared.paused.load(Ordering::SeqCst) && !shared.stop.load(Ordering::SeqCst) {
                clock::sleep(EVERY);
            }
            shared.parked.fetch_sub(1, Ordering::SeqCst);
        }
        if shared.stop.load(Ordering::SeqCst) {
            break;
        }
        let mut stream = begin(kind)?;
        match kind {
            Kind::ClientResets => set_socket_linger(&stream, Some(Duration::ZERO))?,
            Kind::ClientHalf => {
                stream.shutdown(Shutdown::Write)?;
                halves.keep(stream);
            }
            Kind::ServerResets | Kind::ServerHalf => {
                match stream.read_to_end(&mut Vec::new()) {
                    Err(error) if error.kind() != ErrorKind::ConnectionReset => return Err(error.into()),
                    _ => {}
                }
                if matches!(kind, Kind::ServerHalf) {
                    halves.keep(stream);
                }
            }
        }
        clock::sleep(EVERY);
    }
    drop(held);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn traffic_pauses_and_ends() {
        let holders = Traffic::listen().unwrap();
        let port = holders[0].local_addr().unwrap().port();
        let mut traffic = Traffic::start(Traffic::listen().unwrap(), port, 20).unwrap();
        clock::wait(PATIENCE, || Ok((traffic.made() > 60).then_some(()))).unwrap().unwrap();
        traffic.pause().unwrap();
        let made = traffic.made();
        clock::sleep(Duration::from_millis(20));
        assert_eq!(traffic.made(), made);
        traffic.resume();
        clock::wait(PATIENCE, || Ok((traffic.made() > made).then_some(()))).unwrap().unwrap();
        traffic.stop().unwrap();
    }
}
