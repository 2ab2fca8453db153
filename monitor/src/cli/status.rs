//! `defib status`

use defib_core::model::{Cause, State};
use jiff::Timestamp;

use super::Exit;
use super::args::Options;
use super::choice::Chosen;
use super::detail;
use super::output::{complain_of, escape, size, span, table};
use super::session;
use super::targets::{self, Choice, Known, Targets};
use crate::api::types::{LastExit, Port, Service};

/// Shows the services that are chosen: one in detail, several in a table.
pub fn run(options: &Options, chosen: &Chosen) -> Exit {
    let choice = Choice::from(chosen);
    session::run(options, async |client, printer| {
        let mut status = client.status().await?;
        let mut exit = Exit::Done;
        let known: Vec<Known> = status.services.iter().map(Known::from).collect();
        let Targets { names, missing } = targets::find(choice, &known);
        status.services.retain(|service| names.binary_search(&service.name).is_ok());
        for (_, text) in missing {
            complain_of(&text);
            exit = Exit::NotFound;
        }
        if let (Some(trouble), false) = (&status.state_database.trouble, printer.json) {
            complain_of(&format!("what is to outlive defib cannot be kept: {trouble}"));
        }
        let now = Timestamp::now();
        match status.services.as_slice() {
            _ if printer.json => printer.print_json(&status)?,
            [] if choice.is_all() => complain_of("no service is configured"),
            [] => {}
            [one] if choice.is_one() => printer.print(&detail::text(one, now, printer.color))?,
            several => printer.print(&lines(several, now, printer.color))?,
        }
        Ok(exit)
    })
}

/// How a service is, at one look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Light {
    /// It does what it is there for.
    Green,
    /// It is on its way up or down, or runs without being of use.
    Yellow,
    /// It is down and stays down.
    Red,
}

impl Light {
    pub(super) fn of(service: &Service) -> Self {
        match service.state {
            // Whatever it does, somebody has to come back to it.
            State::Running | State::Failed if service.paused => Self::Yellow,
            State::Running => {
                let ports = service.ports.iter().all(|port| port.listening != Some(false));
                let good = service.ready && service.healthy != Some(false) && ports;
                if good { Self::Green } else { Self::Yellow }
            }
            State::Starting | State::Stopping | State::Crashed | State::Retrying => Self::Yellow,
            State::Stopped | State::Failed | State::Disabled => Self::Red,
        }
    }

    pub(super) fn mark(self, color: bool) -> &'static str {
        match (self, color) {
            (Self::Green | Self::Yellow, false) => "●",
            (Self::Red, false) => "○",
            (Self::Green, true) => "\x1b[32m●\x1b[0m",
            (Self::Yellow, true) => "\x1b[33m●\x1b[0m",
            (Self::Red, true) => "\x1b[31m○\x1b[0m",
        }
    }
}

fn lines(services: &[Service], now: Timestamp, color: bool) -> String {
    // A column of which nobody makes use is not worth its place.
    let groups = services.iter().any(|service| service.group.is_some());
    let rows = services.iter().map(|service| row(service, now, groups)).collect();
    let head = ["NAME", "GROUP", "STATE", "PID", "PORTS", "UPTIME", "CPU", "MEMORY", "RESTARTS"].into_iter();
    let head = head.chain(["LAST EXIT", "NEXT/WHY"]).filter(|name| groups || *name != "GROUP");
    let mut lines = table(&head.collect::<Vec<_>>(), rows).into_iter();
    let head = lines.next().unwrap_or_default();
    let marked = services.iter().zip(lines);
    let marked = marked.map(|(service, line)| format!("{} {line}\n", Light::of(service).mark(color)));
    std::iter::once(format!("  {head}\n")).chain(marked).collect()
}

fn row(service: &Service, now: Timestamp, groups: bool) -> Vec<String> {
    let group = || service.group.as_ref().map(ToString::to_string).unwrap_or_default();
    let rest = [
        service.state.to_string(),
        service.pid.map(|pid| pid.to_string()).unwrap_or_default(),
        ports(&service.ports),
        service.uptime_seconds.map(span).unwrap_or_default(),
        service.cpu_seconds.map(span).unwrap_or_default(),
        service.memory_bytes.map(size).unwrap_or_default(),
        service.restarts.to_string(),
        service.last_exit.as_ref().map(|exit| last_exit(exit, now)).unwrap_or_default(),
        next_or_why(service, now),
    ];
    [service.name.to_string()].into_iter().chain(groups.then(group)).chain(rest).collect()
}

/// How many ports a table names; the others are counted.
const PORTS: usize = 4;

/// Ports, those first that are to be looked after: `8080` listens, `8080!` does not, and of `8080?` nothing is known.
fn ports(ports: &[Port]) -> String {
    let mut sorted: Vec<&Port> = ports.iter().collect();
    sorted.sort_by_key(|port| (port.listening == Some(true), port.port));
    let shown = sorted.iter().take(PORTS).map(|Port { port, listening, .. }| match listening {
        Some(true) => port.to_string(),
        Some(false) => format!("{port}!"),
        None => format!("{port}?"),
    });
    let more = ports.len().checked_sub(PORTS).filter(|more| *more > 0).map(|more| format!("+{more}"));
    shown.chain(more).collect::<Vec<_>>().join(",")
}

fn last_exit(exit: &LastExit, now: Timestamp) -> String {
    let signal = exit.signal.as_deref().unwrap_or("a signal");
    let how = match exit.cause {
        None => "unknown".to_owned(),
        Some(Cause::Exit) => format!("code {}", exit.code.unwrap_or_default()),
        Some(Cause::Signal) => signal.to_owned(),
        Some(Cause::Core) => format!("{signal} (core)"),
        Some(Cause::Oom) => format!("{signal} (oom)"),
    };
    format!("{} {} ago", escape(&how), span(now.duration_since(exit.at).as_secs_f64()))
}

