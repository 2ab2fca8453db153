//! The families of watched ports.

use super::histogram::Reading;
use super::names::{self, Family};
use super::text::Page;

/// The only protocol there is by now.
const PROTOCOL: &str = "tcp";

/// A port at one moment. What is not known is not written: 0 would be a claim.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Port {
    /// The port.
    pub port: u16,
    /// How many sockets are in each state, by the state's word.
    pub states: Option<Vec<(&'static str, u64)>>,
    /// How many sockets listen.
    pub listeners: Option<u64>,
    /// How many connections wait to be accepted.
    pub waiting: Option<u64>,
    /// How many can.
    pub capacity: Option<u64>,
    /// How many were dropped because none more could.
    pub overflows: Option<u64>,
    /// How many established connections the peer has that has most of them.
    pub busiest: Option<u64>,
    /// Connections that became established.
    pub opened: Option<u64>,
    /// Connections that were established and are no more.
    pub closed: Option<u64>,
    /// How long they were.
    pub lengths: Option<Lengths>,
}

/// How long connections were.
#[derive(Clone, Debug, PartialEq)]
pub struct Lengths {
    /// How many were no longer than each bound, which is in seconds as it is written.
    pub buckets: Vec<(&'static str, u64)>,
    /// All of them.
    pub count: u64,
    /// Together, in seconds.
    pub sum: f64,
}

/// Writes all ports.
pub(super) fn write(page: &mut Page, ports: &[Port]) {
    type Number = fn(&Port) -> Option<u64>;
    let numbers: [(&'static Family, Number); 7] = [
        (&names::PORT_LISTENERS, |port| port.listeners),
        (&names::PORT_QUEUE_LENGTH, |port| port.waiting),
        (&names::PORT_QUEUE_CAPACITY, |port| port.capacity),
        (&names::PORT_OVERFLOWS, |port| port.overflows),
        (&names::PORT_BUSIEST, |port| port.busiest),
        (&names::PORT_OPENED, |port| port.opened),
        (&names::PORT_CLOSED, |port| port.closed),
    ];
    for port in ports {
        let name = port.port.to_string();
        for (family, number) in numbers {
            if let Some(number) = number(port) {
                page.family(family).count(&[&name, PROTOCOL], number);
            }
        }
        if let Some(states) = &port.states {
            let mut samples = page.family(&names::PORT_CONNECTIONS);
            states.iter().for_each(|(state, count)| samples.count(&[&name, PROTOCOL, state], *count));
        }
        if let Some(Lengths { buckets, count, sum }) = &port.lengths {
            let reading = Reading { buckets: buckets.clone(), count: *count, sum: *sum };
            page.family(&names::PORT_CONNECTION).histogram(&[&name, PROTOCOL], &reading);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::text::Format;
    use super::*;

    #[test]
    fn what_is_not_known_is_not_written() {
        let quiet =
            Port { port: 22, states: Some(vec![("listen", 0)]), listeners: Some(0), ..Port::default() };
        let lengths = Lengths { buckets: vec![("1", 2)], count: 3, sum: 4.5 };
        let busy = Port { port: 80, opened: Some(3), lengths: Some(lengths), ..Port::default() };
        let mut page = Page::within(1000);
        write(&mut page, &[quiet, busy]);
        let text = page.into_text(Format::Text);
        let samples: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(
            samples,
            [
                "defib_port_connection_seconds_bucket{port=\"80\",protocol=\"tcp\",le=\"1\"} 2",
                "defib_port_connection_seconds_bucket{port=\"80\",protocol=\"tcp\",le=\"+Inf\"} 3",
                "defib_port_connection_seconds_sum{port=\"80\",protocol=\"tcp\"} 4.5",
                "defib_port_connection_seconds_count{port=\"80\",protocol=\"tcp\"} 3",
                "defib_port_connections{port=\"22\",protocol=\"tcp\",state=\"listen\"} 0",
                "defib_port_connections_opened_total{port=\"80\",protocol=\"tcp\"} 3",
                "defib_port_listeners{port=\"22\",protocol=\"tcp\"} 0",
            ]
        );
    }
}
