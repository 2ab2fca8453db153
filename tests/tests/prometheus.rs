//! A real Prometheus scrapes a real daemon, and is asked for what it has learnt: with the scrape file, the rules and the
//! dashboard that are shipped.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use defib_tests::{Daemon, Options, beside, http, metrics_address, patiently, pid, signal};
use serde_json::Value;
use tempfile::TempDir;

/// A server with a folder of its own. It is ended when this is dropped.
struct Server {
    folder: TempDir,
    child: Child,
    address: SocketAddr,
}

impl Server {
    /// Starts the first of these programs that there is, in a folder, and waits until it listens.
    #[expect(clippy::disallowed_methods, reason = "runs Prometheus and Alertmanager")]
    fn start(programs: &[&str], folder: TempDir, args: impl Fn(&str, SocketAddr) -> Vec<String>) -> Self {
        let path = folder.path().to_str().expect("UTF-8").to_owned();
        // A port that is free now may be taken in a moment: then another one is tried.
        for _ in 0..5 {
            let address = TcpListener::bind("127.0.0.1:0").and_then(|it| it.local_addr()).expect("a port");
            let spawned = programs.iter().find_map(|program| {
                let log = fs::File::create(folder.path().join("log")).expect("a log");
                let mut command = Command::new(program);
                command.args(args(&path, address)).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
                command.spawn().ok()
            });
            let mut child =
                spawned.unwrap_or_else(|| panic!("{programs:?} is there: `cargo xtask setup` installs it"));
            let ready = patiently(programs[0], || match child.try_wait().expect("a child") {
                Some(_ended) => Some(false),
                None => TcpStream::connect(address).is_ok().then_some(true),
            });
            if ready {
                return Self { folder, child, address };
            }
        }
        panic!("{}", fs::read_to_string(folder.path().join("log")).unwrap_or_default());
    }
}

impl Drop for Server {
    #[expect(clippy::print_stderr, reason = "a failed test tells what the server said")]
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
            eprintln!("--- {} ---\n{log}", self.folder.path().display());
        }
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// A Prometheus.
struct Prometheus(Server);

impl Prometheus {
    /// Starts one with the files that are shipped, pointed at another target and made quick.
    fn start(target: SocketAddr) -> Self {
        Self::start_with(target, "")
    }

    /// The same with lines of its own behind the entry of defib.
    fn start_with(target: SocketAddr, lines: &str) -> Self {
        let folder = tempfile::Builder::new().prefix("defib-prometheus-").tempdir().expect("a folder");
        let shipped = fs::read_to_string(shipped("prometheus/prometheus.yml")).expect("the file");
        let config = shipped.replace("127.0.0.1:9977", &target.to_string()).replace("15s", "200ms") + lines;
        assert!(config.contains(&target.to_string()) && config.contains("200ms"), "{config}");
        fs::write(folder.path().join("prometheus.yml"), config).expect("a file");
        fs::copy(shipped_rules(), folder.path().join("defib.rules.yml")).expect("a file");
        Self(Server::start(&["prometheus"], folder, |path, address| {
            vec![
                format!("--config.file={path}/prometheus.yml"),
                format!("--storage.tsdb.path={path}/data"),
                format!("--web.listen-address={address}"),
            ]
        }))
    }

    /// What comes of a request to its API.
    #[track_caller]
    fn api(&self, path: &str) -> Value {
        // In 1.0, which knows no chunks.
        let answer = http::raw(self.0.address, format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes());
        let (_, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("{path}: {answer}"));
        let answer: Value = serde_json::from_str(body).expect("JSON");
        assert_eq!(answer["status"], "success", "{path}: {answer}");
        answer["data"].clone()
    }

    /// The result of a query that has one.
    #[track_caller]
    fn wait(&self, query: &str, wanted: impl Fn(f64) -> bool) -> f64 {
        let path = format!("/api/v1/query?query={}", encoded(query));
        patiently(query, || {
            let answer: Value = serde_json::from_str(&http::get(self.0.address, &path).body).ok()?;
            let value = answer["data"]["result"][0]["value"][1].as_str()?.parse().ok()?;
            wanted(value).then_some(value)
        })
    }
}

/// A file that is shipped.
fn shipped(name: &str) -> String {
    format!("{}/../config/{name}", env!("CARGO_MANIFEST_DIR"))
}

