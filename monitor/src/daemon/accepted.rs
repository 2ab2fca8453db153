//! The configuration in force, held by the keeper: a daemon that comes back must not read a file that has changed
//! meanwhile.

use std::io;
use std::os::fd::OwnedFd;

use serde::{Deserialize, Serialize};

use crate::config::{self, ConfigErrors, DaemonSettings, Loaded, Overrides, Settings};
use crate::keeper::plan;

/// The name under which the keeper holds it.
pub(super) const HELD: &str = "config";

/// What is held.
#[derive(Serialize, Deserialize)]
struct Accepted {
    /// The files in their order, each with its text.
    texts: Vec<(String, String)>,
    /// Folders and the like, as they were when defib started: they hold until defib itself is restarted.
    daemon: DaemonSettings,
}

/// The settings in force while defib runs with those of `old`: what `[daemon]` says counts from the next start on, but
/// for the log.
pub(super) fn in_force(new: Settings, old: &DaemonSettings) -> Settings {
    let daemon = DaemonSettings { log: new.daemon.log, ..old.clone() };
    Settings { daemon, ..new }
}

/// A configuration for the keeper to hold; `daemon` is in force.
pub(super) fn seal(loaded: &Loaded, daemon: &DaemonSettings) -> io::Result<OwnedFd> {
    let accepted = Accepted { texts: loaded.texts.clone(), daemon: daemon.clone() };
    let bytes = postcard::to_stdvec(&accepted).map_err(io::Error::other)?;
    plan::sealed("defib-config", &bytes)
}

/// What the keeper has held; `None` if it held nothing that can be understood.
///
/// # Errors
/// If the texts are not valid any more: flags or variables have changed.
pub(super) fn unseal(held: OwnedFd, overrides: &Overrides) -> Result<Option<Settings>, ConfigErrors> {
    let accepted = plan::unsealed(held).ok().and_then(|bytes| postcard::from_bytes::<Accepted>(&bytes).ok());
    let Some(Accepted { texts, daemon }) = accepted else { return Ok(None) };
    Ok(Some(in_force(config::parse(&texts, overrides)?, &daemon)))
}
