//! The metrics of a real daemon: as text, over both sockets, to strangers who mean harm.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};

use defib_tests::http::{self, get};
use defib_tests::{Daemon, metrics_address, patiently, pid, signal};
use flate2::read::GzDecoder;
use serde_json::{Value, json};

const LISTEN: &str = "[listen]\nmetrics = \"127.0.0.1:0\"\n";

const SERVICES: &str = r#"
[service.a]
command = "sleep 1000"
service_group = "web-1.x"
description = "a \"quoted\" \\ description"
[service."db.main-1_x"]
command = "sleep 1000"
autostart = false
[service.missing]
command = ["/no/such/program/\"with} quotes"]
restart = { delays = ["1h"] }
[service.quits]
command = ["sh", "-c", "exit 7"]
restart = { policy = "never" }
"#;

fn start(services: &str) -> (Daemon, SocketAddr) {
    let daemon = Daemon::start(&format!("{LISTEN}{services}"));
    let address = metrics_address(&daemon);
    (daemon, address)
}

/// The samples of a page by their series. Panics if a series is there twice: promtool does not mind, Prometheus keeps
/// one of them.
#[track_caller]
fn samples(page: &str) -> BTreeMap<String, f64> {
    let mut samples = BTreeMap::new();
    for line in page.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        let (series, value) = line.rsplit_once(' ').expect("a value");
        let value = value.parse().unwrap_or_else(|_| panic!("a number in {line}"));
        assert!(samples.insert(series.to_owned(), value).is_none(), "twice: {series}");
    }
    samples
}

#[expect(clippy::disallowed_methods, reason = "asks promtool")]
fn promtool(args: &[&str], input: &str) -> (i32, String) {
    let mut command = Command::new("promtool");
    command.args(args).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("promtool is there: `cargo xtask setup` installs it");
    child.stdin.take().expect("a pipe").write_all(input.as_bytes()).expect("it reads");
    let output = child.wait_with_output().expect("it ends");
    let said = [output.stdout, output.stderr].concat();
    (output.status.code().unwrap_or(-1), String::from_utf8_lossy(&said).into_owned())
}

#[test]
fn the_page_is_without_fault_and_tells_what_has_happened() {
    let (daemon, address) = start(SERVICES);
    daemon.wait_state("missing", "retrying");
    daemon.wait_state("quits", "failed");
    let before = daemon.wait_state("a", "running");
    signal(pid(&before), libc::SIGSEGV);
    daemon.wait("a", "in its second life", |it| it["incarnation"] == 2 && it["state"] == "running");
    daemon.ask(&["pause", "a"]);

    let answer = get(address, "/metrics");
    assert_eq!(answer.status, 200);
    assert!(
        answer.head.contains("content-type: text/plain; version=0.0.4; charset=utf-8"),
        "{}",
        answer.head
    );
    let (code, said) = promtool(&["check", "metrics"], &answer.body);
    assert_eq!((code, said.as_str()), (0, ""), "{}", answer.body);
    let found = samples(&answer.body);
    for (series, wanted) in [
        ("defib_process_info{process=\"a\",group=\"web-1.x\",backend=\"direct\"}", 1.0),
        ("defib_process_up{process=\"a\"}", 1.0),
        ("defib_process_paused{process=\"a\"}", 1.0),
        ("defib_process_starts_total{process=\"a\"}", 2.0),
        ("defib_process_restarts_total{process=\"a\",reason=\"signal\"}", 1.0),
        ("defib_process_restarts_total{process=\"a\",reason=\"oom\"}", 0.0),
        ("defib_process_last_exit_status{process=\"a\"}", 139.0),
        ("defib_process_desired{process=\"db.main-1_x\"}", 0.0),
        ("defib_process_state{process=\"db.main-1_x\",state=\"stopped\"}", 1.0),
        ("defib_process_start_failures_total{process=\"missing\",reason=\"exec\"}", 1.0),
        ("defib_process_backoff_seconds{process=\"missing\"}", 3600.0),
        ("defib_process_exits_total{process=\"quits\",cause=\"exit\",status=\"7\"}", 1.0),
        ("defib_process_state{process=\"quits\",state=\"failed\"}", 1.0),
        ("defib_process_stop_seconds_count", 0.0),
        ("defib_config_last_reload_successful", 1.0),
        ("defib_collector_success{collector=\"services\"}", 1.0),
        ("defib_collector_success{collector=\"events\"}", 1.0),
        ("defib_collector_success{collector=\"process\"}", 1.0),
        ("defib_log_messages_total{level=\"error\"}", 0.0),
    ] {
        assert_eq!(found.get(series), Some(&wanted), "{series}\n{}", answer.body);
    }
    // With a core or without is the machine's to decide.
    let crashes = found.iter().filter(|(series, _)| {
        series.starts_with("defib_process_exits_total{process=\"a\",cause=")
            && series.ends_with("status=\"SIGSEGV\"}")
    });
    assert_eq!(crashes.map(|(_, count)| count).sum::<f64>(), 1.0);
    let counts: Vec<f64> = ["exit_detection", "restart_latency"]
        .iter()
        .flat_map(|name| {
            found
                .iter()
                .filter(move |(series, _)| series.starts_with(&format!("defib_process_{name}_seconds_count")))
        })
        .map(|(_, count)| *count)
        .collect();
    assert_eq!(counts, [2.0, 1.0], "two ends were detected, one of them led to a restart");
    assert!(found["process_open_fds"] > 3.0 && found["process_resident_memory_bytes"] > 1e6);
}