fn shipped_rules() -> String {
    shipped("prometheus/defib.rules.yml")
}

/// What a program says of a file: nothing is wrong.
#[track_caller]
#[expect(clippy::disallowed_methods, reason = "runs promtool and amtool")]
fn judged(words: &[&str]) {
    let output = Command::new(words[0]).args(&words[1..]).output();
    let output = output.unwrap_or_else(|_| panic!("{} is there: `cargo xtask setup` installs it", words[0]));
    let said = [output.stdout, output.stderr].concat();
    assert!(output.status.success(), "{words:?}: {}", String::from_utf8_lossy(&said));
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

    let pid = pid(&before);
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

#[test]
fn what_is_shipped_is_valid() {
    judged(&["promtool", "check", "config", &shipped("prometheus/prometheus.yml")]);
    judged(&["promtool", "check", "rules", &shipped_rules()]);
    judged(&["promtool", "test", "rules", &shipped("prometheus/defib.rules.test.yml")]);
    judged(&["promtool", "check", "web-config", &shipped("prometheus/web.yml")]);
    judged(&["amtool", "check-config", &shipped("prometheus/alertmanager.yml")]);
}

/// The words in which an expression names a family of defib's.
fn families(expression: &str) -> impl Iterator<Item = &str> {
    let word = |c: char| !(c.is_ascii_alphanumeric() || c == '_');
    expression.split(word).filter(|word| word.starts_with("defib_"))
}

/// Every family of which rules and dashboard make something is one that is written.
#[test]
fn rules_and_dashboard_name_what_there_is() {
    let known: Vec<&str> = defib::metrics::names::ALL.iter().map(|family| family.name).collect();
    let files = [shipped_rules(), shipped("grafana/defib.json")];
    let mut named = 0;
    for file in files {
        let text = fs::read_to_string(&file).expect("the file");
        for family in families(&text) {
            let base = ["_bucket", "_sum", "_count"].iter().find_map(|suffix| family.strip_suffix(suffix));
            let there = known.contains(&family) || base.is_some_and(|base| known.contains(&base));
            assert!(there, "{file}: {family}");
            named += 1;
        }
    }
    assert!(named > 50);
}

/// Families that only some sources hear of.
const OF_THE_KERNEL: &[&str] = &["defib_host_", "defib_event_ring_", "defib_events_received_total"];

/// The panels of a dashboard, those in folded rows too.
fn panels(of: &Value) -> Vec<&Value> {
    let here = of["panels"].as_array().into_iter().flatten();
    here.flat_map(|panel| [vec![panel], panels(panel)].concat()).collect()
}

fn dashboard() -> Value {
    let text = fs::read_to_string(shipped("grafana/defib.json")).expect("the file");
    serde_json::from_str(&text).expect("JSON")
}

/// What Grafana needs of it: each panel a number, a type and a place of its own, and a query with a letter of its own.
#[test]
fn the_dashboard_has_the_shape_that_grafana_takes() {
    let dashboard = dashboard();
    for key in ["title", "uid", "timezone", "refresh"] {
        assert!(dashboard[key].is_string(), "{key}");
    }
    assert!(dashboard["schemaVersion"].as_u64().is_some_and(|version| version >= 36));
    let variables = dashboard["templating"]["list"].as_array().expect("variables");
    let names: Vec<_> = variables.iter().filter_map(|it| it["name"].as_str()).collect();
    assert_eq!(names, ["datasource", "instance", "process"]);
    let (mut numbers, mut places) = (BTreeSet::new(), BTreeSet::new());
    for panel in panels(&dashboard) {
        let title = panel["title"].as_str().expect("a title");
        assert!(numbers.insert(panel["id"].as_u64().expect("a number")), "{title}");
        let place = |key: &str| panel["gridPos"][key].as_u64().unwrap_or_else(|| panic!("{title}: {key}"));
        let (x, y, w, h) = (place("x"), place("y"), place("w"), place("h"));
        assert!(w > 0 && h > 0 && x + w <= 24, "{title}");
        for cell in (x..x + w).flat_map(|x| (y..y + h).map(move |y| (x, y))) {
            assert!(places.insert(cell), "{title} lies over another panel at {cell:?}");
        }
        if panel["type"] == "row" {
            continue;
        }
        let targets = panel["targets"].as_array().expect("queries");
        let letters: BTreeSet<_> = targets.iter().map(|it| it["refId"].as_str().expect("a letter")).collect();
        assert!(!targets.is_empty() && letters.len() == targets.len(), "{title}");
        for source in targets.iter().chain([panel]) {
            assert_eq!(source["datasource"]["uid"], "${datasource}", "{title}");
        }
    }
    assert!(numbers.len() > 30);
}

/// An expression as Grafana asks it when everything is chosen.
fn asked(expression: &str) -> String {
    expression.replace("$__rate_interval", "1m").replace("$instance", ".*").replace("$process", ".*")
}

#[test]
fn every_rule_is_evaluated_and_every_expression_of_the_dashboard_has_an_answer() {
    let port = TcpListener::bind("127.0.0.1:0").and_then(|it| it.local_addr()).expect("a port").port();
    let daemon = Daemon::start(&format!(
        "[listen]\nmetrics = \"127.0.0.1:0\"\n[service.it]\ncommand = \"sleep 1000\"\n\
         [service.fails]\ncommand = [\"sh\", \"-c\", \"sleep 1; exit 3\"]\nrestart = {{ max_restarts = 3 }}\n\
         [service.web]\ncommand = \"{} {port}\"\nports = [{port}]\nready = {{ port = {port} }}\n",
        beside("server").display()
    ));
    daemon.wait("web", "to be ready", |it| it["ready"] == true);
    drop(TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("it listens"));
    let before = daemon.wait_state("it", "running");
    let prometheus = Prometheus::start(metrics_address(&daemon));
    prometheus.wait("defib_process_restarts_total{process=\"it\",reason=\"signal\"}", |count| count == 0.0);
    let pid = pid(&before);
    signal(pid, libc::SIGKILL);
    prometheus
        .wait("increase(defib_process_restarts_total{process=\"it\",reason=\"signal\"}[1m])", |n| n > 0.0);
    // Given up: an alert that needs no time.
    prometheus
        .wait("ALERTS{alertname=\"ProcessGaveUp\",alertstate=\"firing\",process=\"fails\"}", |on| on == 1.0);

    let evaluated = patiently("all rules to be evaluated", || {
        let groups = prometheus.api("/api/v1/rules")["groups"].clone();
        let rules: Vec<Value> = groups
            .as_array()?
            .iter()
            .flat_map(|group| group["rules"].as_array().cloned().unwrap_or_default())
            .collect();
        rules.iter().all(|rule| rule["health"] != "unknown").then_some(rules)
    });
    assert!(evaluated.len() > 10);
    for rule in &evaluated {
        assert_eq!(rule["health"], "ok", "{rule}");
    }

    let source = http::get(metrics_address(&daemon), "/health").body;
    let source: Value = serde_json::from_str(&source).expect("JSON");
    let ebpf = source["source"] == "ebpf";
    let dashboard = dashboard();
    let mut asked_for = 0;
    for panel in panels(&dashboard) {
        for target in panel["targets"].as_array().into_iter().flatten() {
            let expression = target["expr"].as_str().expect("an expression");
            let may_be_empty = families(expression).any(|family| {
                let of = |prefixes: &[&str]| prefixes.iter().any(|prefix| family.starts_with(prefix));
                !ebpf && of(OF_THE_KERNEL)
            });
            let path = format!("/api/v1/query?query={}", encoded(&asked(expression)));
            let found = || !prometheus.api(&path)["result"].as_array().is_none_or(Vec::is_empty);
            if may_be_empty {
                found();
            } else {
                patiently(expression, || found().then_some(()));
            }
            asked_for += 1;
        }
    }
    assert!(asked_for > 40, "{asked_for}");
    for variable in ["defib_build_info", "defib_process_info{instance=~\".*\"}"] {
        prometheus.wait(variable, |value| value == 1.0);
    }
}

/// As the sample says: TLS with an authority of one's own, and a password.
#[test]
fn prometheus_gets_in_by_tls_with_its_password() {
    let folder = tempfile::Builder::new().prefix("defib-web-").tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name).to_str().expect("UTF-8").to_owned();
    let own = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    fs::write(path("defib.crt"), own.cert.pem()).expect("a file");
    fs::write(path("defib.key"), own.signing_key.serialize_pem()).expect("a file");
    let hash = bcrypt::hash("a secret", 5).expect("a hash");
    let web = format!(
        "tls_server_config: {{ cert_file: defib.crt, key_file: defib.key }}\nbasic_auth_users: {{ prometheus: {hash:?} }}\n"
    );
    fs::write(path("web.yml"), web).expect("a file");
    judged(&["promtool", "check", "web-config", &path("web.yml")]);
    let listen = format!("[listen]\nmetrics = \"127.0.0.1:0\"\nweb_config = {:?}\n", path("web.yml"));
    let args = ["--log-level", "info,h2=debug"].map(String::from).into();
    let config = format!("{listen}[service.it]\ncommand = \"sleep 1000\"\n");
    let daemon = Daemon::start_with(&config, &Options { args, ..Options::default() });
    daemon.wait_state("it", "running");
    let entry = |password: &str| {
        format!(
            "    scheme: https\n    tls_config: {{ ca_file: {:?}, server_name: localhost }}\n    \
             basic_auth: {{ username: prometheus, password: {password:?} }}\n",
            path("defib.crt")
        )
    };
    let prometheus = Prometheus::start_with(metrics_address(&daemon), &entry("a secret"));
    prometheus.wait("up{job=\"defib\"}", |up| up == 1.0);
    prometheus.wait("defib_process_up{process=\"it\"}", |up| up == 1.0);
    assert!(
        daemon.log().contains("received frame"),
        "it speaks HTTP/2 where that is offered: {}",
        daemon.log()
    );
    let stranger = Prometheus::start_with(metrics_address(&daemon), &entry("a guess"));
    stranger.wait("up{job=\"defib\"}", |up| up == 0.0);
    let refused =
        prometheus.wait("defib_http_requests_total{handler=\"/metrics\",code=\"401\"}", |n| n > 0.0);
    assert!(refused >= 1.0);
}

