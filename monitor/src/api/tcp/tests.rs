//! Strangers as they come: real sockets, a daemon that is played by the test.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpSocket;
use tokio::task::JoinHandle;

use super::super::tests::{World, view, world};
use super::*;
use crate::daemon::handle::{Ask, Entrance};

const QUICK: Duration = Duration::from_millis(200);

/// How long anything may take that should be quick: machines are shared.
const PATIENCE: Duration = Duration::from_secs(60);

const GET: &[u8] = b"GET /metrics?collect[]=services HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";

fn limits() -> Limits {
    Limits { connections: 2, head: QUICK, answer: QUICK, reading: QUICK, drain: QUICK }
}

struct Served {
    doors: watch::Sender<Option<Arc<Entrance>>>,
    address: SocketAddr,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

fn door() -> (SocketAddr, Option<Arc<Entrance>>) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    (listener.local_addr().unwrap(), Some(Arc::new(Entrance { listener, web: None })))
}

fn served(world: &World) -> Served {
    served_within(limits(), world)
}

fn served_within(limits: Limits, world: &World) -> Served {
    let (address, listener) = door();
    let (doors, handed) = watch::channel(listener);
    let (stop, stopping) = watch::channel(false);
    let mut handle = world.handle.clone();
    handle.doors = handed;
    let task = tokio::spawn(serve(limits, handle, stopping));
    Served { doors, address, stop, task }
}

/// Sends bytes on a new connection, and returns what comes back until the server closes it.
async fn raw(address: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    // The server may close before it has read everything.
    drop(stream.write_all(bytes).await);
    let mut answer = Vec::new();
    drop(stream.read_to_end(&mut answer).await);
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn strangers_look_and_nothing_else() {
    let world = world();
    let served = served(&world);
    for (request, status) in [
        ("GET /metrics?collect[]=services", "200"),
        ("HEAD /metrics?collect[]=daemon", "200"),
        ("GET /metrics?collect%5B%5D=process", "200"),
        ("GET /metrics?collect[]=nothing", "400"),
        ("GET /metrics?x=y", "400"),
        ("GET /alive", "200"),
        ("GET /", "200"),
        ("GET /status", "200"),
        ("GET /ready", "503"),
        ("POST /metrics", "405"),
        ("DELETE /alive", "405"),
        ("GET /v1/status", "404"),
        ("POST /v1/services/api/stop", "404"),
        ("POST /v1/shutdown", "404"),
        ("GET /../etc/passwd", "404"),
    ] {
        let text = format!("{request} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        let answer = raw(served.address, text.as_bytes()).await;
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{request}: {answer}");
        let (_, body) = answer.split_once("\r\n\r\n").unwrap();
        assert_eq!(body.is_empty(), request.starts_with("HEAD"), "{request}: {answer}");
    }
    let answer = raw(served.address, GET).await;
    assert!(answer.contains("content-type: text/plain; version=0.0.4; charset=utf-8\r\n"), "{answer}");
    let page = world.handle.metrics.page(&crate::metrics::Scrape {
        collectors: &[crate::metrics::Collector::Daemon],
        usage: (Vec::new(), Duration::ZERO),
        views: &BTreeMap::new(),
        source: world.handle.source,
        pipeline: (None, Duration::ZERO),
        ports: (Vec::new(), true, Duration::ZERO),
        now: crate::effect::clock::now,
        format: crate::metrics::Format::Text,
    });
    for line in [
        "{handler=\"/metrics\",method=\"GET\",code=\"400\"} 2\n",
        "{handler=\"/metrics\",method=\"HEAD\",code=\"200\"} 1\n",
        "{handler=\"/metrics\",method=\"POST\",code=\"405\"} 1\n",
        "{handler=\"/alive\",method=\"other\",code=\"405\"} 1\n",
        "{handler=\"other\",method=\"POST\",code=\"404\"} 2\n",
        "defib_http_request_duration_seconds_count{handler=\"/ready\"} 1\n",
    ] {
        assert!(page.contains(line), "{line}{page}");
    }
    served.stop.send(true).unwrap();
    served.task.await.unwrap();
}

#[tokio::test]
async fn a_supervisor_that_does_not_answer_is_told_in_time() {
    let mut world = world();
    let served = served(&world);
    let ask = b"GET /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    // Asked, and not answered: the limit of an answer is shorter here than that of the supervisor thread.
    let answer = raw(served.address, ask).await;
    assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("in time"), "{answer}");
    assert!(matches!(world.asks.recv().await, Some(Ask::Stats { .. })));
    world.asks.close();
    let answer = raw(served.address, ask).await;
    assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("\"healthy\":false"), "{answer}");
}

