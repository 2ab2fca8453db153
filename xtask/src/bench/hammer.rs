//! Clients that connect to a port again and again, and count what goes wrong.

use std::io::{ErrorKind, Read};
use std::net::{SocketAddr, TcpStream};
use std::ops::AddAssign;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::net::sockopt::set_socket_linger;

use super::clock;

/// Between two connections of a client.
const EVERY: Duration = Duration::from_micros(200);

/// How long a client waits for a connection, or for its byte.
const PATIENCE: Duration = Duration::from_secs(1);

/// What clients have met.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Tally {
    /// Connections that went as they should.
    pub(super) served: u64,
    /// Nobody listened.
    pub(super) refused: u64,
    /// Taken, and then broken off without an answer.
    pub(super) reset: u64,
    /// No answer within the patience of a client.
    pub(super) stalled: u64,
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.served += other.served;
        self.refused += other.refused;
        self.reset += other.reset;
        self.stalled += other.stalled;
    }
}

/// Connects until it is to stop.
pub(super) fn hammer(address: SocketAddr, stop: &AtomicBool) -> Tally {
    let mut tally = Tally::default();
    while !stop.load(Ordering::Relaxed) {
        let kind = connect(address);
        match kind {
            None => tally.served += 1,
            Some(ErrorKind::ConnectionRefused) => tally.refused += 1,
            Some(ErrorKind::TimedOut | ErrorKind::WouldBlock) => tally.stalled += 1,
            // The end of the stream without a byte is one too: the socket was closed in an orderly way.
            Some(_) => tally.reset += 1,
        }
        clock::sleep(EVERY);
    }
    tally
}

/// One connection: what went wrong, if something did.
fn connect(address: SocketAddr) -> Option<ErrorKind> {
    let try_it = || {
        let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        // Closing sends a reset, so that thousands of ports do not wait for a minute each.
        set_socket_linger(&stream, Some(Duration::ZERO))?;
        stream.read_exact(&mut [0])
    };
    try_it().err().map(|error| error.kind())
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn a_client_tells_refused_from_reset_from_served() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let server = std::thread::spawn(move || {
            listener.accept().unwrap().0.write_all(b"!").unwrap();
            drop(listener.accept().unwrap());
        });
        assert_eq!(connect(address), None);
        assert_eq!(connect(address), Some(ErrorKind::UnexpectedEof));
        server.join().unwrap();
        assert_eq!(connect(address), Some(ErrorKind::ConnectionRefused));
    }
}
