//! HTTP/2 over TLS: to clients as they are, and to clients who mean harm.

use std::io::Write;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use defib_tests::{Daemon, http};
use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper::header::AUTHORIZATION;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{ClientConfig, ClientConnection, StreamOwned};
use tokio::runtime::Runtime;
use tokio_rustls::TlsConnector;

use super::{Authority, TLS, ask, basic, request, start};

/// The client's offers.
fn offering(client: &Arc<ClientConfig>, protocols: &[&[u8]]) -> Arc<ClientConfig> {
    let mut client = ClientConfig::clone(client);
    client.alpn_protocols = protocols.iter().map(|name| name.to_vec()).collect();
    Arc::new(client)
}

/// What is agreed on; `None`: there is no connection.
fn agreed(address: SocketAddr, client: &Arc<ClientConfig>, protocols: &[&[u8]]) -> Option<Vec<u8>> {
    let mut stream = connect(address, &offering(client, protocols));
    stream.conn.complete_io(&mut stream.sock).ok()?;
    Some(stream.conn.alpn_protocol().unwrap_or_default().to_vec())
}

type Tls = StreamOwned<ClientConnection, std::net::TcpStream>;

fn connect(address: SocketAddr, client: &Arc<ClientConfig>) -> Tls {
    let server = "localhost".try_into().expect("a name");
    let connection = ClientConnection::new(Arc::clone(client), server).expect("a client");
    StreamOwned::new(connection, http::connect(address))
}

/// A client with one connection.
struct Client {
    runtime: Runtime,
    sender: SendRequest<Empty<Bytes>>,
}

impl Client {
    fn connect(address: SocketAddr, client: &Arc<ClientConfig>) -> Option<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let connector = TlsConnector::from(offering(client, &[b"h2"]));
        let sender = runtime.block_on(async {
            let stream = tokio::net::TcpStream::connect(address).await.ok()?;
            let stream = connector.connect("localhost".try_into().expect("a name"), stream).await.ok()?;
            assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
            let (sender, connection) = handshake(TokioExecutor::new(), TokioIo::new(stream)).await.ok()?;
            tokio::spawn(connection);
            Some(sender)
        })?;
        Some(Self { runtime, sender })
    }

    fn request(path: &str, pair: Option<&str>) -> Request<Empty<Bytes>> {
        let request = Request::get(format!("https://localhost{path}"));
        let request = pair.into_iter().fold(request, |request, pair| {
            let line = basic(pair);
            request.header(AUTHORIZATION, line.trim_start_matches("authorization: ").trim())
        });
        request.body(Empty::new()).expect("a request")
    }

    /// The answer to a request, and its body.
    fn ask(&mut self, path: &str, pair: Option<&str>) -> Option<(Response<()>, String)> {
        let answer = self.sender.send_request(Self::request(path, pair));
        self.runtime.block_on(async { whole(answer.await.ok()?).await })
    }

    fn status(&mut self, path: &str, pair: Option<&str>) -> Option<u16> {
        self.ask(path, pair).map(|(answer, _)| answer.status().as_u16())
    }
}

async fn whole(response: Response<Incoming>) -> Option<(Response<()>, String)> {
    let (head, body) = response.into_parts();
    let body = body.collect().await.ok()?.to_bytes();
    Some((Response::from_parts(head, ()), String::from_utf8_lossy(&body).into_owned()))
}

