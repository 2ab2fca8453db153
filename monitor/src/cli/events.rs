//! `defib events`

use defib_core::model::{By, Cause, ServiceName, UNWATCHED, Unknown};
use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::Exit;
use super::args::Options;
use super::output::{Printer, complain_of, escape, span};
use super::session::{self, Failure};
use crate::api::types::{Event, Exec, Exit as End, Failure as Obstacle, Sender, What};

/// Shows what happened.
pub fn past(options: &Options, service: Option<&ServiceName>, after: Option<u64>) -> Exit {
    session::run(options, async |client, printer| {
        for event in client.events(after, service).await? {
            show(printer, &event)?;
        }
        Ok(Exit::Done)
    })
}

/// Shows what happened and what happens, with `all` also to processes that are no main process of a service.
pub fn follow(options: &Options, all: bool, service: Option<&ServiceName>, after: Option<u64>) -> Exit {
    session::run(options, async |client, printer| {
        let mut events =
            if all { client.follow_all(after).await? } else { client.follow(after, service).await? };
        while let Some(event) = events.next().await? {
            show(printer, &event)?;
        }
        complain_of("the daemon has left");
        Ok(Exit::Unreachable)
    })
}

fn show(printer: &mut Printer, event: &Event) -> Result<(), Failure> {
    if printer.json {
        printer.print_json(event)
    } else {
        printer.print(&line(event, Timestamp::now(), TimeZone::system()))
    }
}

/// An event in one line: when, to whom, what.
fn line(event: &Event, now: Timestamp, zone: TimeZone) -> String {
    let at = event.at.to_zoned(zone.clone());
    let today = at.date() == now.to_zoned(zone).date();
    let at = at.strftime(if today { "%H:%M:%S%.3f" } else { "%Y-%m-%d %H:%M:%S%.3f" });
    let service = event.service.as_ref().map_or("-", ServiceName::as_str);
    let (kind, text) = what(event);
    format!("{at} {service:12} {kind:8} {text}\n")
}

/// The kind of an event, and the rest in words.
fn what(event: &Event) -> (&'static str, String) {
    let pid = match (event.pid, &event.name) {
        (Some(pid), Some(name)) => format!("pid {pid} ({})", escape(name)),
        (Some(pid), None) => format!("pid {pid}"),
        (None, _) => "a process".to_owned(),
    };
    match &event.what {
        What::Exec(Exec { failure: Some(failure), .. }) => ("exec", obstacle(failure)),
        What::Exec(Exec { filename, .. }) => {
            ("exec", format!("{pid} runs {}", escape(filename.as_deref().unwrap_or("a program"))))
        }
        What::Fork { parent, .. } => ("fork", format!("{pid} made by pid {parent}")),
        What::Exit(exit) => ("exit", format!("{pid} {}", end(exit, event.pid))),
        What::Signal { signal, sender, address, unknown, .. } => {
            let signal = escape(signal);
            let origin = match (sender, address) {
                (Some(sender), _) if Some(sender.pid) == event.pid => " from itself".to_owned(),
                (None, None) if unknown.contains(&Unknown::Sender) => "; who sent it is unknown".to_owned(),
                (Some(sender), _) => format!(" from {}", named(sender)),
                (None, Some(address)) => format!(" from the kernel at address {}", escape(address)),
                (None, None) => " from the kernel".to_owned(),
            };
            ("signal", format!("{pid} dies of {signal}{origin}"))
        }
        What::Listen { port } => ("listen", format!("{pid} listens on port {port}")),
        What::Unlisten { port } => ("unlisten", format!("{pid} listens on port {port} no longer")),
        What::Port { port, holder: Some(holder) } => {
            let (pid, name) = (holder.pid, escape(&holder.name));
            ("port", format!("port {port} is taken by pid {pid} ({name})"))
        }
        What::Port { port, holder: None } => {
            ("port", format!("port {port} is taken by a process that defib cannot see"))
        }
        What::Oom { .. } => ("oom", format!("{pid} chosen by the out-of-memory killer")),
        What::State { from, to, why, .. } if why.is_empty() => ("state", format!("{from} → {to}")),
        What::State { from, to, why, .. } => ("state", format!("{from} → {to}: {}", escape(why))),
        What::Restart { reason, attempt, delay_seconds, .. } => {
            let when = if *delay_seconds == 0.0 {
                "at once".to_owned()
            } else {
                format!("in {}", span(*delay_seconds))
            };
            ("restart", format!("#{attempt} {when} ({})", reason.as_str()))
        }
        What::Config { ok: true, detail } => ("config", format!("read again: {}", escape(detail))),
        What::Config { ok: false, detail } => ("config", format!("refused: {}", escape(detail))),
        What::Lost { source, count } => {
            let count = count.map_or_else(|| "some events".to_owned(), |count| format!("{count} events"));
            let by = source.map_or("on the way here", |source| source.as_str());
            ("lost", format!("{count} lost ({by})"))
        }
    }
}

fn obstacle(Obstacle { call, error, remedy, .. }: &Obstacle) -> String {
    escape(&format!("could not start: {call}: {error}; {remedy}"))
}

