//! The table of ports: what `defib ports`, the API and the metrics tell of sockets in every state, by whichever source.
#![expect(clippy::disallowed_methods, reason = "tests ask promtool")]

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::{Command, Stdio};

use defib_tests::{Daemon, Options, Said, free_port, http, metrics_address, patiently, program};
use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrIn, bind, connect, getsockname, listen, socket,
};
use serde_json::{Value, json};

const LISTEN: &str = "[listen]\nmetrics = \"127.0.0.1:0\"\n";

/// By the kernel's counters, where they can be had, and without.
const SOURCES: [&str; 2] = ["auto", "pidfd"];

fn start(source: &str, config: &str) -> Daemon {
    Daemon::start_with(&format!("{LISTEN}{config}"), &Options::with_source(source))
}

fn server() -> (TcpListener, u16) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let port = listener.local_addr().expect("an address").port();
    (listener, port)
}

fn client(port: u16) -> TcpStream {
    TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("a server")
}

/// A service that runs the server with these arguments.
fn service(name: &str, args: &str, keys: &str) -> String {
    let server = program().with_file_name("server");
    assert!(server.exists(), "{} is not built: run `cargo xtask test`", server.display());
    format!("[service.{name}]\ncommand = \"{} {args}\"\n{keys}\n", server.display())
}

#[track_caller]
fn table(daemon: &Daemon, words: &[&str]) -> Value {
    let words = [&["ports", "--json"], words].concat();
    serde_json::from_str(&daemon.ask(&words)).expect("JSON")
}

/// The row of a port; `null` if there is none. Panics if there are several.
#[track_caller]
fn row(table: &Value, port: u16) -> Value {
    let rows = table["ports"].as_array().expect("rows").iter().filter(|row| row["port"] == port);
    let rows: Vec<&Value> = rows.collect();
    assert!(rows.len() < 2, "{table:#}");
    rows.first().map_or(Value::Null, |row| (*row).clone())
}

/// The row of a port once it is as wanted.
#[track_caller]
fn wait(daemon: &Daemon, port: u16, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    patiently(what, || Some(row(&table(daemon, &[]), port)).filter(&wanted))
}

/// Whether connections are counted by probes: where eBPF is the source. What is counted of a port is known soon after it
/// is watched.
#[track_caller]
fn counted(daemon: &Daemon, port: u16) -> bool {
    let status: Value = serde_json::from_str(&daemon.ask(&["status", "--json"])).expect("JSON");
    let counted = status["source"] == "ebpf";
    let method = if counted { "ebpf" } else { "sock_diag" };
    assert_eq!(table(daemon, &[])["method"], method, "{}", daemon.log());
    wait(daemon, port, "the port to be counted", |row| row["opened"].is_u64());
    counted
}

/// The samples of the ports' families. Panics if a series is there twice.
#[track_caller]
fn samples(daemon: &Daemon) -> BTreeMap<String, f64> {
    let page = http::get(metrics_address(daemon), "/metrics?collect[]=ports");
    assert_eq!(page.status, 200, "{}", page.body);
    let mut found = BTreeMap::new();
    for line in page.body.lines().filter(|line| line.starts_with("defib_port_")) {
        let (series, value) = line.rsplit_once(' ').expect("a value");
        assert!(
            found.insert(series.to_owned(), value.parse().expect("a number")).is_none(),
            "twice: {series}"
        );
    }
    found
}

fn series(name: &str, port: u16) -> String {
    format!("defib_port_{name}{{port=\"{port}\",protocol=\"tcp\"}}")
}

fn of_state(port: u16, state: &str) -> String {
    format!("defib_port_connections{{port=\"{port}\",protocol=\"tcp\",state=\"{state}\"}}")
}

