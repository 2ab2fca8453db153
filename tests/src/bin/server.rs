//! A server that listens in the ways that its arguments name, on loopback. What the tests of ports supervise.
//!
//! `server [--after MS] [--when FILE] [--any] [--v6] [--share] [--child] [--netns] [--unbound FILE] [PORT…]`; SIGUSR1 closes what
//! listens, SIGUSR2 opens it again.
#![expect(
    clippy::disallowed_methods,
    clippy::print_stderr,
    reason = "a server for tests waits, makes a process, and says on standard error why it cannot go on"
)]

use std::error::Error;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::{Command, ExitCode};
use std::time::Duration;

use nix::sched::{CloneFlags, unshare};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrIn, SockaddrIn6, bind, getsockname, listen,
    setsockopt, socket, sockopt,
};

#[derive(Default)]
struct Ways {
    any: bool,
    v6: bool,
    share: bool,
    ports: Vec<u16>,
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("server: {error}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<(), Box<dyn Error>> {
    let signals = SigSet::from_iter([Signal::SIGUSR1, Signal::SIGUSR2]);
    signals.thread_block()?;
    let (mut ways, mut child, mut unbound) = (Ways::default(), false, None);
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--after" => {
                let millis = args.next().ok_or("--after wants a number")?.parse()?;
                std::thread::sleep(Duration::from_millis(millis));
            }
            "--when" => {
                let file = args.next().ok_or("--when wants a file")?;
                while !std::fs::exists(&file)? {
                    std::thread::sleep(Duration::from_millis(10));
                }
            }
            "--any" => ways.any = true,
            "--v6" => ways.v6 = true,
            "--share" => ways.share = true,
            "--child" => child = true,
            "--netns" => unshare(CloneFlags::CLONE_NEWNET)?,
            "--unbound" => unbound = Some(args.next().ok_or("--unbound wants a file")?),
            port => ways.ports.push(port.parse()?),
        }
    }
    if child {
        let args = std::env::args().skip(1).filter(|arg| arg != "--child");
        Command::new(std::env::current_exe()?).args(args).spawn()?;
        loop {
            std::thread::park();
        }
    }
    let mut listening = open(&ways)?;
    if let Some(file) = unbound {
        let fd = tcp(AddressFamily::Inet)?;
        listen(&fd, Backlog::new(16)?)?;
        std::fs::write(file, getsockname::<SockaddrIn>(fd.as_raw_fd())?.port().to_string())?;
        listening.push(fd);
    }
    loop {
        match signals.wait()? {
            Signal::SIGUSR1 => listening.clear(),
            _ if listening.is_empty() => listening = open(&ways)?,
            _ => {}
        }
    }
}

fn open(ways: &Ways) -> nix::Result<Vec<OwnedFd>> {
    ways.ports.iter().map(|port| one(ways, *port)).collect()
}

fn tcp(family: AddressFamily) -> nix::Result<OwnedFd> {
    socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)
}

fn one(ways: &Ways, port: u16) -> nix::Result<OwnedFd> {
    let fd = tcp(if ways.v6 { AddressFamily::Inet6 } else { AddressFamily::Inet })?;
    setsockopt(&fd, sockopt::ReuseAddr, &true)?;
    setsockopt(&fd, sockopt::ReusePort, &ways.share)?;
    if ways.v6 {
        bind(fd.as_raw_fd(), &SockaddrIn6::from(SocketAddrV6::new(Ipv6Addr::LOCALHOST, port, 0, 0)))?;
    } else {
        let address = if ways.any { Ipv4Addr::UNSPECIFIED } else { Ipv4Addr::LOCALHOST };
        bind(fd.as_raw_fd(), &SockaddrIn::from(SocketAddrV4::new(address, port)))?;
    }
    listen(&fd, Backlog::new(128)?)?;
    Ok(fd)
}