fn next_or_why(service: &Service, now: Timestamp) -> String {
    let next = service.next_start_at.map(|at| format!("in {}", span(at.duration_since(now).as_secs_f64())));
    let paused = service.paused.then(|| paused(service, now));
    let flag = match service.state {
        State::Running if !service.ready => Some("not ready".to_owned()),
        State::Running if service.healthy == Some(false) => Some("unhealthy".to_owned()),
        _ => None,
    };
    let adopted = service.adopted.then(|| "adopted".to_owned());
    let why = Some(escape(&service.why)).filter(|why| !why.is_empty());
    [paused, next, flag, adopted, why].into_iter().flatten().collect::<Vec<_>>().join(": ")
}

/// That restarts are paused, and for how long.
fn paused(service: &Service, now: Timestamp) -> String {
    match service.paused_until {
        Some(until) => format!("paused for {}", span(until.duration_since(now).as_secs_f64())),
        None => "paused".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use defib_core::model::{By, Incarnation};

    use super::*;

    fn service(name: &str, state: State) -> Service {
        Service {
            name: name.parse().unwrap(),
            state,
            pid: None,
            incarnation: Incarnation(1),
            ready: false,
            healthy: None,
            adopted: false,
            enabled: true,
            paused: false,
            paused_until: None,
            group: None,
            started_at: None,
            uptime_seconds: None,
            restarts: 0,
            last_exit: None,
            next_start_at: None,
            cpu_seconds: None,
            memory_bytes: None,
            ports: Vec::new(),
            sockets: Vec::new(),
            description: String::new(),
            why: String::new(),
        }
    }

    fn port(port: u16, listening: Option<bool>) -> Port {
        Port { port, listening, connections: listening.map(u64::from) }
    }

    #[test]
    fn ports_that_do_not_listen_come_first() {
        let (up, down, unknown) = (Some(true), Some(false), None);
        assert_eq!(ports(&[]), "");
        assert_eq!(ports(&[port(80, up), port(443, down), port(8080, unknown)]), "443!,8080?,80");
        let many: Vec<Port> = (1..=5).map(|number| port(number, up)).chain([port(99, down)]).collect();
        assert_eq!(ports(&many), "99!,1,2,3,+2");
        let service = Service { ready: true, ports: many, ..service("a", State::Running) };
        assert_eq!(Light::of(&service), Light::Yellow);
        let service = Service { ports: vec![port(80, unknown), port(81, up)], ..service };
        assert_eq!(Light::of(&service), Light::Green);
    }

    #[test]
    fn the_table_shows_what_an_operator_asks_first() {
        let now: Timestamp = "2026-08-03T14:00:00Z".parse().unwrap();
        let exit = LastExit {
            cause: Some(Cause::Core),
            by: By::Itself,
            code: None,
            signal: Some("SIGSEGV".to_owned()),
            core: true,
            sender: None,
            address: None,
            at: "2026-08-03T13:59:15Z".parse().unwrap(),
            unknown: Vec::new(),
        };
        let api = Service {
            pid: Some(4711),
            ready: true,
            uptime_seconds: Some(723.0),
            cpu_seconds: Some(0.25),
            memory_bytes: Some(5 << 20),
            ports: vec![port(8080, Some(true))],
            ..service("api", State::Running)
        };
        let flaky = Service {
            restarts: 3,
            last_exit: Some(exit),
            next_start_at: Some("2026-08-03T14:00:04.200Z".parse().unwrap()),
            why: "died\n3 times".to_owned(),
            ports: vec![port(81, Some(false))],
            ..service("flaky", State::Retrying)
        };
        let wanted = "  NAME   STATE     PID   PORTS  UPTIME  CPU    MEMORY  RESTARTS  LAST EXIT               NEXT/WHY\n\
                      ● api    running   4711  8080   12m3s   250ms  5.0M    0         -                       -\n\
                      ● flaky  retrying  -     81!    -       -      -       3         SIGSEGV (core) 45s ago  in 4.2s: died\\n3 times\n";
        assert_eq!(lines(&[api.clone(), flaky], now, false), wanted);
        let colored = lines(std::slice::from_ref(&api), now, true);
        assert!(colored.contains("\n\x1b[32m●\x1b[0m api"), "{colored:?}");

        let until = Some("2026-08-03T14:29:00Z".parse().unwrap());
        let group = Some("web".parse().unwrap());
        let paused = Service { paused: true, paused_until: until, group, why: String::new(), ..api };
        let colored = lines(std::slice::from_ref(&paused), now, true);
        assert!(colored.contains("\n\x1b[33m●\x1b[0m api"), "{colored:?}");
        let mut lines = colored.lines().map(|line| line.split_ascii_whitespace().skip(1));
        assert_eq!(lines.next().and_then(|mut head| head.next()), Some("GROUP"));
        assert_eq!(lines.next().and_then(|mut row| row.nth(1)), Some("web"));
        assert!(colored.ends_with("  paused for 29m\n"), "{colored:?}");
    }

    #[test]
    fn the_light_follows_the_state_and_its_flags() {
        let lights = State::ALL.map(|state| Light::of(&service("a", state)));
        use Light::{Green, Red, Yellow};
        assert_eq!(lights, [Red, Yellow, Yellow, Yellow, Yellow, Yellow, Red, Red], "running, but not ready");
        let ready = Service { ready: true, ..service("a", State::Running) };
        assert_eq!(Light::of(&ready), Green);
        assert_eq!(Light::of(&Service { healthy: Some(false), ..ready.clone() }), Yellow);
        assert_eq!(Light::of(&Service { healthy: Some(true), ..ready }), Green);
    }
}
