//! Which places are watched.

use std::collections::{BTreeMap, BTreeSet};

use defib_core::model::{ServiceName, ServiceView, SocketAddress};

use super::counts::Place;
use crate::effect::sockets::Namespace;

/// A service, as far as its ports go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    /// Its name.
    pub service: ServiceName,
    /// Its main process.
    pub main: Option<u32>,
    /// The TCP ports that it names, by themselves or by a socket that it is passed. May be empty.
    pub ports: BTreeSet<u16>,
}

impl Subject {
    /// The service of a view.
    pub fn of(view: &ServiceView) -> Self {
        let passed = view.sockets.iter().filter_map(|socket| match socket.listen.parse() {
            Ok(SocketAddress::Tcp(address)) => Some(address.port()),
            _ => None,
        });
        let ports = view.ports.iter().copied().chain(passed).collect();
        Self { service: view.name.clone(), main: view.pid, ports }
    }
}

/// In which network namespace services were seen last: while one is down, its connections are still there.
#[derive(Debug, Default)]
pub(super) struct Whereabouts {
    last: BTreeMap<ServiceName, u32>,
}

/// What is watched at one moment.
#[derive(Debug)]
pub(super) struct Watched {
    /// The inode number of the network namespace in which defib is; 0: it cannot be known.
    pub(super) own: u32,
    /// The places, each with the services that name its port there.
    pub(super) places: BTreeMap<Place, BTreeSet<ServiceName>>,
    /// How to look into each of the namespaces. One is missing if nobody of a service is in it just now.
    pub(super) ways: BTreeMap<u32, Namespace>,
}

impl Whereabouts {
    /// As if a service had been seen somewhere.
    #[cfg(test)]
    pub(super) fn at(service: &ServiceName, netns: u32) -> Self {
        Self { last: BTreeMap::from([(service.clone(), netns)]) }
    }

    /// Finds out where everybody is.
    pub(super) fn find(&mut self, host: &BTreeSet<u16>, subjects: &[Subject]) -> Watched {
        let own = Namespace::Own.inode().unwrap_or_default();
        let mut watched =
            Watched { own, places: BTreeMap::new(), ways: BTreeMap::from([(own, Namespace::Own)]) };
        for port in host {
            watched.places.entry(Place { netns: own, port: *port }).or_default();
        }
        let known: BTreeSet<&ServiceName> = subjects.iter().map(|subject| &subject.service).collect();
        self.last.retain(|service, _| known.contains(service));
        for Subject { service, main, ports } in subjects.iter().filter(|subject| !subject.ports.is_empty()) {
            let seen = main.and_then(|pid| Some((Namespace::Of(pid).inode()?, pid)));
            if let Some((netns, pid)) = seen {
                watched.ways.entry(netns).or_insert(Namespace::Of(pid));
                self.last.insert(service.clone(), netns);
            }
            let netns = self.last.get(service).copied().unwrap_or(own);
            for port in ports {
                let named = watched.places.entry(Place { netns, port: *port }).or_default();
                named.insert(service.clone());
            }
        }
        watched
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subject(name: &str, main: Option<u32>, ports: &[u16]) -> Subject {
        Subject { service: name.parse().unwrap(), main, ports: ports.iter().copied().collect() }
    }

    #[test]
    fn ports_of_the_host_are_in_its_namespace_and_those_of_services_in_theirs() {
        let mut whereabouts = Whereabouts::default();
        let subjects = [subject("a", Some(std::process::id()), &[80]), subject("b", None, &[80, 81])];
        let watched = whereabouts.find(&BTreeSet::from([22, 80]), &subjects);
        let netns = watched.own;
        assert!(netns > 0 && watched.ways == BTreeMap::from([(netns, Namespace::Own)]));
        let named = |port| {
            let named = watched.places[&Place { netns, port }].iter();
            named.map(ServiceName::as_str).collect::<Vec<_>>().join(" ")
        };
        assert_eq!([22, 80, 81].map(named), ["", "a b", "b"]);
        assert_eq!(watched.places.len(), 3);
    }

    #[test]
    fn a_service_that_is_down_stays_where_it_was() {
        let mut whereabouts = Whereabouts::default();
        whereabouts.last.insert("a".parse().unwrap(), 7);
        let down = [subject("a", None, &[80])];
        let watched = whereabouts.find(&BTreeSet::new(), &down);
        assert!(watched.places.contains_key(&Place { netns: 7, port: 80 }));
        assert_eq!(watched.ways.get(&7), None, "nobody is there to look through");
        whereabouts.find(&BTreeSet::new(), &[]);
        assert!(whereabouts.last.is_empty(), "what is configured no longer is forgotten");
    }
}
