//! Reads `[listen]`: where defib can be asked over TCP, by whom, and how much it then tells.

use std::ffi::OsStr;
use std::net::{Ipv4Addr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};

use super::document::{Document, Node};
use super::error::{Place, quoted};
use super::overrides::Overrides;
use super::values;

/// What is served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenSettings {
    /// Where Prometheus scrapes; also `/alive`, `/health`, `/ready`, `/status`. `None`: nowhere.
    pub metrics: Option<SocketAddr>,
    /// The file that says by TLS and by passwords who may ask there; `None`: everybody may.
    pub web_config: Option<PathBuf>,
    /// How many services, or whatever else the configuration names, each family of metrics is about at most.
    pub max_series: usize,
}

impl Default for ListenSettings {
    fn default() -> Self {
        Self {
            metrics: Some((Ipv4Addr::LOCALHOST, 9977).into()),
            web_config: None,
            max_series: MAX_SERIES as usize,
        }
    }
}

/// The default of `max_series`.
pub(super) const MAX_SERIES: u32 = 1000;

/// What `max_series` may be.
pub(super) const SERIES: RangeInclusive<u32> = 1..=1_000_000;

const ADDRESS: &str = "an address and a port such as \"127.0.0.1:9977\", or \"\" for none";

const FILE: &str = "the absolute path of a web configuration file, or \"\" for none";

/// Reads the table.
pub(super) fn listen(node: Node<'_>) -> Option<ListenSettings> {
    let mut listen = ListenSettings::default();
    let mut table = node.table("a table such as { metrics = \"127.0.0.1:9977\" }")?;
    table.set(&mut listen.metrics, "metrics", |node| {
        node.value.as_str().and_then(address).or_else(|| node.refuse(ADDRESS))
    });
    table.set(&mut listen.web_config, "web_config", |node| match node.value.as_str() {
        Some("") => Some(None),
        Some(text) if Path::new(text).is_absolute() && !text.contains('\0') => Some(Some(text.into())),
        _ => node.refuse(FILE),
    });
    table.set(&mut listen.max_series, "max_series", |node| {
        values::whole(node, SERIES, "a whole number from 1 to 1000000").map(|most| most as usize)
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
    let flag = overrides.flags.listen_web_config.as_deref().map(Path::as_os_str);
    if let Some((name, value)) = overrides.setting("--listen-web-config", flag, "DEFIB_LISTEN_WEB_CONFIG") {
        match Path::new(value) {
            path if value.is_empty() || path.is_absolute() => {
                given.web_config = Some(path.to_owned()).filter(|_| !value.is_empty());
            }
            _ => doc.note(
                Place::Override,
                name,
                format!("found {}, wanted {FILE}", quoted(&value.to_string_lossy())),
            ),
        }
    }
    given
}

fn address(text: &str) -> Option<Option<SocketAddr>> {
    if text.is_empty() { Some(None) } else { text.parse().ok().map(Some) }
}
