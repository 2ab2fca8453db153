//! Who is at the other end of a port: `defib ports --peers`, the API and the metric, with eBPF and without.
#![expect(clippy::disallowed_methods, reason = "tests measure how old their connections are")]

use std::io::Write;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddrV4, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use defib_tests::{Daemon, Options, beside, http, metrics_address, patiently, signal};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, SockaddrIn, bind, connect, socket};
use serde_json::{Value, json};

/// By the kernel's counters, where they can be had, and without.
const SOURCES: [&str; 2] = ["auto", "pidfd"];

fn start(source: &str, config: &str) -> Daemon {
    let args = vec!["--source".to_owned(), source.to_owned()];
    let config = format!("[listen]\nmetrics = \"127.0.0.1:0\"\n{config}");
    Daemon::start_with(&config, &Options { args, ..Options::default() })
}

/// A server that takes both families.
struct Server {
    listener: TcpListener,
    port: u16,
}

/// A connection, and between which moments it began.
struct Pair {
    client: TcpStream,
    #[expect(dead_code, reason = "it is held open")]
    server: TcpStream,
    begun: (Instant, Instant),
}

impl Server {
    fn new() -> Self {
        let listener = TcpListener::bind((Ipv6Addr::UNSPECIFIED, 0)).expect("a port");
        let port = listener.local_addr().expect("an address").port();
        Self { listener, port }
    }

    /// Connects from an address of 127.0.0.0/8, or else from `::1`.
    fn connect(&self, from: Option<u8>) -> Pair {
        let before = Instant::now();
        let client = match from {
            Some(last) => client(last, self.port),
            None => TcpStream::connect((Ipv6Addr::LOCALHOST, self.port)).expect("a server"),
        };
        let (server, _) = self.listener.accept().expect("a connection");
        Pair { client, server, begun: (before, Instant::now()) }
    }
}

fn client(last: u8, port: u16) -> TcpStream {
    let any = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None).expect("a socket");
    let from = SocketAddrV4::new(Ipv4Addr::new(127, 0, 0, last), 0);
    bind(any.as_raw_fd(), &SockaddrIn::from(from)).expect("an address");
    connect(any.as_raw_fd(), &SockaddrIn::new(127, 0, 0, 1, port)).expect("a server");
    TcpStream::from(any)
}

#[track_caller]
fn peers(daemon: &Daemon, words: &[&str]) -> Value {
    let words = [&["ports", "--peers", "--json"], words].concat();
    serde_json::from_str(&daemon.ask(&words)).expect("JSON")
}

/// The one row of an answer.
#[track_caller]
fn only(answer: &Value) -> Value {
    let [row] = &answer["ports"].as_array().expect("rows")[..] else { panic!("{answer:#}") };
    row.clone()
}

/// Waits until the port is counted, if that is to be. Whether it is.
fn counted(daemon: &Daemon, port: u16) -> bool {
    let table = || -> Value {
        serde_json::from_str(&daemon.ask(&["ports", "--json", &port.to_string()])).expect("JSON")
    };
    if table()["method"] != "ebpf" {
        return false;
    }
    patiently("the port to be counted", || table()["ports"][0]["opened"].is_u64().then_some(()));
    true
}

/// What the addresses of a row have, in their order.
fn counts(row: &Value) -> Vec<(String, u64)> {
    let peers = row["peers"].as_array().expect("peers").iter();
    peers
        .map(|peer| {
            let address = peer["address"].as_str().expect("an address").to_owned();
            (address, peer["connections"].as_u64().expect("a number"))
        })
        .collect()
}

fn expected(list: &[(&str, u64)]) -> Vec<(String, u64)> {
    list.iter().map(|(address, count)| ((*address).to_owned(), *count)).collect()
}

/// An age that lies between what the clocks before and after each step allow.
#[track_caller]
fn assert_age(told: &Value, pair: &Pair, asked: (Instant, Instant)) {
    // A number of JSON, and two clocks.
    let noise = Duration::from_millis(1);
    let told = Duration::from_secs_f64(told.as_f64().unwrap_or_else(|| panic!("{told} is no age")));
    let (least, most) = (asked.0 - pair.begun.1, asked.1 - pair.begun.0);
    assert!(least <= told + noise && told <= most + noise, "{told:?} is not from {least:?} to {most:?}");
}

