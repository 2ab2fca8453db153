//! What rustls makes of `tls_server_config`. The words are those of Go's crypto/tls, as exporter-toolkit has them.

use std::sync::Arc;

use tokio_rustls::rustls;

use rustls::crypto::{
    CryptoProvider, SupportedKxGroup, WebPkiSupportedAlgorithms, ring, verify_tls12_signature,
    verify_tls13_signature,
};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{NoClientAuth, WebPkiClientVerifier};
use rustls::version::{TLS12, TLS13};
use rustls::{
    CipherSuite, DigitallySignedStruct, DistinguishedName, Error, RootCertStore, ServerConfig,
    SignatureScheme, SupportedProtocolVersion,
};

use super::document::{Material, Tls};

/// The suites of TLS 1.2 that can be chosen. Those of TLS 1.3 are always on, as in Go.
const SUITES: [(&str, CipherSuite); 6] = [
    ("TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256", CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256),
    ("TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384", CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384),
    (
        "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
        CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
    ),
    ("TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256),
    ("TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384", CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384),
    ("TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256", CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256),
];

/// Names of the suites of TLS 1.3, which may be in a list and change nothing.
const ALWAYS: [&str; 3] =
    ["TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"];

const CURVES: [(&str, &dyn SupportedKxGroup); 3] = [
    ("CurveP256", ring::kx_group::SECP256R1),
    ("CurveP384", ring::kx_group::SECP384R1),
    ("X25519", ring::kx_group::X25519),
];

const VERSIONS: [(&str, &SupportedProtocolVersion); 2] = [("TLS12", &TLS12), ("TLS13", &TLS13)];

/// What is asked of a client's certificate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ClientAuth {
    None,
    /// It need have none, and any will do.
    Request,
    /// It must have one; any will do.
    Any,
    /// It need have none; one that it has must be signed by the authority.
    IfGiven,
    /// It must have one that is signed by the authority.
    Verify,
}

const POLICIES: [(&str, ClientAuth); 6] = [
    ("NoClientCert", ClientAuth::None),
    ("RequestClientCert", ClientAuth::Request),
    ("RequireAnyClientCert", ClientAuth::Any),
    ("RequireClientCert", ClientAuth::Any),
    ("VerifyClientCertIfGiven", ClientAuth::IfGiven),
    ("RequireAndVerifyClientCert", ClientAuth::Verify),
];

/// The value of a word, or what is wanted instead.
fn word<T: Copy>(key: &str, found: &str, words: &[(&str, T)]) -> Result<T, String> {
    let known = words.iter().find(|(name, _)| *name == found).map(|(_, value)| *value);
    known.ok_or_else(|| {
        let names: Vec<&str> = words.iter().map(|(name, _)| *name).collect();
        format!("tls_server_config.{key}: found {found:?}, wanted one of {}", names.join(", "))
    })
}

/// HTTP/2 as it is named in ALPN.
pub const HTTP2: &[u8] = b"h2";

/// The side of the server. `http2`: whether HTTP/2 is offered; who prefers HTTP/1.1, or says nothing, is served all the same.
pub(super) fn server(tls: &Tls, material: &Material, http2: bool) -> Result<Arc<ServerConfig>, String> {
    let provider = Arc::new(provider(tls)?);
    let versions = versions(tls)?;
    let clients = clients(tls, material, &provider)?;
    let certificates = certificates("cert_file", &material.certificates)?;
    let key = PrivateKeyDer::from_pem_slice(&material.key)
        .map_err(|why| format!("tls_server_config.key_file: not a private key in PEM: {why}"))?;
    let mut server = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&versions)
        .map_err(|why| format!("tls_server_config: {why}"))?
        .with_client_cert_verifier(clients)
        .with_single_cert(certificates, key)
        .map_err(|why| format!("tls_server_config.cert_file and key_file: {why}"))?;
    server.ignore_client_order = tls.prefer_server_cipher_suites.unwrap_or(true);
    let offered = http2.then_some(HTTP2).into_iter().chain([&b"http/1.1"[..]]);
    server.alpn_protocols = offered.map(<[u8]>::to_vec).collect();
    Ok(Arc::new(server))
}

