//! Ports of services: readiness, what `status` shows of them, who holds one that is taken, and that all of it is as the
//! sockets are, by whichever source.
#![expect(clippy::disallowed_methods, clippy::print_stderr, reason = "tests wait, and say what they skip")]

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use defib_tests::{
    Daemon, Ear, Lease, Options, children, free_port, install, patience, patiently, pid, program, signal,
};
use serde_json::{Value, json};

/// The sources that can be had here.
fn sources() -> &'static [&'static str] {
    static SOURCES: OnceLock<Vec<&'static str>> = OnceLock::new();
    SOURCES.get_or_init(|| {
        let opens = |name: &&str| {
            let mut daemon = Daemon::launch("", &Options::with_source(name));
            let opens = patiently("the source to be opened", || {
                let log = daemon.log();
                (log.contains("defib supervises") || log.contains("ERROR")).then(|| !log.contains("ERROR"))
            });
            if !opens {
                daemon.exit_code();
                eprintln!("skipped: {name} cannot be had here: {}", daemon.log());
            }
            opens
        };
        ["ebpf", "proc-connector", "pidfd"].into_iter().filter(opens).collect()
    })
}

/// A service that runs the server with these arguments.
fn service(name: &str, args: &str, keys: &str) -> String {
    let server = program().with_file_name("server");
    assert!(server.exists(), "{} is not built: run `cargo xtask test`", server.display());
    format!("[service.{name}]\ncommand = \"{} {args}\"\n{keys}\n", server.display())
}

fn connects(address: impl Into<SocketAddr>) -> bool {
    TcpStream::connect_timeout(&address.into(), patience()).is_ok()
}

/// The ports of an event kind, in order.
fn told(daemon: &Daemon, service: &str, kind: &str) -> Vec<u16> {
    let events = daemon.events_of(service, kind);
    events
        .iter()
        .map(|event| event["port"].as_u64().and_then(|port| u16::try_from(port).ok()).expect("a port"))
        .collect()
}

#[test]
fn a_service_is_ready_when_it_listens() {
    for source in sources() {
        let port = free_port();
        let keys = format!("ports = [{port}]\nready = {{ port = {port} }}\nautostart = false");
        let args = format!("--when {{dir}}/go {port}");
        let daemon = Daemon::start_with(&service("it", &args, &keys), &Options::with_source(source));
        daemon.ask(&["start", "--no-wait", "it"]);
        let it = daemon.wait_state("it", "running");
        assert_eq!(it["ready"], false, "{source}");
        assert_eq!(it["ports"], json!([{ "port": port, "listening": false, "connections": 0 }]));
        let table = daemon.ask(&["status", "it"]);
        assert!(table.contains(&format!("{port}!")) && table.contains("not ready"), "{table}");

        fs::write(daemon.path("go"), "").expect("a file");
        let it = daemon.wait("it", "to be ready", |it| it["ready"] == true);
        assert_eq!(told(&daemon, "it", "listen"), [port], "{source}");
        let client = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("it listens");
        let ports = &daemon.status("it")["ports"];
        assert_eq!(*ports, json!([{ "port": port, "listening": true, "connections": 1 }]), "{source}");
        let table = daemon.ask(&["status", "it"]);
        assert!(table.contains(&format!(" {port} ")) && !table.contains("not ready"), "{table}");
        drop(client);

        // Whoever waits for a start waits for that.
        daemon.ask(&["stop", "it"]);
        assert_eq!(
            daemon.status("it")["ports"],
            json!([{ "port": port, "listening": false, "connections": 0 }])
        );
        let said = daemon.ask(&["start", "it"]);
        assert!(connects((Ipv4Addr::LOCALHOST, port)), "{source}: {said}");
        let again = daemon.status("it");
        assert_eq!((&again["ready"], pid(&again) != pid(&it)), (&json!(true), true));
        assert_eq!(told(&daemon, "it", "port"), [0; 0], "{source}: its earlier life is nobody else");
    }
}

