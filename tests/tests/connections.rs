//! Connections as the kernel's counters tell them: each counted once, however it ends and whatever becomes of the daemon.
//! Needs eBPF, as the other tests of it do. And as the ends of sockets tell them, where there is no eBPF.
#![expect(clippy::disallowed_methods, reason = "tests ask ss, and enter namespaces")]

use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use defib_tests::{Daemon, Options, beside, http, metrics_address, patiently, signal};
use nix::sys::socket::{self, AddressFamily, SockFlag, SockType, SockaddrIn, setsockopt, sockopt};
use serde_json::{Value, json};

/// How connections end. The first byte of each tells the server.
#[derive(Clone, Copy)]
enum End {
    ClientCloses = 0,
    ServerCloses = 1,
    /// In one direction first.
    HalfFirst = 2,
    ClientResets = 3,
    ServerResets = 4,
}

const ENDS: [End; 5] =
    [End::ClientCloses, End::ServerCloses, End::HalfFirst, End::ClientResets, End::ServerResets];

fn resets(stream: &TcpStream) {
    setsockopt(stream, sockopt::Linger, &libc::linger { l_onoff: 1, l_linger: 0 }).expect("a socket");
}

/// A server on a free port of these addresses, until the test ends.
fn serve(address: impl Into<IpAddr>) -> u16 {
    let listener = TcpListener::bind((address.into(), 0)).expect("a port");
    let port = listener.local_addr().expect("an address").port();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { continue };
            thread::spawn(move || {
                let mut end = [0];
                if stream.read_exact(&mut end).is_err() {
                    return;
                }
                match end[0] {
                    end if end == End::ServerCloses as u8 => {}
                    end if end == End::ServerResets as u8 => resets(&stream),
                    _ => drop(stream.read_to_end(&mut Vec::new())),
                }
            });
        }
    });
    port
}

fn connect(host: impl Into<IpAddr>, port: u16) -> TcpStream {
    TcpStream::connect((host.into(), port)).expect("a server")
}

fn end(mut stream: TcpStream, end: End) {
    stream.write_all(&[end as u8]).expect("a connection");
    match end {
        End::ClientCloses => {}
        End::ClientResets => resets(&stream),
        End::HalfFirst => {
            stream.shutdown(Shutdown::Write).expect("a connection");
            stream.read_to_end(&mut Vec::new()).ok();
        }
        End::ServerCloses | End::ServerResets => {
            stream.read_to_end(&mut Vec::new()).ok();
        }
    }
}

/// Connections without a pause, until they are to stop.
struct Load {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<u64>>,
}

impl Load {
    fn start(port: u16) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let threads = (0..2).map(|thread| {
            let stop = Arc::clone(&stop);
            thread::spawn(move || {
                let mut count = 0;
                while !stop.load(Ordering::Relaxed) {
                    end(connect(Ipv4Addr::LOCALHOST, port), ENDS[(count + thread) % ENDS.len()]);
                    count += 1;
                }
                count as u64
            })
        });
        let threads = threads.collect();
        Self { stop, threads }
    }

    /// How many there were.
    fn stop(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.threads.into_iter().map(|thread| thread.join().expect("it has not failed")).sum()
    }
}

fn watch(port: u16) -> Daemon {
    watch_by("ebpf", port)
}

fn watch_by(source: &str, port: u16) -> Daemon {
    let options = Options::with_source(source);
    let config = format!("[listen]\nmetrics = \"127.0.0.1:0\"\n[ports]\nwatch = [{port}]\n");
    let daemon = Daemon::start_with(&config, &options);
    wait(&daemon, port, "the port to be counted", |row| row["opened"].is_u64());
    daemon
}

fn rows(daemon: &Daemon, port: u16) -> Vec<Value> {
    let table: Value = serde_json::from_str(&daemon.ask(&["ports", "--json"])).expect("JSON");
    let rows = table["ports"].as_array().expect("rows").iter();
    rows.filter(|row| row["port"] == port).cloned().collect()
}

#[track_caller]
fn wait(daemon: &Daemon, port: u16, what: &str, mut wanted: impl FnMut(&Value) -> bool) -> Value {
    patiently(what, || rows(daemon, port).into_iter().next().filter(&mut wanted))
}