fn end(exit: &End, pid: Option<u32>) -> String {
    let signal = escape(exit.signal.as_deref().unwrap_or("a signal"));
    let how = match exit.cause {
        None if exit.incarnation.is_some() => UNWATCHED.to_owned(),
        None => "ended; how is unknown".to_owned(),
        Some(Cause::Exit) => format!("exited with code {}", exit.code.unwrap_or_default()),
        Some(Cause::Signal) => format!("ended by {signal}"),
        Some(Cause::Core) => format!("ended by {signal} (core dumped)"),
        Some(Cause::Oom) => format!("ended by {signal} (out of memory)"),
    };
    let after = exit.ran_seconds.map(|ran| format!(" after {}", span(ran))).unwrap_or_default();
    let by = match exit.by {
        Some(by @ (By::Stop | By::Shutdown)) => format!(", asked by {}", by.as_str()),
        Some(By::Itself) | None => String::new(),
    };
    let asked = matches!(exit.by, Some(By::Stop | By::Shutdown));
    let origin = match (&exit.sender, &exit.address) {
        // Whom the signal came from is said by who asked.
        _ if asked => String::new(),
        (Some(sender), _) if Some(sender.pid) == pid => " from itself".to_owned(),
        (Some(sender), _) if exit.signal.as_ref() == Some(&sender.signal) => {
            format!(" from {}", named(sender))
        }
        (Some(sender), _) => format!(" upon {} from {}", escape(&sender.signal), named(sender)),
        (None, Some(address)) => format!(" at address {}", escape(address)),
        (None, None) => String::new(),
    };
    let open = match (exit.unknown.contains(&Unknown::Oom), exit.unknown.contains(&Unknown::Sender)) {
        (true, true) => "; who sent it, or whether memory ran out, is unknown",
        (true, false) => "; whether memory ran out is unknown",
        (false, true) => "; who sent it is unknown",
        (false, false) => "",
    };
    format!("{how}{origin}{after}{by}{open}")
}

/// A sender of a signal: `pid 812 (deploy)`.
fn named(sender: &Sender) -> String {
    format!("pid {} ({})", sender.pid, escape(&sender.name))
}

#[cfg(test)]
mod tests {
    use defib_core::model::{Incarnation, Reason, State};

    use super::*;

    fn shown(what: What) -> String {
        let event = Event {
            seq: Some(1),
            at: "2026-08-03T14:03:22.118Z".parse().unwrap(),
            service: Some("flaky".parse().unwrap()),
            pid: Some(4711),
            name: None,
            what,
        };
        line(&event, "2026-08-03T20:00:00Z".parse().unwrap(), TimeZone::UTC)
    }

    fn exit() -> End {
        End {
            main: true,
            incarnation: Some(Incarnation(2)),
            cause: Some(Cause::Core),
            by: Some(By::Itself),
            code: None,
            signal: Some("SIGSEGV".to_owned()),
            core: true,
            oom: Some(false),
            sender: None,
            address: None,
            ran_seconds: Some(3.0),
            cpu_seconds: Some(0.1),
            max_rss_bytes: Some(4096),
            unknown: Vec::new(),
        }
    }

    #[test]
    fn every_event_is_one_line_for_people() {
        let incarnation = Incarnation(2);
        for (what, text) in [
            (What::Exit(Box::new(exit())), "exit     pid 4711 ended by SIGSEGV (core dumped) after 3.0s"),
            (
                What::Exit(Box::new(End {
                    cause: Some(Cause::Exit),
                    code: Some(0),
                    by: Some(By::Stop),
                    ..exit()
                })),
                "exit     pid 4711 exited with code 0 after 3.0s, asked by stop",
            ),
            (
                What::State { incarnation, from: State::Running, to: State::Crashed, why: String::new() },
                "state    running → crashed",
            ),
            (
                What::Restart { incarnation, reason: Reason::Signal, attempt: 2, delay_seconds: 0.1 },
                "restart  #2 in 100ms (signal)",
            ),
            (
                What::Exec(Exec {
                    ok: true,
                    main: true,
                    filename: Some("/bin/\x1bx".to_owned()),
                    failure: None,
                }),
                "exec     pid 4711 runs /bin/\\u{1b}x",
            ),
            (What::Fork { parent: 4710, main: true }, "fork     pid 4711 made by pid 4710"),
            (What::Lost { source: None, count: Some(7) }, "lost     7 events lost (on the way here)"),
        ] {
            assert_eq!(shown(what), format!("14:03:22.118 flaky        {text}\n"));
        }
    }

    #[test]
    fn an_event_of_another_day_has_its_date() {
        let at: Timestamp = "2026-08-02T14:03:22.118Z".parse().unwrap();
        let event = Event {
            seq: Some(1),
            at,
            service: None,
            pid: None,
            name: None,
            what: What::Lost { source: None, count: None },
        };
        let line = line(&event, "2026-08-03T20:00:00Z".parse().unwrap(), TimeZone::UTC);
        assert_eq!(
            line,
            "2026-08-02 14:03:22.118 -            lost     some events lost (on the way here)\n"
        );
    }
}