#[test]
fn however_it_listens_it_is_seen() {
    for source in sources() {
        let ports: Vec<u16> = (0..7).map(|_| free_port()).collect();
        let [one, two, six, shared, child, late, silent] = ports[..] else { unreachable!() };
        let ready = |port: u16| format!("ports = [{port}]\nready = {{ port = {port} }}");
        let config = [
            service("several", &format!("{one} {two}"), &format!("ports = [{one}, {two}]")),
            service("six", &format!("--v6 {six}"), &ready(six)),
            service("shared-a", &format!("--share {shared}"), &ready(shared)),
            service("shared-b", &format!("--share {shared}"), &ready(shared)),
            service("child", &format!("--child {child}"), &ready(child)),
            service("late", &format!("--after 1500 {late}"), &ready(late)),
            service("silent", "", &format!("ports = [{silent}]")),
        ];
        let daemon = Daemon::start_with(&config.concat(), &Options::with_source(source));
        for name in ["several", "six", "shared-a", "shared-b", "child", "late"] {
            let listens = |it: &Value| {
                let ports = it["ports"].as_array().expect("ports");
                it["ready"] == true && ports.iter().all(|port| port["listening"] == true)
            };
            daemon.wait(name, &format!("to listen ({source})"), listens);
        }
        let both = patiently("both ports of a service", || {
            let told = told(&daemon, "several", "listen");
            (told.len() == 2).then_some(told)
        });
        assert!(both.contains(&one) && both.contains(&two));
        assert!(connects((Ipv6Addr::LOCALHOST, six)) && connects((Ipv4Addr::LOCALHOST, child)));

        // One that names a port and does not listen there runs, and is seen as what it is.
        let silent = daemon.wait_state("silent", "running");
        assert_eq!((&silent["ready"], &silent["ports"][0]["listening"]), (&json!(true), &json!(false)));
        assert!(daemon.ask(&["status", "silent"]).contains('!'));
    }
}

#[test]
fn a_port_that_is_taken_is_told_before_the_start_fails() {
    for source in sources() {
        let holder = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let port = holder.local_addr().expect("an address").port();
        let keys =
            format!("ready = {{ port = {port} }}\nautostart = false\nrestart = {{ delays = [\"1h\"] }}");
        let daemon =
            Daemon::start_with(&service("it", &port.to_string(), &keys), &Options::with_source(source));
        let said = daemon.cli(&["start", "it"]);
        assert_eq!(said.code, 1, "{said:?}");
        let name = fs::read_to_string("/proc/self/comm").expect("a name");
        let who = format!("port {port} is taken by pid {} ({})", std::process::id(), name.trim_end());
        assert!(said.err.contains(&who), "{source}: {}", said.err);
        let it = daemon.wait_state("it", "retrying");
        assert!(it["why"].as_str().is_some_and(|why| why.contains(&who)), "{it:#}");
        assert_eq!(
            it["ports"][0],
            json!({ "port": port, "listening": false, "connections": 0 }),
            "not its own"
        );

        let events = daemon.events("it");
        let place = |kind: &str| events.iter().position(|event| event["kind"] == kind).expect("an event");
        assert!(place("port") < place("exit"), "{events:#?}");
        let [taken] = &daemon.events_of("it", "port")[..] else { panic!("{events:#?}") };
        assert_eq!(taken["holder"], json!({ "pid": std::process::id(), "name": name.trim_end() }));
        assert_eq!(told(&daemon, "it", "listen"), [0; 0]);

        drop(holder);
        daemon.ask(&["start", "it"]);
        assert_eq!(daemon.events_of("it", "port").len(), 1, "nobody holds it now");
        // A plan for a service that runs and is replaced finds its own process there.
        daemon.ask(&["restart", "it"]);
        assert_eq!(daemon.events_of("it", "port").len(), 1, "{source}");
    }
}

