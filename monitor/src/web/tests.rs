//! Files as operators write them, good and bad.

use std::fs;

use rcgen::{CertifiedKey, generate_simple_self_signed};
use tempfile::TempDir;

use super::*;

/// A folder with a certificate and its key.
fn folder() -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    let CertifiedKey { cert, signing_key } = generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    fs::write(folder.path().join("cert.pem"), cert.pem()).unwrap();
    fs::write(folder.path().join("key.pem"), signing_key.serialize_pem()).unwrap();
    let other = generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    fs::write(folder.path().join("other.pem"), other.signing_key.serialize_pem()).unwrap();
    fs::write(folder.path().join("empty.pem"), "").unwrap();
    folder
}

fn open(folder: &TempDir, text: &str) -> Result<WebFile, String> {
    let path = folder.path().join("web.yml");
    fs::write(&path, text).unwrap();
    // Files of a test are somebody's, and that somebody is no matter here.
    WebFile::open(&path, 1).map_err(|error| {
        let text = error.to_string();
        text.strip_prefix(&format!("{}: ", path.display())).expect("the file is named").to_owned()
    })
}

fn config(folder: &TempDir, text: &str) -> Arc<WebConfig> {
    open(folder, text).unwrap_or_else(|why| panic!("{text}\n{why}")).look().unwrap()
}

const TLS: &str = "tls_server_config:\n  cert_file: cert.pem\n  key_file: key.pem\n";

#[test]
fn what_other_exporters_take_is_taken() {
    let folder = folder();
    for plain in
        ["", "# nothing\n", "{}", "tls_server_config:\n", "tls_server_config: {}", "basic_auth_users: {}"]
    {
        assert!(config(&folder, plain).tls.is_none(), "{plain}");
    }
    for rest in [
        "",
        "  client_auth_type: NoClientCert\n",
        "  client_auth_type: \"\"\n",
        "  client_auth_type: RequestClientCert\n",
        "  client_auth_type: RequireAnyClientCert\n",
        "  client_auth_type: VerifyClientCertIfGiven\n  client_ca_file: cert.pem\n",
        "  client_auth_type: RequireAndVerifyClientCert\n  client_ca_file: cert.pem\n",
        "  min_version: TLS12\n  max_version: TLS12\n",
        "  min_version: TLS13\n",
        "  cipher_suites:\n  - TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256\n  - TLS_AES_128_GCM_SHA256\n",
        "  prefer_server_cipher_suites: false\n  curve_preferences: [CurveP384, X25519]\n",
        "http_server_config:\n  http2: false\n",
    ] {
        let text = format!("{TLS}{rest}");
        assert!(config(&folder, &text).tls.is_some(), "{text}");
    }
    for (said, both) in [("", true), ("{ http2: true }", true), ("{ http2: false }", false)] {
        let tls = config(&folder, &format!("{TLS}http_server_config: {said}\n")).tls.clone().unwrap();
        let names: Vec<_> = tls.alpn_protocols.iter().map(|name| String::from_utf8_lossy(name)).collect();
        assert_eq!(names, if both { &["h2", "http/1.1"][..] } else { &["http/1.1"] }, "{said}");
    }
    let indented = |name| fs::read_to_string(folder.path().join(name)).unwrap().replace('\n', "\n    ");
    let inline = format!(
        "tls_server_config:\n  cert: |\n    {}\n  key: |\n    {}\n",
        indented("cert.pem"),
        indented("key.pem")
    );
    assert!(config(&folder, &inline).tls.is_some());
    let headers = "http_server_config:\n  headers:\n    X-Frame-Options: deny\n    Strict-Transport-Security: max-age=5\n    \
                   X-XSS-Protection: \"\"\n";
    let config = config(&folder, headers);
    let headers: Vec<_> =
        config.headers.iter().map(|(name, value)| (name.as_str(), value.to_str().unwrap())).collect();
    assert_eq!(headers, [("strict-transport-security", "max-age=5"), ("x-frame-options", "deny")]);
}