#[test]
fn http2_is_spoken_with_tls_by_who_offers_it_unless_the_file_says_no() {
    let authority = Authority::new();
    let (daemon, address) = start(&authority.web(TLS));
    let client = authority.client(None);
    let both: &[&[u8]] = &[b"h2", b"http/1.1"];
    assert_eq!(agreed(address, &client, both).as_deref(), Some(&b"h2"[..]));
    assert_eq!(agreed(address, &client, &[b"http/1.1"]).as_deref(), Some(&b"http/1.1"[..]));
    assert_eq!(agreed(address, &client, &[]).as_deref(), Some(&b""[..]));
    assert_eq!(agreed(address, &client, &[b"h3"]), None);

    let mut scraper = Client::connect(address, &client).expect("HTTP/2");
    let (answer, page) = scraper.ask("/metrics", None).expect("an answer");
    assert_eq!((answer.status().as_u16(), answer.version()), (200, hyper::Version::HTTP_2));
    assert!(page.contains("defib_process_up{process=\"it\"}") && page.ends_with('\n'), "{page}");
    for (path, status) in [("/alive", 200), ("/nothing", 404), ("/v1/status", 404), ("/metrics?x=y", 400)] {
        assert_eq!(scraper.status(path, None), Some(status), "{path}");
    }
    // More at a time than one connection may have: the client waits for its turn.
    let all = (0..30).map(|_| scraper.sender.send_request(Client::request("/metrics", None)));
    let all: Vec<_> =
        all.map(|answer| scraper.runtime.spawn(async { whole(answer.await.ok()?).await })).collect();
    for answer in all {
        let (answer, body) = scraper.runtime.block_on(answer).expect("no panic").expect("an answer");
        assert!(answer.status() == 200 && body.contains("defib_process_up"), "{}", answer.status());
    }

    for (said, wanted) in [("false", &b"http/1.1"[..]), ("true", b"h2")] {
        authority.web(&format!("{TLS}http_server_config: {{ http2: {said} }}\n"));
        assert_eq!(agreed(address, &client, both).as_deref(), Some(wanted), "{}", daemon.log());
        assert_eq!(agreed(address, &client, &[b"h2"]).is_some(), wanted == b"h2");
        let (answer, _) = ask(address, &client, &request("/alive", "")).expect("an answer");
        assert_eq!(answer.status, 200);
    }
}

#[test]
fn each_request_is_asked_for_its_password_and_each_connection_for_its_certificate() {
    let authority = Authority::new();
    authority.sign("client");
    let web = |password: &str| {
        let hash = bcrypt::hash(password, 4).expect("a hash");
        let policy = "  client_auth_type: RequireAndVerifyClientCert\n  client_ca_file: ca.pem\n";
        let headers = "http_server_config:\n  headers:\n    X-Frame-Options: deny\n";
        format!("{TLS}{policy}basic_auth_users:\n  alice: {hash}\n{headers}")
    };
    let (_daemon, address) = start(&authority.web(&web("one")));
    // With TLS 1.3 the client learns only afterwards that it is not let in.
    let stranger = Client::connect(address, &authority.client(None));
    assert!(stranger.is_none_or(|mut stranger| stranger.status("/alive", Some("alice:one")).is_none()));
    let mut scraper = Client::connect(address, &authority.client(Some("client"))).expect("HTTP/2");
    for _ in 0..2 {
        assert_eq!(scraper.status("/metrics", None), Some(401));
        assert_eq!(scraper.status("/metrics", Some("alice:one")), Some(200));
        assert_eq!(scraper.status("/alive", Some("alice:two")), Some(401));
    }
    let (answer, _) = scraper.ask("/alive", None).expect("an answer");
    assert_eq!(answer.headers()["www-authenticate"], "Basic");
    assert_eq!(answer.headers()["x-frame-options"], "deny");
    authority.web(&web("two"));
    assert_eq!(scraper.status("/alive", Some("alice:one")), Some(401), "on the connection that is open, too");
    assert_eq!(scraper.status("/alive", Some("alice:two")), Some(200));
    authority.web("tls_server_confg: {}\n");
    assert_eq!(scraper.status("/alive", Some("alice:two")), Some(500));
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The kinds of frames (RFC 9113, 6).
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const PRIORITY: u8 = 2;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PUSH_PROMISE: u8 = 5;
const PING: u8 = 6;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// `GET https:/` with an authority, as HPACK has it.
const GET: &[u8] = b"\x82\x87\x84\x41\x01x";

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).expect("a length").to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

