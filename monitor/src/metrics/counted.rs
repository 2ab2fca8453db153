//! What is counted of one service.

use std::collections::BTreeMap;
use std::time::Duration;

use defib_core::model::{
    By, Cause, Ending, GAVE_UP, Incarnation, Reason, Record, State, Tick, Usage, WaitStatus, What,
};

use super::tally::Spans;

/// How many different ends of one service have a series each. A program chooses its exit code, so that one that means
/// harm could make 256 of them; what comes later is counted under the status `other`, and as dropped.
const MAX_STATUSES: usize = 32;

/// The `status` of an end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Status {
    /// An exit code.
    Code(u8),
    /// The number of a signal.
    Signal(i32),
    /// Nobody can tell.
    Unknown,
    /// One of too many.
    Other,
}

impl Status {
    fn of(status: Option<WaitStatus>) -> Self {
        let Some(status) = status else { return Self::Unknown };
        match (status.code(), status.signal()) {
            (Some(code), _) => Self::Code(code),
            (None, Some(signal)) => Self::Signal(signal.0),
            (None, None) => Self::Other,
        }
    }
}

/// The numbers of one service since the daemon began.
#[derive(Clone, Debug, Default)]
pub(super) struct Counted {
    pub(super) starts: u64,
    /// By the words of [`StartFailureKind`](defib_core::model::StartFailureKind).
    pub(super) start_failures: BTreeMap<&'static str, u64>,
    /// By the words of [`Reason`].
    pub(super) restarts: BTreeMap<&'static str, u64>,
    /// By the words of [`Cause`] or `unknown`, and the status.
    pub(super) exits: BTreeMap<(&'static str, Status), u64>,
    pub(super) oom_kills: u64,
    /// What the lives that have ended have used; of `max_rss_kib` the largest.
    pub(super) used: Usage,
    pub(super) start_limit_reached: u64,
    /// How long the latest restart was to wait.
    pub(super) delay: Option<Duration>,
    /// When it was taken out of the configuration.
    pub(super) removed: Option<Tick>,
    course: Course,
}

/// What has been seen of the present life, to measure spans from.
#[derive(Clone, Debug, Default)]
struct Course {
    /// The life whose start has been counted.
    begun: Incarnation,
    /// When the program of the present life was executed, while it is not ready.
    executed: Option<Tick>,
    /// When the present life was asked to end.
    stopping: Option<Tick>,
    /// When the last life ended by itself, and the delay after it, once that is known.
    died: Option<(Tick, Option<Duration>)>,
}

impl Counted {
    /// Takes a record into account. `ready`: whether the service is ready now. `since`: when counting began. Returns
    /// whether a label was refused.
    pub(super) fn tell(&mut self, record: &Record, ready: bool, since: Tick, spans: &Spans) -> bool {
        self.removed = None;
        match &record.what {
            What::State { to, why, .. } => self.enter(*to, why, record, spans),
            What::Exit { ending, started } => {
                // It began and was asked to end before anybody could be told that it had begun.
                if record.incarnation > self.course.begun && started.is_none_or(|at| at >= since) {
                    self.starts += 1;
                    self.course.begun = record.incarnation;
                }
                return self.exit(ending, spans);
            }
            What::StartFailed { failure } => {
                *self.start_failures.entry(failure.kind.as_str()).or_default() += 1;
                self.course.died = None;
            }
            What::Restart { reason, delay_ns, .. } => {
                *self.restarts.entry(reason.as_str()).or_default() += 1;
                let delay = Duration::from_nanos(*delay_ns);
                self.delay = Some(delay);
                // How long a restart takes that somebody asked for depends on how long the old life takes to end.
                self.course.died = match (self.course.died, *reason) {
                    (_, Reason::Manual) | (None, _) => None,
                    (Some((died, _)), _) => Some((died, Some(delay))),
                };
            }
            What::PortTaken(_) | What::Listen { .. } | What::Unlisten { .. } => {}
        }
        if ready && let Some(executed) = self.course.executed.take() {
            spans.ready.observe(record.at.since(executed));
        }
        false
    }

    fn enter(&mut self, to: State, why: &str, record: &Record, spans: &Spans) {
        let at = record.at;
        match to {
            State::Running => {
                self.starts += 1;
                self.course.begun = record.incarnation;
                self.course.executed = Some(at);
                if let Some((died, Some(delay))) = self.course.died.take() {
                    spans.restart.observe(at.since(died + delay));
                }
            }
            State::Failed if why.starts_with(GAVE_UP) => self.start_limit_reached += 1,
            State::Stopped
            | State::Starting
            | State::Stopping
            | State::Crashed
            | State::Retrying
            | State::Failed
            | State::Disabled => {}
        }
        if to != State::Running {
            self.course.executed = None;
        }
        self.course.stopping = (to == State::Stopping).then_some(at);
    }

    fn exit(&mut self, Ending { end, by }: &Ending, spans: &Spans) -> bool {
        let asked = self.course.stopping.take();
        match by {
            By::Itself => self.course.died = Some((end.at, None)),
            By::Stop | By::Shutdown => {
                self.course.died = None;
                if let Some(asked) = asked {
                    spans.stop.observe(end.at.since(asked));
                }
            }
        }
        self.course.executed = None;
        let sum = |before: u64, more: u64| before.saturating_add(more);
        self.used = Usage {
            user_us: sum(self.used.user_us, end.usage.user_us),
            system_us: sum(self.used.system_us, end.usage.system_us),
            max_rss_kib: self.used.max_rss_kib.max(end.usage.max_rss_kib),
            read_bytes: sum(self.used.read_bytes, end.usage.read_bytes),
            written_bytes: sum(self.used.written_bytes, end.usage.written_bytes),
        };
        if end.cause() == Some(Cause::Oom) {
            self.oom_kills += 1;
        }
        let cause = end.cause().map_or("unknown", Cause::as_str);
        let key = (cause, Status::of(end.status));
        let refused = self.exits.len() >= MAX_STATUSES && !self.exits.contains_key(&key);
        let key = if refused { (cause, Status::Other) } else { key };
        *self.exits.entry(key).or_default() += 1;
        refused
    }
}