#[test]
fn both_sockets_serve_the_same_and_the_daemon_answers_for_its_services() {
    let (daemon, address) = start(
        "[service.it]\ncommand = \"sleep 1000\"\n[service.off]\ncommand = \"sleep 1\"\nautostart = false\n",
    );
    daemon.wait_state("it", "running");
    assert_eq!(get(address, "/alive").body, "OK");
    let ask = |path: &str| {
        let answer = get(address, path);
        (answer.status, serde_json::from_str::<Value>(&answer.body).expect("JSON"))
    };
    let (status, health) = ask("/health");
    assert_eq!((status, &health["healthy"]), (200, &Value::Bool(true)));
    assert_eq!(health["pid"], daemon.daemon());
    let (status, ready) = ask("/ready");
    assert_eq!((status, ready), (200, json!({ "ready": true, "wanted": 1, "not_ready": [] })));
    let (status, summary) = ask("/status");
    assert_eq!(
        (status, &summary["services"]["running"], &summary["partner"]),
        (200, &1.into(), &Value::Null)
    );
    assert!(
        summary["uptime"].as_f64().is_some_and(|uptime| uptime > 0.0) && summary["instanceId"].is_string()
    );

    let mut unix = UnixStream::connect(daemon.path("run/defib.sock")).expect("the API's socket");
    unix.write_all(b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").expect("it reads");
    let unix = http::answer(&http::read(&mut unix)).expect("an answer");
    let names = |page: &str| {
        samples(page).into_keys().filter(|name| !name.contains("http_request")).collect::<BTreeSet<_>>()
    };
    assert_eq!(names(&unix.body), names(&get(address, "/metrics").body));

    let part = get(address, "/metrics?collect[]=process");
    assert!(
        part.body.contains("process_cpu_seconds_total") && !part.body.contains("defib_process_up"),
        "{}",
        part.body
    );

    daemon.ask(&["stop", "it"]);
    assert_eq!(get(address, "/ready").status, 200, "what is stopped is not wanted");
    let page = samples(&get(address, "/metrics").body);
    assert_eq!(
        (page["defib_process_desired{process=\"it\"}"], page["defib_process_stop_seconds_count"]),
        (0.0, 1.0)
    );
}

#[test]
fn a_service_that_is_down_makes_the_daemon_not_ready() {
    let (daemon, address) = start(
        "[service.it]\ncommand = [\"sh\", \"-c\", \"exit 1\"]\nrestart = { delays = [\"1h\"], immediate = 0 }\n",
    );
    daemon.wait_state("it", "retrying");
    let answer = get(address, "/ready");
    let wanted = r#"{"ready":false,"wanted":1,"not_ready":[{"service":"it","state":"retrying"}]}"#;
    assert_eq!((answer.status, answer.body.as_str()), (503, wanted));
    assert_eq!(get(address, "/health").status, 200, "the daemon itself works");
}

/// The keeper holds the socket: who scrapes while there is no daemon waits for the next one.
#[test]
fn a_scrape_during_a_restart_of_the_daemon_waits() {
    let (daemon, address) = start("[service.it]\ncommand = \"sleep 1000\"\n");
    daemon.wait_state("it", "running");
    for _ in 0..3 {
        let old = daemon.daemon();
        signal(old, libc::SIGKILL);
        patiently("its end", || (!defib_tests::lives(old)).then_some(()));
        let answer = get(address, "/metrics");
        assert_eq!(answer.status, 200, "{}", daemon.log());
        assert_eq!(samples(&answer.body)["defib_process_up{process=\"it\"}"], 1.0);
    }
}

#[test]
fn an_address_that_is_taken_is_a_warning_with_its_holder() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("an address").port();
    let daemon = Daemon::start(&format!(
        "[listen]\nmetrics = \"127.0.0.1:{port}\"\n[service.it]\ncommand = \"sleep 1000\"\n"
    ));
    daemon.wait_state("it", "running");
    let warning = patiently("a warning", || {
        daemon.log().lines().find(|line| line.contains("metrics are not served")).map(str::to_owned)
    });
    assert!(warning.contains("WARN") && warning.contains(&format!("127.0.0.1:{port}")), "{warning}");
    assert!(warning.contains(&format!("pid {} (", std::process::id())), "{warning}");
}