fn get(stream: u32) -> Vec<u8> {
    frame(HEADERS, END_STREAM | END_HEADERS, stream, GET)
}

/// What hostile clients say behind the preface and their settings.
fn attacks() -> Vec<(&'static str, Vec<u8>)> {
    let cancelled = |stream| [get(stream), frame(RST_STREAM, 0, stream, &[0, 0, 0, 8])].concat();
    let odd = |count: u32| (0..count).map(|n| 2 * n + 1);
    let header = [&b"\x00\x01a\x7f\x81\x7e"[..], &[b'b'; 253]].concat();
    let begin = frame(HEADERS, END_STREAM, 1, GET);
    let window = [get(1), frame(WINDOW_UPDATE, 0, 1, &[0x7f, 0xff, 0xff, 0xff]).repeat(2)].concat();
    vec![
        ("silence", vec![]),
        ("half a frame", vec![0, 0, 9, HEADERS]),
        ("zeros", vec![0; 10_000]),
        ("noise", (0..10_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect()),
        ("a frame that is too large", vec![0xff, 0xff, 0xff, DATA, 0, 0, 0, 0, 1]),
        ("settings without end", frame(SETTINGS, 0, 0, &[]).repeat(20_000)),
        ("settings that cannot be", frame(SETTINGS, 0, 0, b"\x00\x04\xff\xff\xff\xff")),
        ("settings of no length", frame(SETTINGS, 0, 0, b"\x00")),
        ("settings that nobody sent are acknowledged", frame(SETTINGS, 1, 0, &[]).repeat(100)),
        ("pings without end", frame(PING, 0, 0, &[7; 8]).repeat(20_000)),
        ("pings that nobody sent are answered", frame(PING, 1, 0, &[7; 8]).repeat(20_000)),
        ("resets without end", odd(20_000).flat_map(cancelled).collect()),
        ("more requests than there may be", odd(2000).flat_map(get).collect()),
        (
            "requests that are never whole",
            odd(100).flat_map(|n| frame(HEADERS, END_HEADERS, n, GET)).collect(),
        ),
        ("a head that never ends", [begin.clone(), frame(CONTINUATION, 0, 1, &[]).repeat(20_000)].concat()),
        ("a huge head", [begin, frame(CONTINUATION, 0, 1, &header.repeat(60)).repeat(60)].concat()),
        ("an index that is not there", frame(HEADERS, END_STREAM | END_HEADERS, 1, b"\xff\xff\xff\xff\x0f")),
        ("a head that is cut off", frame(HEADERS, END_STREAM | END_HEADERS, 1, b"\x82\x87\x04\x7f")),
        ("a head without a path", frame(HEADERS, END_STREAM | END_HEADERS, 1, b"\x82\x87")),
        ("a tunnel", frame(HEADERS, END_STREAM | END_HEADERS, 1, b"\x02\x07CONNECT\x41\x01x")),
        ("a stream of the server's", get(2)),
        ("streams backwards", [get(5), get(3)].concat()),
        ("a stream that depends on itself", frame(PRIORITY, 0, 1, &[0, 0, 0, 1, 0])),
        ("data on no stream", frame(DATA, 0, 1, b"abc")),
        ("data on the connection", frame(DATA, 0, 0, b"abc")),
        ("a promise", frame(PUSH_PROMISE, END_HEADERS, 1, &[&[0, 0, 0, 2], GET].concat())),
        ("a window that grows by nothing", frame(WINDOW_UPDATE, 0, 0, &[0; 4])),
        ("a window that is too wide", window),
        (
            "a body without end",
            [frame(HEADERS, END_HEADERS, 1, GET), frame(DATA, 0, 1, &[0; 9000]).repeat(40)].concat(),
        ),
        ("frames that nobody knows", frame(77, 0xff, 0x7fff_ffff, &[1; 100]).repeat(1000)),
    ]
}

/// Whatever they say, their connections end without them, and others are answered meanwhile and afterwards.
#[test]
fn who_breaks_the_protocol_or_floods_is_let_go() {
    let authority = Authority::new();
    let (daemon, address) = start(&authority.web(TLS));
    let pid = daemon.daemon();
    let (client, plain) = (offering(&authority.client(None), &[b"h2"]), authority.client(None));
    let answered = |what: &str| {
        let alive = ask(address, &plain, &request("/alive", "")).map(|(answer, _)| answer.status);
        assert_eq!(alive, Some(200), "{what}: {}", daemon.log());
    };
    let said = |bytes: &[u8]| {
        let mut stream = connect(address, &client);
        // The server may end it before it has read everything.
        stream.write_all(bytes).ok();
        stream.flush().ok();
        // Returns when the server has ended it, or fails the test when that takes too long.
        let read = std::io::copy(&mut stream, &mut std::io::sink());
        assert!(!read.is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock));
    };
    // Those that have to be waited for are silent together, and leave places.
    for some in attacks().chunks(15) {
        thread::scope(|scope| {
            for (what, bytes) in some {
                let all = [PREFACE, &frame(SETTINGS, 0, 0, &[]), bytes].concat();
                thread::Builder::new()
                    .name((*what).into())
                    .spawn_scoped(scope, || said(&{ all }))
                    .expect("a thread");
            }
            answered("meanwhile");
        });
        answered(some[0].0);
    }
    for bytes in
        [&b"GET /alive HTTP/1.1\r\nhost: x\r\n\r\n"[..], b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\x0b", b"\0"]
    {
        said(bytes);
        answered("no preface");
    }
    assert_eq!(daemon.daemon(), pid, "{}", daemon.log());
    assert!(!daemon.log().contains("ERROR") && !daemon.log().contains("panicked"), "{}", daemon.log());
    assert!(!daemon.log().contains("recv"), "strangers do not write the log: {}", daemon.log());
    daemon.wait("it", "in its first life", |it| it["incarnation"] == 1 && it["state"] == "running");
}

/// To be busy is not enough: a client that asks for nothing is let go. The server decides when.
#[test]
fn who_only_pings_is_let_go() {
    let authority = Authority::new();
    let (_daemon, address) = start(&authority.web(TLS));
    let mut stream = connect(address, &offering(&authority.client(None), &[b"h2"]));
    stream.write_all(&[PREFACE, &frame(SETTINGS, 0, 0, &[])].concat()).expect("it reads");
    #[expect(clippy::disallowed_methods, reason = "a client that takes its time")]
    let pause = || thread::sleep(Duration::from_millis(50));
    let ping = frame(PING, 0, 0, &[7; 8]);
    // What it is answered, or that it is to go, is not its concern.
    let mut ping = || stream.write_all(&ping).and_then(|()| stream.flush());
    let written = (0..1200).take_while(|_| ping().inspect(|()| pause()).is_ok()).count();
    assert!(written < 1200, "it was cut off");
}

/// A daemon that leaves answers who has connected, and is not held up by who does not go.
#[test]
fn a_connection_ends_with_its_daemon() {
    let authority = Authority::new();
    let (daemon, address) = start(&authority.web(TLS));
    let client = authority.client(None);
    let mut scraper = Client::connect(address, &client).expect("HTTP/2");
    assert_eq!(scraper.status("/alive", None), Some(200));
    let mut deaf = connect(address, &offering(&client, &[b"h2"]));
    deaf.write_all(&[PREFACE, &frame(SETTINGS, 0, 0, &[]), &get(1)].concat()).expect("it reads");
    deaf.flush().expect("it reads");
    restart(&daemon);
    assert_eq!(scraper.status("/alive", None), None, "it has ended");
    let mut scraper = Client::connect(address, &client).expect("HTTP/2");
    assert_eq!(scraper.status("/alive", None), Some(200));
    http::read(&mut deaf);
}

fn restart(daemon: &Daemon) {
    daemon.ask(&["daemon", "restart"]);
}
