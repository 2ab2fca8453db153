//! Held sockets: opened before the first life, passed to each, and there for clients in between.
#![expect(clippy::disallowed_methods, reason = "tests wait, and run programs")]

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream, UdpSocket};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Command;

use defib_tests::{Callers, Daemon, descriptors, free_port, patience, patiently, pid, signal};
use serde_json::json;

/// Serves on descriptor 3 and tells, in a file, what it was given; each client is told the pid, each datagram is noted.
const SERVER: &str = r#"
import os, socket, sys, stat
names = os.environ["LISTEN_FDNAMES"].split(":")
count = int(os.environ["LISTEN_FDS"])
fds = sorted(int(fd) for fd in os.listdir("/proc/self/fd"))
with open(sys.argv[1] + "/given", "a") as out:
    out.write("%s %s %s %s\n" % (os.environ["LISTEN_PID"] == str(os.getpid()), count, ":".join(names), fds[:-1]))
first = socket.socket(fileno=3)
if first.type == socket.SOCK_STREAM:
    while True:
        client, _ = first.accept()
        client.sendall(b"%d\n" % os.getpid())
        client.close()
else:
    while True:
        text = first.recv(100)
        with open(sys.argv[1] + "/heard", "ab") as out:
            out.write(text + b"\n")
"#;

/// A service `it` with these keys, that runs the server.
fn serve(keys: &str) -> Daemon {
    let config = format!(
        "[service.it]\ncommand = [\"python3\", \"-Ic\", '''{SERVER}''', \"{{dir}}\"]\nautostart = false\n\
         env = {{ PATH = \"{}\" }}\n{keys}\n",
        std::env::var("PATH").unwrap_or_default()
    );
    let daemon = Daemon::start(&config);
    daemon.ask(&["start", "it"]);
    daemon
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

/// What a server at this port says: the pid that serves.
fn call(port: u16) -> std::io::Result<String> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    stream.set_read_timeout(Some(patience()))?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

fn refused(port: u16) -> bool {
    call(port).is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
}

const OFTEN: &str = "restart = { immediate = 256, max_restarts = \"none\" }";

#[test]
fn nobody_is_refused_while_the_service_is_killed_thirty_times() {
    let port = free_port();
    let daemon =
        serve(&format!("sockets = [\"tcp:127.0.0.1:{port}\"]\nready = {{ port = {port} }}\n{OFTEN}"));
    let callers = Callers::at(port, 4, |callers| {
        let mut before = 0;
        for life in 1..=30 {
            let now = daemon.wait("it", "alive", |it| it["incarnation"] == life && it["ready"] == true);
            if life == 15 {
                signal(daemon.daemon(), libc::SIGKILL);
            }
            if life == 10 {
                before = descriptors(daemon.keeper());
            }
            callers.wait_served();
            signal(pid(&now), libc::SIGKILL);
        }
        daemon.wait("it", "alive", |it| it["incarnation"] == 31 && it["ready"] == true);
        let after = descriptors(daemon.keeper());
        assert!(after < before + 10, "{before} descriptors of the keeper have become {after}");
    });
    assert_eq!(callers.refused(), 0, "of {}", callers.served());
    assert!(callers.served() > 30);
    patiently("the last one to serve", || call(port).ok());
    let given = read(&daemon.path("given"));
    assert!(given.lines().all(|line| line == "True 1 it [0, 1, 2, 3]"), "{given}");
    assert_eq!(
        daemon.status("it")["sockets"],
        json!([{"listen": format!("tcp:127.0.0.1:{port}"), "name": "it", "held": true}])
    );
    let shown = daemon.ask(&["status", "it"]);
    assert!(shown.contains(&format!("tcp:127.0.0.1:{port} (it) is held")), "{shown}");
}

#[test]
fn unix_sockets_have_their_owner_and_mode_and_are_removed_when_closed() {
    let daemon = serve(
        "sockets = [{ listen = \"unix:{dir}/s\", name = \"web\", mode = \"0604\", owner = \"nobody\", group = 12 }, \
         \"unix-dgram:{dir}/d\"]\nwhen_down = \"refuse\"",
    );
    let (stream, datagrams) = (daemon.path("s"), daemon.path("d"));
    let meta = fs::metadata(&stream).expect("a socket");
    assert_eq!((meta.mode() & 0o777, meta.uid(), meta.gid()), (0o604, 65534, 12));
    assert_eq!(fs::metadata(&datagrams).expect("a socket").mode() & 0o777, 0o660);
    let mut text = String::new();
    UnixStream::connect(&stream).expect("a server").read_to_string(&mut text).expect("its pid");
    assert_eq!(text.trim(), pid(&daemon.status("it")).to_string());
    assert_eq!(read(&daemon.path("given")), "True 2 web:it [0, 1, 2, 3, 4]\n");
    daemon.ask(&["stop", "it"]);
    patiently("the paths to go", || (!stream.exists() && !datagrams.exists()).then_some(()));
    assert_eq!(daemon.status("it")["sockets"][0]["held"], false);
    daemon.ask(&["start", "it"]);
    assert!(fs::metadata(&stream).expect("a socket").file_type().is_socket());
    daemon.ask(&["daemon", "stop"]);
    patiently("the path to go", || (!stream.exists()).then_some(()));
}

#[test]
fn datagrams_wait_for_the_next_life() {
    let port = free_port();
    let keys = "hold_for = \"2h\"\nrestart = { delays = [\"1h\"] }";
    let daemon = serve(&format!("sockets = [\"udp:127.0.0.1:{port}\"]\n{keys}"));
    let client = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).expect("a socket");
    patiently("the first life", || (!read(&daemon.path("given")).is_empty()).then_some(()));
    signal(pid(&daemon.status("it")), libc::SIGKILL);
    daemon.wait_state("it", "retrying");
    for number in 0..50 {
        client.send_to(format!("{number}").as_bytes(), (Ipv4Addr::LOCALHOST, port)).expect("sent");
    }
    daemon.ask(&["start", "it"]);
    let expected: String = (0..50).map(|number| format!("{number}\n")).collect();
    patiently("all of them", || (read(&daemon.path("heard")) == expected).then_some(()));
}