#[test]
fn what_it_has_ceased_to_listen_on_is_seen_at_the_latest_by_the_next_daemon() {
    for source in sources() {
        let port = free_port();
        let keys = format!("ready = {{ port = {port} }}");
        let daemon =
            Daemon::start_with(&service("it", &port.to_string(), &keys), &Options::with_source(source));
        let it = daemon.wait("it", "to be ready", |it| it["ready"] == true);
        signal(pid(&it), libc::SIGUSR1);
        daemon.wait("it", "to be seen silent", |it| it["ports"][0]["listening"] == false);
        // A source that hears of it tells so; the others know no more than what was asked for.
        std::thread::sleep(Duration::from_millis(300));
        // One of the two may be asked before and the other after it is heard of.
        patiently("what is shown and what is told to agree", || {
            let unlisten = told(&daemon, "it", "unlisten");
            (daemon.status("it")["ready"] == unlisten.is_empty()).then_some(())
        });

        signal(daemon.daemon(), libc::SIGKILL);
        let same = daemon.wait("it", "to be seen as it is", |it| it["ready"] == false);
        assert_eq!((pid(&same), &same["state"]), (pid(&it), &json!("running")), "{source}");
        signal(pid(&it), libc::SIGUSR2);
        daemon.wait("it", "to be ready again", |it| it["ready"] == true);
        assert!(connects((Ipv4Addr::LOCALHOST, port)));

        // And what goes on as it was is not told again.
        signal(daemon.daemon(), libc::SIGKILL);
        patiently("the next daemon", || daemon.log().matches("defib supervises").nth(2).map(drop));
        std::thread::sleep(Duration::from_millis(200));
        daemon.wait("it", "to be ready still", |it| it["ready"] == true);
        assert_eq!([told(&daemon, "it", "listen"), told(&daemon, "it", "unlisten")], [[0; 0]; 2], "{source}");
    }
}

#[test]
fn whoever_connects_when_it_is_told_is_not_refused() {
    const LIVES: usize = 200;
    for source in sources() {
        let port = free_port();
        let keys = format!(
            "ready = {{ port = {port} }}\nautostart = false\nrestart = {{ immediate = 1000000, max_restarts = \"none\" }}"
        );
        let daemon =
            Daemon::start_with(&service("it", &port.to_string(), &keys), &Options::with_source(source));
        let ear = Ear::new(&daemon, &["--service", "it"]);
        daemon.ask(&["start", "it"]);
        let mut refused = 0;
        for life in 1..=LIVES {
            let begun = Instant::now();
            let event = loop {
                if let Some(event) = ear.of("it", "listen").into_iter().nth(life - 1) {
                    break event;
                }
                assert!(begun.elapsed() < patience(), "{source}: life {life}: {}", daemon.log());
                std::thread::sleep(Duration::from_micros(200));
            };
            refused += usize::from(!connects((Ipv4Addr::LOCALHOST, port)));
            // Another life could listen before they are counted.
            if life < LIVES {
                signal(pid(&event), libc::SIGKILL);
            }
        }
        assert_eq!(refused, 0, "{source}");
        assert_eq!(ear.of("it", "listen").len(), LIVES, "{source}: once for each life");
    }
}

/// A start that hangs in execve(2) is told by the kernel, and reported by nobody yet.
#[test]
fn a_start_that_hangs_hides_no_port() {
    for source in sources() {
        let port = free_port();
        let slow = "[service.slow]\ncommand = \"{dir}/slow 1000\"\nautostart = false\n";
        let keys = format!("ready = {{ port = {port} }}");
        let config = service("it", &port.to_string(), &keys) + slow;
        let daemon = Daemon::start_with(&config, &Options::with_source(source));
        install(Path::new("/bin/sleep"), &daemon.path("slow"));
        let it = daemon.wait("it", "to be ready", |it| it["ready"] == true);
        let lease = Lease::take(&daemon.path("slow"), &daemon.path("slow.told"));
        daemon.ask(&["start", "slow", "--no-wait"]);
        patiently("the child that hangs", || (children(daemon.keeper()).len() == 3).then_some(()));
        // Only the probes tell of it by themselves; whoever looks too late sees that it listens again.
        let tells = |kind: &str, times: usize| {
            let wanted = vec![port; times];
            patiently(kind, || (*source != "ebpf" || told(&daemon, "it", kind) == wanted).then_some(()));
        };
        signal(pid(&it), libc::SIGUSR1);
        daemon.wait("it", "to be seen silent", |it| it["ports"][0]["listening"] == false);
        tells("unlisten", 1);
        signal(pid(&it), libc::SIGUSR2);
        daemon.wait("it", "to be seen again", |it| it["ready"] == true);
        tells("listen", 2);
        assert_eq!(daemon.status("slow")["state"], "starting", "{source}");
        drop(lease);
        daemon.wait_state("slow", "running");
    }
}

