//! Who may ask over TCP: a web configuration file as the exporters of Prometheus have it (exporter-toolkit), with TLS,
//! passwords and headers.
//!
//! - `document`: what may stand in the file;
//! - `tls`: what rustls makes of it;
//! - `passwords`: users and bcrypt;
//! - `stamp`: whether a file has changed.
//!
//! [`WebFile`] is asked before each connection and each request. It looks whether the file, or one that it names, has
//! changed since it was read, and reads it again only then. A file that has become unusable lets nobody in until it is
//! mended: what was in it before may be what somebody wanted to be rid of.

mod document;
mod passwords;
mod stamp;
mod tls;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use axum::http::{HeaderName, HeaderValue};
use tokio::sync::Semaphore;
use tokio_rustls::rustls::ServerConfig;

use passwords::{Passwords, Users};
use stamp::Stamps;
pub use tls::HTTP2;

/// Why a web configuration file cannot be used: it prints as `FILE: KEY: what was found, what is wanted`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {why}", file.display())]
pub struct WebError {
    file: PathBuf,
    why: String,
}

impl WebError {
    /// What keeps somebody from using it at all.
    pub fn new(file: &Path, why: impl fmt::Display) -> Self {
        Self { file: file.to_owned(), why: why.to_string() }
    }

    /// The file.
    pub fn file(&self) -> &Path {
        &self.file
    }
}

/// A file that cannot be used now. Why stands in the log, not in answers to strangers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unusable {
    /// Whether connections were encrypted when it could be used last.
    pub tls: bool,
}

/// What a web configuration file says.
#[derive(Debug)]
pub struct WebConfig {
    /// How connections are encrypted; `None`: not at all.
    pub tls: Option<Arc<ServerConfig>>,
    /// What each answer carries.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    users: Users,
}

/// A web configuration file in use.
#[derive(Debug)]
pub struct WebFile {
    path: PathBuf,
    euid: u32,
    /// Held while the file is looked at, and read if need be: never on a thread that serves.
    latest: Mutex<Latest>,
    /// Whether connections were encrypted when it could be used last.
    tls: AtomicBool,
    /// One look at a time: a disk that hangs holds one thread, however many ask. Who waits may cease to.
    looking: Arc<Semaphore>,
    passwords: Passwords,
}

#[derive(Debug)]
struct Latest {
    stamps: Stamps,
    read: Result<Arc<WebConfig>, WebError>,
}

impl WebFile {
    /// Reads a file, under the rules of [`open_trusted`](crate::config::open_trusted) for the user `euid`. It waits for
    /// the disk.
    ///
    /// # Errors
    /// If it, or a file that it names, cannot be read or used.
    pub fn open(path: &Path, euid: u32) -> Result<Self, WebError> {
        let passwords = Passwords::new().map_err(|why| WebError::new(path, why))?;
        let (stamps, read) = read(path, euid);
        let tls = read.clone()?.tls.is_some();
        let latest = Mutex::new(Latest { stamps, read });
        let (tls, looking) = (AtomicBool::new(tls), Arc::new(Semaphore::new(1)));
        Ok(Self { path: path.to_owned(), euid, latest, tls, looking, passwords })
    }

    /// One that cannot be used now: it lets nobody in, and is read again at the next request.
    ///
    /// # Errors
    /// If the kernel gives no random numbers.
    pub fn refusing(why: WebError, euid: u32) -> Result<Self, WebError> {
        let passwords = Passwords::new().map_err(|why_not| WebError::new(&why.file, why_not))?;
        let path = why.file.clone();
        let latest = Mutex::new(Latest { stamps: Stamps::stale(), read: Err(why) });
        // What may have been encrypted is not answered in plain text.
        let (tls, looking) = (AtomicBool::new(true), Arc::new(Semaphore::new(1)));
        Ok(Self { path, euid, latest, tls, looking, passwords })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether connections are encrypted, or were when it could be used last. Waits for nothing.
    pub fn encrypts(&self) -> bool {
        self.tls.load(Ordering::Relaxed)
    }

    /// What it says now.
    ///
    /// # Errors
    /// If it cannot be used as it is now.
    pub async fn now(self: &Arc<Self>) -> Result<Arc<WebConfig>, Unusable> {
        let file = Arc::clone(self);
        // It is never closed.
        let Ok(turn) = Arc::clone(&self.looking).acquire_owned().await else {
            return Err(Unusable { tls: self.encrypts() });
        };
        let look = move || {
            let _turn = turn;
            file.look()
        };
        // The look does not panic; were it so, nobody is let in.
        tokio::task::spawn_blocking(look).await.unwrap_or(Err(Unusable { tls: true }))
    }

    /// Whether the file lets in who says this in the header Authorization.
    pub async fn admits(&self, config: &WebConfig, authorization: Option<&HeaderValue>) -> bool {
        self.passwords.admit(&config.users, authorization).await
    }

    fn look(&self) -> Result<Arc<WebConfig>, Unusable> {
        let mut latest = self.latest.lock().unwrap_or_else(PoisonError::into_inner);
        if !latest.stamps.hold() {
            let (stamps, read) = read(&self.path, self.euid);
            match (&latest.read, &read) {
                (Err(before), Err(now)) if before == now => {}
                (_, Err(error)) => {
                    tracing::error!("nobody is answered over TCP until this is mended: {error}");
                }
                (before, Ok(config)) => {
                    let mended = before.is_err();
                    tracing::info!(file = %self.path.display(), mended, "the web configuration was read again");
                    self.tls.store(config.tls.is_some(), Ordering::Relaxed);
                }
            }
            (latest.stamps, latest.read) = (stamps, read);
        }
        latest.read.as_ref().map(Arc::clone).map_err(|_told| Unusable { tls: self.encrypts() })
    }
}

/// Reads the file and those that it names, and remembers how all of them were before that.
fn read(path: &Path, euid: u32) -> (Stamps, Result<Arc<WebConfig>, WebError>) {
    let mut stamps = Stamps::default();
    let read = document::read(path, euid, &mut stamps);
    (stamps, read.map(Arc::new).map_err(|why| WebError::new(path, why)))
}

#[cfg(test)]
mod tests;
