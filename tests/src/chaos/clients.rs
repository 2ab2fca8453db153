//! Clients that connect to the held sockets all the time.

use std::io::{ErrorKind, Read};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use super::clock::now;
use super::crowd::{Crowd, Kind};

/// How many there are.
const CLIENTS: usize = 4;

/// How long one waits for its answer: a server may be stopped, or down.
const ANSWER: Duration = Duration::from_millis(300);

/// Between two connections of a client.
const PAUSE: Duration = Duration::from_millis(8);

/// What became of all connections.
#[derive(Debug, Default)]
pub(super) struct Calls {
    /// When, and to which member of the crowd.
    pub(super) refused: Vec<(u64, usize)>,
    /// Connections that were answered.
    pub(super) served: usize,
    /// Connections that were made, and reset or not answered in time: their server died, or slept.
    pub(super) unanswered: usize,
    /// What no server should say, and errors that should not be.
    pub(super) strange: Vec<String>,
}

/// The clients, until they are to end.
#[derive(Debug)]
pub(super) struct Clients {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Calls>>,
}

impl Clients {
    pub(super) fn new(crowd: &Crowd) -> Self {
        let servers: Vec<(usize, u16, String)> = (0..)
            .zip(&crowd.members)
            .filter(|(_, member)| member.kind == Kind::Server)
            .map(|(place, member)| (place, member.port, format!("{}\n", member.name)))
            .collect();
        let stop = Arc::new(AtomicBool::new(false));
        let threads = (0..CLIENTS)
            .map(|number| {
                let (stop, mut servers) = (Arc::clone(&stop), servers.clone());
                servers.rotate_left(number % CLIENTS);
                std::thread::spawn(move || {
                    let mut calls = Calls::default();
                    while !stop.load(Ordering::Relaxed) {
                        for (place, port, name) in &servers {
                            calls.call(*place, *port, name);
                            std::thread::sleep(PAUSE);
                        }
                    }
                    calls
                })
            })
            .collect();
        Self { stop, threads }
    }

    pub(super) fn end(self) -> Calls {
        self.stop.store(true, Ordering::Relaxed);
        let mut all = Calls::default();
        for calls in self.threads.into_iter().filter_map(|thread| thread.join().ok()) {
            all.refused.extend(calls.refused);
            all.strange.extend(calls.strange);
            all.served += calls.served;
            all.unanswered += calls.unanswered;
        }
        all
    }
}

impl Calls {
    fn call(&mut self, place: usize, port: u16, name: &str) {
        let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let mut stream = match TcpStream::connect_timeout(&address, Duration::from_secs(5)) {
            Ok(stream) => stream,
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
                self.refused.push((now(), place));
                return;
            }
            Err(error) => {
                self.strange.push(format!("a connection to {}: {error}", name.trim()));
                return;
            }
        };
        let mut text = String::new();
        stream.set_read_timeout(Some(ANSWER)).ok();
        match stream.read_to_string(&mut text) {
            Ok(_) if text == name => self.served += 1,
            // One that had been accepted dies with its server, in the middle of anything.
            Ok(_) if name.starts_with(&text) => self.unanswered += 1,
            Err(_) => self.unanswered += 1,
            Ok(_) => self.strange.push(format!("{} said {text:?}", name.trim())),
        }
    }
}
