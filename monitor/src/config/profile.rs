//! `defaults.profile`: the values that another supervisor has, for whoever comes from there.
//!
//! Each is a text of its own with a table `[defaults]`, read like one that an operator has written. What `[defaults]`
//! says itself stands above it, key by key.

use toml::de::DeTable;

use super::document::{Document, Node};
use super::service::{self, Keys};
use super::values;

/// The profiles by name.
pub(super) const PROFILES: [(&str, &str); 5] = [
    ("flowless", include_str!("profiles/flowless.toml")),
    ("dixwatcher", include_str!("profiles/dixwatcher.toml")),
    ("flowweaver", include_str!("profiles/flowweaver.toml")),
    ("processmonitor", include_str!("profiles/processmonitor.toml")),
    ("lifecycle", include_str!("profiles/lifecycle.toml")),
];

/// Reads the name of a profile, and then the profile.
pub(super) fn profile(node: Node<'_>) -> Option<Keys> {
    let text = values::word(node, &PROFILES)?;
    let doc = Document::new([("profile", text)]);
    let (root, _) = DeTable::parse_recoverable(text);
    let keys = doc.root(root.get_ref()).get("defaults", service::defaults);
    // They are part of the program: a test reads each of them, and that there is nothing to complain of.
    debug_assert!(doc.into_findings().is_empty());
    keys
}
