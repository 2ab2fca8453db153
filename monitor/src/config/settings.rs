//! From a text to [`Settings`], without touching the system.

use std::sync::Arc;

use defib_core::model::ServiceSpec;
use toml::de::DeTable;

use super::daemon::{self, DaemonSettings};
use super::document::{Document, Node};
use super::error::{ConfigErrors, Place, quoted};
use super::listen::{self, ListenSettings};
use super::merge;
use super::overrides::Overrides;
use super::planned;
use super::ports;
use super::restart;
use super::service::{self, Keys};
use super::watched::{self, PortSettings};

/// How many services one daemon may have.
const MAX_SERVICES: usize = 4096;

/// A configuration in which everything is valid.
#[derive(Clone, Debug, PartialEq)]
pub struct Settings {
    /// `[daemon]`, with the flags and variables that decide over it.
    pub daemon: DaemonSettings,
    /// `[listen]`, likewise.
    pub listen: ListenSettings,
    /// `[ports]`.
    pub ports: PortSettings,
    /// `[service.NAME]`, in the order of their names.
    pub services: Vec<Arc<ServiceSpec>>,
}

/// Reads a configuration, or finds everything that is wrong with it. Each of `texts` is a file: its name in messages, and
/// what it holds. No text means the defaults, and no service.
pub fn parse(texts: &[(String, String)], overrides: &Overrides) -> Result<Settings, ConfigErrors> {
    read(texts, overrides).map(|parsed| parsed.settings)
}

/// Settings, and what is known of their places.
#[derive(Debug)]
pub(super) struct Parsed {
    pub(super) settings: Settings,
    /// Where the command of each service stands.
    pub(super) commands: Vec<Place>,
}

pub(super) fn read(texts: &[(String, String)], overrides: &Overrides) -> Result<Parsed, ConfigErrors> {
    let doc = Document::new(texts.iter().map(|(file, text)| (&**file, &**text)));
    let mut root = DeTable::new();
    let mut broken = false;
    for ((_, text), base) in texts.iter().zip(doc.bases()) {
        let (part, errors) = DeTable::parse_recoverable(text);
        syntax(&doc, text, base, &errors);
        broken |= !errors.is_empty();
        if !broken {
            merge::add(&doc, &mut root, part.into_inner(), base);
        }
    }
    if broken {
        // What the parser guessed in order to go on is no ground for further complaints.
        return Err(ConfigErrors::sorted(doc.into_findings()));
    }

    let mut table = doc.root(&root);
    let given = table.get("daemon", daemon::Given::read).unwrap_or_default();
    let listen = table.get("listen", listen::listen).unwrap_or_default();
    let ports = table.get("ports", watched::ports).unwrap_or_default();
    let defaults = table.get("defaults", service::defaults).unwrap_or_default();
    let services = table.get("service", |node| services(node, &defaults)).unwrap_or_default();
    table.finish(|key| planned::refusal(planned::ROOT, key));

    let daemon = daemon::settle(&doc, given, overrides);
    let listen = listen::settle(&doc, listen, overrides);
    let max_restarts = restart::decided_restarts(&doc, overrides);
    ConfigErrors::none(doc.into_findings())?;
    let (mut services, commands): (Vec<ServiceSpec>, _) = services.into_iter().unzip();
    if let Some(max_restarts) = max_restarts {
        services.iter_mut().for_each(|service| service.restart.max_restarts = max_restarts);
    }
    let services = services.into_iter().map(Arc::new).collect();
    Ok(Parsed { settings: Settings { daemon, listen, ports, services }, commands })
}

fn services(node: Node<'_>, defaults: &Keys) -> Option<Vec<(ServiceSpec, Place)>> {
    let table = node.clone().table("a table [service.NAME] for each service")?;
    let read: Vec<_> =
        table.nodes().map(|(name, node)| service::service(name, node, defaults.clone())).collect();
    if read.len() > MAX_SERVICES {
        return node.complain(format!("found {} services, wanted at most {MAX_SERVICES}", read.len()));
    }
    ports::held_for_one(&table, &read);
    read.into_iter().collect()
}

/// The parser's own words, once a line: what follows on a line is mostly a consequence.
fn syntax(doc: &Document<'_>, text: &str, base: usize, errors: &[toml::de::Error]) {
    let mut lines = std::collections::BTreeSet::new();
    for error in errors {
        let span = error.span().unwrap_or_default();
        let place = doc.place(base + span.start);
        if lines.insert(place.clone()) {
            let found = text.get(span).filter(|found| !found.is_empty());
            let found = found.map(|found| format!(": {}", quoted(found))).unwrap_or_default();
            doc.note(place, "", format!("not valid TOML: {}{found}", error.message()));
        }
    }
}
