//! `defib ports`: the table of ports.

use clap::Args;
use clap_complete::ArgValueCompleter;

use super::Exit;
use super::args::Options;
use super::names;
use super::output::{complain_of, escape, table};
use super::peers;
use super::session;
use super::targets::{self, Choice, Known, Targets};
use crate::api::types::{PortMethod, PortTable, PortVerification, WatchedPort};

/// The words of `defib ports`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct Words {
    #[doc = "Which."]
    #[arg(value_name = "NAME|PORT", help = WHICH, add = ArgValueCompleter::new(names::complete))]
    names: Vec<String>,
    /// Count the connections once more, by their sockets, and say whether that is the same; exit code 1 if not
    #[arg(long)]
    verify: bool,
    /// Who is at the other end: the remote addresses with most connections, and how old those are
    #[arg(long, conflicts_with = "verify")]
    peers: bool,
    /// Show at most N addresses of each port
    #[arg(long, value_name = "N", requires = "peers", default_value_t = 20, value_parser = clap::value_parser!(u16).range(1..=1000))]
    limit: u16,
}

const WHICH: &str = "\
Ports, ranges of them as in 8000-8099, and services of which all ports are meant: names, patterns, GROUP:NAME. All \
without one";

const EXAMPLES: &str = "\
Ports are those of services (`ports`, TCP in `sockets`) and those of the host that `watch` of [ports] names. Under \
LISTENS, `yes x4` are four sockets that share the port; `held`: defib holds one open, alone or beside the service. ACTIVE are \
established connections, accepted or not; QUEUE those that wait to be accepted, and how many can. OVERFLOWS were dropped \
because none more could; a client that tries again is counted again. Ports of which there is nothing to tell share a \
line. What is not known is shown as `?`: without eBPF, what was opened and closed in other network namespaces than defib's \
own; and what else cannot be known then stands below the table.

With --peers, CONNECTIONS are those in whatever state but time_wait, which is over. OLDEST and NEWEST are for how long those are \
established that this end has not closed: known with eBPF, of what has begun since the port is watched, so `>` stands before \
an age where there are older ones, and `-` where none is known. IPv6 networks of which several addresses are there \
follow: such a network may be one host. Of several ports those are shown that have connections.

  defib ports                       all of them
  defib ports 22 8000-8099 api      some of them
  defib ports 8080 --peers          who is connected to it
  defib ports --verify              whether what was counted is what is there";

/// Shows the table.
pub fn run(options: &Options, Words { names, verify, peers, limit }: &Words) -> Exit {
    session::run(options, async |client, printer| {
        let mut exit = Exit::Done;
        let (mut of, words): (Vec<String>, Vec<String>) =
            names.iter().cloned().partition(|word| is_port(word));
        if !words.is_empty() {
            let known: Vec<Known> = client.status().await?.services.iter().map(Known::from).collect();
            let Targets { names, missing } = targets::find(Choice::named(&words), &known);
            for (_, text) in missing {
                complain_of(&text);
                exit = Exit::NotFound;
            }
            of.extend(names.iter().map(ToString::to_string));
        }
        if of.is_empty() && !names.is_empty() {
            return Ok(exit);
        }
        if *peers
            && let [port] = &of[..]
            && let Ok(port) = port.parse()
        {
            peers::of_one(&client, printer, port, *limit).await?;
            return Ok(exit);
        }
        let found = client.ports(&of, *verify).await?;
        if *peers {
            peers::of_all(&client, printer, &found, *limit).await?;
            return Ok(exit);
        }
        if found.verify.as_ref().is_some_and(|verify| !verify.equal) {
            exit = Exit::Failed;
        }
        if printer.json {
            printer.print_json(&found)?;
            return Ok(exit);
        }
        for trouble in &found.troubles {
            complain_of(&format!("not all can be looked at: {trouble}"));
        }
        if found.ports.is_empty() {
            complain_of("no port is watched; name some in `watch` of [ports], or in `ports` of a service");
            return Ok(exit);
        }
        printer.print(&text(&found))?;
        Ok(exit)
    })
}

/// Whether a word is a port or a range of them, and no name.
fn is_port(word: &str) -> bool {
    let (first, last) = word.split_once('-').unwrap_or((word, word));
    [first, last].iter().all(|part| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit()))
}