#[test]
fn addresses_are_told_by_how_many_connections_they_have() {
    for source in SOURCES {
        let server = Server::new();
        let earlier = server.connect(Some(3));
        let daemon = start(source, &format!("[ports]\nwatch = [{}]\n", server.port));
        let counts_there = counted(&daemon, server.port);
        let first = server.connect(Some(2));
        let mut held: Vec<Pair> = [Some(2), Some(1), None, None].map(|from| server.connect(from)).into();
        // One that its client has closed and the service has not: what a leak looks like.
        let leaked = server.connect(Some(2));
        drop(leaked.client);
        let port = server.port.to_string();
        let asked = Instant::now();
        let answer = patiently("the client to have closed", || {
            let answer = peers(&daemon, &[&port]);
            (only(&answer)["peers"][0]["states"]["close_wait"] == 1).then_some(answer)
        });
        let asked = (asked, Instant::now());
        let row = only(&answer);
        assert_eq!(answer["method"], if counts_there { "ebpf" } else { "sock_diag" });
        assert_eq!((&answer["troubles"], &row["netns"]), (&json!([]), &answer["netns"]), "{answer:#}");
        // Of equals the one with the lower address.
        let all = [("127.0.0.2", 3), ("::1", 2), ("127.0.0.1", 1), ("127.0.0.3", 1)];
        assert_eq!(counts(&row), expected(&all), "{source}: {row:#}");
        assert_eq!((&row["connections"], &row["addresses"]), (&json!(7), &json!(4)));
        assert_eq!(row["more"], json!({ "addresses": 0, "connections": 0 }));
        assert_eq!(row["networks"], json!([]), "::1 is alone in its network");
        let busiest = &row["peers"][0];
        assert_eq!(busiest["states"], json!({ "established": 2, "close_wait": 1 }));
        assert_eq!(busiest["share"].as_f64().map(|share| (share * 100.0).round()), Some(43.0));

        // How old they are, those know that count; not of what was there before.
        let old = &row["peers"][3];
        assert_eq!(
            (&old["oldest_seconds"], &old["newest_seconds"], &old["unknown_ages"]),
            (&Value::Null, &Value::Null, &json!(1))
        );
        let text = daemon.ask(&["ports", &port, "--peers"]);
        assert!(text.starts_with(&format!("Port {port}: 7 connections of 4 addresses\nADDRESS")), "{text}");
        assert!(text.contains(" close_wait 1\n") && text.contains("127.0.0.2  3            43%"), "{text}");
        assert_eq!(text.contains("Without eBPF"), !counts_there, "{text}");
        if counts_there {
            assert_eq!(busiest["unknown_ages"], 0, "{row:#}");
            assert_age(&busiest["oldest_seconds"], &first, asked);
            assert_age(&busiest["newest_seconds"], &Pair { client: first.client, ..leaked }, asked);
            // It is known to the next daemon too.
            signal(daemon.daemon(), libc::SIGKILL);
            let asked = Instant::now();
            let again = patiently("the next daemon", || {
                let said = daemon.cli(&["ports", "--peers", "--json", &port]);
                let answer: Value =
                    (said.code == 0).then(|| serde_json::from_str(&said.out).ok()).flatten()?;
                // Its source may still be being opened.
                (answer["method"] == "ebpf").then(|| only(&answer))
            });
            assert_age(&again["peers"][2]["oldest_seconds"], &held.remove(1), (asked, Instant::now()));
            assert_eq!(again["peers"][3]["unknown_ages"], 1, "{again:#}");
        } else {
            assert_eq!((&busiest["oldest_seconds"], &busiest["unknown_ages"]), (&Value::Null, &json!(3)));
            assert!(text.contains("  -       -       close_wait 1"), "{text}");
        }
        drop((held, earlier));
    }
}

#[test]
fn a_list_has_a_length_and_the_rest_is_counted() {
    let server = Server::new();
    let daemon = start("auto", &format!("[ports]\nwatch = [{}]\n", server.port));
    let port = server.port.to_string();
    let none = only(&peers(&daemon, &[&port]));
    assert_eq!(
        (&none["connections"], &none["addresses"], &none["peers"]),
        (&json!(0), &json!(0), &json!([]))
    );
    assert_eq!(
        daemon.ask(&["ports", &port, "--peers"]).lines().next(),
        Some(&*format!("Port {port}: 0 connections of 0 addresses"))
    );

    let _held: Vec<Pair> = (1..=25_u8).chain([7, 7, 9]).map(|last| server.connect(Some(last))).collect();
    let row = only(&peers(&daemon, &[&port]));
    assert_eq!(row["peers"].as_array().map(Vec::len), Some(20));
    assert_eq!(row["more"], json!({ "addresses": 5, "connections": 5 }));
    let row = only(&peers(&daemon, &[&port, "--limit", "3"]));
    assert_eq!(counts(&row), expected(&[("127.0.0.7", 3), ("127.0.0.9", 2), ("127.0.0.1", 1)]));
    assert_eq!((&row["connections"], &row["addresses"]), (&json!(28), &json!(25)));
    let text = daemon.ask(&["ports", &port, "--peers", "--limit", "3"]);
    assert!(text.contains("\nand 22 addresses more with 22 connections\n"), "{text}");

    // Prometheus is told how many, and not whose.
    let page = http::get(metrics_address(&daemon), "/metrics?collect[]=ports").body;
    let sample = format!("defib_port_busiest_peer_connections{{port=\"{port}\",protocol=\"tcp\"}} 3\n");
    assert!(page.contains(&sample) && !page.contains("127.0.0."), "{page}");
}

