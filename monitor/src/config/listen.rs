//! Reads `[listen]`: where defib can be asked over TCP.

use std::ffi::OsStr;
use std::net::{Ipv4Addr, SocketAddr};

use super::document::{Document, Node};
use super::error::{Place, quoted};
use super::overrides::Overrides;

/// The addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListenSettings {
    /// Where Prometheus scrapes; also `/alive`, `/health`, `/ready`, `/status`. `None`: nowhere.
    pub metrics: Option<SocketAddr>,
}

impl Default for ListenSettings {
    fn default() -> Self {
        Self { metrics: Some((Ipv4Addr::LOCALHOST, 9977).into()) }
    }
}

const ADDRESS: &str = "an address and a port such as \"127.0.0.1:9977\", or \"\" for none";

/// Reads the table.
pub(super) fn listen(node: Node<'_>) -> Option<ListenSettings> {
    let mut listen = ListenSettings::default();
    let mut table = node.table("a table such as { metrics = \"127.0.0.1:9977\" }")?;
    table.set(&mut listen.metrics, "metrics", |node| {
        node.value.as_str().and_then(address).or_else(|| node.refuse(ADDRESS))
    });
    table.finish(|_| None);
    Some(listen)
}

/// Under the flags and variables that decide over it.
pub(super) fn settle(doc: &Document<'_>, mut given: ListenSettings, overrides: &Overrides) -> ListenSettings {
    let flag = overrides.flags.listen_metrics.as_deref().map(OsStr::new);
    if let Some((name, value)) = overrides.setting("--listen-metrics", flag, "DEFIB_LISTEN_METRICS") {
        let value = value.to_string_lossy();
        match address(&value) {
            Some(metrics) => given.metrics = metrics,
            None => {
                doc.note(Place::Override, name, format!("found {}, wanted {ADDRESS}", quoted(&value)));
            }
        }
    }
    given
}

fn address(text: &str) -> Option<Option<SocketAddr>> {
    if text.is_empty() { Some(None) } else { text.parse().ok().map(Some) }
}
