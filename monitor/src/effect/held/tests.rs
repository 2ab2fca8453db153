use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::{UnixListener, UnixStream};

use defib_core::model::SocketAddress;

use super::*;

fn spec(address: &str) -> SocketSpec {
    SocketSpec::new(address.parse().unwrap())
}

#[test]
fn what_is_open_already_is_not_opened_again() {
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
    let wanted = [spec(&format!("tcp:127.0.0.1:{port}"))];
    let first = open(&wanted, &[]).unwrap();
    let _client = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    let second = open(&wanted, &first.sockets).unwrap();
    assert!(first.sockets[0].is(&second.sockets[0]));
    assert_eq!(inodes(&first.sockets), inodes(&second.sockets));
    let failure = open(&wanted, &[]).unwrap_err();
    assert_eq!((failure.kind, failure.errno), (StartFailureKind::Socket, Some(libc::EADDRINUSE)));
    let own = format!("pid {} (", std::process::id());
    assert!(failure.to_string().contains(&own) && failure.call.contains("tcp:127.0.0.1"), "{failure}");
}

#[test]
fn what_another_plan_has_opened_meanwhile_is_not_opened_again() {
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port();
    let wanted = [spec(&format!("tcp:127.0.0.1:{port}"))];
    let mut recent = Recent::default();
    let first = open(&wanted, &recent.with(7, Vec::new())).unwrap();
    recent.note(7, &first.sockets);
    assert!(open(&wanted, &recent.with(8, Vec::new())).is_err(), "another's");
    let second = open(&wanted, &recent.with(7, Vec::new())).unwrap();
    assert_eq!(inodes(&first.sockets), inodes(&second.sockets));
    drop((first, second));
    assert!(recent.with(7, Vec::new()).is_empty(), "it has been closed");
}

#[test]
fn the_holder_of_a_udp_port_is_named() {
    let other = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let failure = open(&[spec(&format!("udp:{}", other.local_addr().unwrap()))], &[]).unwrap_err();
    assert!(failure.error.contains(&format!("pid {} (", std::process::id())), "{failure}");
}

#[test]
fn a_path_is_taken_only_from_nobody() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("s");
    let mut wanted = spec(&format!("unix:{}", path.display()));
    wanted.mode = 0o640;

    let other = UnixListener::bind(&path).unwrap();
    let failure = open(std::slice::from_ref(&wanted), &[]).unwrap_err();
    assert_eq!(failure.errno, Some(libc::EADDRINUSE));
    assert!(failure.error.contains(&format!("pid {} (", std::process::id())), "{failure}");
    drop(other);
    let opened = open(std::slice::from_ref(&wanted), &[]).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
    UnixStream::connect(&path).unwrap();

    wanted.mode = 0o600;
    let renewed = open(&[wanted], &opened.sockets).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(deserted(&opened.sockets, &renewed.sockets).is_empty());
    assert_eq!(deserted(&opened.sockets, &[]), [path.as_path()]);
    remove(&path);
    assert!(!path.exists());

    fs::write(&path, "precious").unwrap();
    let failure = open(&[spec(&format!("unix-dgram:{}", path.display()))], &[]).unwrap_err();
    assert!(failure.error.contains("no socket"), "{failure}");
    remove(&path);
    assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    let address = SocketAddress::Unix(folder.path().join("none/s"));
    assert!(open(&[SocketSpec::new(address)], &[]).unwrap_err().remedy.contains("folder"));
}