/// Each with a part of what is said of it.
#[test]
fn what_is_wrong_is_named_with_its_remedy() {
    let folder = folder();
    let tls = |rest: &str| format!("{TLS}{rest}");
    for (text, wanted) in [
        ("[".to_owned(), "not as it should be"),
        ("a: &a [*a]".to_owned(), "not as it should be"),
        ("tls_server_confg: {}".to_owned(), "tls_server_confg"),
        ("basic_auth_users: [a, b]".to_owned(), "not as it should be"),
        ("basic_auth_users: {}\nbasic_auth_users: {}".to_owned(), "not as it should be"),
        ("basic_auth_users: { alice: secret }".to_owned(), "basic_auth_users.alice: wanted a bcrypt hash"),
        ("rate_limit: { burst: 5 }".to_owned(), "rate_limit: defib has none"),
        (
            "http_server_config: { headers: { Server: x } }".to_owned(),
            "found \"Server\", wanted one of Content-Sec",
        ),
        ("http_server_config: { headers: { X-Frame-Options: x } }".to_owned(), "wanted deny or sameorigin"),
        (
            "http_server_config: { headers: { X-XSS-Protection: \"a\\nb\" } }".to_owned(),
            "wanted a line of ASCII",
        ),
        ("tls_server_config: { key_file: key.pem }".to_owned(), "tls_server_config.cert_file: missing"),
        ("tls_server_config: { min_version: TLS13 }".to_owned(), "tls_server_config.cert_file: missing"),
        ("tls_server_config: { cert_file: cert.pem }".to_owned(), "tls_server_config.key_file: missing"),
        (
            "tls_server_config: { cert_file: x.pem, key_file: key.pem }".to_owned(),
            "tls_server_config.cert_file: cannot open",
        ),
        ("tls_server_config: { cert_file: empty.pem, key_file: key.pem }".to_owned(), "no certificate in it"),
        (
            "tls_server_config: { cert_file: cert.pem, key_file: cert.pem }".to_owned(),
            "not a private key in PEM",
        ),
        (
            "tls_server_config: { cert_file: cert.pem, key_file: other.pem }".to_owned(),
            "cert_file and key_file: ",
        ),
        (tls("  cert: x\n"), "tls_server_config.cert: given as a file too"),
        (tls("  min_version: TLS10\n"), "min_version: found \"TLS10\", wanted one of TLS12, TLS13"),
        (tls("  min_version: TLS13\n  max_version: TLS12\n"), "max_version: less than min_version"),
        (
            tls("  cipher_suites: [TLS_RSA_WITH_AES_128_CBC_SHA]\n"),
            "wanted one of TLS_ECDHE_ECDSA_WITH_AES_128",
        ),
        (tls("  curve_preferences: [CurveP521]\n"), "wanted one of CurveP256, CurveP384, X25519"),
        (tls("  client_auth_type: Maybe\n"), "client_auth_type: found \"Maybe\", wanted one of NoClientCert"),
        (tls("  client_ca_file: cert.pem\n"), "give client_auth_type too"),
        (tls("  client_auth_type: RequireAndVerifyClientCert\n"), "client_ca_file: missing"),
        (tls("  client_allowed_sans: [a]\n"), "client_allowed_sans: not built yet"),
    ] {
        let why = open(&folder, &text).expect_err(&text);
        assert!(why.contains(wanted), "{text}\n{why}");
        assert!(!why.contains("secret") && !why.contains("BEGIN"), "no secret is repeated: {why}");
    }
    let path = folder.path().join("missing.yml");
    assert!(WebFile::open(&path, 1).unwrap_err().to_string().contains("No such file"));
    assert_eq!(WebFile::open(&path, 1).unwrap_err().file(), path);
}

/// Whoever may write to it could let himself in.
#[test]
fn root_uses_no_file_that_others_may_write() {
    use std::os::unix::fs::PermissionsExt;
    let folder = folder();
    open(&folder, TLS).unwrap();
    let key = folder.path().join("key.pem");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o666)).unwrap();
    let path = folder.path().join("web.yml");
    let why = WebFile::open(&path, 0).unwrap_err().to_string();
    // Who is not root owns the file, and that is told first.
    assert!(why.contains("could make root act"), "{why}");
}

#[test]
fn a_change_is_seen_and_what_cannot_be_used_lets_nobody_in() {
    let folder = folder();
    let file = open(&folder, TLS).unwrap();
    let first = file.look().unwrap();
    assert!(Arc::ptr_eq(&first, &file.look().unwrap()), "it is not read again");
    fs::write(folder.path().join("web.yml"), "oops").unwrap();
    assert_eq!(file.look().unwrap_err(), Unusable { tls: true });
    assert_eq!(file.look().unwrap_err(), Unusable { tls: true });
    fs::write(folder.path().join("web.yml"), "{}").unwrap();
    assert!(file.look().unwrap().tls.is_none());
    fs::remove_file(folder.path().join("web.yml")).unwrap();
    assert_eq!(file.look().unwrap_err(), Unusable { tls: false });
    fs::write(folder.path().join("web.yml"), TLS).unwrap();
    assert!(file.look().unwrap().tls.is_some());
    // What it names counts, too.
    fs::rename(folder.path().join("cert.pem"), folder.path().join("away.pem")).unwrap();
    assert!(file.look().is_err());
    fs::rename(folder.path().join("away.pem"), folder.path().join("cert.pem")).unwrap();
    assert!(file.look().unwrap().tls.is_some());
}
