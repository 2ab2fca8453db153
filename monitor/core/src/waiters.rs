//! Clients that wait until a service is up or down.

use crate::effect::{Effect, Effects, Reply};
use crate::model::{RequestId, Tick};
use crate::phase::Phase;

/// What a client waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Goal {
    /// That it runs and is ready.
    Up,
    /// That nothing is left of it.
    Down,
}

/// Requests without an answer so far. The API bounds their number; they end with the daemon.
#[derive(Debug, Default)]
pub(crate) struct Waiters(Vec<(RequestId, Goal)>);

impl Waiters {
    /// Somebody waits.
    pub(crate) fn add(&mut self, id: RequestId, goal: Goal) {
        self.0.push((id, goal));
    }

    /// Whether anybody waits for that.
    pub(crate) fn any(&self, goal: Goal) -> bool {
        self.0.iter().any(|(_, waits_for)| *waits_for == goal)
    }

    /// Answers everybody if `phase` is one in which a service stays until something new happens: as a process that
    /// runs does once it is `ready`.
    pub(crate) fn settle(&mut self, now: Tick, fx: &mut Effects, phase: &Phase, ready: bool) {
        if self.0.is_empty() {
            return;
        }
        let again = || Reply::Failed("it was started again by another request".to_owned());
        let (up, down) = match phase {
            Phase::Running(life) if ready => (Reply::Done(format!("running, pid {}", life.pid)), again()),
            Phase::Stopped => {
                let up = Reply::Failed("it was stopped, or ended, before it ran".to_owned());
                (up, Reply::Done("stopped".to_owned()))
            }
            Phase::Retrying { due, why } => {
                let wait = due.since(now).as_secs_f64();
                (Reply::Failed(format!("{why}. The next try follows in {wait:.1} s.")), again())
            }
            Phase::Failed { why } => {
                let up = Reply::Failed(format!("{why}. There is no further try."));
                (up, again())
            }
            Phase::Disabled => (Reply::Disabled, Reply::Done("disabled".to_owned())),
            Phase::Preparing
            | Phase::Spawning
            | Phase::Running(_)
            | Phase::Replacing(..)
            | Phase::Stopping { .. }
            | Phase::Emptying { .. }
            | Phase::Crashed { .. } => return,
        };
        for (id, goal) in self.0.drain(..) {
            let reply = match goal {
                Goal::Up => up.clone(),
                Goal::Down => down.clone(),
            };
            fx.push(Effect::Reply { id, reply });
        }
    }

    /// Tells those who wait for `goal` that it will not be reached.
    pub(crate) fn refuse(&mut self, fx: &mut Effects, goal: Goal, text: &str) {
        self.0.retain(|(id, waits_for)| {
            if *waits_for == goal {
                fx.push(Effect::Reply { id: *id, reply: Reply::Failed(text.to_owned()) });
            }
            *waits_for != goal
        });
    }
}
