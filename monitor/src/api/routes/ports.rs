//! The table of ports.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::StatusCode;

use super::Shared;
use crate::api::types::{
    PortBucket, PortDifference, PortFailure, PortLengths, PortMethod, PortOwner, PortTable, PortVerification,
    Problem, WatchedPort,
};
use crate::api::{names, problem};
use crate::daemon::handle::{
    BOUNDS, Ending, Lengths, Method, Only, Row, Table, TcpState, Verdict, Verification, Views,
};

/// More words than this are no question of a person.
const MAX_WORDS: usize = 4096;

/// `GET /v1/ports`, with `of=PORT`, `of=PORT-PORT` or `of=SERVICE` for some of them, and `verify=true` for a second count.
pub(super) async fn table(
    State(shared): State<Arc<Shared>>,
    query: Result<Query<Vec<(String, String)>>, QueryRejection>,
) -> Result<Json<PortTable>, Problem> {
    let Query(query) = query?;
    let (only, verify) = wanted(&query, &shared.handle.views())?;
    let table = shared.handle.port_table(only.clone(), verify).await;
    let table = table.ok_or_else(|| problem::failed("the look at the ports has failed".to_owned()))?;
    if let Some(only) = only {
        missing(&only, &table)?;
    }
    Ok(Json(show(table)))
}

/// What a query asks for.
fn wanted(query: &[(String, String)], views: &Views) -> Result<(Option<Only>, bool), Problem> {
    let refuse = |text: String| Err(problem::bad_request(StatusCode::BAD_REQUEST, text));
    if query.len() > MAX_WORDS {
        return refuse(format!("at most {MAX_WORDS} words"));
    }
    let (mut only, mut verify) = (Only::default(), false);
    for (key, value) in query {
        match (key.as_str(), value.as_str()) {
            ("verify", "true") => verify = true,
            ("verify", "false") => verify = false,
            ("verify", _) => return refuse(format!("verify={value:?}: it is true or false")),
            ("of", word) => match range(word) {
                Some((first, last)) => only.ports.extend(first..=last),
                None => match word.parse().ok().filter(|name| views.contains_key(name)) {
                    Some(name) => drop(only.services.insert(name)),
                    None => {
                        let nearest = names::nearest(word, views.keys());
                        let text = format!("{}; nor is it a port", names::unknown(word, &nearest));
                        return Err(problem::no_route(text));
                    }
                },
            },
            _ => return refuse(format!("{key:?} is no parameter; `of` and `verify` are")),
        }
    }
    Ok((Some(only).filter(|only| *only != Only::default()), verify))
}

/// `80` or `8000-8099`.
fn range(word: &str) -> Option<(u16, u16)> {
    let (first, last) = word.split_once('-').unwrap_or((word, word));
    Some((port(first)?, port(last)?)).filter(|(first, last)| first <= last)
}

/// `80`.
pub(super) fn port(word: &str) -> Option<u16> {
    let digits = word.bytes().all(|byte| byte.is_ascii_digit());
    digits.then(|| word.parse().ok()).flatten().filter(|port| *port > 0)
}

pub(super) fn not_watched(ports: &str) -> Problem {
    problem::no_route(format!(
        "not watched: port {ports}; name it in `watch` of [ports], or in `ports` of a service"
    ))
}

/// Something that was asked for and is not there. Of a range of ports some will do.
fn missing(only: &Only, table: &Table) -> Result<(), Problem> {
    let there = |port: &u16| table.rows.iter().any(|row| row.place.port == *port);
    if !only.ports.is_empty() && !only.ports.iter().any(there) {
        let ports: Vec<String> = only.ports.iter().take(5).map(ToString::to_string).collect();
        let more = if only.ports.len() > ports.len() { ", …" } else { "" };
        return Err(not_watched(&format!("{}{more}", ports.join(", "))));
    }
    let without =
        only.services.iter().find(|name| !table.rows.iter().any(|row| row.services.contains(*name)));
    match without {
        Some(name) => {
            let text = format!("{name} has no ports; name those on which it listens in its `ports`");
            Err(problem::no_route(text))
        }
        None => Ok(()),
    }
}

fn show(table: Table) -> PortTable {
    let Table { method, netns, rows, troubles, reseeds, ending, verification } = table;
    PortTable {
        ports: rows.into_iter().map(row).collect(),
        method: self::method(method),
        netns: Some(netns).filter(|netns| *netns > 0),
        reseeds,
        lost: ending.as_ref().map(|ending| ending.lost),
        limits: limits(method, ending),
        troubles,
        verify: verification.map(verified),
    }
}

pub(super) fn method(method: Method) -> PortMethod {
    match method {
        Method::Ebpf => PortMethod::Ebpf,
        Method::SockDiag => PortMethod::SockDiag,
    }
}

