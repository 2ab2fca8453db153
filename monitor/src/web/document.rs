//! What may stand in a web configuration file. Keys, words and defaults are those of exporter-toolkit; what it has and
//! defib has not is refused by name, because each such key is there to keep somebody out.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use axum::http::{HeaderName, HeaderValue};
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::WebConfig;
use super::passwords::Users;
use super::stamp::Stamps;
use super::tls;
use crate::config;

/// The whole file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Document {
    tls_server_config: Option<Tls>,
    http_server_config: Option<Http>,
    basic_auth_users: Option<BTreeMap<String, String>>,
    rate_limit: Option<IgnoredAny>,
}

/// `tls_server_config`. A text that is empty counts as not given.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Tls {
    cert: Option<String>,
    key: Option<String>,
    client_ca: Option<String>,
    cert_file: Option<PathBuf>,
    key_file: Option<PathBuf>,
    client_ca_file: Option<PathBuf>,
    pub(super) client_auth_type: Option<String>,
    client_allowed_sans: Option<IgnoredAny>,
    pub(super) min_version: Option<String>,
    pub(super) max_version: Option<String>,
    pub(super) cipher_suites: Option<Vec<String>>,
    pub(super) prefer_server_cipher_suites: Option<bool>,
    pub(super) curve_preferences: Option<Vec<String>>,
}

/// `http_server_config`
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Http {
    /// Whether HTTP/2 is offered over TLS; not given: it is. Without TLS it is never spoken.
    http2: Option<bool>,
    headers: Option<BTreeMap<String, String>>,
}

/// What TLS needs of files.
#[derive(Debug)]
pub(super) struct Material {
    pub(super) certificates: Vec<u8>,
    pub(super) key: Vec<u8>,
    pub(super) client_ca: Option<Vec<u8>>,
}

/// The headers that may be set, with the values that each may have; none: any.
const HEADERS: [(&str, &[&str]); 5] = [
    ("Content-Security-Policy", &[]),
    ("Strict-Transport-Security", &[]),
    ("X-Content-Type-Options", &["nosniff"]),
    ("X-Frame-Options", &["deny", "sameorigin"]),
    ("X-XSS-Protection", &[]),
];

/// Reads the file, and those that it names. `stamps` learns of each before it is read. Errors name the key and not the
/// file, and repeat no secret.
pub(super) fn read(path: &Path, euid: u32, stamps: &mut Stamps) -> Result<WebConfig, String> {
    stamps.note(path);
    let text = config::text_of(path, euid).map_err(|why| why.to_string())?;
    let document = parse(&text)?;
    if document.rate_limit.is_some() {
        return Err(
            "rate_limit: defib has none; it answers 32 connections at a time. Remove the key".to_owned()
        );
    }
    let http = document.http_server_config.unwrap_or_default();
    let headers = http.headers.unwrap_or_default();
    let headers = headers.iter().filter(|(_, value)| !value.is_empty());
    let headers = headers.map(header).collect::<Result<_, _>>()?;
    let users = Users::new(document.basic_auth_users.unwrap_or_default())?;
    let folder = path.parent().unwrap_or(Path::new("/"));
    let tls = match document.tls_server_config {
        Some(tls) if !tls.is_empty() => {
            let material = material(&tls, folder, euid, stamps)?;
            Some(tls::server(&tls, &material, http.http2.unwrap_or(true))?)
        }
        _ => None,
    };
    Ok(WebConfig { tls, headers, users })
}

fn parse(text: &str) -> Result<Document, String> {
    // Without the lines around the mistake: they hold passwords' hashes, and keys.
    let options = serde_saphyr::options! { with_snippet: false };
    let document = serde_saphyr::from_str_with_options::<Option<Document>>(text, options);
    document.map(Option::unwrap_or_default).map_err(|error| format!("not as it should be: {error}"))
}

fn header((name, value): (&String, &String)) -> Result<(HeaderName, HeaderValue), String> {
    let Some((_, allowed)) = HEADERS.iter().find(|(known, _)| known == name) else {
        let known = HEADERS.map(|(known, _)| known).join(", ");
        return Err(format!("http_server_config.headers: found {name:?}, wanted one of {known}"));
    };
    let valid = allowed.is_empty() || allowed.contains(&value.as_str());
    match (HeaderName::try_from(name), HeaderValue::try_from(value)) {
        (Ok(name), Ok(value)) if valid => Ok((name, value)),
        _ => {
            let wanted = if allowed.is_empty() { "a line of ASCII".to_owned() } else { allowed.join(" or ") };
            Err(format!("http_server_config.headers.{name}: found {value:?}, wanted {wanted}"))
        }
    }
}

impl Tls {
    fn is_empty(&self) -> bool {
        let Self {
            cert,
            key,
            client_ca,
            cert_file,
            key_file,
            client_ca_file,
            client_auth_type,
            client_allowed_sans,
            min_version,
            max_version,
            cipher_suites,
            prefer_server_cipher_suites,
            curve_preferences,
        } = self;
        let texts = [cert, key, client_ca, client_auth_type, min_version, max_version];
        let paths = [cert_file, key_file, client_ca_file];
        let lists = [cipher_suites, curve_preferences];
        texts.into_iter().flatten().all(String::is_empty)
            && paths.into_iter().flatten().all(|path| path.as_os_str().is_empty())
            && lists.into_iter().flatten().all(Vec::is_empty)
            && client_allowed_sans.is_none()
            && prefer_server_cipher_suites.is_none()
    }
}

/// Certificates and keys, from the file itself or from others.
fn material(tls: &Tls, folder: &Path, euid: u32, stamps: &mut Stamps) -> Result<Material, String> {
    if tls.client_allowed_sans.is_some() {
        return Err(
            "tls_server_config.client_allowed_sans: not built yet; remove the key, and let an authority \
                    of your own sign the certificates of those who may ask"
                .to_owned(),
        );
    }
    let mut get = |name: &str, text: &Option<String>, path: &Option<PathBuf>| {
        let text = text.as_ref().filter(|text| !text.is_empty());
        let path = path.as_ref().filter(|path| !path.as_os_str().is_empty());
        match (text, path) {
            (Some(_), Some(_)) => {
                Err(format!("tls_server_config.{name}: given as a file too; remove one of the two"))
            }
            (Some(text), None) => Ok(Some(text.clone().into_bytes())),
            (None, Some(path)) => {
                // Relative ones are meant from where the file is.
                let path = folder.join(path);
                stamps.note(&path);
                let text = config::text_of(&path, euid);
                text.map(|text| Some(text.into_bytes()))
                    .map_err(|why| format!("tls_server_config.{name}_file: {why}"))
            }
            (None, None) => Ok(None),
        }
    };
    let certificates = get("cert", &tls.cert, &tls.cert_file)?;
    let key = get("key", &tls.key, &tls.key_file)?;
    let client_ca = get("client_ca", &tls.client_ca, &tls.client_ca_file)?;
    let missing = |name: &str| format!("tls_server_config.{name}_file: missing; without it there is no TLS");
    Ok(Material {
        certificates: certificates.ok_or_else(|| missing("cert"))?,
        key: key.ok_or_else(|| missing("key"))?,
        client_ca,
    })
}
