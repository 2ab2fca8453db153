//! Ports of the loopback, and who connects to them.

use std::io::Read;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU16, AtomicU32, Ordering};

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

/// The first of the ports that [`free_port`] gives.
const FIRST: u16 = 12_000;
/// How many each process has of them.
const EACH: u16 = 100;
/// How many processes have some of their own. Behind them, at 32768, begin those that the kernel gives to whoever asks for any:
/// one of these could be another's before the service of a test has it.
const PROCESSES: u16 = 200;

/// A port of the loopback on which nobody listens, and which nobody gets by chance.
///
/// # Panics
/// If none is free.
pub fn free_port() -> u16 {
    static GIVEN: AtomicU16 = AtomicU16::new(0);
    let process = u16::try_from(std::process::id() % u32::from(PROCESSES)).expect("it is small");
    let mut ports = (0..EACH).map(|_| {
        let given = GIVEN.fetch_add(1, Ordering::Relaxed) % EACH;
        FIRST + process * EACH + given
    });
    let is_free = |port: &u16| TcpListener::bind((Ipv4Addr::UNSPECIFIED, *port)).is_ok();
    ports.find(is_free).expect("a free port")
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
