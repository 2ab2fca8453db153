//! One service in detail: what `defib status NAME` shows.

use std::fmt::Write;

use defib_core::model::{By, Cause, HeldSocket, State, UNWATCHED, Unknown};
use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::output::{escape, size, span};
use super::status::Light;
use crate::api::types::{LastExit, Port, Sender, Service};

/// All that is known of a service, a line each; what there is not has no line.
pub(super) fn text(service: &Service, now: Timestamp, color: bool) -> String {
    let mark = Light::of(service).mark(color);
    let about = match service.description.as_str() {
        "" => String::new(),
        text => format!(": {}", escape(text)),
    };
    let mut text = format!("{mark} {}{about}\n", service.name);
    for (name, value) in rows(service, now) {
        // A String takes all that is written to it.
        writeln!(text, "  {name:10} {value}").ok();
    }
    text
}

fn rows(service: &Service, now: Timestamp) -> Vec<(&'static str, String)> {
    let mut rows = vec![("state", state(service))];
    let mut row = |name, value: Option<String>| rows.extend(value.map(|value| (name, value)));
    let why = Some(escape(&service.why)).filter(|why| !why.is_empty());
    row("why", why);
    row("pid", service.pid.map(|pid| format!("{pid}, life {}", service.incarnation)));
    let since = service.started_at.filter(|_| service.pid.is_some());
    row("since", since.map(|at| when(at, now)));
    row("adopted", service.adopted.then(|| "begun by an earlier keeper, and taken over from it".to_owned()));
    row("next start", service.next_start_at.map(|at| format!("in {}", span_to(at, now))));
    row("paused", service.paused.then(|| paused(service, now)));
    row("restarts", Some(service.restarts.to_string()));
    row(
        "last exit",
        service.last_exit.as_ref().map(|exit| format!("{}, {}", ended(exit), when(exit.at, now))),
    );
    row("group", service.group.as_ref().map(ToString::to_string));
    for (at, one) in service.ports.iter().enumerate() {
        row(if at == 0 { "ports" } else { "" }, Some(port(one)));
    }
    for (at, one) in service.sockets.iter().enumerate() {
        row(if at == 0 { "sockets" } else { "" }, Some(socket(one)));
    }
    row("CPU time", service.cpu_seconds.map(span));
    row("memory", service.memory_bytes.map(size));
    rows
}

fn paused(service: &Service, now: Timestamp) -> String {
    let until = service.paused_until.map(|at| format!("for {}: ", span_to(at, now)));
    format!("{}not restarted by itself", until.unwrap_or_default())
}

fn state(service: &Service) -> String {
    let note = match service.state {
        State::Running if !service.ready => ", not ready",
        State::Running if service.healthy == Some(false) => ", ready, unhealthy",
        State::Running => ", ready",
        State::Stopped
        | State::Starting
        | State::Stopping
        | State::Crashed
        | State::Retrying
        | State::Failed => "",
        State::Disabled => ": every start is refused",
    };
    format!("{}{note}", service.state)
}

fn port(Port { port, listening, connections }: &Port) -> String {
    match (listening, connections) {
        (Some(true), Some(1)) => format!("{port} listens, 1 connection"),
        (Some(true), Some(count)) => format!("{port} listens, {count} connections"),
        (Some(true), None) => format!("{port} listens"),
        (Some(false), _) => format!("{port}! does not listen"),
        (None, _) => format!("{port}? cannot be known"),
    }
}

fn socket(HeldSocket { listen, name, held }: &HeldSocket) -> String {
    let name = if name.is_empty() { String::new() } else { format!(" ({})", escape(name)) };
    format!("{}{name} {}", escape(listen), if *held { "is held" } else { "is closed" })
}

/// How a life ended: `SIGKILL from pid 812 (deploy, user 0)`.
fn ended(exit: &LastExit) -> String {
    let signal = escape(exit.signal.as_deref().unwrap_or("a signal"));
    let how = match exit.cause {
        None => UNWATCHED.to_owned(),
        Some(Cause::Exit) => format!("code {}", exit.code.unwrap_or_default()),
        Some(Cause::Signal) => signal,
        Some(Cause::Core) => format!("{signal} (core)"),
        Some(Cause::Oom) => format!("{signal} (oom)"),
    };
    let from =
        |sender: &Sender| format!("pid {} ({}, user {})", sender.pid, escape(&sender.name), sender.uid);
    let origin = match (exit.by, &exit.sender, &exit.address) {
        (By::Stop, ..) => ", asked by stop".to_owned(),
        (By::Shutdown, ..) => ", asked by shutdown".to_owned(),
        (By::Itself, Some(sender), _) if exit.signal.as_ref() == Some(&sender.signal) => {
            format!(" from {}", from(sender))
        }
        (By::Itself, Some(sender), _) => format!(" upon {} from {}", escape(&sender.signal), from(sender)),
        (By::Itself, None, Some(address)) => format!(" at address {}", escape(address)),
        (By::Itself, None, None) if exit.unknown.contains(&Unknown::Sender) => {
            "; who sent it is unknown".to_owned()
        }
        (By::Itself, None, None) => String::new(),
    };
    format!("{how}{origin}")
}

/// A time in the past, by the clock and by how long ago it is.
fn when(at: Timestamp, now: Timestamp) -> String {
    format!("{} ago ({})", span(now.duration_since(at).as_secs_f64()), clock(at, now))
}

fn span_to(at: Timestamp, now: Timestamp) -> String {
    format!("{} ({})", span(at.duration_since(now).as_secs_f64()), clock(at, now))
}

/// In the zone of this machine; today's times without the date.
fn clock(at: Timestamp, now: Timestamp) -> String {
    let zone = TimeZone::system();
    let at = at.to_zoned(zone.clone());
    let today = at.date() == now.to_zoned(zone).date();
    at.strftime(if today { "%H:%M:%S" } else { "%Y-%m-%d %H:%M:%S" }).to_string()
}