fn text(found: &PortTable) -> String {
    // A column of which nobody makes use is not worth its place.
    let elsewhere = found.ports.iter().any(|port| Some(port.netns) != found.netns);
    let counted = found.method == PortMethod::Ebpf || found.ports.iter().any(|port| port.opened.is_some());
    let resets = found.ports.iter().any(|port| port.resets.is_some());
    let keep = |name: &str| match name {
        "NETNS" => elsewhere,
        "OPENED" | "CLOSED" => counted,
        "RESETS" => resets,
        _ => true,
    };
    const HEAD: [&str; 12] = [
        "PORT",
        "NETNS",
        "LISTENS",
        "SERVICE",
        "PROCESS",
        "ACTIVE",
        "OPENED",
        "CLOSED",
        "RESETS",
        "QUEUE",
        "OVERFLOWS",
        "OTHER STATES",
    ];
    let head: Vec<&str> = HEAD.into_iter().filter(|name| keep(name)).collect();
    let rows = groups(&found.ports).into_iter().map(|(first, last)| {
        let cells = HEAD.into_iter().zip(row(first, last));
        cells.filter(|(name, _)| keep(name)).map(|(_, cell)| cell).collect()
    });
    let mut lines = table(&head, rows.collect());
    lines.extend(found.limits.iter().map(|limit| escape(limit)));
    if let Some(verify) = &found.verify {
        lines.extend(verdict(verify));
    }
    lines.into_iter().map(|line| line + "\n").collect()
}

/// Ports of which there is nothing to tell, one behind the other, as their first and last; every other one by itself.
fn groups(ports: &[WatchedPort]) -> Vec<(&WatchedPort, &WatchedPort)> {
    let mut groups: Vec<(&WatchedPort, &WatchedPort)> = Vec::new();
    for port in ports {
        match groups.last_mut() {
            Some((first, last))
                if quiet(port) && quiet(first) && last.netns == port.netns && last.port + 1 == port.port =>
            {
                *last = port;
            }
            _ => groups.push((port, port)),
        }
    }
    groups
}

fn quiet(port: &WatchedPort) -> bool {
    let empty = port.states.as_ref().is_some_and(|states| states.values().all(|count| *count == 0));
    let never = port.opened.unwrap_or_default() == 0 && port.overflows.unwrap_or_default() == 0;
    empty && never && port.services.is_empty()
}

fn row(first: &WatchedPort, last: &WatchedPort) -> [String; 12] {
    let port = first;
    let number = |value: Option<u64>| value.map_or_else(|| "?".to_owned(), |value| value.to_string());
    let range = if first.port == last.port { String::new() } else { format!("-{}", last.port) };
    let held = port.held == Some(true) && port.owner.is_none();
    let listens = match &port.listeners {
        None => "?".to_owned(),
        Some(0) => "no".to_owned(),
        Some(_) if held => "held".to_owned(),
        Some(count) => {
            let several = if *count > 1 { format!(" x{count}") } else { String::new() };
            format!("yes{several}{}", if port.held == Some(true) { ", held" } else { "" })
        }
    };
    let service = port.owner.as_ref().and_then(|owner| owner.service.as_ref());
    let service = match service {
        Some(service) => service.to_string(),
        None => port.services.iter().map(ToString::to_string).collect::<Vec<_>>().join(","),
    };
    let process = port.owner.as_ref().map(|owner| format!("{} ({})", owner.pid, escape(&owner.name)));
    let queue = match port.listeners {
        Some(0) => String::new(),
        _ => format!("{}/{}", number(port.accept_queue), number(port.accept_queue_max)),
    };
    let others = port
        .states
        .iter()
        .flatten()
        .filter(|(state, count)| **count > 0 && !matches!(state.as_str(), "established" | "listen"));
    let others: Vec<String> = others.map(|(state, count)| format!("{state} {count}")).collect();
    [
        format!("{}{range}", port.port),
        port.netns.to_string(),
        listens,
        service,
        process.unwrap_or_default(),
        number(port.active),
        number(port.opened),
        number(port.closed),
        number(port.resets),
        queue,
        number(port.overflows),
        others.join(", "),
    ]
}