fn provider(tls: &Tls) -> Result<CryptoProvider, String> {
    let mut provider = ring::default_provider();
    let wanted = tls.cipher_suites.iter().flatten().filter(|name| !ALWAYS.contains(&name.as_str()));
    let wanted = wanted.map(|name| word("cipher_suites", name, &SUITES)).collect::<Result<Vec<_>, _>>()?;
    if !wanted.is_empty() {
        let all = std::mem::take(&mut provider.cipher_suites);
        let of = |id: CipherSuite| all.iter().find(|suite| suite.suite() == id).copied();
        provider.cipher_suites = all.iter().filter(|suite| suite.tls13().is_some()).copied().collect();
        provider.cipher_suites.extend(wanted.into_iter().filter_map(of));
    }
    let curves = tls.curve_preferences.iter().flatten();
    let curves =
        curves.map(|name| word("curve_preferences", name, &CURVES)).collect::<Result<Vec<_>, _>>()?;
    if !curves.is_empty() {
        provider.kx_groups = curves;
    }
    Ok(provider)
}

fn versions(tls: &Tls) -> Result<Vec<&'static SupportedProtocolVersion>, String> {
    let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    let bound = |key, text: &Option<String>, usual: &str| {
        let found = given(text).unwrap_or_else(|| usual.to_owned());
        let at = word(key, &found, &VERSIONS).map(|version| version.version);
        at.map(|found| VERSIONS.iter().position(|(_, known)| known.version == found).unwrap_or_default())
    };
    let (min, max) =
        (bound("min_version", &tls.min_version, "TLS12")?, bound("max_version", &tls.max_version, "TLS13")?);
    match VERSIONS.get(min..=max) {
        Some(versions) if !versions.is_empty() => Ok(versions.iter().map(|(_, version)| *version).collect()),
        _ => Err("tls_server_config.max_version: less than min_version".to_owned()),
    }
}

fn clients(
    tls: &Tls,
    material: &Material,
    provider: &Arc<CryptoProvider>,
) -> Result<Arc<dyn ClientCertVerifier>, String> {
    let policy = match tls.client_auth_type.as_deref() {
        None | Some("") => ClientAuth::None,
        Some(name) => word("client_auth_type", name, &POLICIES)?,
    };
    let roots = match (&material.client_ca, policy) {
        (Some(_), ClientAuth::None) => {
            return Err("tls_server_config.client_ca_file: nobody is asked for a certificate; give \
                        client_auth_type too, such as \"RequireAndVerifyClientCert\""
                .to_owned());
        }
        (None, ClientAuth::IfGiven | ClientAuth::Verify) => {
            return Err("tls_server_config.client_ca_file: missing; name the authority that has signed the \
                        certificates of clients"
                .to_owned());
        }
        (Some(pem), _) => {
            let mut roots = RootCertStore::empty();
            for certificate in certificates("client_ca_file", pem)? {
                roots.add(certificate).map_err(|why| format!("tls_server_config.client_ca_file: {why}"))?;
            }
            Arc::new(roots)
        }
        (None, _) => Arc::new(RootCertStore::empty()),
    };
    let algorithms = provider.signature_verification_algorithms;
    let verified = || WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(provider));
    let failed = |why| format!("tls_server_config.client_ca_file: {why}");
    Ok(match policy {
        ClientAuth::None => Arc::new(NoClientAuth),
        ClientAuth::Request => Arc::new(AnyCertificate { algorithms, mandatory: false }),
        ClientAuth::Any => Arc::new(AnyCertificate { algorithms, mandatory: true }),
        ClientAuth::IfGiven => verified().allow_unauthenticated().build().map_err(failed)?,
        ClientAuth::Verify => verified().build().map_err(failed)?,
    })
}

/// The certificates of a text; there is one at least.
fn certificates(key: &str, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let found = CertificateDer::pem_slice_iter(pem).collect::<Result<Vec<_>, _>>();
    match found {
        Ok(found) if !found.is_empty() => Ok(found),
        Ok(_) => Err(format!("tls_server_config.{key}: no certificate in it; wanted PEM")),
        Err(why) => Err(format!("tls_server_config.{key}: not PEM: {why}")),
    }
}

/// Takes any certificate, as Go does for these policies: it only proves that the client has the key to it.
#[derive(Debug)]
struct AnyCertificate {
    algorithms: WebPkiSupportedAlgorithms,
    mandatory: bool,
}

impl ClientCertVerifier for AnyCertificate {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn client_auth_mandatory(&self) -> bool {
        self.mandatory
    }

    fn verify_client_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, certificate, signed, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
