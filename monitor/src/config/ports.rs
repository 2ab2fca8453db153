//! Reads `ports` and `ready`.

use std::collections::BTreeSet;

use defib_core::model::{ReadySpec, ServiceSpec};
use toml::de::DeValue;

use super::document::{Node, Table};
use super::error::Place;
use super::{planned, values};

/// The ports that a service is to listen on.
pub(super) fn ports(node: Node<'_>) -> Option<BTreeSet<u16>> {
    const MAX: usize = ServiceSpec::MAX_PORTS;
    let wanted = "an array of TCP ports such as [80, 443]";
    if let DeValue::Integer(port) = node.value {
        return node.refuse(&format!("{wanted}; write [{port}]"));
    }
    let mut ports = BTreeSet::new();
    // All are read before one that was refused refuses the whole, so that every error is noted.
    let mut good = true;
    let items = node.items(wanted)?;
    if items.len() > MAX {
        return node.complain(format!("found {} ports, wanted at most {MAX}", items.len()));
    }
    for item in items {
        match port(item.clone()) {
            Some(port) if ports.insert(port) => {}
            Some(port) => {
                item.complain::<()>(format!("port {port} is named twice"));
                good = false;
            }
            None => good = false,
        }
    }
    good.then_some(ports)
}

fn port(node: Node<'_>) -> Option<u16> {
    let port = values::whole(node, 1..=u16::MAX.into(), "a TCP port from 1 to 65535")?;
    u16::try_from(port).ok()
}

/// Notes ports that are held for one service and named by another too: of both, clients would reach either.
pub(super) fn held_for_one(table: &Table<'_>, services: &[Option<(ServiceSpec, Place)>]) {
    let services = || services.iter().flatten().map(|(spec, _)| spec);
    for spec in services().filter(|spec| !spec.launch.hold_ports.is_empty()) {
        for other in services().filter(|other| other.name != spec.name) {
            if let Some(port) = spec.launch.hold_ports.intersection(&other.wanted_ports()).next() {
                let (spec, other) = (&spec.name, &other.name);
                table.complain(
                    spec.as_str(),
                    format!("hold_ports, and service.{other} names port {port} too; a port that is held is one service's"),
                );
            }
        }
    }
}

/// What makes a running process a ready one.
pub(super) fn ready(node: Node<'_>) -> Option<ReadySpec> {
    let wanted = "\"exec\" or { port = 8080 }";
    match node.value {
        DeValue::String(word) if word == "exec" => Some(ReadySpec::Exec),
        DeValue::String(word) => match planned::refusal(planned::READY, word) {
            Some(why) => node.complain(why),
            None => node.refuse(wanted),
        },
        DeValue::Table(_) => {
            let mut table = node.table(wanted)?;
            let port = table.get("port", port);
            if !table.has("port") && !planned::READY.iter().any(|key| table.has(key)) {
                table.complain("port", format!("missing; ready is {wanted}"));
            }
            table.finish(|key| planned::refusal(planned::READY, key));
            port.map(ReadySpec::Port)
        }
        _ => node.refuse(wanted),
    }
}
