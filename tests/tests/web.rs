//! The metrics over TCP to clients who mean harm, and behind a web configuration: TLS, passwords, client certificates, and
//! files that change.

use std::fs;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use defib_tests::http::{self, Answer};
use defib_tests::{Daemon, Options, lives, metrics_address, patiently, signal};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use tempfile::TempDir;

#[path = "web/http2.rs"]
mod http2;

const SERVICE: &str = "[service.it]\ncommand = \"sleep 1000\"\n";

const ALIVE: &[u8] = b"GET /alive HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";

/// A folder with an authority, and what it has signed.
struct Authority {
    folder: TempDir,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let issuer = CertifiedIssuer::self_signed(params, key).expect("an authority");
        let folder = tempfile::Builder::new().prefix("defib-web-").tempdir().expect("a folder");
        fs::write(folder.path().join("ca.pem"), issuer.pem()).expect("a file");
        let authority = Self { folder, issuer };
        authority.sign("server");
        authority
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().expect("UTF-8").to_owned()
    }

    /// Writes NAME.pem and NAME.key, for who is `localhost`.
    fn sign(&self, name: &str) {
        let key = KeyPair::generate().expect("a key");
        let params = CertificateParams::new(["localhost".to_owned()]).expect("a name");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        // In the place of what was there, so that nobody reads a half.
        for (ending, text) in [("key", key.serialize_pem()), ("pem", certificate.pem())] {
            fs::write(self.path("new"), text).expect("a file");
            fs::rename(self.path("new"), self.path(&format!("{name}.{ending}"))).expect("a file");
        }
    }

    /// Writes the web configuration.
    fn web(&self, text: &str) -> String {
        fs::write(self.path("new"), text).expect("a file");
        fs::rename(self.path("new"), self.path("web.yml")).expect("a file");
        self.path("web.yml")
    }

    /// What a client knows: the authority, and a certificate of its own, if it is to have one.
    fn client(&self, own: Option<&str>) -> Arc<ClientConfig> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(self.path("ca.pem")).expect("PEM")).expect("an authority");
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
        let builder = builder.expect("versions").with_root_certificates(roots);
        Arc::new(match own {
            None => builder.with_no_client_auth(),
            Some(name) => {
                let file = |ending| self.path(&format!("{name}.{ending}"));
                let certificate = CertificateDer::from_pem_file(file("pem")).expect("PEM");
                let key = PrivateKeyDer::from_pem_file(file("key")).expect("PEM");
                builder.with_client_auth_cert(vec![certificate], key).expect("a pair")
            }
        })
    }
}

/// What comes back by TLS, and the certificate of the server.
fn ask(
    address: SocketAddr,
    client: &Arc<ClientConfig>,
    request: &str,
) -> Option<(Answer, CertificateDer<'static>)> {
    let server = "localhost".try_into().expect("a name");
    let connection = ClientConnection::new(Arc::clone(client), server).expect("a client");
    let mut stream = StreamOwned::new(connection, http::connect(address));
    stream.write_all(request.as_bytes()).ok()?;
    let answer = http::answer(&http::read(&mut stream))?;
    Some((answer, stream.conn.peer_certificates()?.first()?.clone().into_owned()))
}

fn request(path: &str, headers: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n{headers}connection: close\r\n\r\n")
}

fn basic(pair: &str) -> String {
    format!("authorization: Basic {}\r\n", STANDARD.encode(pair))
}

fn start(web: &str) -> (Daemon, SocketAddr) {
    let listen = format!("[listen]\nmetrics = \"127.0.0.1:0\"\nweb_config = {web:?}\n");
    let daemon = Daemon::start(&format!("{listen}{SERVICE}"));
    let address = metrics_address(&daemon);
    (daemon, address)
}

fn said(daemon: &Daemon, what: &str) {
    patiently(what, || daemon.log().contains(what).then_some(()));
}

const TLS: &str = "tls_server_config:\n  cert_file: server.pem\n  key_file: server.key\n";

#[test]
fn tls_is_spoken_and_a_new_certificate_is_used_at_once() {
    let authority = Authority::new();
    let (daemon, address) = start(&authority.web(TLS));
    let client = authority.client(None);
    let (answer, first) = ask(address, &client, &request("/metrics", "")).expect("an answer");
    assert!(answer.status == 200 && answer.body.contains("defib_process_up{process=\"it\"}"));
    let (_, again) = ask(address, &client, &request("/alive", "")).expect("an answer");
    assert_eq!(first, again);
    authority.sign("server");
    let (_, second) = ask(address, &client, &request("/alive", "")).expect("an answer");
    assert_ne!(first, second, "{}", daemon.log());

    // Who speaks something else is told, or let go.
    let plain = http::raw(address, ALIVE);
    assert!(plain.starts_with("HTTP/1.1 400 ") && plain.contains("https://"), "{plain}");
    let garbage = http::raw(address, b"\x16\x03\x01\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff");
    assert!(!garbage.contains("HTTP"), "{garbage}");
    let stranger = Authority::new();
    assert!(ask(address, &stranger.client(None), &request("/alive", "")).is_none());
    assert!(ask(address, &client, &request("/alive", "")).is_some());
}

