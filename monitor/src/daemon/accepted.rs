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
    /// Folders and the like, as they were when defib started: they hold until defib is stopped and
    /// started.
    daemon: DaemonSettings,
}

/// The settings in force while defib runs with those of `old`: what `[daemon]` says counts from the next start on, but
/// for the log and the watchdog.
pub(super) fn in_force(new: Settings, old: &DaemonSettings) -> Settings {
    let DaemonSettings { log, watchdog, .. } = new.daemon;
    let daemon = DaemonSettings { log, watchdog, ..old.clone() };
    Settings { daemon, ..new }
}

/// A configuration for the keeper to hold; `daemon` is in force.
pub(super) fn seal(loaded: &Loaded, daemon: &DaemonSettings) -> io::Result<OwnedFd> {
    let accepted = Accepted { texts: loaded.texts.clone(), daemon: daemon.clone() };
    // As JSON, which the daemon of a later version reads too.
    let bytes = serde_json::to_vec(&accepted)?;
    plan::sealed("defib-config", &bytes)
}

/// What the keeper has held; `None` if it held nothing that can be understood.
///
/// # Errors
/// If the texts are not valid any more: flags or variables have changed.
pub(super) fn unseal(held: OwnedFd, overrides: &Overrides) -> Result<Option<Settings>, ConfigErrors> {
    let accepted = plan::unsealed(held).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
    let Some(Accepted { texts, daemon }) = accepted else { return Ok(None) };
    Ok(Some(in_force(config::parse(&texts, overrides)?, &daemon)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_held_is_read_and_may_have_keys_that_are_not_known() {
        let overrides = Overrides::new(config::Flags::default(), |_| None, 0);
        let daemon = config::parse(&[("f".into(), String::new())], &overrides).unwrap().daemon;
        let accepted = Accepted { texts: vec![("f".into(), "# ü".into())], daemon };
        let mut json = serde_json::to_value(&accepted).unwrap();
        json["later"] = 7.into();
        json["daemon"]["later"] = 7.into();
        // A key that an earlier version did not have.
        json["daemon"].as_object_mut().unwrap().remove("watchdog");
        let held: Accepted = serde_json::from_value(json).unwrap();
        assert_eq!((held.texts, held.daemon), (accepted.texts, accepted.daemon));
    }
}