#[tokio::test]
async fn bodies_huge_heads_and_garbage_are_refused() {
    let world = world();
    let served = served(&world);
    let body = "GET /metrics HTTP/1.1\r\nhost: x\r\ncontent-length: 5\r\n\r\nhello";
    let chunked =
        "POST /metrics HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n";
    for request in [body, chunked] {
        assert!(raw(served.address, request.as_bytes()).await.starts_with("HTTP/1.1 413 "));
    }
    let head = format!("GET /metrics HTTP/1.1\r\nx: {}\r\n\r\n", "y".repeat(100_000));
    assert!(raw(served.address, head.as_bytes()).await.starts_with("HTTP/1.1 431 "));
    let path = format!("GET /{} HTTP/1.1\r\n\r\n", "y".repeat(100_000));
    let answer = raw(served.address, path.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 4") || answer.is_empty(), "{answer}");
    for garbage in [&b"\0\x01\x02\xff\xfe\r\n\r\n"[..], b"GET\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00"] {
        let answer = raw(served.address, garbage).await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");
    }
    assert!(raw(served.address, GET).await.starts_with("HTTP/1.1 200 "));
}

#[tokio::test]
async fn who_does_not_go_on_makes_room_for_others() {
    let world = world();
    let served = served(&world);
    let (mut half, mut nothing) = (TcpStream::connect(served.address).await.unwrap(), Vec::new());
    half.write_all(b"GET /metr").await.unwrap();
    let mut idle = TcpStream::connect(served.address).await.unwrap();
    let one_too_many = loop {
        let answer = raw(served.address, GET).await;
        // The two may not have been accepted yet.
        if !answer.starts_with("HTTP/1.1 200 ") {
            break answer;
        }
    };
    assert!(one_too_many.starts_with("HTTP/1.1 503 ") && one_too_many.contains("too many"), "{one_too_many}");
    for stream in [&mut half, &mut idle] {
        nothing.clear();
        drop(tokio::time::timeout(PATIENCE, stream.read_to_end(&mut nothing)).await.unwrap());
        assert!(nothing.is_empty() || nothing.starts_with(b"HTTP/1.1 408 "));
    }
    assert!(raw(served.address, GET).await.starts_with("HTTP/1.1 200 "));
}

/// The page is far larger than what the kernel keeps for a client that does not read.
#[tokio::test]
async fn who_does_not_read_is_cut_off() {
    let world = world();
    let names = (0..4000).map(|n| view(&format!("service-with-quite-a-long-name-{n}")));
    let views: BTreeMap<_, _> = names.map(|view| (view.name.clone(), Arc::new(view))).collect();
    world.views.send_replace(Arc::new(views));
    // So large a page takes a busy machine longer than that.
    let served = served_within(Limits { answer: PATIENCE, ..limits() }, &world);
    let mut lazy = Vec::new();
    for _ in 0..limits().connections {
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        let mut stream = socket.connect(served.address).await.unwrap();
        stream.write_all(GET).await.unwrap();
        lazy.push(stream);
    }
    let answered = async {
        while !raw(served.address, GET).await.starts_with("HTTP/1.1 200 ") {
            tokio::time::sleep(QUICK / 10).await;
        }
    };
    tokio::time::timeout(PATIENCE, answered).await.expect("room for those who read");
    for mut stream in lazy {
        let mut part = Vec::new();
        drop(stream.read_to_end(&mut part).await);
        let text = String::from_utf8_lossy(&part);
        let length = text.split("content-length: ").nth(1).and_then(|rest| rest.split("\r\n").next());
        let length: usize = length.expect("a head").parse().unwrap();
        assert!(part.len() < length, "{} of {length} bytes", part.len());
    }
}

#[tokio::test]
async fn the_address_can_change_and_vanish() {
    let world = world();
    let served = served(&world);
    let alive = b"GET /alive HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
    assert!(raw(served.address, alive).await.ends_with("OK"));
    let (other, listener) = door();
    served.doors.send_replace(listener);
    assert!(raw(other, alive).await.ends_with("OK"));
    assert!(TcpStream::connect(served.address).await.is_err(), "the old one is closed");
    served.doors.send_replace(None);
    let closed = async { while TcpStream::connect(other).await.is_ok() {} };
    tokio::time::timeout(PATIENCE, closed).await.expect("nothing listens any more");
    let (again, listener) = door();
    served.doors.send_replace(listener);
    assert!(raw(again, alive).await.ends_with("OK"));
    drop(served.doors);
    assert!(raw(again, alive).await.ends_with("OK"), "it stays when nobody can change it any more");
    served.stop.send(true).unwrap();
    served.task.await.unwrap();
}