/// What a second count says, and how the program ends.
fn verify(daemon: &Daemon, port: u16) -> (Value, i32) {
    let said = daemon.cli(&["ports", "--json", "--verify", &port.to_string()]);
    let table: Value = serde_json::from_str(&said.out).expect("JSON");
    (table["verify"].clone(), said.code)
}

fn equal() -> (Value, i32) {
    (json!({"equal": true, "checked": 1, "differences": [], "failures": []}), 0)
}

/// How many connections `ss` shows.
fn ss(port: u16) -> u64 {
    let filter = format!("( sport = :{port} )");
    let said = Command::new("ss").args(["-Htn", "state", "established", &filter]).output().expect("ss");
    said.stdout.iter().filter(|byte| **byte == b'\n').count() as u64
}

#[test]
fn every_connection_is_counted_however_it_ends() {
    every_end_is_counted_by("ebpf");
}

#[test]
fn without_ebpf_every_end_is_told_and_counted() {
    every_end_is_counted_by("pidfd");
    every_end_is_counted_by("proc-connector");
}

fn every_end_is_counted_by(source: &str) {
    let probes = source == "ebpf";
    let hosts: [(IpAddr, [IpAddr; 2]); 3] = [
        (Ipv4Addr::LOCALHOST.into(), [Ipv4Addr::LOCALHOST.into(); 2]),
        (Ipv6Addr::LOCALHOST.into(), [Ipv6Addr::LOCALHOST.into(); 2]),
        // Both families at one socket.
        (Ipv6Addr::UNSPECIFIED.into(), [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()]),
    ];
    for (address, clients) in hosts {
        let port = serve(address);
        let early: Vec<_> = (0..5).map(|_| connect(clients[0], port)).collect();
        let daemon = watch_by(source, port);
        let kept: Vec<_> = (0..4).map(|n| connect(clients[n % 2], port)).collect();
        for n in 0..1000 {
            end(connect(clients[n % 2], port), ENDS[n / 2 % ENDS.len()]);
        }
        let row = wait(&daemon, port, "all to be closed", |row| row["closed"] == 1000);
        assert_eq!((&row["opened"], &row["active"]), (&json!(1004), &json!(9)), "{address}: {row:#}");
        if probes {
            assert_eq!((&row["lengths"]["count"], &row["lengths"]["unknown"]), (&json!(1000), &json!(0)));
            assert_eq!(row["resets"], 400, "{row:#}");
            assert_eq!(verify(&daemon, port), equal());
        } else {
            assert_eq!((&row["lengths"], &row["resets"]), (&Value::Null, &Value::Null), "{row:#}");
        }
        assert_eq!(ss(port), 9);
        drop((early, kept));
        let row = wait(&daemon, port, "the rest to be closed", |row| row["active"] == 0);
        let known = if probes { json!(5) } else { Value::Null };
        assert_eq!((&row["closed"], &row["lengths"]["unknown"]), (&json!(1009), &known), "{row:#}");
        assert_eq!(ss(port), 0);
    }
}

#[test]
fn without_ebpf_what_is_no_connection_is_not_counted() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let port = listener.local_addr().expect("an address").port();
    let daemon = watch_by("pidfd", port);
    let accept = || listener.accept().expect("a connection").0;
    // One that is half closed by its client, one by the server, one that is reset while the server holds on to it, one
    // that is reset before it is accepted.
    let clients = [(); 3].map(|()| (connect(Ipv4Addr::LOCALHOST, port), accept()));
    clients[0].0.shutdown(Shutdown::Write).expect("a connection");
    clients[1].1.shutdown(Shutdown::Write).expect("a connection");
    let [first, second, (client, held)] = clients;
    resets(&client);
    drop(client);
    let early = connect(Ipv4Addr::LOCALHOST, port);
    resets(&early);
    drop(early);
    let row = wait(&daemon, port, "all to have ended", |row| row["active"] == 0);
    // Of the two that were reset nothing is seen, and nothing told yet: totals that were not asked for do not know them.
    assert!(row["opened"].as_u64() >= Some(2) && row["opened"] == row["closed"], "{row:#}");
    drop((held, accept(), first, second));
    let row = wait(&daemon, port, "the last to be told", |row| row["closed"] == 4);
    assert_eq!((&row["opened"], &row["active"]), (&json!(4), &json!(0)), "{row:#}");

    // A socket of the port at another address asks in vain, one does nothing, one is a client.
    let bound = || {
        let made = socket::socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None);
        let made = made.expect("a socket");
        setsockopt(&made, sockopt::ReuseAddr, &true).expect("a socket");
        socket::bind(made.as_raw_fd(), &SockaddrIn::new(127, 0, 0, 2, port)).expect("the port");
        made
    };
    let connects =
        |socket: &OwnedFd, to| socket::connect(socket.as_raw_fd(), &SockaddrIn::new(127, 0, 0, 1, to));
    let vain = bound();
    connects(&vain, 1).expect_err("nobody listens there");
    drop(vain);
    drop(bound());
    let server = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let client = bound();
    connects(&client, server.local_addr().expect("an address").port()).expect("a server");
    let row = wait(&daemon, port, "the client", |row| row["active"] == 1);
    assert_eq!((&row["opened"], &row["closed"]), (&json!(5), &json!(4)), "{row:#}");
    drop(client);
    let row = wait(&daemon, port, "its end", |row| row["closed"] == 5);
    assert_eq!(row["opened"], 5, "{row:#}");
}

