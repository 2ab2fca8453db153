//! HTTP as a client without manners can speak it: bytes out, bytes in.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};

use crate::patience;

/// An answer.
#[derive(Debug)]
pub struct Answer {
    /// Its status.
    pub status: u16,
    /// Its head, the status line included.
    pub head: String,
    /// Its body.
    pub body: String,
}

/// Asks for a path. Panics if what comes back is no HTTP.
#[track_caller]
pub fn get(address: SocketAddr, path: &str) -> Answer {
    let request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    answer(&raw(address, request.as_bytes())).expect("an answer")
}

/// Asks for a path with other headers besides, each a line that ends with `\r\n`. What comes back need not be text.
#[track_caller]
pub fn get_with(address: SocketAddr, path: &str, headers: &str) -> (Answer, Vec<u8>) {
    let request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\n{headers}connection: close\r\n\r\n");
    let mut stream = connect(address);
    stream.write_all(request.as_bytes()).expect("it reads");
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).ok();
    let at = bytes.windows(4).position(|four| four == b"\r\n\r\n").expect("an answer");
    let body = bytes.split_off(at + 4);
    (answer(&String::from_utf8_lossy(&bytes)).expect("an answer"), body)
}

/// Sends bytes and returns all that comes back until the server closes the connection, or nothing comes any more.
#[track_caller]
pub fn raw(address: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = connect(address);
    // The server may close before it has read everything.
    stream.write_all(bytes).ok();
    read(&mut stream)
}

/// Connects.
#[track_caller]
pub fn connect(address: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect_timeout(&address, patience()).expect("a server");
    stream.set_read_timeout(Some(patience())).expect("a socket");
    stream
}

/// Reads until the end.
pub fn read(stream: &mut impl Read) -> String {
    let mut bytes = Vec::new();
    // A reset after the answer is an end, too.
    stream.read_to_end(&mut bytes).ok();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Takes an answer apart.
pub fn answer(text: &str) -> Option<Answer> {
    let (head, body) = text.split_once("\r\n\r\n")?;
    let status = head.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()?;
    Some(Answer { status, head: head.to_owned(), body: body.to_owned() })
}