/// What cannot be known by a method.
fn limits(method: Method, ending: Option<Ending>) -> Vec<String> {
    const MOMENT: &str = "Without eBPF, what is there is read from the sockets at this moment (sock_diag)";
    const TOLD: &str = "closed is counted as the kernel tells of their ends; opened follows from both";
    const UNKNOWN: &str = "Not known are resets, lengths, and totals of other network namespaces. A connection that its \
                           program holds on to after its end may hide a new one until then; totals begin anew with \
                           each daemon.";
    if method == Method::Ebpf {
        return Vec::new();
    }
    let Some(Ending { lost, trouble }) = ending else {
        return vec![format!("{MOMENT}. Nobody counts what is opened and closed.")];
    };
    if let Some(why) = trouble {
        return vec![format!("{MOMENT}. Nobody counts what is opened and closed: {why}.")];
    }
    let mut limits = vec![format!("{MOMENT}; {TOLD}. {UNKNOWN}")];
    if lost > 0 {
        limits.push(format!(
            "{lost} times more connections had ended than could be told: opened and closed are at least that."
        ));
    }
    limits
}

fn row(row: Row) -> WatchedPort {
    let (active, states) = (row.active(), row.states());
    let Row { place, services, sockets, counts, owner, held } = row;
    let named = |states: [u64; TcpState::ALL.len()]| {
        TcpState::ALL.iter().map(|state| state.as_str().to_owned()).zip(states).collect()
    };
    let listeners = sockets.as_ref().map(|sockets| sockets.listeners());
    WatchedPort {
        port: place.port,
        protocol: "tcp".to_owned(),
        netns: place.netns,
        listening: listeners.map(|count| count > 0),
        listeners,
        owner: owner.map(|owner| PortOwner {
            pid: owner.process.pid,
            name: owner.process.name,
            service: owner.service,
        }),
        services: services.into_iter().collect(),
        held,
        active,
        states: states.map(named),
        opened: counts.map(|counts| counts.opened),
        closed: counts.map(|counts| counts.closed),
        resets: counts.and_then(|counts| counts.resets),
        lengths: counts.and_then(|counts| counts.lengths).as_ref().map(lengths),
        accept_queue: sockets.as_ref().map(|sockets| sockets.waiting),
        accept_queue_max: sockets.as_ref().and_then(|sockets| sockets.capacity),
        overflows: sockets.as_ref().and_then(|sockets| sockets.overflows),
    }
}

fn lengths(lengths: &Lengths) -> PortLengths {
    let bounds = BOUNDS.iter().map(|(bound, _)| *bound as f64 / 1e9);
    let buckets = bounds.zip(lengths.cumulated()).map(|(le, count)| PortBucket { le, count }).collect();
    PortLengths {
        count: lengths.count(),
        sum_seconds: lengths.sum as f64 / 1e9,
        unknown: lengths.unknown,
        buckets,
    }
}

fn verified(verification: Verification) -> PortVerification {
    let Verification { checked, differences, failures } = verification;
    let differences: Vec<PortDifference> = differences
        .into_iter()
        .map(|(place, Verdict { counted, found })| PortDifference {
            port: place.port,
            netns: place.netns,
            counted,
            found,
        })
        .collect();
    let failures: Vec<PortFailure> = failures
        .into_iter()
        .map(|(place, why)| PortFailure { port: place.port, netns: place.netns, why })
        .collect();
    let equal = differences.is_empty() && failures.is_empty();
    PortVerification { equal, checked, differences, failures }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use super::*;

    #[test]
    fn words_are_ports_ranges_of_them_or_services() {
        let view = Arc::new(crate::api::tests::view("api"));
        let views: Views = Arc::new(BTreeMap::from([(view.name.clone(), view)]));
        let wanted = |words: &[(&str, &str)]| {
            let query: Vec<_> = words.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
            wanted(&query, &views)
        };
        assert_eq!(wanted(&[]).unwrap(), (None, false));
        let (only, verify) =
            wanted(&[("of", "80"), ("of", "90-92"), ("of", "api"), ("verify", "true")]).unwrap();
        let only = only.unwrap();
        assert_eq!(only.ports, BTreeSet::from([80, 90, 91, 92]));
        assert_eq!((only.services.len(), verify), (1, true));
        for (key, word, status, text) in [
            ("of", "apl", 404, "did you mean api?; nor is it a port"),
            ("of", "92-90", 404, "nor is it a port"),
            ("of", "+1", 404, "nor is it a port"),
            ("of", "0", 404, "nor is it a port"),
            ("verify", "yes", 400, "it is true or false"),
            ("port", "80", 400, "`of` and `verify` are"),
        ] {
            let problem = wanted(&[(key, word)]).unwrap_err();
            assert!(problem.status == status && problem.detail.ends_with(text), "{word}: {problem:?}");
        }
    }
}