#[test]
fn who_connects_waits_or_is_refused_as_configured() {
    let port = free_port();
    let keys = |more: &str| {
        format!("sockets = [\"tcp:127.0.0.1:{port}\"]\nrestart = {{ delays = [\"1h\"] }}\n{more}")
    };
    // A longer wait than `hold_for`, and `stop`.
    let daemon = serve(&keys(""));
    assert!(call(port).is_ok());
    signal(pid(&daemon.status("it")), libc::SIGKILL);
    daemon.wait_state("it", "retrying");
    assert!(refused(port));
    daemon.ask(&["start", "it"]);
    assert!(call(port).is_ok());
    daemon.ask(&["stop", "it"]);
    assert!(refused(port));
    drop(daemon);

    // A wait that is no longer.
    let daemon = serve(&keys("hold_for = \"2h\""));
    signal(pid(&daemon.status("it")), libc::SIGKILL);
    daemon.wait_state("it", "retrying");
    let waiting = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("held");
    assert_eq!(daemon.status("it")["sockets"][0]["held"], true);
    daemon.ask(&["start", "it"]);
    let mut text = String::new();
    (&waiting).read_to_string(&mut text).expect("served");
    assert_eq!(text.trim(), pid(&daemon.status("it")).to_string());
    daemon.ask(&["disable", "it"]);
    assert!(refused(port));
    drop(daemon);

    // Whatever happens, but for `disable`.
    let daemon = serve(&keys("when_down = \"hold\""));
    daemon.ask(&["stop", "it"]);
    let waiting = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("held");
    waiting.shutdown(Shutdown::Write).expect("a connection");
    daemon.ask(&["start", "it"]);
    let mut text = String::new();
    (&waiting).read_to_string(&mut text).expect("served");
    assert!(!text.is_empty());
    daemon.ask(&["disable", "it"]);
    assert!(refused(port));
}

#[test]
fn an_address_that_is_taken_is_a_failed_start_that_names_the_holder() {
    let other = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let port = other.local_addr().expect("an address").port();
    let daemon = Daemon::start(&format!(
        "[service.it]\ncommand = \"sleep 1000\"\nsockets = [\"tcp:127.0.0.1:{port}\"]\nrestart = {{ delays = [\"100ms\"] }}"
    ));
    let it = daemon.wait("it", "to fail", |it| it["why"].as_str().is_some_and(|why| !why.is_empty()));
    let why = it["why"].as_str().expect("text");
    let holder = format!("pid {} (", std::process::id());
    assert!(why.contains(&format!("bind tcp:127.0.0.1:{port}")) && why.contains(&holder), "{why}");
    let failure = &daemon.events_of("it", "exec")[0];
    assert_eq!((&failure["ok"], &failure["reason"]), (&json!(false), &json!("socket")), "{failure}");
    drop(other);
    daemon.wait_state("it", "running");
}

#[test]
fn a_reload_closes_what_is_no_longer_named_and_nothing_else() {
    let (kept, old, new) = (free_port(), free_port(), free_port());
    let daemon = serve(&format!("sockets = [\"tcp:127.0.0.1:{kept}\", \"tcp:127.0.0.1:{old}\"]"));
    let inode = |port: u16| {
        let table = read(Path::new("/proc/self/net/tcp"));
        let local = format!("0100007F:{port:04X}");
        let line = table.lines().find(|line| line.contains(&format!("{local} 00000000:0000 0A")))?;
        line.split_whitespace().nth(9).map(str::to_owned)
    };
    let before = inode(kept).expect("it listens");
    let file = daemon.path("defib.toml");
    let changed = read(&file).replace(&format!(":{old}\""), &format!(":{new}\""));
    fs::write(&file, changed).expect("a file");
    let said = daemon.ask(&["reload"]);
    assert!(said.contains("sockets") && said.contains("restarts it"), "{said}");
    daemon.wait("it", "in its second life", |it| it["incarnation"] == 2 && it["state"] == "running");
    assert_eq!(inode(kept), Some(before), "the same socket");
    assert!(refused(old));
    TcpStream::connect((Ipv4Addr::LOCALHOST, new)).expect("held");
    assert!(call(kept).is_ok());
}

