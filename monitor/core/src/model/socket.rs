//! Sockets that are held for a service: `sockets` of `[service.NAME]`.

use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Where a socket is reached.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum SocketAddress {
    /// `tcp:ADDRESS:PORT`: listens.
    Tcp(SocketAddr),
    /// `udp:ADDRESS:PORT`.
    Udp(SocketAddr),
    /// `unix:PATH`: a stream socket, listens.
    Unix(PathBuf),
    /// `unix-dgram:PATH`.
    UnixDatagram(PathBuf),
}

/// The longest path that the address of a unix socket holds; the kernel's 108 bytes end with a zero.
const MAX_PATH: usize = 107;

impl SocketAddress {
    /// The path of a unix socket.
    pub fn path(&self) -> Option<&Path> {
        match self {
            Self::Unix(path) | Self::UnixDatagram(path) => Some(path),
            Self::Tcp(_) | Self::Udp(_) => None,
        }
    }

    /// The address of an internet socket.
    pub fn internet(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(address) | Self::Udp(address) => Some(*address),
            Self::Unix(_) | Self::UnixDatagram(_) => None,
        }
    }

    /// Whether connections wait in a queue of it.
    pub fn listens(&self) -> bool {
        matches!(self, Self::Tcp(_) | Self::Unix(_))
    }
}

/// Why a text is no address, in words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NoAddress(&'static str);

impl fmt::Display for NoAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl FromStr for SocketAddress {
    type Err = NoAddress;

    fn from_str(text: &str) -> Result<Self, NoAddress> {
        let (kind, rest) =
            text.split_once(':').ok_or(NoAddress("it begins with none of tcp, udp, unix, unix-dgram"))?;
        let internet = || match rest.parse::<SocketAddr>() {
            Ok(address) if address.port() == 0 => {
                Err(NoAddress("port 0 is no port that anybody could connect to"))
            }
            Ok(address) => Ok(address),
            Err(_) if rest.parse::<u16>().is_ok() => {
                Err(NoAddress("the address is missing: 0.0.0.0 is all of IPv4, [::] all there is"))
            }
            Err(_) => Err(NoAddress("what follows is no numeric address with a port")),
        };
        let path = || match rest {
            _ if !rest.starts_with('/') || rest.contains('\0') => Err(NoAddress("the path is not absolute")),
            _ if rest.len() > MAX_PATH => Err(NoAddress("the path is longer than 107 bytes")),
            _ => Ok(PathBuf::from(rest)),
        };
        match kind {
            "tcp" => internet().map(Self::Tcp),
            "udp" => internet().map(Self::Udp),
            "unix" => path().map(Self::Unix),
            "unix-dgram" => path().map(Self::UnixDatagram),
            _ => Err(NoAddress("it begins with none of tcp, udp, unix, unix-dgram")),
        }
    }
}

impl fmt::Display for SocketAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "tcp:{address}"),
            Self::Udp(address) => write!(f, "udp:{address}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::UnixDatagram(path) => write!(f, "unix-dgram:{}", path.display()),
        }
    }
}

/// A socket that is held for a service, and passed to each of its lives.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SocketSpec {
    /// Where.
    pub listen: SocketAddress,
    /// Its name in `LISTEN_FDNAMES`; `None`: that of the service.
    pub name: Option<String>,
    /// How many connections may wait to be accepted; the kernel's `somaxconn` limits it.
    pub backlog: u32,
    /// The permissions of a unix socket.
    pub mode: u32,
    /// To whom a unix socket belongs, by name or number; `None`: to the user that defib runs as.
    pub owner: Option<String>,
    /// Its group, likewise.
    pub group: Option<String>,
    /// Whether a socket of `[::]` leaves IPv4 alone.
    pub v6only: bool,
}

impl SocketSpec {
    /// The most sockets of a service.
    pub const MAX: usize = 16;

    /// What is not set.
    pub fn new(listen: SocketAddress) -> Self {
        Self { listen, name: None, backlog: 4096, mode: 0o660, owner: None, group: None, v6only: false }
    }
}

/// `when_down`: what becomes of the sockets while a service does not run, and will not before `hold_for` has passed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WhenDown {
    /// They are closed: clients are refused.
    #[default]
    Refuse,
    /// They stay: clients wait.
    Hold,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_is_written_as_it_was_read() {
        for text in [
            "tcp:0.0.0.0:8080",
            "tcp:[::]:443",
            "udp:127.0.0.1:53",
            "unix:/run/x.sock",
            "unix-dgram:/run/y.sock",
        ] {
            assert_eq!(text.parse::<SocketAddress>().expect(text).to_string(), text);
        }
        for text in
            ["8080", "tcp:8080", "tcp:localhost:80", "tcp:0.0.0.0:0", "sctp:0.0.0.0:1", "unix:x", "unix:@x"]
        {
            text.parse::<SocketAddress>().expect_err(text);
        }
        format!("unix:/{}", "x".repeat(106)).parse::<SocketAddress>().expect("107 bytes");
        format!("unix:/{}", "x".repeat(107)).parse::<SocketAddress>().expect_err("108 bytes");
    }
}
