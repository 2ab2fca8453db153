//! Held ports: a program that binds by itself, and clients that are not refused while it is restarted.

use std::fs;
use std::io::{ErrorKind, Read};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::time::Duration;

use defib_tests::{Callers, Daemon, Options, descriptors, free_port, lives, patiently, pid, signal};
use serde_json::Value;

/// Binds a port by itself, and tells each client its pid. SIGUSR1 has it close what it listens with, and go on.
const SERVER: &str = r#"
import os, signal, socket, sys
server = socket.socket()
server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
server.bind(("127.0.0.1", int(sys.argv[1])))
server.listen(128)
class Drain(Exception): pass
def drain(*_): raise Drain
signal.signal(signal.SIGUSR1, drain)
signal.signal(signal.SIGHUP, lambda *_: None)
try:
    while True:
        client, _ = server.accept()
        client.sendall(b"%d\n" % os.getpid())
        client.close()
except Drain:
    server.close()
while True:
    signal.pause()
"#;

const OFTEN: &str = "restart = { immediate = 256, max_restarts = \"none\" }";

fn config(port: u16, keys: &str) -> String {
    format!(
        "[service.it]\ncommand = [\"python3\", \"-Ic\", '''{SERVER}''', \"{port}\"]\nports = [{port}]\nhold_ports = true\n\
         ready = {{ port = {port} }}\nenv = {{ PATH = \"/usr/bin:{}\" }}\n{keys}\n",
        std::env::var("PATH").unwrap_or_default()
    )
}

/// A service `it` with these keys, that runs the server.
fn serve(port: u16, keys: &str) -> Daemon {
    let daemon = Daemon::start(&config(port, keys));
    daemon.wait("it", "to be ready", |it| it["ready"] == true);
    daemon
}

/// Kills the main process, and waits until it is gone: it accepts nobody any more.
fn kill(status: &Value) {
    let pid = pid(status);
    signal(pid, libc::SIGKILL);
    patiently("its end", || (!lives(pid)).then_some(()));
}

/// How often a port has begun to be held.
fn held(daemon: &Daemon) -> usize {
    daemon.log().matches("the port is held").count()
}

fn wait_held(daemon: &Daemon, times: usize) {
    patiently("the port to be held", || (held(daemon) >= times).then_some(()));
}

/// What a server at this port says: the pid that serves.
fn call(port: u16) -> std::io::Result<String> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port))?;
    stream.set_read_timeout(Some(Duration::from_secs(20)))?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text)
}

fn refused(port: u16) -> bool {
    TcpStream::connect((Ipv4Addr::LOCALHOST, port))
        .is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
}

/// Kills the service so often, under four clients; in the middle the daemon too. Returns how many clients were refused.
fn kill_often(daemon: &Daemon, port: u16, times: u64) -> u32 {
    let callers = Callers::at(port, 4, |callers| {
        let (mut before, first) = (0, daemon.status("it")["incarnation"].as_u64().expect("a number"));
        for life in first..first + times {
            let now = daemon.wait("it", "alive", |it| it["incarnation"] == life && it["ready"] == true);
            if life == first + times / 2 {
                before = descriptors(daemon.keeper());
                let times = held(daemon) + 1;
                signal(daemon.daemon(), libc::SIGKILL);
                wait_held(daemon, times);
            }
            callers.wait_served();
            let times = held(daemon) + 1;
            signal(pid(&now), libc::SIGKILL);
            wait_held(daemon, times);
        }
        let after = descriptors(daemon.keeper());
        assert!(before == 0 || after < before + 10, "{before} descriptors of the keeper have become {after}");
    });
    assert!(callers.served() > u32::try_from(times).expect("a small number"));
    callers.refused()
}

#[test]
fn nobody_is_refused_while_the_service_is_killed_thirty_times() {
    let port = free_port();
    let daemon = serve(port, OFTEN);
    wait_held(&daemon, 1);
    assert_eq!(kill_often(&daemon, port, 30), 0);
    let taken = daemon.log().matches("is taken by").count();
    assert_eq!(taken, 0, "what is held is no stranger's");
}

#[test]
fn another_source_and_the_next_binary_hold_it_too() {
    let port = free_port();
    let options = Options::with_source("pidfd");
    let daemon = Daemon::start_with(&config(port, OFTEN), &options);
    wait_held(&daemon, 1);
    assert_eq!(kill_often(&daemon, port, 4), 0);
    let times = held(&daemon) + 1;
    daemon.ask(&["daemon", "restart"]);
    wait_held(&daemon, times);
    assert_eq!(kill_often(&daemon, port, 4), 0);
}