/// An unmodified nginx takes its sockets over by a variable of its own.
#[test]
fn nginx_serves_on_a_socket_that_is_held() {
    let Some(nginx) = ["/usr/sbin/nginx", "/usr/bin/nginx"].into_iter().find(|path| Path::new(path).exists())
    else {
        return eprintln!("skipped: nginx is not installed (apt-get install nginx-light)");
    };
    let port = free_port();
    let daemon = Daemon::start(&format!(
        "[service.web]\ncommand = [\"{nginx}\", \"-c\", \"{{dir}}/nginx.conf\", \"-e\", \"stderr\"]\n\
         env = {{ NGINX = \"3;\" }}\nsockets = [\"tcp:127.0.0.1:{port}\"]\nready = {{ port = {port} }}\n\
         autostart = false\n{OFTEN}"
    ));
    let dir = daemon.path("").display().to_string();
    let conf = format!(
        "daemon off;\nmaster_process on;\nworker_processes 1;\npid {dir}/nginx.pid;\nevents {{}}\nhttp {{\n\
         access_log off;\nclient_body_temp_path {dir}/a;\nproxy_temp_path {dir}/b;\nfastcgi_temp_path {dir}/c;\n\
         uwsgi_temp_path {dir}/d;\nscgi_temp_path {dir}/e;\n\
         server {{ listen 127.0.0.1:{port}; return 200 \"here\"; }}\n}}\n"
    );
    fs::write(daemon.path("nginx.conf"), conf).expect("a file");
    daemon.ask(&["start", "web"]);
    let get = || {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("never refused");
        stream.set_read_timeout(Some(patience())).expect("a timeout");
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n").ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        text.ends_with("here").then_some(())
    };
    for life in 1..6 {
        let now = daemon.wait("web", "alive", |it| it["incarnation"] == life && it["ready"] == true);
        patiently("an answer", get);
        signal(pid(&now), libc::SIGKILL);
        patiently("an answer", get);
    }
}

/// dbus-daemon finds its socket by sd_listen_fds(3).
#[test]
fn dbus_finds_its_socket() {
    let tools = ["/usr/bin/dbus-daemon", "/usr/bin/dbus-send"];
    if !tools.iter().all(|path| Path::new(path).exists()) {
        return eprintln!("skipped: dbus is not installed (apt-get install dbus-daemon dbus-bin)");
    }
    let daemon = Daemon::start(
        "[service.bus]\ncommand = [\"dbus-daemon\", \"--session\", \"--address=systemd:\", \"--nofork\", \"--nopidfile\"]\n\
         sockets = [{ listen = \"unix:{dir}/bus\", mode = \"0666\" }]\n",
    );
    let first = daemon.wait_state("bus", "running");
    let ask = || {
        let mut send = Command::new("dbus-send");
        send.arg(format!("--bus=unix:path={}", daemon.path("bus").display()));
        send.args(["--print-reply", "--dest=org.freedesktop.DBus", "/", "org.freedesktop.DBus.GetId"]);
        let said = defib_tests::said(&mut send);
        assert_eq!(said.code, 0, "{said:?}");
        said.out
    };
    let before = ask();
    signal(pid(&first), libc::SIGKILL);
    assert_ne!(ask(), before, "another bus at the same socket");
}

/// Who restarts it then is the keeper alone, by its standing order.
#[test]
fn what_is_held_is_passed_on_while_the_daemon_stands_still() {
    let port = free_port();
    let daemon = serve(&format!("sockets = [\"tcp:127.0.0.1:{port}\"]\n{OFTEN}"));
    let mut server = patiently("the first server", || call(port).ok());
    let still = daemon.daemon();
    signal(still, libc::SIGSTOP);
    for _ in 0..10 {
        signal(server.trim().parse().expect("a pid"), libc::SIGKILL);
        // It waits in the queue for the next one; one that was accepted by the last one is told nothing.
        server = patiently("the next server", || {
            let next = call(port);
            assert!(!next.as_ref().is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused));
            next.ok().filter(|next| !next.is_empty() && *next != server)
        });
    }
    signal(still, libc::SIGCONT);
    daemon.wait("it", "alive", |it| it["incarnation"] == 11 && it["state"] == "running");
    let given = read(&daemon.path("given"));
    assert_eq!(given, "True 1 it [0, 1, 2, 3]\n".repeat(11));
}
