//! What is watched of connections follows what the services are: on the surfaces' thread, and only where somebody counts.

use std::sync::Arc;
use std::time::Duration;

use super::handle::{Handle, Views};
use crate::connections::{BOUNDS, Counted, Counter, Ended, Subject, Sum};
use crate::effect::sockets::State;
use crate::metrics::ports::{Lengths, Port};
use crate::source::{PortRounds, PortTables};

/// What changes comes in bursts, at a restart: one look for each will do, and not in the middle of it.
const SETTLE: Duration = Duration::from_millis(50);

/// The services, as far as their ports go.
pub(super) fn subjects(views: &Views) -> Vec<Subject> {
    views.values().map(|view| Subject::of(view)).collect()
}

/// Has the counter watch what there is to watch, from now on. With nothing to happen it sleeps.
pub(super) async fn follow(mut handle: Handle) {
    let connections = Arc::clone(&handle.connections);
    if !connections.counts() {
        return;
    }
    let (mut views, mut last) = (handle.subscribe(), None);
    loop {
        let host = Arc::clone(&handle.watched.borrow_and_update());
        let mut subjects = subjects(&views.borrow_and_update());
        subjects.retain(|subject| !subject.ports.is_empty());
        let now = Some((Arc::clone(&host), subjects.clone()));
        if now != last {
            let connections = Arc::clone(&connections);
            let watch = move || connections.watch(&host, &subjects);
            // It does not panic; were it so, the next change would be watched.
            tokio::task::spawn_blocking(watch).await.ok();
            last = now;
        }
        let goes_on = tokio::select! {
            changed = views.changed() => changed.is_ok(),
            changed = handle.watched.changed() => changed.is_ok(),
            () = connections.has_moved() => {
                last = None;
                true
            }
        };
        if !goes_on {
            return;
        }
        tokio::time::sleep(SETTLE).await;
    }
}

/// A port as the metrics have it.
pub(super) fn port((port, Sum { sockets, counts }): (u16, Sum)) -> Port {
    let states = |sockets: &crate::connections::Sockets| {
        State::ALL.iter().map(|state| state.as_str()).zip(sockets.states).collect()
    };
    let lengths = counts.and_then(|counts| counts.lengths).map(|lengths| {
        let buckets = BOUNDS.iter().map(|(_, label)| *label).zip(lengths.cumulated()).collect();
        Lengths { buckets, count: lengths.count(), sum: lengths.sum as f64 / 1e9 }
    });
    Port {
        port,
        states: sockets.as_ref().map(states),
        listeners: sockets.as_ref().map(|sockets| sockets.listeners()),
        waiting: sockets.as_ref().map(|sockets| sockets.waiting),
        capacity: sockets.as_ref().and_then(|sockets| sockets.capacity),
        overflows: sockets.as_ref().and_then(|sockets| sockets.overflows),
        busiest: sockets.as_ref().and_then(|sockets| sockets.busiest),
        opened: counts.map(|counts| counts.opened),
        closed: counts.map(|counts| counts.closed),
        lengths,
    }
}

/// Who counts: probes in the kernel, or else who hears of the ends of sockets. Without either the sockets are asked.
pub(super) fn counter(ports: Option<(PortTables, PortRounds)>) -> Option<Arc<dyn Counter>> {
    let counted = ports.and_then(|ports| match Counted::start(ports) {
        Ok(counted) => Some(Arc::new(counted) as Arc<dyn Counter>),
        Err(error) => {
            tracing::error!(%error, "connections are not counted by probes");
            None
        }
    });
    counted.or_else(|| match Ended::start() {
        Ok(ended) => Some(Arc::new(ended)),
        Err(error) => {
            tracing::error!(%error, "connections are not counted");
            None
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::connections::Counts;

    #[test]
    fn lengths_are_cumulated_up_to_those_that_are_longer_than_every_bound() {
        let mut lengths = crate::connections::Lengths { sum: 1_500_000_000, ..Default::default() };
        (lengths.counts[0], lengths.counts[1]) = (1, 2);
        *lengths.counts.last_mut().unwrap() = 3;
        let counts = Counts { opened: 9, closed: 6, lengths: Some(lengths), ..Counts::default() };
        let port = port((80, Sum { sockets: None, counts: Some(counts) }));
        let lengths = port.lengths.unwrap();
        assert_eq!(lengths.buckets[..3], [("0.001", 1), ("0.005", 3), ("0.01", 3)]);
        assert_eq!((lengths.buckets.len(), lengths.count, lengths.sum), (BOUNDS.len(), 6, 1.5));
        assert_eq!((port.opened, port.closed, port.states, port.listeners), (Some(9), Some(6), None, None));
    }
}