/// Strangers do what they can: the page is served to others, and services are restarted as ever.
#[test]
fn abuse_is_bounded_and_holds_up_no_restart() {
    let (daemon, address) = start(
        "[service.it]\ncommand = \"sleep 1000\"\nrestart = { immediate = 256, max_restarts = \"none\" }\n",
    );
    let mut it = daemon.wait_state("it", "running");
    // Half-open: more than may be.
    let mut lazy: Vec<TcpStream> = (0..60).map(|_| http::connect(address)).collect();
    for (n, stream) in lazy.iter_mut().enumerate() {
        // Those for whom there was no place may be gone already.
        stream.write_all(&b"GET /metrics HTTP/1.1\r\nx: y"[..n % 27]).ok();
    }
    let mut answers = Vec::new();
    for round in 1..=5 {
        signal(pid(&it), libc::SIGKILL);
        for bytes in [
            format!("GET /metrics HTTP/1.1\r\nx: {}\r\n\r\n", "y".repeat(200_000)).into_bytes(),
            vec![0xff; 100_000],
            b"GET /metrics HTTP/9.9\r\n\r\n".to_vec(),
            b"\r\n\r\n\r\n".to_vec(),
            b"POST /metrics HTTP/1.1\r\nhost: x\r\ncontent-length: 99999999999999999999\r\n\r\n".to_vec(),
            b"GET /metrics HTTP/1.1\r\nhost: x\r\ncontent-length: 1000000000\r\n\r\n".to_vec(),
        ] {
            answers.push(http::raw(address, &bytes));
        }
        let wanted = round + 1;
        it = daemon.wait("it", "to be back", |it| it["incarnation"] == wanted && it["state"] == "running");
    }
    for answer in &answers {
        let status = http::answer(answer).map(|answer| answer.status);
        assert!(matches!(status, None | Some(400 | 408 | 413 | 431 | 503 | 505)), "{answer}");
    }
    // Who has not gone on is let go, and there is room again.
    for stream in &mut lazy {
        let rest = http::read(stream);
        assert!(
            rest.is_empty() || matches!(http::answer(&rest).map(|it| it.status), Some(400 | 408 | 503)),
            "{rest}"
        );
    }
    let page = samples(&get(address, "/metrics").body);
    assert_eq!(page["defib_process_restarts_total{process=\"it\",reason=\"signal\"}"], 5.0);
    assert_eq!(page["defib_log_messages_total{level=\"error\"}"], 0.0, "{}", daemon.log());
}