#[test]
fn only_who_has_a_certificate_of_the_authority_is_served() {
    let authority = Authority::new();
    authority.sign("client");
    let policy =
        "  client_auth_type: RequireAndVerifyClientCert\n  client_ca_file: ca.pem\n  min_version: TLS13\n";
    let (_daemon, address) = start(&authority.web(&format!("{TLS}{policy}")));
    let alive = request("/alive", "");
    assert!(ask(address, &authority.client(None), &alive).is_none());
    let (answer, _) = ask(address, &authority.client(Some("client")), &alive).expect("an answer");
    assert_eq!((answer.status, answer.body.as_str()), (200, "OK"));
    // Of another authority.
    let other = Authority::new();
    other.sign("client");
    for ending in ["pem", "key"] {
        fs::copy(other.path(&format!("client.{ending}")), authority.path(&format!("other.{ending}")))
            .expect("a copy");
    }
    assert!(ask(address, &authority.client(Some("other")), &alive).is_none());
}

#[test]
fn a_password_is_asked_for_and_headers_are_added() {
    let authority = Authority::new();
    let hash = |password: &str| bcrypt::hash(password, 4).expect("a hash");
    let users = |password: &str| {
        format!(
            "basic_auth_users:\n  alice: {}\nhttp_server_config:\n  headers:\n    X-Content-Type-Options: nosniff\n",
            hash(password)
        )
    };
    let (daemon, address) = start(&authority.web(&users("one:two")));
    let status = |headers: &str| {
        let answer =
            http::answer(&http::raw(address, request("/metrics", headers).as_bytes())).expect("an answer");
        assert!(answer.head.contains("x-content-type-options: nosniff"), "{}", answer.head);
        assert_eq!(answer.status == 401, answer.head.contains("www-authenticate: Basic"), "{}", answer.head);
        assert_eq!(answer.status == 200, answer.body.contains("defib_process_up"), "{}", answer.body);
        answer.status
    };
    for _ in 0..2 {
        assert_eq!(status(""), 401);
        assert_eq!(status(&basic("alice:one:two")), 200);
        assert_eq!(status(&basic("alice:one")), 401);
        assert_eq!(status(&basic("bob:one:two")), 401);
        assert_eq!(status("authorization: Bearer x\r\n"), 401);
    }
    // Nothing is told without it: not even which routes there are.
    for path in ["/", "/alive", "/health", "/nothing"] {
        assert_eq!(http::get(address, path).status, 401, "{path}");
    }
    authority.web(&users("three"));
    assert_eq!(status(&basic("alice:one:two")), 401, "{}", daemon.log());
    assert_eq!(status(&basic("alice:three")), 200);
    // The operator's socket asks the kernel who it is.
    daemon.ask(&["status"]);
}

#[test]
fn a_file_that_becomes_bad_lets_nobody_in_until_it_is_mended() {
    let authority = Authority::new();
    let (daemon, address) = start(&authority.web("http_server_config: { http2: true }\n"));
    assert_eq!(http::get(address, "/alive").status, 200);
    authority.web("tls_server_confg: {}\n");
    let refused = http::get(address, "/metrics");
    assert!(refused.status == 500 && !refused.body.contains("tls_server"), "{}", refused.body);
    said(&daemon, "nobody is answered over TCP until this is mended");
    assert!(daemon.log().contains("tls_server_confg"), "{}", daemon.log());
    for _ in 0..3 {
        assert_eq!(http::get(address, "/alive").status, 500);
    }
    assert_eq!(daemon.log().matches("nobody is answered").count(), 1, "it is said once");
    authority.web(TLS);
    let client = authority.client(None);
    assert!(ask(address, &client, &request("/alive", "")).is_some());
    fs::remove_file(authority.path("server.key")).expect("it was there");
    assert!(ask(address, &client, &request("/alive", "")).is_none());
    assert!(http::raw(address, ALIVE).is_empty(), "what was encrypted is not told in plain text");
    // Nor by the next daemon, which finds it so.
    let old = daemon.daemon();
    signal(old, libc::SIGKILL);
    patiently("its end", || (!lives(old)).then_some(()));
    assert!(http::raw(address, ALIVE).is_empty(), "{}", daemon.log());
    authority.web("{}");
    assert_eq!(http::get(address, "/alive").body, "OK", "{}", daemon.log());
    daemon.wait("it", "in its first life", |it| it["incarnation"] == 1 && it["state"] == "running");
}

