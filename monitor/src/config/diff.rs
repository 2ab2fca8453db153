//! What changes from one configuration to the next, for people and for scripts, before and while it is taken over.
//!
//! Two settings are taken apart into keys with their values as an operator would write them; what differs is told
//! with what it does to processes. Pure: nothing is changed here.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use defib_core::model::ServiceSpec;
use serde::{Deserialize, Serialize};

use super::settings::Settings;
use super::shown;

/// Everything that differs, in the order `[daemon]`, `[listen]`, `[ports]`, services by name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Diff {
    /// The changes.
    pub changes: Vec<Change>,
}

/// One difference.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// What it is.
    pub kind: Kind,
    /// The key, as in `service.api.restart.max_restarts`, or a whole service: `service.api`.
    pub key: String,
    /// The old value as it would be written; `null` where the key had none.
    pub old: Option<String>,
    /// The new one, likewise.
    pub new: Option<String>,
    /// What it does to processes.
    pub effect: Effect,
}

/// Kinds of differences.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A service that was not there.
    Added,
    /// A service that is no more.
    Removed,
    /// Another value.
    Changed,
}

/// What a change does to processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Effect {
    /// A service is started.
    Starts,
    /// Its process is ended.
    Stops,
    /// Its process is ended and another made, if it runs.
    Restarts,
    /// No process is touched.
    None,
    /// It holds only after defib itself has been restarted.
    NeedsDaemonRestart,
}

impl Effect {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Starts => "starts",
            Self::Stops => "stops",
            Self::Restarts => "restarts",
            Self::None => "none",
            Self::NeedsDaemonRestart => "needs-daemon-restart",
        }
    }
}

impl Diff {
    /// Whether nothing differs.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }
}

impl fmt::Display for Diff {
    /// A line for each change, and a newline at the end of each.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.changes.iter().try_for_each(|change| writeln!(f, "{change}"))
    }
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { key, effect, .. } = self;
        match self.kind {
            Kind::Added => write!(f, "+ {key}")?,
            Kind::Removed => write!(f, "- {key}")?,
            Kind::Changed => {
                let side = |value: &Option<String>| value.clone().unwrap_or_else(|| "unset".to_owned());
                write!(f, "~ {key}: {} -> {}", side(&self.old), side(&self.new))?;
            }
        }
        match effect {
            Effect::None => Ok(()),
            Effect::Starts => write!(f, " (starts it)"),
            Effect::Stops => write!(f, " (stops it)"),
            Effect::Restarts => write!(f, " (restarts it)"),
            Effect::NeedsDaemonRestart => write!(f, " (when defib itself is stopped and started)"),
        }
    }
}

/// What differs between two settings.
pub fn diff(old: &Settings, new: &Settings) -> Diff {
    let mut changes = Vec::new();
    // Folders and sources are opened once, when defib starts.
    let effect = |key: &str| match key {
        _ if key.starts_with("daemon.log.") || key.starts_with("listen.") => Effect::None,
        "ports.watch" => Effect::None,
        "daemon.watchdog" => Effect::None,
        _ => Effect::NeedsDaemonRestart,
    };
    compare(shown::daemon(old), shown::daemon(new), effect, &mut changes);
    let services = |settings: &Settings| -> BTreeMap<_, _> {
        settings.services.iter().map(|spec| (spec.name.clone(), Arc::clone(spec))).collect()
    };
    let (before, mut after) = (services(old), services(new));
    let mut of_services: Vec<(String, Vec<Change>)> = Vec::new();
    for (name, spec) in &before {
        let changes = match after.remove(name) {
            Some(other) => change(spec, &other),
            None => vec![whole(Kind::Removed, spec, Effect::Stops)],
        };
        of_services.push((name.to_string(), changes));
    }
    for (name, spec) in &after {
        let effect = if spec.autostart { Effect::Starts } else { Effect::None };
        of_services.push((name.to_string(), vec![whole(Kind::Added, spec, effect)]));
    }
    of_services.sort_by(|(a, _), (b, _)| a.cmp(b));
    changes.extend(of_services.into_iter().flat_map(|(_, changes)| changes));
    Diff { changes }
}

/// The keys of a service that differ.
fn change(old: &ServiceSpec, new: &ServiceSpec) -> Vec<Change> {
    let mut changes = Vec::new();
    let table = format!("{}.", shown::table(new));
    // Ports that are held are shared by what binds them: that is a matter of the process.
    let held = !old.launch.hold_ports.is_empty() && !new.launch.hold_ports.is_empty();
    let own = |key: &str| {
        key.strip_prefix(&table).is_some_and(|key| shown::of_process(key) || (held && key == "ports"))
    };
    let effect = |key: &str| if own(key) { Effect::Restarts } else { Effect::None };
    compare(shown::service(old), shown::service(new), effect, &mut changes);
    debug_assert_eq!(
        changes.iter().all(|change| change.effect == Effect::None),
        old.same_process(new),
        "the keys that make a process are not those of same_process"
    );
    changes
}

fn whole(kind: Kind, spec: &ServiceSpec, effect: Effect) -> Change {
    Change { kind, key: shown::table(spec), old: None, new: None, effect }
}

/// Adds what differs between two sets of keys.
fn compare(
    old: shown::Keys,
    mut new: shown::Keys,
    effect: impl Fn(&str) -> Effect,
    changes: &mut Vec<Change>,
) {
    let mut differing = BTreeMap::new();
    for (key, value) in old {
        let other = new.remove(&key);
        if other.as_ref() != Some(&value) {
            differing.insert(key, (Some(value), other));
        }
    }
    differing.extend(new.into_iter().map(|(key, value)| (key, (None, Some(value)))));
    changes.extend(differing.into_iter().map(|(key, (old, new))| Change {
        kind: Kind::Changed,
        effect: effect(&key),
        old: old.map(|value| value.show()),
        new: new.map(|value| value.show()),
        key,
    }));
}