#[test]
fn sockets_are_told_by_their_states() {
    for source in SOURCES {
        let (listener, port) = server();
        let daemon = start(source, &format!("[ports]\nwatch = [{port}]\n"));
        let quiet = row(&table(&daemon, &[]), port);
        assert_eq!(
            (&quiet["listening"], &quiet["active"], &quiet["owner"]["pid"]),
            (&json!(true), &json!(0), &json!(std::process::id())),
            "{quiet:#}"
        );
        assert_eq!((&quiet["owner"]["service"], &quiet["services"]), (&Value::Null, &json!([])));
        let counts = counted(&daemon, port);

        let accept = || listener.accept().expect("a connection").0;
        // Two that are open, one that its client has closed, one that the server has, one that both have, the server
        // first, and one that waits.
        let open = (client(port), client(port));
        let served = (accept(), accept());
        drop(client(port));
        let left = accept();
        let patient = client(port);
        let done = accept();
        done.shutdown(Shutdown::Write).expect("a connection");
        let mut late = client(port);
        let mut first = accept();
        first.shutdown(Shutdown::Write).expect("a connection");
        late.read_to_end(&mut Vec::new()).expect("its end");
        drop(late);
        first.read_to_end(&mut Vec::new()).expect("its end");
        drop(first);
        let waiting = client(port);
        let states = json!({
            "established": 3, "close_wait": 1, "fin_wait2": 1, "time_wait": 1, "listen": 1,
            "syn_sent": 0, "syn_recv": 0, "fin_wait1": 0, "close": 0, "last_ack": 0, "closing": 0,
        });
        let row = wait(&daemon, port, "the states", |row| row["states"] == states);
        assert_eq!((&row["active"], &row["listeners"], &row["held"]), (&json!(3), &json!(1), &json!(false)));
        let totals = (row["opened"].as_u64(), row["closed"].as_u64());
        assert_eq!(totals, (Some(6), Some(3)), "{source}: {row:#}");

        let found = samples(&daemon);
        for (state, count) in states.as_object().expect("states") {
            assert_eq!(
                found.get(&of_state(port, state)).copied(),
                count.as_f64(),
                "{source}: {state} {found:?}"
            );
        }
        assert_eq!(found.get(&series("listeners", port)), Some(&1.0));
        assert_eq!(found.get(&series("connections_opened_total", port)), Some(&6.0));
        assert_eq!(found.get(&series("connections_closed_total", port)), Some(&3.0));
        assert_eq!(found.get(&series("connection_seconds_count", port)), counts.then_some(&3.0));
        drop((open, served, left, patient, done, waiting));

        let verified = table(&daemon, &["--verify"]);
        assert_eq!(verified["verify"]["equal"], true, "{verified:#}");
        let text = daemon.ask(&["ports", &port.to_string(), "--verify"]);
        assert!(text.starts_with("PORT") && text.contains(&format!("\n{port} ")), "{text}");
        assert_eq!(text.contains("Without eBPF"), !counts, "{text}");
        assert!(text.contains("OPENED"), "{text}");
        assert!(text.contains("Verified: "), "{text}");
    }
}

#[test]
fn a_queue_that_overflows_is_counted() {
    for source in SOURCES {
        let tcp = |flags| socket(AddressFamily::Inet, SockType::Stream, flags, None).expect("a socket");
        let listener = tcp(SockFlag::SOCK_CLOEXEC);
        bind(listener.as_raw_fd(), &SockaddrIn::new(127, 0, 0, 1, 0)).expect("a port");
        listen(&listener, Backlog::new(1).expect("a backlog")).expect("it listens");
        let address: SockaddrIn = getsockname(listener.as_raw_fd()).expect("an address");
        let port = address.port();
        let daemon = start(source, &format!("[ports]\nwatch = [{port}]\n"));
        assert_eq!(row(&table(&daemon, &[]), port)["overflows"], 0);
        assert_eq!(samples(&daemon).get(&series("accept_queue_overflows_total", port)), Some(&0.0));

        // One more waits than the backlog says. Those beyond are dropped, and ask again.
        let clients: Vec<OwnedFd> =
            (0..5).map(|_| tcp(SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC)).collect();
        for client in &clients {
            assert_eq!(connect(client.as_raw_fd(), &address), Err(Errno::EINPROGRESS));
        }
        let full = wait(&daemon, port, "three drops", |row| row["overflows"].as_u64() >= Some(3));
        assert_eq!((&full["accept_queue"], &full["accept_queue_max"]), (&json!(2), &json!(1)), "{full:#}");
        assert_eq!(full["active"], 2);
        let found = samples(&daemon);
        assert_eq!(found[&series("accept_queue_length", port)], 2.0);
        assert_eq!(found[&series("accept_queue_capacity", port)], 1.0);
        let dropped = found[&series("accept_queue_overflows_total", port)];
        assert!(dropped >= 3.0, "{found:?}");

        // The kernel's count goes with the socket; the sum stays.
        drop((listener, clients));
        let gone = wait(&daemon, port, "nobody to listen", |row| row["listening"] == false);
        assert!(gone["overflows"].as_f64() >= Some(dropped), "{gone:#}");
        assert_eq!(samples(&daemon)[&series("accept_queue_capacity", port)], 0.0);
    }
}

