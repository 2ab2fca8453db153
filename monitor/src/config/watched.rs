//! Reads `[ports]`: which ports of the host are watched.

use std::collections::BTreeSet;

use toml::de::DeValue;

use super::document::Node;
use super::error::quoted;
use super::values;

/// The ports of the host.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PortSettings {
    /// The TCP ports of which connections are counted, beside those of services. At most [`PortSettings::MAX`].
    pub watch: BTreeSet<u16>,
}

impl PortSettings {
    /// How many ports of the host may be watched: as many as the kernel's part has room for.
    pub const MAX: usize = 4096;

    /// As ranges, first and last.
    pub fn ranges(&self) -> Vec<(u16, u16)> {
        let mut ranges: Vec<(u16, u16)> = Vec::new();
        for port in &self.watch {
            match ranges.last_mut() {
                Some((_, last)) if last.checked_add(1) == Some(*port) => *last = *port,
                _ => ranges.push((*port, *port)),
            }
        }
        ranges
    }
}

const WANTED: &str = "an array of TCP ports and ranges such as [22, \"8000-8099\"]";
const ITEM: &str = "a TCP port from 1 to 65535, or a range of them such as \"8000-8099\"";

/// Reads the table.
pub(super) fn ports(node: Node<'_>) -> Option<PortSettings> {
    let mut ports = PortSettings::default();
    let mut table = node.table("a table such as { watch = [22, \"8000-8099\"] }")?;
    table.set(&mut ports.watch, "watch", watch);
    table.finish(|_| None);
    Some(ports)
}

fn watch(node: Node<'_>) -> Option<BTreeSet<u16>> {
    match node.value {
        DeValue::Integer(port) => return node.refuse(&format!("{WANTED}; write [{port}]")),
        DeValue::String(range) => return node.refuse(&format!("{WANTED}; write [{}]", quoted(range))),
        _ => {}
    }
    let mut watch = BTreeSet::new();
    // All are read before one that was refused refuses the whole, so that every error is noted.
    let mut good = true;
    for item in node.items(WANTED)? {
        let Some((first, last)) = range(item.clone()) else {
            good = false;
            continue;
        };
        let named: Vec<u16> = (first..=last).filter(|port| !watch.insert(*port)).collect();
        if let [from, .., to] = named[..] {
            item.complain::<()>(format!("ports {from} to {to} are named twice; name each once"));
            good = false;
        } else if let [port] = named[..] {
            item.complain::<()>(format!("port {port} is named twice; name each once"));
            good = false;
        }
    }
    let count = watch.len();
    if count > PortSettings::MAX {
        let most = PortSettings::MAX;
        return node.complain(format!("found {count} ports, wanted at most {most} in all; name fewer"));
    }
    good.then_some(watch)
}

/// The first and the last port of an item.
fn range(node: Node<'_>) -> Option<(u16, u16)> {
    let DeValue::String(text) = node.value else {
        let port = values::whole(node, 1..=u16::MAX.into(), ITEM)?;
        return u16::try_from(port).ok().map(|port| (port, port));
    };
    // Of "22" too: it is clear what is meant.
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let port = |text: &str| match text.parse() {
        Ok(port) if port > 0 && text.bytes().all(|byte| byte.is_ascii_digit()) => Some(port),
        _ => None,
    };
    match (port(first), port(last)) {
        (Some(first), Some(last)) if first <= last => Some((first, last)),
        (Some(first), Some(last)) => node.refuse(&format!("{ITEM}; write \"{last}-{first}\"")),
        _ => node.refuse(ITEM),
    }
}