/// Whether the kernel had no room for something that it was to tell this process of sockets.
fn dropped(pid: u32) -> bool {
    let table = fs::read_to_string("/proc/net/netlink").expect("netlink");
    table.lines().any(|line| {
        // sk, protocol (4: sock_diag), number (of the first socket the pid), groups, memory …, drops, inode.
        let fields: Vec<&str> = line.split_ascii_whitespace().collect();
        fields.get(1..4) == Some(&["4", &pid.to_string(), "00000005"]) && fields.get(8) != Some(&"0")
    })
}

#[test]
fn without_ebpf_ends_that_find_no_room_are_lost_and_totals_go_on() {
    let port = serve(Ipv4Addr::LOCALHOST);
    let daemon = watch_by("pidfd", port);
    let table = || -> Value { serde_json::from_str(&daemon.ask(&["ports", "--json"])).expect("JSON") };
    assert_eq!((&table()["lost"], &table()["method"]), (&json!(0), &json!("sock_diag")));
    let kept = connect(Ipv4Addr::LOCALHOST, port);
    let talk = |count: u64| {
        for _ in 0..count {
            end(connect(Ipv4Addr::LOCALHOST, port), End::ServerResets);
        }
    };
    talk(10);
    let row = wait(&daemon, port, "ten to be told", |row| row["closed"] == 10);
    assert_eq!((&row["opened"], &row["active"]), (&json!(11), &json!(1)));
    // More than the kernel keeps for one who does not read. What it takes for each differs.
    signal(daemon.daemon(), libc::SIGSTOP);
    let mut talked = 0;
    while !dropped(daemon.daemon()) {
        talk(1000);
        talked += 1000;
        assert!(talked < 200_000, "the kernel has room for all of them");
    }
    signal(daemon.daemon(), libc::SIGCONT);
    let lost =
        patiently("the loss to be told", || Some(table()).filter(|table| table["lost"].as_u64() > Some(0)));
    assert!(lost["limits"].to_string().contains("at least"), "{lost:#}");
    assert!(daemon.ask(&["ports"]).contains("at least"));
    let page = http::get(metrics_address(&daemon), "/metrics").body;
    let told = page.lines().find_map(|line| {
        line.strip_prefix("defib_events_lost_total{source=\"sock_diag\",reason=\"socket_overrun\"} ")
    });
    assert!(told.is_some_and(|count| count.parse::<f64>().is_ok_and(|count| count > 0.0)), "{told:?}");
    // The kernel tells by a work queue, which may be behind.
    let mut last = Value::Null;
    let before = wait(&daemon, port, "quiet", |row| {
        thread::sleep(Duration::from_millis(300));
        row["active"] == 1 && std::mem::replace(&mut last, row.clone()) == *row
    });
    let of = |row: &Value, name: &str| row[name].as_u64().expect("a number");
    let (opened, closed) = (of(&before, "opened"), of(&before, "closed"));
    assert!((10_000..talked + 11).contains(&opened) && closed + 1 == opened, "{before:#}");
    talk(10);
    let row = wait(&daemon, port, "ten more", |row| of(row, "closed") == closed + 10);
    assert_eq!((of(&row, "opened"), of(&row, "active")), (opened + 10, 1), "{row:#}");
    drop(kept);
}