#[test]
fn who_listens_is_told_however_they_do() {
    let (both, held) = (free_port(), free_port());
    let six = TcpListener::bind((Ipv6Addr::UNSPECIFIED, 0)).expect("a port");
    let dual = six.local_addr().expect("an address").port();
    let config = [
        format!("[ports]\nwatch = [{dual}]\n"),
        service("a", &format!("--share {both}"), &format!("ports = [{both}]")),
        service("b", &format!("--share --child {both}"), &format!("ports = [{both}]")),
        format!(
            "[service.sock]\ncommand = \"sleep 1000\"\nsockets = [\"tcp:127.0.0.1:{held}\"]\nwhen_down = \"hold\"\n"
        ),
    ];
    for source in SOURCES {
        let daemon = start(source, &config.concat());
        let shared = wait(&daemon, both, "both to listen", |row| row["listeners"] == 2);
        assert_eq!(shared["services"], json!(["a", "b"]), "{shared:#}");
        assert_eq!((&shared["accept_queue_max"], &shared["held"]), (&json!(256), &json!(false)));
        daemon.ask(&["stop", "a"]);
        let child = wait(&daemon, both, "one to be left", |row| row["listeners"] == 1);
        let main = daemon.status("b")["pid"].clone();
        assert_eq!(child["owner"]["service"], "b", "{child:#}");
        assert!(child["owner"]["pid"] != main && child["owner"]["name"] == "server", "{child:#}");
        assert!(daemon.ask(&["ports", "b"]).contains(" yes "));

        let clients = (client(dual), TcpStream::connect((Ipv6Addr::LOCALHOST, dual)).expect("a server"));
        let one = row(&table(&daemon, &[&dual.to_string()]), dual);
        assert_eq!((&one["listeners"], &one["active"]), (&json!(1), &json!(2)), "{source}: {one:#}");
        drop(clients);

        let passed = row(&table(&daemon, &["sock"]), held);
        assert_eq!(
            (&passed["held"], &passed["owner"]["service"]),
            (&json!(true), &json!("sock")),
            "{passed:#}"
        );
        daemon.ask(&["stop", "sock"]);
        let open = row(&table(&daemon, &["sock"]), held);
        assert_eq!(
            (&open["held"], &open["owner"], &open["listening"]),
            (&json!(true), &Value::Null, &json!(true))
        );
        assert!(daemon.ask(&["ports", &held.to_string()]).contains(" held "));
    }
}