#[test]
fn a_file_that_is_bad_from_the_start_keeps_the_metrics_closed_and_nothing_else() {
    let authority = Authority::new();
    let web = authority.web("basic_auth_users: { alice: secret }\n");
    let port =
        std::net::TcpListener::bind("127.0.0.1:0").and_then(|it| it.local_addr()).expect("a port").port();
    let config = format!("[listen]\nmetrics = \"127.0.0.1:{port}\"\n{SERVICE}");
    // As exporters call the flag.
    let args = vec!["--web.config.file".to_owned(), web];
    let daemon = Daemon::start_with(&config, &Options { args, ..Options::default() });
    daemon.wait_state("it", "running");
    said(&daemon, "metrics are not served over TCP");
    let log = daemon.log();
    assert!(log.contains("basic_auth_users.alice: wanted a bcrypt hash") && !log.contains("secret"), "{log}");
    let address: SocketAddr = ([127, 0, 0, 1], port).into();
    assert!(TcpStream::connect(address).is_err(), "nothing listens");
    let warned = daemon.cli(&["reload"]);
    assert!(warned.code == 0 && (warned.out + &warned.err).contains("bcrypt hash"), "{log}");
    assert!(TcpStream::connect(address).is_err());

    let file = daemon.path("defib.toml");
    let check = |web: &str| {
        let file = file.to_str().expect("UTF-8");
        defib_tests::defib(&["--config", file, "--listen-web-config", web, "check"])
    };
    let bad = check(&authority.path("web.yml"));
    assert!(
        bad.code == 1 && bad.err.contains("listen.web_config: ") && bad.err.contains("bcrypt"),
        "{}",
        bad.err
    );
    authority.web("{}");
    assert_eq!(check(&authority.path("web.yml")).code, 0);
    daemon.ask(&["reload"]);
    assert_eq!(http::get(address, "/alive").body, "OK", "{}", daemon.log());
}

/// Who begins with TLS and does not go on takes a place for some seconds only.
#[test]
fn half_a_handshake_is_let_go() {
    let authority = Authority::new();
    let (_daemon, address) = start(&authority.web(TLS));
    let mut half: Vec<TcpStream> = (0..40).map(|_| http::connect(address)).collect();
    for (n, stream) in half.iter_mut().enumerate() {
        stream.write_all(&b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc"[..n % 10]).ok();
    }
    for stream in &mut half {
        let rest = http::read(stream);
        assert!(!rest.contains("200 OK"), "{rest}");
    }
    assert!(ask(address, &authority.client(None), &request("/alive", "")).is_some());
}

/// Each with the answers that it may get; none: the connection may end without a word.
#[test]
fn requests_that_make_no_sense_are_refused_and_the_next_is_answered() {
    let daemon = Daemon::start(&format!("[listen]\nmetrics = \"127.0.0.1:0\"\n{SERVICE}"));
    let address = metrics_address(&daemon);
    let many = format!("GET / HTTP/1.1\r\n{}\r\n", "a: b\r\n".repeat(5000));
    let long = format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(70_000));
    let name = format!("GET / HTTP/1.1\r\n{}: b\r\n\r\n", "a".repeat(70_000));
    let query = format!("GET /metrics?{} HTTP/1.1\r\nhost: x\r\n\r\n", "collect[]=process&".repeat(500));
    for (bytes, wanted) in [
        (&b"GET /\0 HTTP/1.1\r\n\r\n"[..], &[400][..]),
        (b"GET / HTTP/1.1\r\nno colon\r\n\r\n", &[400]),
        (b"GET / HTTP/1.1\r\na: \0\r\n\r\n", &[400]),
        (b"GET  /  HTTP/1.1\r\n\r\n", &[400]),
        (b"G\xffT / HTTP/1.1\r\n\r\n", &[400]),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", &[400, 505]),
        (b"GET / HTTP/1.1\r\ncontent-length: -1\r\n\r\n", &[400]),
        (b"GET / HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n", &[400]),
        (b"POST /alive HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n", &[400, 413]),
        (b"POST /alive HTTP/1.1\r\ncontent-length: 3\r\n\r\nabc", &[413]),
        (b"BREW / HTTP/1.1\r\nconnection: close\r\n\r\n", &[405]),
        (b"GET /%ff%00 HTTP/1.1\r\nconnection: close\r\n\r\n", &[404]),
        (b"GET /metrics?%ff=%00&& HTTP/1.1\r\nconnection: close\r\n\r\n", &[400]),
        (b"GET /metrics HTTP/1.1\r\naccept-encoding: gzip;q=zzz\r\naccept: ;;;,\r\nconnection: close\r\n\r\n", &[200]),
        (many.as_bytes(), &[400, 431]),
        (long.as_bytes(), &[400, 414, 431]),
        (name.as_bytes(), &[400, 431]),
        (query.as_bytes(), &[200, 400, 414, 431]),
    ] {
        let mut stream = http::connect(address);
        stream.write_all(bytes).ok();
        // No more will come.
        stream.shutdown(Shutdown::Write).ok();
        let answer = http::read(&mut stream);
        let status = http::answer(&answer).map(|answer| answer.status);
        let shown = String::from_utf8_lossy(&bytes[..bytes.len().min(80)]).into_owned();
        assert!(status.is_none_or(|status| wanted.contains(&status)), "{shown:?}: {answer}");
        assert_eq!(http::get(address, "/alive").body, "OK", "{shown:?}");
    }
    daemon.wait("it", "in its first life", |it| it["incarnation"] == 1 && it["state"] == "running");
    assert!(!daemon.log().contains("ERROR"), "{}", daemon.log());
}