/// What Prometheus asks for: OpenMetrics, in gzip.
#[test]
fn the_page_comes_in_the_format_and_the_encoding_that_are_asked_for() {
    let (daemon, address) = start("[service.it]\ncommand = \"sleep 1000\"\n");
    daemon.wait_state("it", "running");
    let prometheus = "accept: application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,\
                      text/plain;version=0.0.4;q=0.5,*/*;q=0.1\r\naccept-encoding: gzip\r\n";
    let (answer, body) = http::get_with(address, "/metrics", prometheus);
    let head = answer.head.to_ascii_lowercase();
    for line in [
        "content-type: application/openmetrics-text; version=1.0.0; charset=utf-8",
        "content-encoding: gzip",
        "vary: accept, accept-encoding",
        &format!("content-length: {}", body.len()),
    ] {
        assert!(head.contains(line), "{line}\n{head}");
    }
    let mut page = String::new();
    GzDecoder::new(&*body).read_to_string(&mut page).expect("gzip");
    assert!(page.len() > 3 * body.len() && page.ends_with("\n# EOF\n"), "{page}");
    assert!(
        page.contains("# TYPE defib_process_starts counter\ndefib_process_starts_total{process=\"it\"} 1\n")
    );
    // The same series as in the other format, in which promtool judges them.
    let (plain, text) = http::get_with(address, "/metrics", "accept: text/plain\r\n");
    assert!(!plain.head.contains("content-encoding"), "{}", plain.head);
    let text = String::from_utf8(text).expect("text");
    let names = |page: &str| {
        samples(page).into_keys().filter(|name| !name.contains("http_request")).collect::<BTreeSet<_>>()
    };
    assert_eq!(names(&page), names(&text));
    // What is short is not worth it.
    let (short, _) = http::get_with(address, "/alive", "accept-encoding: gzip\r\n");
    assert!(!short.head.contains("content-encoding") && short.status == 200);
}

#[test]
fn what_is_too_much_for_a_family_is_left_out_and_a_reload_lets_it_in() {
    let limited = "[listen]\nmetrics = \"127.0.0.1:0\"\nmax_series = 1\n";
    let services = "[service.a]\ncommand = \"sleep 1000\"\n[service.b]\ncommand = \"sleep 1000\"\n";
    let daemon = Daemon::start(&format!("{limited}{services}"));
    let address = metrics_address(&daemon);
    daemon.wait_state("b", "running");
    let page = samples(&get(address, "/metrics").body);
    assert_eq!(page["defib_process_up{process=\"a\"}"], 1.0);
    assert!(!page.contains_key("defib_process_up{process=\"b\"}"));
    assert_eq!(page["defib_series_dropped_total{family=\"defib_process_up\"}"], 1.0);
    std::fs::write(daemon.path("defib.toml"), format!("{LISTEN}{services}")).expect("a file");
    let said = daemon.ask(&["reload"]);
    assert!(said.contains("listen.max_series: 1 -> 1000"), "{said}");
    let page = samples(&get(address, "/metrics").body);
    assert_eq!(page["defib_process_up{process=\"b\"}"], 1.0);
    assert_eq!(page["defib_series_dropped_total{family=\"defib_process_up\"}"], 1.0, "it grows no more");
}

/// What could break a line or a label cannot be the name of a service; the writer escapes it all the same.
#[test]
fn names_that_would_hurt_a_page_are_refused() {
    for name in ["a\\\"b", "a\\\\b", "a\\nb", "{}", ""] {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("defib.toml");
        std::fs::write(&file, format!("[service.\"{name}\"]\ncommand = \"x\"\n")).expect("a file");
        let said = defib_tests::defib(&["--config", file.to_str().expect("UTF-8"), "check"]);
        assert_eq!(said.code, 1, "{name}: {}{}", said.out, said.err);
    }
}

#[test]
fn the_scrape_file_that_is_shipped_is_valid() {
    let file = concat!(env!("CARGO_MANIFEST_DIR"), "/../config/prometheus/prometheus.yml");
    let (code, said) = promtool(&["check", "config", file], "");
    assert_eq!(code, 0, "{said}");
    let text = std::fs::read_to_string(file).expect("the file");
    assert!(text.contains("127.0.0.1:9977"), "the default of [listen]");
}