#[test]
fn second_counts_under_load_are_equal() {
    let port = serve(Ipv4Addr::LOCALHOST);
    let daemon = watch(port);
    let load = Load::start(port);
    let mut last = 0;
    for _ in 0..20 {
        assert_eq!(verify(&daemon, port), equal());
        let opened = rows(&daemon, port)[0]["opened"].as_u64().expect("a number");
        assert!(opened >= last, "{opened} after {last}");
        last = opened;
    }
    let count = load.stop();
    let row = wait(&daemon, port, "all to be closed", |row| row["active"] == 0);
    assert_eq!((&row["opened"], &row["closed"]), (&json!(count), &json!(count)));
}

#[test]
fn totals_go_on_with_the_next_daemon() {
    let port = serve(Ipv4Addr::LOCALHOST);
    let daemon = watch(port);
    let kept = connect(Ipv4Addr::LOCALHOST, port);
    let load = Load::start(port);
    let mut last = 0;
    for _ in 0..5 {
        let pid = daemon.daemon();
        signal(pid, libc::SIGKILL);
        patiently("the next daemon", || {
            let next = daemon.cli(&["ports", "--json", &port.to_string()]);
            (next.code == 0 && daemon.daemon() != pid).then_some(())
        });
        let row = wait(&daemon, port, "its counts", |row| row["opened"].is_u64());
        let opened = row["opened"].as_u64().expect("a number");
        assert!(opened > last, "{opened} after {last}: {}", daemon.log());
        last = opened;
    }
    let count = load.stop();
    let row = wait(&daemon, port, "all to be closed", |row| row["active"] == 1);
    assert_eq!((&row["opened"], &row["closed"]), (&json!(count + 1), &json!(count)), "{row:#}");
    assert_eq!((verify(&daemon, port), ss(port)), (equal(), 1));
    drop(kept);
}

#[test]
fn a_service_is_counted_in_its_own_namespace() {
    let here = serve(Ipv4Addr::LOCALHOST);
    let config = format!(
        "[ports]\nwatch = [{here}]\n[service.it]\nports = [{here}]\ncommand = [\"unshare\", \"-n\", \"sh\", \"-c\", \
         \"ip link set lo up && exec {} {here}\"]\n",
        beside("server").display()
    );
    let daemon = Daemon::start(&config);
    let pid = daemon.wait("it", "it to run", |status| status["pid"].is_u64())["pid"].clone();
    let netns = patiently("its namespace", || {
        let rows = rows(&daemon, here);
        let ready =
            rows.len() == 2 && rows[1]["listening"] == true && rows.iter().all(|row| row["opened"].is_u64());
        ready.then(|| rows[1]["netns"].clone())
    });
    let link = fs::read_link(format!("/proc/{pid}/ns/net")).expect("it runs");
    assert_eq!(link.to_str(), Some(format!("net:[{netns}]").as_str()));
    // Its own clients. The server accepts nothing, so all of them stay in its queue until they reset.
    let script = format!(
        "for i in 1 2 3; do exec 3<>/dev/tcp/127.0.0.1/{here}; exec 3>&-; done; \
                          exec 4<>/dev/tcp/127.0.0.1/{here}; echo; read line"
    );
    let mut clients = Command::new("nsenter")
        .args(["-t", &pid.to_string(), "-n", "bash", "-c", &script])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("nsenter");
    clients.stdout.as_mut().expect("it is piped").read_exact(&mut [0]).expect("they are connected");
    end(connect(Ipv4Addr::LOCALHOST, here), End::ServerCloses);
    let rows = patiently("both to be counted", || {
        let rows = rows(&daemon, here);
        (rows[0]["closed"] == 1 && rows[1]["opened"] == 4 && rows[1]["closed"] == 3).then_some(rows)
    });
    assert_eq!((&rows[0]["active"], &rows[1]["active"]), (&json!(0), &json!(1)), "{rows:#?}");
    let (found, code) = verify(&daemon, here);
    assert_eq!((&found["equal"], &found["checked"], code), (&json!(true), &json!(2), 0), "{found:#}");
    drop(clients.stdin.take());
    clients.wait().expect("it ends");
    patiently("the last to be closed", || (self::rows(&daemon, here)[1]["active"] == 0).then_some(()));
}
