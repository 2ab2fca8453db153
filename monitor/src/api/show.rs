//! From what the daemon knows to what the API shows.

use std::time::Duration;

use defib_core::model::{
    End, Ending, KernelEvent, KernelFact, Record, ServiceView, Tick, WaitStatus, What as Told, Witness,
};
use jiff::Timestamp;

use super::types::{Event, Exec, Exit, Failure, LastExit, Service, Unknown, What};
use super::usage::Use;
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

/// A service as it is at `now`, with what its process uses, if there is one.
pub(super) fn service(view: &ServiceView, usage: Option<Use>, now: Tick) -> Service {
    Service {
        name: view.name.clone(),
        state: view.state,
        pid: view.pid,
        incarnation: view.incarnation,
        ready: view.ready,
        healthy: None,
        adopted: false,
        enabled: view.enabled,
        started_at: view.started.map(time),
        uptime_seconds: view.pid.and(view.started).map(|started| seconds(now.since(started))),
        restarts: view.restarts,
        last_exit: view.last_exit.as_ref().map(last_exit),
        next_start_at: view.next_start.map(time),
        cpu_seconds: usage.map(|usage| seconds(usage.cpu)),
        memory_bytes: usage.map(|usage| usage.memory),
        ports: Vec::new(),
        description: view.description.clone(),
        why: view.why.clone(),
    }
}

fn last_exit(Ending { end, by }: &Ending) -> LastExit {
    LastExit {
        cause: end.cause(),
        by: *by,
        code: end.status.code(),
        signal: signal(end.status),
        core: end.status.core(),
        at: time(end.at),
        unknown: unknown(end),
    }
}

/// An event with its place in the order of everything.
pub(super) fn event(entry: &journal::Entry) -> Event {
    let (service, pid, what) = match &entry.event {
        journal::Event::Service(record) => (Some(&record.service), record.pid, told(record)),
        journal::Event::Kernel { service, event } => (Some(service), Some(event.pid), seen(event)),
        journal::Event::Lost { source, count } => {
            (None, None, What::Lost { source: Some(*source), count: Some(*count) })
        }
    };
    Event { seq: entry.seq, at: time(entry.at), service: service.cloned(), pid, what }
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
            cpu_seconds: Some(seconds(Duration::from_micros(
                end.usage.user_us.saturating_add(end.usage.system_us),
            ))),
            max_rss_bytes: Some(end.usage.max_rss_kib.saturating_mul(1024)),
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
        Told::Restart { reason, attempt, delay_ns } => {
            let delay_seconds = seconds(Duration::from_nanos(delay_ns));
            What::Restart { incarnation, reason, attempt, delay_seconds }
        }
    }
}

/// What the kernel tells.
fn seen(event: &KernelEvent) -> What {
    let main = event.main;
    match &event.fact {
        KernelFact::Fork { parent } => What::Fork { parent: *parent },
        KernelFact::Exec { filename } => {
            What::Exec(Exec { ok: true, main, filename: Some(filename.clone()), failure: None })
        }
        KernelFact::Exit(Witness { at, status, oom }) => {
            let end = End { status: *status, at: *at, usage: Default::default(), oom: Some(*oom) };
            What::Exit(Box::new(exit(&end, main)))
        }
        KernelFact::Oom => What::Oom { main },
    }
}

/// An end without what only defib knows of it.
fn exit(end: &End, main: bool) -> Exit {
    Exit {
        main,
        incarnation: None,
        cause: end.cause(),
        by: None,
        code: end.status.code(),
        signal: signal(end.status),
        core: end.status.core(),
        oom: if end.oom_unknown() { None } else { Some(end.oom.unwrap_or(false)) },
        ran_seconds: None,
        cpu_seconds: None,
        max_rss_bytes: None,
        unknown: unknown(end),
    }
}

fn signal(status: WaitStatus) -> Option<String> {
    status.signal().map(|signal| signal.to_string())
}

fn unknown(end: &End) -> Vec<Unknown> {
    if end.oom_unknown() { vec![Unknown::Oom] } else { Vec::new() }
}

#[cfg(test)]
mod tests;
