//! Servers and clients whose connections end as they are told to.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, unshare};
use rustix::net::sockopt::set_socket_linger;

/// How a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    ClientCloses = 0,
    ServerCloses = 1,
    /// The client closes one direction, the server the other.
    HalfFirst = 2,
    ClientResets = 3,
    ServerResets = 4,
    /// The server closes with something unread, which makes its kernel reset.
    ServerLeavesUnread = 5,
}

impl End {
    pub(super) const ALL: [Self; 6] = [
        Self::ClientCloses,
        Self::ServerCloses,
        Self::HalfFirst,
        Self::ClientResets,
        Self::ServerResets,
        Self::ServerLeavesUnread,
    ];
}

/// A server that does as the first byte of each connection says. It ends with the test.
#[derive(Debug)]
pub(super) struct Server {
    pub(super) port: u16,
}

impl Server {
    pub(super) fn start(listener: TcpListener) -> Self {
        let port = listener.local_addr().expect("it is bound").port();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(stream) = stream else { continue };
                std::thread::spawn(move || serve(stream));
            }
        });
        Self { port }
    }

    pub(super) fn connect(&self, mapped: bool) -> TcpStream {
        // A socket of one family that serves the other, where the server has both.
        let host = if mapped { "127.0.0.1" } else { "::1" };
        TcpStream::connect((host, self.port))
            .or_else(|_refused| TcpStream::connect(("127.0.0.1", self.port)))
            .expect("it listens")
    }

    /// Threads that talk for so long, and return how often they did.
    pub(super) fn load(&self, threads: usize, time: Duration) -> Vec<JoinHandle<u64>> {
        let port = self.port;
        let talker = move |thread: usize| {
            let (begun, mut talked) = (Instant::now(), 0);
            while begun.elapsed() < time {
                let Ok(stream) = TcpStream::connect(("127.0.0.1", port)) else { continue };
                talk(stream, End::ALL[(talked as usize + thread) % End::ALL.len()]);
                talked += 1;
            }
            talked
        };
        (0..threads).map(|thread| std::thread::spawn(move || talker(thread))).collect()
    }
}

/// What is written without being asked for; more than a byte, so that some stays unread.
const GREETING: &[u8] = b"0123456789";

fn serve(mut stream: TcpStream) {
    let mut end = [0];
    if stream.read_exact(&mut end).is_err() {
        return;
    }
    let mut rest = Vec::new();
    match end[0] {
        end if end == End::ServerCloses as u8 => drop(stream),
        end if end == End::ServerResets as u8 => {
            // With nothing unread, or it would be reset for that.
            let mut greeting = vec![0; GREETING.len()];
            stream.read_exact(&mut greeting).ok();
            set_socket_linger(&stream, Some(Duration::ZERO)).expect("it is a socket");
        }
        end if end == End::ServerLeavesUnread as u8 => {
            let mut some = [0; 3];
            stream.read_exact(&mut some).ok();
        }
        _ => {
            stream.read_to_end(&mut rest).ok();
        }
    }
}

/// Talks, and ends the connection.
pub(super) fn talk(mut stream: TcpStream, end: End) {
    let mut message = vec![end as u8];
    let greets = matches!(end, End::ServerResets | End::ServerLeavesUnread);
    message.extend(if greets { GREETING } else { &[] });
    stream.write_all(&message).ok();
    let mut rest = Vec::new();
    match end {
        End::ClientCloses => {}
        End::ClientResets => set_socket_linger(&stream, Some(Duration::ZERO)).expect("it is a socket"),
        End::HalfFirst => {
            stream.shutdown(Shutdown::Write).ok();
            stream.read_to_end(&mut rest).ok();
        }
        End::ServerCloses | End::ServerResets | End::ServerLeavesUnread => {
            stream.read_to_end(&mut rest).ok();
        }
    }
}

/// A server with three connections in a network namespace of its own: a thread that is there.
#[derive(Debug)]
pub(super) struct Elsewhere {
    pub(super) netns: u32,
    work: SyncSender<usize>,
    done: Receiver<(u32, Option<std::process::Child>)>,
    /// A process that stays there, because namespaces are found by processes.
    guard: std::process::Child,
}

impl Elsewhere {
    pub(super) fn start(port: u16) -> Self {
        let (work, asked) = sync_channel::<usize>(1);
        let (tell, done) = sync_channel(1);
        std::thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNET).expect("root may");
            run("ip", &["link", "set", "lo", "up"]).wait().expect("it ends");
            let server = Server::start(TcpListener::bind(("127.0.0.1", port)).expect("it is free there"));
            let kept: Vec<_> = (0..3).map(|_| server.connect(true)).collect();
            let guard = run("sleep", &["60"]);
            tell.send((super::here(port).netns, Some(guard))).expect("the test waits");
            for times in asked {
                for _ in 0..times {
                    talk(server.connect(true), End::ServerCloses);
                }
                tell.send((0, None)).expect("the test waits");
            }
            drop(kept);
        });
        let (netns, guard) = done.recv().expect("the thread answers");
        let guard = guard.expect("it is the first answer");
        Self { netns, work, done, guard }
    }

    pub(super) fn talk(&self, times: usize) {
        self.work.send(times).expect("the thread waits");
        self.done.recv().expect("it answers");
    }
}

impl Drop for Elsewhere {
    fn drop(&mut self) {
        self.guard.kill().ok();
        self.guard.wait().ok();
        let (work, _) = sync_channel(1);
        self.work = work;
    }
}

fn run(program: &str, arguments: &[&str]) -> std::process::Child {
    std::process::Command::new(program).args(arguments).spawn().expect("it is installed")
}
