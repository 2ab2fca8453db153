//! The keys that are named in the design but not built yet: refused as such, neither ignored nor called unknown.
//! Whoever builds one takes its name from here.

/// What is said of them.
const NOT_BUILT: &str = "not built yet; remove this key";

/// The reason to refuse a word of a key that is built.
pub(super) const WORD: &str = "not built yet";

/// The reason to refuse a key that stands in one of these lists.
pub(super) fn refusal(planned: &[&str], key: &str) -> Option<&'static str> {
    planned.contains(&key).then_some(NOT_BUILT)
}

/// Top-level tables.
pub(super) const ROOT: &[&str] =
    &["alert", "breaker", "channel", "db", "flow", "history", "remote", "watch", "watcher"];

/// `[daemon]`.
pub(super) const DAEMON: &[&str] = &["id", "realtime"];

/// `daemon.backend`.
pub(super) const BACKENDS: &[&str] = &["systemd"];

/// `[service.NAME]`.
pub(super) const SERVICE: &[&str] = &[
    "adopt",
    "backend",
    "breach",
    "depends_on",
    "duplicates",
    "early_start",
    "health",
    "health_listen",
    "instances",
    "limits",
    "max_runtime",
    "propagate",
    "sandbox",
    "stage",
    "stage_max_age",
    "stage_watch",
];

/// `[service.NAME.stop]`.
pub(super) const STOP: &[&str] = &["after", "before", "pause"];

/// `[service.NAME.ready]`, as a word or as a key.
pub(super) const READY: &[&str] = &["command", "delay", "http", "notify", "tcp"];