#[test]
fn nothing_wakes_up_when_everything_listens_or_has_ended() {
    for source in sources() {
        let (port, never) = (free_port(), free_port());
        let config = [
            service("it", &port.to_string(), &format!("ready = {{ port = {port} }}")),
            service("never", "", &format!("ready = {{ port = {never} }}\nautostart = false")),
        ];
        let daemon = Daemon::start_with(&config.concat(), &Options::with_source(source));
        daemon.wait("it", "to be ready", |it| it["ready"] == true);
        daemon.ask(&["start", "--no-wait", "never"]);
        daemon.wait_state("never", "running");
        daemon.ask(&["stop", "never"]);
        let tasks = fs::read_dir(format!("/proc/{}/task", daemon.daemon())).expect("threads").flatten();
        let watch = tasks
            .map(|task| task.path())
            .find(|task| fs::read_to_string(task.join("comm")).is_ok_and(|name| name == "defib-ports\n"))
            .expect("the thread that looks at ports");
        let switches = || {
            let status = fs::read_to_string(watch.join("status")).expect("a status");
            let lines = status.lines().filter(|line| line.contains("ctxt_switches"));
            lines.map(str::to_owned).collect::<Vec<_>>()
        };
        // There may be one more look at the life that has ended.
        patiently("two seconds without a look", || {
            let before = switches();
            std::thread::sleep(Duration::from_millis(2000));
            (switches() == before).then_some(())
        });
    }
}

#[test]
fn a_service_in_another_network_namespace_is_seen_there() {
    for source in sources() {
        let port = free_port();
        // The same port here: it is another one.
        let here = TcpListener::bind((Ipv4Addr::UNSPECIFIED, port)).expect("a port");
        let keys = format!("ready = {{ port = {port} }}\nautostart = false");
        let args = format!("--netns --any --after 100 {port}");
        let daemon = Daemon::start_with(&service("it", &args, &keys), &Options::with_source(source));
        daemon.ask(&["start", "it"]);
        let it = daemon.status("it");
        assert_eq!((&it["ready"], &it["ports"][0]["listening"]), (&json!(true), &json!(true)), "{source}");
        assert_eq!(told(&daemon, "it", "listen"), [port]);
        drop(here);
    }
}

#[test]
fn without_rights_its_own_ports_are_seen_and_those_of_others_are_taken_by_nobody_in_sight() {
    const NOBODY: u32 = 54321;
    let holder = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    let (port, taken) = (free_port(), holder.local_addr().expect("an address").port());
    let config = [
        service("child", &format!("--child {port}"), &format!("ready = {{ port = {port} }}")),
        service("it", &taken.to_string(), &format!("ports = [{taken}]\nrestart = {{ delays = [\"1h\"] }}")),
    ];
    let before = ["setpriv", "--reuid=54321", "--regid=54321", "--clear-groups"].map(str::to_owned).into();
    let options = Options { before, owner: Some(NOBODY), ..Options::with_source("pidfd") };
    let daemon = Daemon::start_with(&config.concat(), &options);
    daemon.wait("child", "to listen", |it| it["ready"] == true && it["ports"][0]["listening"] == true);
    let it = daemon.wait_state("it", "retrying");
    let [told] = &daemon.events_of("it", "port")[..] else { panic!("{it:#}") };
    assert_eq!((&told["port"], &told["holder"]), (&json!(taken), &Value::Null));
    assert_eq!(it["ports"][0]["listening"], false);
    assert_eq!(self::told(&daemon, "child", "listen"), [port]);
}