fn verdict(verify: &PortVerification) -> Vec<String> {
    let PortVerification { equal, checked, differences, failures } = verify;
    if *checked == 0 {
        return vec!["Verified: nothing is counted that could differ from the sockets.".to_owned()];
    }
    if *equal {
        return vec![format!("Verified: equal, at all of {checked} ports.")];
    }
    let differing = differences.iter().map(|it| {
        format!("Port {} (netns {}): counted {}, and there are {}.", it.port, it.netns, it.counted, it.found)
    });
    let failed = failures
        .iter()
        .map(|it| format!("Port {} (netns {}): not verified: {}.", it.port, it.netns, escape(&it.why)));
    differing.chain(failed).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn port(port: u16) -> WatchedPort {
        WatchedPort {
            port,
            protocol: "tcp".to_owned(),
            netns: 1,
            listening: Some(false),
            listeners: Some(0),
            owner: None,
            services: Vec::new(),
            held: Some(false),
            active: Some(0),
            states: Some([("listen".to_owned(), 0)].into()),
            opened: Some(0),
            closed: Some(0),
            resets: None,
            lengths: None,
            accept_queue: Some(0),
            accept_queue_max: Some(0),
            overflows: Some(0),
        }
    }

    fn shown(ports: Vec<WatchedPort>, method: PortMethod) -> Vec<String> {
        let limits = match method {
            PortMethod::Ebpf => Vec::new(),
            PortMethod::SockDiag => vec!["Without eBPF".to_owned()],
        };
        let (netns, reseeds, lost, troubles, verify) = (Some(1), None, None, Vec::new(), None);
        let found = PortTable { ports, method, netns, reseeds, lost, limits, troubles, verify };
        text(&found).lines().map(str::to_owned).collect()
    }

    #[test]
    fn quiet_ports_in_a_row_share_a_line() {
        let busy = WatchedPort {
            listeners: Some(2),
            active: Some(3),
            opened: Some(7),
            closed: Some(4),
            accept_queue: Some(1),
            accept_queue_max: Some(256),
            states: Some([("established".to_owned(), 3), ("time_wait".to_owned(), 4)].into()),
            ..port(8003)
        };
        let named = WatchedPort { services: vec!["api".parse().unwrap()], ..port(8005) };
        let ports = vec![port(22), port(8001), port(8002), busy, port(8004), named, port(8006)];
        assert_eq!(
            shown(ports, PortMethod::Ebpf),
            [
                "PORT       LISTENS  SERVICE  PROCESS  ACTIVE  OPENED  CLOSED  QUEUE  OVERFLOWS  OTHER STATES",
                "22         no       -        -        0       0       0       -      0          -",
                "8001-8002  no       -        -        0       0       0       -      0          -",
                "8003       yes x2   -        -        3       7       4       1/256  0          time_wait 4",
                "8004       no       -        -        0       0       0       -      0          -",
                "8005       no       api      -        0       0       0       -      0          -",
                "8006       no       -        -        0       0       0       -      0          -",
            ]
        );
    }

    #[test]
    fn without_counts_it_says_what_it_cannot_know() {
        let held =
            WatchedPort { listeners: Some(1), held: Some(true), opened: None, closed: None, ..port(80) };
        let unseen = WatchedPort {
            netns: 2,
            listeners: None,
            active: None,
            accept_queue: None,
            accept_queue_max: None,
            overflows: None,
            states: None,
            opened: None,
            closed: None,
            ..port(81)
        };
        let lines = shown(vec![held, unseen], PortMethod::SockDiag);
        assert_eq!(
            lines[0],
            "PORT  NETNS  LISTENS  SERVICE  PROCESS  ACTIVE  QUEUE  OVERFLOWS  OTHER STATES"
        );
        assert_eq!(lines[1], "80    1      held     -        -        0       0/0    0          -");
        assert_eq!(lines[2], "81    2      ?        -        -        ?       ?/?    ?          -");
        assert!(lines[3].contains("Without eBPF"), "{lines:?}");
    }

    #[test]
    fn ports_are_no_names() {
        assert!(is_port("80") && is_port("80-90"));
        assert!(["api", "api-1", "80-", "-80", "8x", "", "web:1", "1-2-3"].iter().all(|word| !is_port(word)));
    }
}
