//! Ports of the loopback, and who connects to them.

use std::io::Read;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use crate::daemon::patiently;

/// What python3 runs to serve on descriptor 3, and tell each client its pid.
pub const SERVER: &str = r#"
import os, socket
first = socket.socket(fileno=3)
while True:
    client, _ = first.accept()
    client.sendall(b"%d\n" % os.getpid())
    client.close()
"#;

/// A port of the loopback on which nobody listens.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    listener.local_addr().expect("an address").port()
}

/// How clients have fared so far.
#[derive(Debug, Default)]
pub struct Callers {
    served: AtomicU32,
    refused: AtomicU32,
    over: AtomicBool,
}

impl Callers {
    /// Has so many clients connect to a port of the loopback, each again and again, until `meanwhile` is through. Returns
    /// how all have fared.
    pub fn at(port: u16, clients: usize, meanwhile: impl FnOnce(&Self)) -> Self {
        let callers = Self::default();
        std::thread::scope(|scope| {
            for _ in 0..clients {
                scope.spawn(|| callers.call(port));
            }
            // Else the clients of a test that has failed would go on for ever.
            let _over = Over(&callers.over);
            meanwhile(&callers);
        });
        callers
    }

    fn call(&self, port: u16) {
        while !self.over.load(Ordering::Relaxed) {
            match TcpStream::connect((Ipv4Addr::LOCALHOST, port)) {
                Ok(mut stream) => {
                    // One that had been accepted dies with its server.
                    stream.read_to_string(&mut String::new()).ok();
                    self.served.fetch_add(1, Ordering::Relaxed);
                }
                Err(error) => {
                    eprintln!("{error}");
                    self.refused.fetch_add(1, Ordering::Relaxed);
                }
            }
            std::thread::yield_now();
        }
    }

    /// How many have been served.
    pub fn served(&self) -> u32 {
        self.served.load(Ordering::Relaxed)
    }

    /// How many have been refused.
    pub fn refused(&self) -> u32 {
        self.refused.load(Ordering::Relaxed)
    }

    /// Waits until five more have been served.
    #[track_caller]
    pub fn wait_served(&self) {
        let so_far = self.served();
        patiently("clients to be served", || (self.served() > so_far + 4).then_some(()));
    }
}

struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
