//! A real Prometheus scrapes a real daemon, and is asked for what it has learnt.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};

use defib_tests::{Daemon, http, metrics_address, patiently, signal};
use serde_json::Value;
use tempfile::TempDir;

/// A Prometheus with folders of its own. It is ended when this is dropped.
struct Prometheus {
    folder: TempDir,
    child: Child,
    address: SocketAddr,
}

impl Prometheus {
    /// Starts one with the scrape file that is shipped, pointed at another target and made quick.
    #[expect(clippy::disallowed_methods, reason = "runs Prometheus")]
    fn start(target: SocketAddr) -> Self {
        let folder = tempfile::Builder::new().prefix("defib-prometheus-").tempdir().expect("a folder");
        let shipped = concat!(env!("CARGO_MANIFEST_DIR"), "/../config/prometheus/prometheus.yml");
        let shipped = fs::read_to_string(shipped).expect("the file");
        let config = shipped.replace("127.0.0.1:9977", &target.to_string()).replace("15s", "200ms");
        assert!(config.contains(&target.to_string()) && config.contains("200ms"), "{config}");
        fs::write(folder.path().join("prometheus.yml"), config).expect("a file");
        // A port that is free now may be taken in a moment: then another one is tried.
        for _ in 0..5 {
            let address = TcpListener::bind("127.0.0.1:0").and_then(|it| it.local_addr()).expect("a port");
            let log = fs::File::create(folder.path().join("log")).expect("a log");
            let mut child = Command::new("prometheus")
                .arg(format!("--config.file={}", folder.path().join("prometheus.yml").display()))
                .arg(format!("--storage.tsdb.path={}", folder.path().join("data").display()))
                .arg(format!("--web.listen-address={address}"))
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(log)
                .spawn()
                .expect("prometheus is there: `cargo xtask setup` installs it");
            let ready = patiently("Prometheus", || match child.try_wait().expect("a child") {
                Some(_ended) => Some(false),
                None => std::net::TcpStream::connect(address).is_ok().then_some(true),
            });
            if ready {
                return Self { folder, child, address };
            }
        }
        panic!("{}", fs::read_to_string(folder.path().join("log")).unwrap_or_default());
    }

    /// The result of a query that has one.
    #[track_caller]
    fn wait(&self, query: &str, wanted: impl Fn(f64) -> bool) -> f64 {
        let path = format!("/api/v1/query?query={}", encoded(query));
        patiently(query, || {
            let answer: Value = serde_json::from_str(&http::get(self.address, &path).body).ok()?;
            let value = answer["data"]["result"][0]["value"][1].as_str()?.parse().ok()?;
            wanted(value).then_some(value)
        })
    }
}

impl Drop for Prometheus {
    #[expect(clippy::print_stderr, reason = "a failed test tells what Prometheus said")]
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
            eprintln!("--- Prometheus ---\n{log}");
        }
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// A query as part of a path.
fn encoded(query: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte);
    query
        .bytes()
        .map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

#[test]
fn prometheus_learns_of_a_crash() {
    let daemon =
        Daemon::start("[listen]\nmetrics = \"127.0.0.1:0\"\n[service.it]\ncommand = \"sleep 1000\"\n");
    let before = daemon.wait_state("it", "running");
    let prometheus = Prometheus::start(metrics_address(&daemon));
    prometheus.wait("up{job=\"defib\"}", |up| up == 1.0);
    prometheus.wait("defib_process_state{process=\"it\",state=\"running\"}", |state| state == 1.0);
    prometheus.wait("defib_process_restarts_total{process=\"it\",reason=\"signal\"}", |count| count == 0.0);

    let pid = before["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok()).expect("a pid");
    signal(pid, libc::SIGKILL);
    daemon.wait("it", "in its second life", |it| it["incarnation"] == 2 && it["state"] == "running");
    prometheus
        .wait("defib_process_exits_total{process=\"it\",cause=\"signal\",status=\"SIGKILL\"}", |count| {
            count == 1.0
        });
    prometheus
        .wait("increase(defib_process_restarts_total{process=\"it\",reason=\"signal\"}[1m])", |grown| {
            grown > 0.0
        });
    let latency = "histogram_quantile(0.99, sum by (le) (defib_process_restart_latency_seconds_bucket))";
    prometheus.wait(latency, |seconds| seconds > 0.0 && seconds <= 5.0);
    prometheus.wait("count(defib_build_info{version!=\"\",rustc!=\"\"})", |count| count == 1.0);
    prometheus.wait("process_cpu_seconds_total{job=\"defib\"}", |seconds| seconds >= 0.0);
    prometheus.wait("up{job=\"defib\"}", |up| up == 1.0);
}
