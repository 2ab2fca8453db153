//! From what the daemon knows to what the API shows.

use std::time::Duration;

use defib_core::model::{
    Blame, Cause, End, Ending, KernelEvent, KernelFact, Record, ServiceView, Tick, Unknown, What as Told,
    Witness,
};
use jiff::Timestamp;

use super::types::{Event, Exec, Exit, Failure, LastExit, Port, Sender, Service, What};
use crate::daemon::handle::ProcessUsage;
use crate::daemon::journal;
use crate::effect::clock;

/// The wall time of a tick, to the microsecond: two clocks cannot be read closer together than that.
pub(super) fn time(tick: Tick) -> Timestamp {
    let wall = clock::wall(tick);
    Timestamp::from_microsecond(wall.as_microsecond()).unwrap_or(wall)
}

/// Seconds to the millisecond: more digits would be noise.
fn seconds(span: Duration) -> f64 {
    (span.as_secs_f64() * 1000.0).round() / 1000.0
}

/// A service as it is at `now`, with what its process uses, if there is one, and its ports.
pub(super) fn service(
    view: &ServiceView,
    usage: Option<ProcessUsage>,
    ports: Vec<Port>,
    now: Tick,
) -> Service {
    Service {
        name: view.name.clone(),
        state: view.state,
        pid: view.pid,
        incarnation: view.incarnation,
        ready: view.ready,
        healthy: None,
        adopted: view.adopted,
        enabled: view.enabled,
        paused: view.paused.is_some(),
        paused_until: view.paused.and_then(|paused| paused.until).map(time),
        group: view.group.clone(),
        started_at: view.started.map(time),
        uptime_seconds: view.pid.and(view.started).map(|started| seconds(now.since(started))),
        restarts: view.restarts,
        last_exit: view.last_exit.as_ref().map(last_exit),
        next_start_at: view.next_start.map(time),
        cpu_seconds: usage.map(|usage| seconds(usage.cpu.total())),
        memory_bytes: usage.map(|usage| usage.resident_bytes),
        ports,
        sockets: view.sockets.clone(),
        description: view.description.clone(),
        why: view.why.clone(),
    }
}

fn last_exit(Ending { end, by }: &Ending) -> LastExit {
    LastExit {
        cause: end.cause(),
        by: *by,
        code: end.code(),
        signal: signal(end),
        core: end.core(),
        sender: sender(&end.blame),
        address: address(&end.blame),
        at: time(end.at),
        unknown: end.unknowns(),
    }
}

/// An event with its place in the order of everything.
pub(super) fn event(entry: &journal::Entry) -> Event {
    let (service, pid, what) = match &entry.event {
        journal::Event::Service(record) => (Some(&record.service), record.pid, told(record)),
        journal::Event::Kernel { service, event } => (Some(service), Some(event.pid), seen(event)),
        journal::Event::Config { ok, detail } => {
            (None, None, What::Config { ok: *ok, detail: detail.clone() })
        }
        journal::Event::Lost { source, count } => {
            (None, None, What::Lost { source: Some(*source), count: Some(*count) })
        }
    };
    let name = None;
    Event { seq: Some(entry.seq), at: time(entry.at), service: service.cloned(), pid, name, what }
}

/// What the core tells.
fn told(record: &Record) -> What {
    let incarnation = record.incarnation;
    match record.what.clone() {
        Told::State { from, to, why } => What::State { incarnation, from, to, why },
        Told::Exit { ending: Ending { end, by }, started } => What::Exit(Box::new(Exit {
            incarnation: Some(incarnation),
            by: Some(by),
            ran_seconds: started.map(|started| seconds(end.at.since(started))),
            // Only who reaps a process is told what it has used, and no process uses no memory.
            cpu_seconds: Some(seconds(Duration::from_micros(
                end.usage.user_us.saturating_add(end.usage.system_us),
            )))
            .filter(|_| end.usage.max_rss_kib > 0),
            max_rss_bytes: Some(end.usage.max_rss_kib.saturating_mul(1024)).filter(|bytes| *bytes > 0),
            ..exit(&end, true)
        })),
        Told::StartFailed { failure } => What::Exec(Exec {
            ok: false,
            main: true,
            filename: None,
            failure: Some(Failure {
                incarnation,
                reason: failure.kind,
                call: failure.call,
                errno: failure.errno,
                error: failure.error,
                remedy: failure.remedy,
            }),
        }),
        Told::PortTaken(taken) => What::Port { port: taken.port, holder: taken.holder },
        Told::Listen { port } => What::Listen { port },
        Told::Unlisten { port } => What::Unlisten { port },
        Told::Restart { reason, attempt, delay_ns } => {
            let delay_seconds = seconds(Duration::from_nanos(delay_ns));
            What::Restart { incarnation, reason, attempt, delay_seconds }
        }
    }
}

/// What the kernel tells.
pub(super) fn seen(event: &KernelEvent) -> What {
    let main = event.main;
    match &event.fact {
        KernelFact::Fork { parent } => What::Fork { parent: *parent, main },
        KernelFact::Exec { filename } => {
            // A source that looks for the name when it hears of the exec may come too late.
            let filename = Some(filename.clone()).filter(|name| !name.is_empty());
            What::Exec(Exec { ok: true, main, filename, failure: None })
        }
        KernelFact::Signal { signal, blame } => What::Signal {
            main,
            signal: signal.to_string(),
            sender: sender(blame),
            address: address(blame),
            unknown: if *blame == Blame::Unknown { vec![Unknown::Sender] } else { Vec::new() },
        },
        KernelFact::Exit(witness) => What::Exit(Box::new(witnessed(witness, event.at, main))),
        KernelFact::Oom => What::Oom { main },
        KernelFact::Listen(listener) => What::Listen { port: listener.port },
        KernelFact::Unlisten(listener) => What::Unlisten { port: listener.port },
    }
}

/// An end of which the source may not know how.
fn witnessed(Witness { at, status, oom, blame }: &Witness, told: Tick, main: bool) -> Exit {
    let (at, blame) = (at.unwrap_or(told), blame.clone());
    let end = End { status: *status, at, usage: Default::default(), oom: *oom, blame };
    exit(&end, main)
}

/// An end without what only defib knows of it.
fn exit(end: &End, main: bool) -> Exit {
    Exit {
        main,
        incarnation: None,
        cause: end.cause(),
        by: None,
        code: end.code(),
        signal: signal(end),
        core: end.core(),
        oom: match end.status {
            None => end.oom,
            Some(_) if end.unknowns().contains(&Unknown::Oom) => None,
            Some(_) => Some(end.cause() == Some(Cause::Oom)),
        },
        sender: sender(&end.blame),
        address: address(&end.blame),
        ran_seconds: None,
        cpu_seconds: None,
        max_rss_bytes: None,
        unknown: end.unknowns(),
    }
}

fn sender(blame: &Blame) -> Option<Sender> {
    match blame {
        Blame::Process(sender) => Some(Sender {
            signal: sender.signal.to_string(),
            pid: sender.pid,
            uid: sender.uid,
            name: sender.name.clone(),
        }),
        Blame::Unknown | Blame::Nobody | Blame::Kernel { .. } => None,
    }
}

/// As text: JSON's numbers cannot hold every address.
fn address(blame: &Blame) -> Option<String> {
    match blame {
        Blame::Kernel { address } => address.map(|address| format!("{address:#x}")),
        Blame::Unknown | Blame::Nobody | Blame::Process(_) => None,
    }
}

fn signal(end: &End) -> Option<String> {
    end.signal().map(|signal| signal.to_string())
}

#[cfg(test)]
mod tests;