#[test]
fn ports_of_services_have_peers_in_their_own_namespaces() {
    let here = Server::new();
    let (port, server) = (here.port, beside("server"));
    let another = Server::new();
    let config = format!(
        "[ports]\nwatch = [{port}, {}]\n[service.it]\ncommand = \"{} --netns --any {port}\"\nports = [{port}]\n",
        another.port,
        server.display()
    );
    for source in SOURCES {
        let daemon = start(source, &config);
        let _held = here.connect(Some(5));
        let rows = patiently("it to be in its own namespace", || {
            let answer = peers(&daemon, &["it"]);
            let rows = answer["ports"].as_array().expect("rows").clone();
            (rows.len() == 2 && rows[1]["connections"] == 0).then_some(rows)
        });
        assert_eq!(counts(&rows[0]), expected(&[("127.0.0.5", 1)]), "{source}");
        assert_eq!((&rows[1]["peers"], &rows[1]["addresses"]), (&json!([]), &json!(0)));
        let text = daemon.ask(&["ports", "--peers", &port.to_string()]);
        assert!(text.contains(&format!("Port {port} (netns {})", rows[1]["netns"])), "{text}");
        // Of several ports those that have connections.
        let all = peers(&daemon, &[]);
        assert!(all["ports"].as_array().expect("rows").iter().all(|row| row["port"] == port), "{all:#}");
    }
}

#[test]
fn questions_that_make_no_sense_are_answered_as_such() {
    let server = Server::new();
    let port = server.port.to_string();
    let daemon = start("pidfd", "[ports]\nwatch = [1, 2]\n");
    let not_watched = format!("not watched: port {port}; name it in `watch` of [ports]");
    for (words, code, text) in [
        (&["ports", &port, "--peers"][..], 3, not_watched.as_str()),
        (&["ports", "70000", "--peers"], 3, "nor is it a port"),
        (&["ports", "api", "--peers"], 3, "api"),
        (&["ports", "1", "--limit", "3"], 2, "--peers"),
        (&["ports", "1", "--peers", "--limit", "0"], 2, "1..=1000"),
        (&["ports", "1", "--peers", "--verify"], 2, "cannot be used with"),
        (&["ports", "--peers"], 0, "no watched port has a connection"),
    ] {
        let said = daemon.cli(words);
        assert!(said.code == code && said.err.contains(text), "{words:?}: {said:?}");
    }
    let none: Value = serde_json::from_str(&daemon.ask(&["ports", "--peers", "--json"])).expect("JSON");
    assert_eq!((&none["ports"], &none["method"]), (&json!([]), &json!("sock_diag")));
    let ask = |path: &str| {
        let socket = daemon.path("run/defib.sock");
        let mut stream = std::os::unix::net::UnixStream::connect(socket).expect("the API");
        write!(stream, "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").expect("a request");
        http::read(&mut stream)
    };
    assert!(ask("/v1/ports/1/peers?limit=1000").starts_with("HTTP/1.1 200"));
    for (path, status, text) in [
        ("/v1/ports/1/peers?limit=1001", 400, "it is a number from 1 to 1000"),
        ("/v1/ports/1/peers?limit=", 400, "it is a number from 1 to 1000"),
        ("/v1/ports/1/peers?most=1", 400, "`limit` is"),
        ("/v1/ports/0/peers", 404, "is no port"),
        ("/v1/ports/%2B1/peers", 404, "is no port"),
        ("/v1/ports/x%00/peers", 404, "is no port"),
        ("/v1/ports/3/peers", 404, "not watched: port 3"),
    ] {
        let answer = ask(path);
        let as_such = answer.starts_with(&format!("HTTP/1.1 {status}")) && answer.contains(text);
        assert!(as_such, "{path}: {answer}");
    }
    // Metrics are for strangers; who is connected is not.
    assert_eq!(http::get(metrics_address(&daemon), "/v1/ports/1/peers").status, 404);
}