/// A script of events that is written while the daemon reads it.
struct Script {
    path: PathBuf,
    writer: File,
    daemon: Daemon,
}

impl Script {
    fn start(config: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.keep().join("script");
        let mode = nix::sys::stat::Mode::S_IRUSR | nix::sys::stat::Mode::S_IWUSR;
        nix::unistd::mkfifo(&path, mode).expect("a named pipe");
        let name = path.to_str().expect("UTF-8").to_owned();
        let options = Options { env: vec![("DEFIB_SCRIPT".to_owned(), name)], ..Options::default() };
        let daemon = Daemon::start_with(config, &options);
        // Without a reader this fails instead of waiting for ever.
        let open = || OpenOptions::new().write(true).custom_flags(libc::O_NONBLOCK).open(&path).ok();
        let writer = patiently("the script's reader", open);
        Self { path, writer, daemon }
    }

    fn says(&mut self, pid: u32, kind: &str, port: u16) {
        let netns = fs::read_link("/proc/self/ns/net").expect("a namespace");
        let netns =
            netns.to_str().and_then(|link| link.strip_prefix("net:[")?.strip_suffix(']')?.parse().ok());
        let netns: u32 = netns.expect("a number");
        let fact = json!({ kind: { "port": port, "netns": netns } });
        let event = json!({ "at": 1, "pid": pid, "start": 1, "slot": 0, "main": true, "fact": fact });
        writeln!(self.writer, "{event}").expect("room in the pipe");
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        fs::remove_dir_all(self.path.parent().expect("a folder")).ok();
    }
}

#[test]
fn what_the_kernel_tells_of_ports_is_looked_at_before_it_is_told() {
    let (named, other, shut, unbound) =
        (free_port(), free_port(), free_port(), tempfile::NamedTempFile::new().expect("a file"));
    let args = format!("--unbound {} {named} {other}", unbound.path().display());
    let mut script = Script::start(&service("it", &args, &format!("ports = [{named}]")));
    let it = script.daemon.wait("it", "to listen", |it| it["ports"][0]["listening"] == true);
    let main = pid(&it);
    let chosen = patiently("the port that the kernel chose", || {
        fs::read_to_string(unbound.path()).ok()?.parse::<u16>().ok()
    });
    let wait = |script: &Script, kind: &str, ports: &[u16]| {
        patiently(&format!("{kind} {ports:?}"), || {
            let mut told = told(&script.daemon, "it", kind);
            told.sort_unstable();
            (told == ports).then_some(())
        });
    };
    wait(&script, "listen", &[named]);

    // Nobody listens on the first; the second goes on to listen, whatever is said; the third is news.
    script.says(main, "listen", shut);
    script.says(main, "unlisten", named);
    script.says(main, "listen", other);
    let mut all = [named, other];
    all.sort_unstable();
    wait(&script, "listen", &all);
    // A socket that was never bound shows no port when it begins to listen.
    script.says(main, "listen", 0);
    let mut all = [named, other, chosen];
    all.sort_unstable();
    wait(&script, "listen", &all);
    assert_eq!(told(&script.daemon, "it", "unlisten"), [0; 0]);

    signal(main, libc::SIGUSR1);
    script.daemon.wait("it", "to be silent", |it| it["ports"][0]["listening"] == false);
    for port in [named, other, shut] {
        script.says(main, "unlisten", port);
    }
    let mut ended = [named, other, shut];
    ended.sort_unstable();
    wait(&script, "unlisten", &ended);
    wait(&script, "listen", &all);

    // Of another slot, or of a process that is nobody's: nothing.
    script.says(1, "unlisten", named);
    script.says(u32::MAX, "listen", named);
    signal(main, libc::SIGUSR2);
    script.daemon.wait("it", "to listen again", |it| it["ports"][0]["listening"] == true);
    script.says(main, "listen", named);
    let mut twice = vec![named, named, other, chosen];
    twice.sort_unstable();
    wait(&script, "listen", &twice);
}