/// The alert goes all the way: defib, Prometheus, Alertmanager with the file that is shipped, and who is on call.
#[test]
fn who_is_on_call_hears_of_a_service_that_was_given_up() {
    let on_call = TcpListener::bind("127.0.0.1:0").expect("a port");
    let sample = fs::read_to_string(shipped("prometheus/alertmanager.yml")).expect("the file");
    let address = on_call.local_addr().expect("an address").to_string();
    let folder = tempfile::Builder::new().prefix("defib-alertmanager-").tempdir().expect("a folder");
    fs::write(folder.path().join("alertmanager.yml"), sample.replace("127.0.0.1:9095", &address))
        .expect("a file");
    let alertmanager =
        Server::start(&["prometheus-alertmanager", "alertmanager"], folder, |path, address| {
            vec![
                format!("--config.file={path}/alertmanager.yml"),
                format!("--storage.path={path}/data"),
                format!("--web.listen-address={address}"),
                // Alone.
                "--cluster.listen-address=".to_owned(),
            ]
        });
    let daemon = Daemon::start(
        "[listen]\nmetrics = \"127.0.0.1:0\"\n[service.fails]\ncommand = [\"sh\", \"-c\", \"exit 3\"]\n\
         restart = { policy = \"never\" }\n",
    );
    daemon.wait_state("fails", "failed");
    let alerting = format!(
        "\nalerting: {{ alertmanagers: [{{ static_configs: [{{ targets: [\"{}\"] }}] }}] }}\n",
        alertmanager.address
    );
    let prometheus = Prometheus::start_with(metrics_address(&daemon), &alerting);
    prometheus.wait("ALERTS{alertname=\"ProcessGaveUp\",alertstate=\"firing\"}", |on| on == 1.0);
    on_call.set_nonblocking(true).expect("a socket");
    let mut told = String::new();
    patiently("a message", || {
        let (mut stream, _) = on_call.accept().ok()?;
        stream.set_nonblocking(false).expect("a socket");
        stream.set_read_timeout(Some(Duration::from_secs(5))).expect("a socket");
        let mut bytes = [0; 4096];
        while !told.contains("ProcessGaveUp") {
            match stream.read(&mut bytes) {
                Ok(count) if count > 0 => told.push_str(&String::from_utf8_lossy(&bytes[..count])),
                _ => break,
            }
        }
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").ok();
        told.contains("ProcessGaveUp").then_some(())
    });
    assert!(told.starts_with("POST /on-call "), "{told}");
    assert!(told.contains("defib has given fails on"), "{told}");
}
