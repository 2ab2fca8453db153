//! Reads `sockets`: addresses, or tables with more to say.

use std::collections::BTreeSet;

use defib_core::model::{SocketAddress, SocketSpec, WhenDown};
use toml::de::DeValue;

use super::document::{Node, Table};
use super::values;

const WANTED: &str =
    "an array of sockets such as [\"tcp:0.0.0.0:8080\", { listen = \"unix:/run/x.sock\", mode = \"0660\" }]";
const ADDRESS: &str = "an address such as \"tcp:0.0.0.0:8080\", \"udp:[::1]:53\", \"unix:/run/x.sock\" or \"unix-dgram:/run/x.sock\"";

/// The words of `when_down`.
pub(super) const WHEN_DOWN: [(&str, WhenDown); 2] = [("refuse", WhenDown::Refuse), ("hold", WhenDown::Hold)];

/// The sockets of a service.
pub(super) fn sockets(node: Node<'_>) -> Option<Vec<SocketSpec>> {
    const MAX: usize = SocketSpec::MAX;
    let items = node.items(WANTED)?;
    if items.len() > MAX {
        return node.complain(format!("found {} sockets, wanted at most {MAX}", items.len()));
    }
    let (mut sockets, mut seen) = (Vec::new(), BTreeSet::new());
    // All are read before one that was refused refuses the whole, so that every error is noted.
    let mut good = true;
    for item in items {
        match socket(item.clone()) {
            Some(socket) if seen.insert(socket.listen.clone()) => sockets.push(socket),
            Some(socket) => {
                item.complain::<()>(format!("{} is named twice", socket.listen));
                good = false;
            }
            None => good = false,
        }
    }
    good.then_some(sockets)
}

fn socket(node: Node<'_>) -> Option<SocketSpec> {
    if let DeValue::String(_) = node.value {
        return address(node).map(SocketSpec::new);
    }
    let mut table = node.table(WANTED)?;
    let listen = table.get("listen", address);
    if !table.has("listen") {
        table.complain("listen", format!("missing; name {ADDRESS}"));
    }
    // Where there is no address, what belongs to it is read all the same, so that every error is noted.
    let any = SocketAddress::Unix("/".into());
    let mut socket = SocketSpec::new(listen.clone().unwrap_or(any));
    let account = |node| values::account(node).map(Some);
    table.set(&mut socket.name, "name", |node| name(node).map(Some));
    table.set(&mut socket.backlog, "backlog", |node| {
        values::whole(node, 1..=i32::MAX as u32, "how many connections may wait, at least 1")
    });
    table.set(&mut socket.mode, "mode", mode);
    table.set(&mut socket.owner, "owner", account);
    table.set(&mut socket.group, "group", account);
    table.set(&mut socket.v6only, "v6only", values::boolean);
    if let Some(listen) = &listen {
        refuse_strangers(&table, listen);
    }
    table.finish(|_| None);
    listen.map(|_| socket)
}

/// Keys that mean nothing to a socket of this kind.
fn refuse_strangers(table: &Table<'_>, listen: &SocketAddress) {
    for key in ["mode", "owner", "group"].iter().filter(|key| listen.path().is_none() && table.has(key)) {
        table.complain(key, "belongs to unix sockets; remove it".to_owned());
    }
    if table.has("v6only") && !listen.internet().is_some_and(|address| address.is_ipv6()) {
        table.complain("v6only", "belongs to sockets of IPv6; remove it".to_owned());
    }
    if table.has("backlog") && !listen.listens() {
        table.complain("backlog", "belongs to sockets to which one connects; remove it".to_owned());
    }
}

fn address(node: Node<'_>) -> Option<SocketAddress> {
    match node.value.as_str().map(str::parse) {
        Some(Ok(address)) => Some(address),
        Some(Err(why)) => node.refuse(&format!("{ADDRESS}: {why}")),
        None => node.refuse(ADDRESS),
    }
}

/// A name for `LISTEN_FDNAMES`, where colons part them: sd_listen_fds_with_names(3).
fn name(node: Node<'_>) -> Option<String> {
    match node.value.as_str() {
        Some(name)
            if (1..=255).contains(&name.len())
                && name.bytes().all(|byte| byte.is_ascii_graphic() && byte != b':') =>
        {
            Some(name.to_owned())
        }
        _ => node.refuse("a name of 1 to 255 printable ASCII characters without blank and colon"),
    }
}

/// As chmod(1) takes it: octal, in quotes or with 0o.
fn mode(node: Node<'_>) -> Option<u32> {
    values::octal(node, "octal permissions such as \"0660\" or 0o660, at most 777")
}
