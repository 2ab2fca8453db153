//! Who is at the other end of a port.

use std::sync::Arc;

use axum::Json;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Path, Query, State};
use axum::http::StatusCode;

use super::{Shared, ports};
use crate::api::problem;
use crate::api::types::{MorePeers, PeerNetwork, PeersOfPort, PortPeer, PortPeers, Problem};
use crate::daemon::handle::{Crowd, Network, Peer, PeerTable, Peers, TcpState};

/// How many addresses are told unless somebody wants more.
const USUAL: usize = 20;

/// No more than this are told.
const MOST: usize = 1000;

/// `GET /v1/ports/PORT/peers`, with `limit=N`.
pub(super) async fn of_port(
    State(shared): State<Arc<Shared>>,
    Path(port): Path<String>,
    query: Result<Query<Vec<(String, String)>>, QueryRejection>,
) -> Result<Json<PortPeers>, Problem> {
    let Query(query) = query?;
    let limit = limit(&query)?;
    let port = ports::port(&port)
        .ok_or_else(|| problem::no_route(format!("{port:?} is no port: one is a number from 1 to 65535")))?;
    let found = shared.handle.port_peers(port, limit).await;
    let found = found.ok_or_else(|| problem::failed("the look at the ports has failed".to_owned()))?;
    if found.rows.is_empty() {
        return Err(ports::not_watched(&port.to_string()));
    }
    Ok(Json(show(found)))
}

fn limit(query: &[(String, String)]) -> Result<usize, Problem> {
    let mut limit = USUAL;
    for (key, value) in query {
        if key != "limit" {
            let text = format!("{key:?} is no parameter; `limit` is");
            return Err(problem::bad_request(StatusCode::BAD_REQUEST, text));
        }
        limit = value.parse().ok().filter(|limit| (1..=MOST).contains(limit)).ok_or_else(|| {
            let text = format!("limit={value:?}: it is a number from 1 to {MOST}");
            problem::bad_request(StatusCode::BAD_REQUEST, text)
        })?;
    }
    Ok(limit)
}

fn show(PeerTable { method, netns, rows, troubles }: PeerTable) -> PortPeers {
    PortPeers {
        ports: rows.into_iter().map(row).collect(),
        method: ports::method(method),
        netns: Some(netns).filter(|netns| *netns > 0),
        troubles,
    }
}

fn row(Peers { place, found }: Peers) -> PeersOfPort {
    let (connections, addresses) =
        (found.as_ref().map(|found| found.connections), found.as_ref().map(|found| found.addresses));
    let Crowd { peers, networks, .. } = found.unwrap_or_default();
    let all = connections.unwrap_or_default();
    let told: u64 = peers.iter().map(Peer::connections).sum();
    PeersOfPort {
        port: place.port,
        protocol: "tcp".to_owned(),
        netns: place.netns,
        connections,
        addresses,
        more: MorePeers {
            addresses: addresses.unwrap_or_default().saturating_sub(peers.len() as u64),
            connections: all.saturating_sub(told),
        },
        peers: peers.iter().map(|one| peer(one, all)).collect(),
        networks: networks
            .into_iter()
            .map(|Network { first, addresses, connections }| PeerNetwork {
                network: first,
                prefix: 64,
                addresses,
                connections,
                share: share(connections, all),
            })
            .collect(),
    }
}

fn peer(peer: &Peer, all: u64) -> PortPeer {
    let seconds = |nanoseconds: u64| nanoseconds as f64 / 1e9;
    let states = TcpState::ALL.iter().map(|state| state.as_str().to_owned()).zip(peer.states);
    let known = peer.ages.known;
    PortPeer {
        address: peer.address,
        connections: peer.connections(),
        share: share(peer.connections(), all),
        states: states.filter(|(_, count)| *count > 0).collect(),
        oldest_seconds: known.map(|known| seconds(known.oldest)),
        newest_seconds: known.map(|known| seconds(known.newest)),
        unknown_ages: peer.ages.unknown,
    }
}

fn share(part: u64, all: u64) -> f64 {
    if all == 0 { 0.0 } else { part as f64 / all as f64 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_is_a_number_and_has_one() {
        let ask = |words: &[(&str, &str)]| {
            let query: Vec<_> = words.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
            limit(&query).map_err(|problem| problem.detail)
        };
        assert_eq!(ask(&[]), Ok(USUAL));
        assert_eq!(ask(&[("limit", "1000")]), Ok(MOST));
        for bad in ["0", "1001", "-1", "many", ""] {
            assert_eq!(ask(&[("limit", bad)]), Err(format!("limit={bad:?}: it is a number from 1 to 1000")));
        }
        assert_eq!(ask(&[("most", "1")]), Err("\"most\" is no parameter; `limit` is".to_owned()));
    }

    #[test]
    fn a_part_of_nothing_is_nothing() {
        assert_eq!([share(0, 0), share(1, 4)], [0.0, 0.25]);
    }
}
