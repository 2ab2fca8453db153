//! The families of the supervised services, from their views and from what was counted of them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use defib_core::model::{Reason, ServiceName, ServiceView, Signal, StartFailureKind, State, Tick};

use super::counted::{Counted, Status};
use super::names;
use super::text::Page;
use super::wall_seconds;

/// What was captured of one stream of a service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stream {
    /// `stdout` or `stderr`; `joined` where both are one.
    pub name: &'static str,
    /// Bytes captured.
    pub bytes: u64,
    /// Of these, bytes that were dropped.
    pub dropped: u64,
}

/// Who captures the output of services tells how much it was. Asked at each scrape on the surfaces' thread, so it must
/// answer from memory.
pub trait OutputCounters: fmt::Debug + Send + Sync {
    /// The streams of all services since the daemon began.
    fn streams(&self) -> Vec<(ServiceName, Stream)>;
}

/// Writes what views show.
pub(super) fn write_views(page: &mut Page, views: &[&ServiceView], counted: &BTreeMap<ServiceName, Counted>) {
    for view in views {
        let group = view.group.as_ref().map_or("", ServiceName::as_str);
        page.family(&names::PROCESS_INFO).add(&[view.name.as_str(), group, "direct"], 1.0);
    }
    for view in views {
        let mut states = page.family(&names::PROCESS_STATE);
        for state in State::ALL {
            states.truth(&[view.name.as_str(), state.as_str()], view.state == state);
        }
    }
    let truths = [
        (&names::PROCESS_UP, (|view| view.state == State::Running && view.ready) as fn(&ServiceView) -> bool),
        (&names::PROCESS_DESIRED, |view| view.wanted),
        (&names::PROCESS_PAUSED, |view| view.paused.is_some()),
    ];
    for (family, holds) in truths {
        let mut samples = page.family(family);
        views.iter().for_each(|view| samples.truth(&[view.name.as_str()], holds(view)));
    }
    let moments = [
        (&names::PROCESS_START_TIME, (|view| view.started) as fn(&ServiceView) -> Option<Tick>),
        (&names::PROCESS_NEXT_START, |view| view.next_start),
        (&names::PROCESS_LAST_EXIT_TIME, |view| Some(view.last_exit.as_ref()?.end.at)),
    ];
    for (family, moment) in moments {
        let mut samples = page.family(family);
        for view in views {
            if let Some(at) = moment(view) {
                samples.add(&[view.name.as_str()], wall_seconds(at));
            }
        }
    }
    for view in views {
        let name = view.name.as_str();
        let died = view.last_exit.as_ref().map(|ending| ending.end.at);
        if let Some(status) = view.last_exit.as_ref().and_then(|ending| ending.end.status) {
            let signal = status.signal().map(|signal| f64::from(128 + signal.0));
            let status = signal.or(status.code().map(f64::from)).unwrap_or(f64::NAN);
            page.family(&names::PROCESS_LAST_EXIT_STATUS).add(&[name], status);
        }
        // What an earlier daemon decided was not counted by this one.
        let delay = counted.get(&view.name).and_then(|counted| counted.delay);
        let delay = view.next_start.map(|due| delay.or(died.map(|died| due.since(died))).unwrap_or_default());
        page.family(&names::PROCESS_BACKOFF).add(&[name], delay.unwrap_or_default().as_secs_f64());
    }
}

/// Writes what was counted.
pub(super) fn write_counted(page: &mut Page, counted: &BTreeMap<ServiceName, Counted>) {
    let counters = [
        (&names::PROCESS_STARTS, (|counted| counted.starts) as fn(&Counted) -> u64),
        (&names::PROCESS_OOM_KILLS, |counted| counted.oom_kills),
        (&names::PROCESS_START_LIMIT, |counted| counted.start_limit_reached),
    ];
    for (family, count) in counters {
        let mut samples = page.family(family);
        counted.iter().for_each(|(name, counted)| samples.count(&[name.as_str()], count(counted)));
    }
    for (name, counted) in counted {
        let name = name.as_str();
        let known = Reason::ALL.map(Reason::as_str);
        by_word(page, &names::PROCESS_RESTARTS, name, &known, &counted.restarts);
        let known = StartFailureKind::ALL.map(StartFailureKind::as_str);
        by_word(page, &names::PROCESS_START_FAILURES, name, &known, &counted.start_failures);
        let mut samples = page.family(&names::PROCESS_EXITS);
        for ((cause, status), count) in &counted.exits {
            let status = match status {
                Status::Code(code) => code.to_string(),
                Status::Signal(number) => Signal(*number).to_string(),
                Status::Unknown => "unknown".to_owned(),
                Status::Other => "other".to_owned(),
            };
            samples.count(&[name, cause, &status], *count);
        }
    }
}

/// Known words stand at 0 before anything has happened, so that the first event is seen as an increase.
fn by_word(
    page: &mut Page,
    family: &'static names::Family,
    name: &str,
    known: &[&'static str],
    counts: &BTreeMap<&'static str, u64>,
) {
    let mut samples = page.family(family);
    for word in known {
        samples.count(&[name, word], counts.get(word).copied().unwrap_or_default());
    }
    for (word, count) in counts.iter().filter(|(word, _)| !known.contains(word)) {
        samples.count(&[name, word], *count);
    }
}

/// Writes what was captured.
pub(super) fn write_output(page: &mut Page, views: &[&ServiceView], output: &Arc<dyn OutputCounters>) {
    let shown: BTreeSet<&ServiceName> = views.iter().map(|view| &view.name).collect();
    for (service, Stream { name, bytes, dropped }) in output.streams() {
        if shown.contains(&service) {
            page.family(&names::PROCESS_OUTPUT).count(&[service.as_str(), name], bytes);
            page.family(&names::PROCESS_OUTPUT_DROPPED).count(&[service.as_str(), name], dropped);
        }
    }
}