#[test]
fn a_service_in_another_namespace_is_watched_there() {
    for source in SOURCES {
        let (here, port) = server();
        let config = service("it", &format!("--netns --any {port}"), &format!("ports = [{port}]"));
        let daemon = start(source, &format!("[ports]\nwatch = [{port}]\n{config}"));
        let both = patiently("it to listen in its own namespace", || {
            let found = table(&daemon, &[]);
            let rows = found["ports"].as_array().expect("rows").clone();
            (rows.len() == 2 && rows[1]["listening"] == true).then_some((found["netns"].clone(), rows))
        });
        let (own, rows) = both;
        assert!(rows[0]["netns"] == own && rows[1]["netns"] != own, "{rows:#?}");
        assert_eq!(
            (&rows[0]["owner"]["pid"], &rows[0]["services"]),
            (&json!(std::process::id()), &json!([]))
        );
        assert_eq!((&rows[1]["owner"]["service"], &rows[1]["services"]), (&json!("it"), &json!(["it"])));
        assert_eq!((&rows[1]["accept_queue_max"], &rows[1]["overflows"]), (&json!(128), &json!(0)));
        let _client = client(port);
        let rows = table(&daemon, &[])["ports"].clone();
        assert_eq!((&rows[0]["active"], &rows[1]["active"]), (&json!(1), &json!(0)), "{source}: {rows:#}");
        // The metrics have no namespaces: a port is one.
        let found = samples(&daemon);
        assert_eq!((found[&series("listeners", port)], found[&of_state(port, "established")]), (2.0, 1.0));
        assert!(daemon.ask(&["ports"]).contains("NETNS"));
        drop(here);
    }
}

#[test]
fn without_rights_it_says_what_it_cannot_know() {
    let port = free_port();
    let (listener, own) = server();
    let server = program().with_file_name("server");
    // Its namespace belongs to its own user namespace, which only root may enter; `/proc` shows it nevertheless.
    let config = format!(
        "{LISTEN}[ports]\nwatch = [{own}]\n[service.it]\ncommand = \"unshare -Urn {} --any {port}\"\nports = [{port}]\n",
        server.display()
    );
    let before = ["setpriv", "--reuid=54321", "--regid=54321", "--clear-groups"].map(str::to_owned);
    let options = Options { before: before.into(), owner: Some(54321), ..Options::default() };
    let daemon = Daemon::start_with(&config, &options);
    let row = wait(&daemon, port, "it to listen", |row| row["listening"] == true);
    assert_eq!((&row["owner"]["service"], &row["active"]), (&json!("it"), &json!(0)), "{row:#}");
    assert_eq!((&row["accept_queue"], &row["listeners"]), (&json!(0), &json!(1)));
    for unknown in ["accept_queue_max", "overflows", "opened", "closed", "resets", "lengths"] {
        assert_eq!(row[unknown], Value::Null, "{unknown}: {row:#}");
    }
    assert!(daemon.ask(&["ports", "it"]).contains(" 0/? "));
    // Ends of connections are told to everybody, in their own namespace.
    wait(&daemon, own, "the port to be counted", |row| row["opened"] == 0);
    drop((client(own), listener.accept().expect("a connection")));
    let row = wait(&daemon, own, "its end", |row| row["closed"] == 1);
    assert_eq!((&row["opened"], &row["resets"], &row["lengths"]), (&json!(1), &Value::Null, &Value::Null));
    let found = samples(&daemon);
    assert_eq!(found.get(&series("connections_closed_total", own)), Some(&1.0), "{found:?}");
    assert_eq!(found.get(&series("connections_closed_total", port)), None, "{found:?}");
    assert_eq!(found.get(&series("accept_queue_length", port)), Some(&0.0));
    assert_eq!(found.get(&series("accept_queue_overflows_total", port)), None, "{found:?}");
}