/// A byte now and then is not enough: the whole head must have come in time. The server decides when; the client only
/// keeps on.
#[test]
fn a_head_that_drips_is_cut_off() {
    let daemon = Daemon::start(&format!("[listen]\nmetrics = \"127.0.0.1:0\"\n{SERVICE}"));
    let mut stream = http::connect(metrics_address(&daemon));
    stream.write_all(b"GET /metrics HTTP/1.1\r\nx: ").expect("it reads");
    let mut drip = stream.try_clone().expect("a socket");
    let dripping = thread::spawn(move || {
        // Until it is cut off; were it not, the read below would wait in vain.
        #[expect(clippy::disallowed_methods, reason = "a client that takes its time")]
        let pause = || thread::sleep(Duration::from_millis(100));
        (0..600).take_while(|_| drip.write_all(b"y").inspect(|()| pause()).is_ok()).count()
    });
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).ok();
    assert!(rest.is_empty() || rest.starts_with(b"HTTP/1.1 408 "), "{}", String::from_utf8_lossy(&rest));
    drop(stream);
    let written = dripping.join().expect("no panic");
    assert!(written < 600, "it was cut off");
}

/// Many requests on one connection are answered one by one.
#[test]
fn a_connection_may_ask_again() {
    let daemon = Daemon::start(&format!("[listen]\nmetrics = \"127.0.0.1:0\"\n{SERVICE}"));
    let address = metrics_address(&daemon);
    let mut all = b"GET /alive HTTP/1.1\r\nhost: x\r\n\r\n".repeat(50);
    all.extend(ALIVE);
    let answers = http::raw(address, &all);
    assert_eq!(answers.matches("HTTP/1.1 200 OK").count(), 51, "{answers}");
}

#[test]
fn the_sample_that_is_shipped_is_taken() {
    let sample = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../config/prometheus/web.yml"));
    let authority = Authority::new();
    let text = fs::read_to_string(sample).expect("the file");
    let (_daemon, address) = start(&authority.web(&text));
    let asked = |pair: &str| {
        let bytes = http::raw(address, request("/alive", &basic(pair)).as_bytes());
        http::answer(&bytes).expect("an answer").status
    };
    assert_eq!((asked("prometheus:change me"), asked("prometheus:changed")), (200, 401));
    // What is commented out in it is right, too.
    let folder = authority.folder.path();
    for (from, to) in
        [("server.pem", "defib.crt"), ("server.key", "defib.key"), ("ca.pem", "prometheus-ca.crt")]
    {
        fs::copy(folder.join(from), folder.join(to)).expect("a copy");
    }
    let (head, keys) = text.split_once("\n\n").expect("an introduction");
    let bare = |line: &str| match line.strip_prefix('#') {
        Some(rest) if !rest.starts_with(' ') || rest.starts_with("  ") => format!("{rest}\n"),
        _ => format!("{line}\n"),
    };
    let whole = format!("{head}\n\n{}", keys.lines().map(bare).collect::<String>());
    authority.web(&whole);
    authority.sign("client");
    let client = authority.client(Some("client"));
    let asked = ask(address, &client, &request("/alive", &basic("prometheus:change me")));
    let (answer, _) = asked.unwrap_or_else(|| panic!("{whole}"));
    assert!(answer.status == 200 && answer.head.contains("strict-transport-security: "), "{}", answer.head);
}