#[test]
fn a_keeper_that_takes_a_life_over_holds_its_port() {
    let port = free_port();
    let mut daemon = serve(port, OFTEN);
    wait_held(&daemon, 1);
    let life = daemon.status("it")["pid"].clone();
    daemon.kill_keeper();
    daemon.start_again();
    wait_held(&daemon, 2);
    assert_eq!(daemon.status("it")["pid"], life);
    let first = daemon.status("it")["incarnation"].as_u64().expect("a number");
    kill(&daemon.status("it"));
    let text = call(port).expect("it waits, and is served");
    let now = daemon.wait("it", "alive", |it| it["incarnation"] == first + 1);
    assert_eq!(text.trim(), pid(&now).to_string());
}

#[test]
fn clients_wait_for_a_delayed_restart_and_are_refused_at_stop_and_at_failure() {
    let port = free_port();
    let daemon = serve(
        port,
        "restart = { immediate = 0, delays = [\"300ms\", \"300ms\", \"2h\"], max_restarts = \"none\", never_codes = [7] }",
    );
    wait_held(&daemon, 1);
    kill(&daemon.status("it"));
    let text = call(port).expect("it waits for the next life");
    let now = daemon.wait("it", "alive", |it| it["incarnation"] == 2 && it["ready"] == true);
    assert_eq!(text.trim(), pid(&now).to_string());

    wait_held(&daemon, 2);
    daemon.ask(&["stop", "it"]);
    assert!(refused(port));
    daemon.ask(&["start", "it"]);
    wait_held(&daemon, 3);
    for times in [4, 5] {
        kill(&daemon.status("it"));
        wait_held(&daemon, times);
    }
    kill(&daemon.wait("it", "to be ready", |it| it["ready"] == true));
    daemon.wait_state("it", "retrying");
    patiently("the port to be closed", || refused(port).then_some(()));
}

#[test]
fn what_closes_its_port_is_not_served_by_the_duplicate() {
    let port = free_port();
    let daemon = serve(port, OFTEN);
    wait_held(&daemon, 1);
    // A signal by which it drains, from defib: nobody waits in vain for a moment.
    daemon.ask(&["kill", "--signal", "USR1", "it"]);
    patiently("the port to be closed", || refused(port).then_some(()));
    daemon.ask(&["restart", "it"]);
    wait_held(&daemon, 2);
    // From somebody else: it is seen when somebody connects.
    signal(pid(&daemon.status("it")), libc::SIGUSR1);
    patiently("the port to be closed", || refused(port).then_some(()));
    assert_eq!(daemon.status("it")["state"], "running");
    // And the next life has it again.
    kill(&daemon.status("it"));
    wait_held(&daemon, 3);
    call(port).expect("it is served");
}

#[test]
fn a_port_that_is_taken_is_refused_as_ever() {
    let stranger = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let port = stranger.local_addr().expect("an address").port();
    let daemon = Daemon::start(&config(port, "restart = { policy = \"never\" }"));
    daemon.wait_state("it", "failed");
    drop(stranger);
    daemon.ask(&["start", "it"]);
    wait_held(&daemon, 1);
    // Nobody else can take it, not even with the option that shares it, unless it is of the same user.
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).expect_err("it is taken");
}

#[test]
fn another_user_gets_the_port_after_a_reload() {
    let port = free_port();
    let daemon = serve(port, OFTEN);
    wait_held(&daemon, 1);
    let text = config(port, &format!("{OFTEN}\nuser = \"nobody\""));
    fs::write(daemon.path("defib.toml"), text).expect("a file");
    daemon.ask(&["reload"]);
    daemon.wait("it", "to be ready", |it| it["ready"] == true && it["incarnation"] == 2);
    wait_held(&daemon, 2);
    kill(&daemon.status("it"));
    call(port).expect("it waits for the next life");
}

#[test]
fn without_the_right_to_it_the_service_runs_all_the_same() {
    let port = free_port();
    let options = Options {
        before: ["setpriv", "--reuid=54321", "--regid=54321", "--clear-groups"].map(str::to_owned).into(),
        owner: Some(54321),
        ..Options::default()
    };
    let daemon = Daemon::start_with(&config(port, OFTEN), &options);
    daemon.wait("it", "to be ready", |it| it["ready"] == true);
    assert!(daemon.log().contains("hold_ports is without effect"), "{}", daemon.log());
    kill(&daemon.status("it"));
    daemon.wait("it", "to be ready", |it| it["ready"] == true && it["incarnation"] == 2);
    call(port).expect("it is served");
}