#[test]
fn a_reload_says_what_is_watched() {
    for source in SOURCES {
        let (_listener, port) = server();
        let daemon = start(source, "");
        let none = daemon.cli(&["ports"]);
        assert!(none.code == 0 && none.err.contains("no port is watched"), "{none:?}");
        assert_eq!(samples(&daemon), BTreeMap::new());
        let Said { code, err, .. } = daemon.cli(&["ports", &port.to_string()]);
        assert!(
            code == 3 && err.contains("not watched: port") && err.contains("`watch` of [ports]"),
            "{err}"
        );

        let to = port.saturating_add(2);
        let watch = |list: &str| {
            let text = format!("{LISTEN}[ports]\nwatch = [{list}]\n");
            fs::write(daemon.path("defib.toml"), text).expect("a file");
        };
        watch(&format!("\"{port}-{to}\""));
        let said = daemon.ask(&["reload"]);
        assert!(said.contains(&format!("ports.watch: [] -> [\"{port}-{to}\"]")), "{said}");
        assert_eq!(row(&table(&daemon, &[]), port)["listening"], true);
        assert_eq!(table(&daemon, &[&format!("{port}-{to}")])["ports"].as_array().map(Vec::len), Some(3));
        counted(&daemon, port);
        assert_eq!(samples(&daemon)[&series("listeners", port)], 1.0);
        // Which daemon it is does not matter: what was accepted is held.
        defib_tests::signal(daemon.daemon(), libc::SIGKILL);
        patiently("the next daemon", || (daemon.cli(&["ports"]).code == 0).then_some(()));
        assert_eq!(row(&table(&daemon, &[]), port)["listening"], true);

        watch("22, 22");
        let Said { code, err, .. } = daemon.cli(&["reload"]);
        assert!(code == 1 && err.contains("ports.watch[1]: port 22 is named twice"), "{err}");
        assert_eq!(row(&table(&daemon, &[]), port)["listening"], true, "the old one is in force");

        watch("");
        daemon.ask(&["reload"]);
        assert_eq!(samples(&daemon), BTreeMap::new(), "{source}: what is watched no longer has no series");
    }
}

#[test]
fn the_page_of_ports_is_without_fault() {
    let (listener, port) = server();
    let daemon = start("auto", &format!("[ports]\nwatch = [{port}, 1]\n"));
    counted(&daemon, port);
    drop((client(port), listener.accept().expect("a connection")));
    let page = http::get(metrics_address(&daemon), "/metrics").body;
    let mut promtool = Command::new("promtool");
    promtool.args(["check", "metrics"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = promtool.spawn().expect("promtool is there: `cargo xtask setup` installs it");
    child.stdin.take().expect("a pipe").write_all(page.as_bytes()).expect("it reads");
    let output = child.wait_with_output().expect("it ends");
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert_eq!((output.status.code(), said.as_str()), (Some(0), ""), "{page}");
    // Every state stands at 0 before anything has happened.
    let found = samples(&daemon);
    let states = found.keys().filter(|series| series.starts_with("defib_port_connections{port=\"1\""));
    assert_eq!(states.count(), 11, "{found:?}");
    assert_eq!(found.get(&of_state(1, "established")), Some(&0.0));
    assert!(found.contains_key(&series("connections_opened_total", 1)), "{found:?}");
    assert!(page.contains("defib_collector_success{collector=\"ports\"} 1"), "{page}");
}

#[test]
fn questions_that_make_no_sense_are_answered_as_such() {
    let daemon = start("pidfd", &service("api", "", "").replace(" \"\n", "\"\n"));
    for (words, code, text) in [
        (&["ports", "api"][..], 3, "api has no ports; name those on which it listens in its `ports`"),
        (&["ports", "apl"], 3, "did you mean api?"),
        (&["ports", "0"], 3, "nor is it a port"),
        (&["ports", "70000"], 3, "nor is it a port"),
        (&["ports", "9-8"], 3, "nor is it a port"),
        (&["ports", "--verfiy"], 2, "--verify"),
    ] {
        let said = daemon.cli(words);
        assert!(said.code == code && said.err.contains(text), "{words:?}: {said:?}");
    }
    let socket = daemon.path("run/defib.sock");
    let ask = |path: &str| {
        let mut stream = std::os::unix::net::UnixStream::connect(&socket).expect("the API");
        write!(stream, "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").expect("a request");
        http::read(&mut stream)
    };
    for path in ["/v1/ports?verify=perhaps", "/v1/ports?port=80", "/v1/ports?of=%00", "/v1/ports?of=1&of=%ff"]
    {
        let answer = ask(path);
        let bad = ["HTTP/1.1 400", "HTTP/1.1 404"].iter().any(|status| answer.starts_with(status));
        assert!(bad, "{path}: {answer}");
    }
    // Metrics are for strangers; who listens is not.
    let address: SocketAddr = metrics_address(&daemon);
    assert_eq!(http::get(address, "/v1/ports").status, 404);
}
