//! What operators ask of a service, and the end of the daemon.

use super::{Service, Turn};
use crate::effect::{Effect, Reply};
use crate::input::Verb;
use crate::model::{By, Reason, RequestId, Signal};
use crate::phase::{Life, Phase, Then};
use crate::series::Series;
use crate::waiters::Goal;

impl Service {
    /// A verb of an operator.
    pub(crate) fn request(&mut self, turn: &mut Turn<'_>, id: RequestId, verb: Verb) {
        match verb {
            Verb::Start | Verb::Stop | Verb::Restart | Verb::Reset | Verb::Disable => self.settle_debt(),
            Verb::Enable | Verb::Pause(_) | Verb::Resume | Verb::Kill(_) => {}
        }
        match verb {
            Verb::Start => self.start(turn, id),
            Verb::Stop => self.stop(turn, id),
            Verb::Restart => self.restart(turn, id),
            Verb::Reset => self.reset(turn, id),
            Verb::Enable => self.enable(turn, id),
            Verb::Disable => self.disable(turn, id),
            Verb::Pause(for_ns) => self.pause(turn, id, for_ns),
            Verb::Resume => self.resume_restarts(turn, id),
            Verb::Kill(signal) => self.kill(turn, id, signal),
        }
    }

    /// Starts without anybody asking: at the start of the daemon.
    pub(crate) fn autostart(&mut self, turn: &mut Turn<'_>) {
        if self.memo.phase == Phase::Stopped {
            self.begin(turn);
        }
    }

    fn start(&mut self, turn: &mut Turn<'_>, id: RequestId) {
        match self.memo.phase {
            Phase::Stopped | Phase::Retrying { .. } | Phase::Failed { .. } => {
                self.waiters.add(id, Goal::Up);
                self.memo.series = Series::default();
                self.begin(turn);
            }
            Phase::Preparing | Phase::Spawning => self.waiters.add(id, Goal::Up),
            Phase::Running(life) | Phase::Replacing(Some(life), _) if self.ready() => {
                reply(turn, id, Reply::Done(format!("already running, pid {}", life.pid)));
            }
            Phase::Running(_) | Phase::Replacing(..) => self.waiters.add(id, Goal::Up),
            Phase::Stopping { ref mut then, .. }
            | Phase::Emptying { ref mut then }
            | Phase::Crashed { ref mut then } => {
                match then {
                    Then::Disable => return reply(turn, id, Reply::Disabled),
                    // The plan of a restart that is under way is as fresh as one can be.
                    Then::Spawn => {}
                    Then::Stop | Then::Prepare | Then::Restart { .. } | Then::Fail { .. } => {
                        *then = Then::Prepare
                    }
                }
                self.memo.series = Series::default();
                self.changed = true;
                self.waiters.add(id, Goal::Up);
            }
            Phase::Disabled => reply(turn, id, Reply::Disabled),
        }
    }

    fn restart(&mut self, turn: &mut Turn<'_>, id: RequestId) {
        match self.memo.phase {
            Phase::Running(life) => {
                self.waiters.add(id, Goal::Up);
                self.memo.series = Series::default();
                self.replace(turn, life, Reason::Manual);
            }
            Phase::Replacing(..) => {
                // A reload may have begun it, in whatever series.
                self.memo.series = Series::default();
                self.changed = true;
                self.waiters.add(id, Goal::Up);
            }
            Phase::Stopped
            | Phase::Preparing
            | Phase::Spawning
            | Phase::Stopping { .. }
            | Phase::Emptying { .. }
            | Phase::Crashed { .. }
            | Phase::Retrying { .. }
            | Phase::Failed { .. }
            | Phase::Disabled => self.start(turn, id),
        }
    }

    fn stop(&mut self, turn: &mut Turn<'_>, id: RequestId) {
        match self.memo.phase {
            Phase::Stopped | Phase::Disabled => {
                reply(turn, id, Reply::Done(format!("not running ({})", self.memo.phase.state())));
            }
            Phase::Preparing
            | Phase::Spawning
            | Phase::Running(_)
            | Phase::Replacing(..)
            | Phase::Stopping { .. }
            | Phase::Emptying { .. }
            | Phase::Crashed { .. }
            | Phase::Retrying { .. }
            | Phase::Failed { .. } => {
                self.waiters.add(id, Goal::Down);
                self.bring_down(turn, By::Stop, Then::Stop);
            }
        }
    }

    fn disable(&mut self, turn: &mut Turn<'_>, id: RequestId) {
        if self.memo.phase == Phase::Disabled {
            return reply(turn, id, Reply::Done("already disabled".to_owned()));
        }
        self.waiters.add(id, Goal::Down);
        self.bring_down(turn, By::Stop, Then::Disable);
    }

    fn enable(&mut self, turn: &mut Turn<'_>, id: RequestId) {
        if !self.disabling() {
            return reply(turn, id, Reply::Done("not disabled".to_owned()));
        }
        match &mut self.memo.phase {
            Phase::Stopping { then, .. } | Phase::Emptying { then } | Phase::Crashed { then } => {
                *then = Then::Stop;
                self.changed = true;
            }
            Phase::Disabled
            | Phase::Stopped
            | Phase::Preparing
            | Phase::Spawning
            | Phase::Running(_)
            | Phase::Replacing(..)
            | Phase::Retrying { .. }
            | Phase::Failed { .. } => self.enter(turn, Phase::Stopped),
        }
        reply(turn, id, Reply::Done("enabled".to_owned()));
    }

    fn reset(&mut self, turn: &mut Turn<'_>, id: RequestId) {
        self.memo.series = Series::default();
        self.changed = true;
        match self.memo.phase {
            Phase::Failed { .. } => self.enter(turn, Phase::Stopped),
            Phase::Stopped
            | Phase::Preparing
            | Phase::Spawning
            | Phase::Running(_)
            | Phase::Replacing(..)
            | Phase::Stopping { .. }
            | Phase::Emptying { .. }
            | Phase::Crashed { .. }
            | Phase::Retrying { .. }
            | Phase::Disabled => {}
        }
        reply(turn, id, Reply::Done("its failures are forgotten".to_owned()));
    }

    fn kill(&mut self, turn: &mut Turn<'_>, id: RequestId, signal: Signal) {
        match self.memo.phase {
            Phase::Spawning | Phase::Running(_) | Phase::Replacing(..) | Phase::Stopping { .. } => {
                self.signal(turn, signal);
                reply(turn, id, Reply::Done(format!("{signal} sent")));
            }
            Phase::Stopped
            | Phase::Preparing
            | Phase::Emptying { .. }
            | Phase::Crashed { .. }
            | Phase::Retrying { .. }
            | Phase::Failed { .. }
            | Phase::Disabled => {
                let state = self.memo.phase.state();
                reply(
                    turn,
                    id,
                    Reply::Failed(format!("it is {state}: there is no process to send {signal} to")),
                );
            }
        }
    }

    /// The daemon leaves: nothing is to be left of the service.
    pub(crate) fn shutdown(&mut self, turn: &mut Turn<'_>, hurry: bool) {
        self.settle_debt();
        let end = if self.disabling() { Then::Disable } else { Then::Stop };
        match self.memo.phase {
            Phase::Stopped | Phase::Failed { .. } | Phase::Disabled => {}
            Phase::Preparing
            | Phase::Spawning
            | Phase::Running(_)
            | Phase::Replacing(..)
            | Phase::Stopping { .. }
            | Phase::Emptying { .. }
            | Phase::Crashed { .. }
            | Phase::Retrying { .. } => self.bring_down(turn, By::Shutdown, end),
        }
        if hurry {
            self.kill_tree(turn);
        }
    }

    /// Ends whatever there is of the service, then goes where `then` says. `disable` outlives a later `stop`.
    pub(super) fn bring_down(&mut self, turn: &mut Turn<'_>, by: By, end: Then) {
        match &mut self.memo.phase {
            Phase::Stopped
            | Phase::Preparing
            | Phase::Retrying { .. }
            | Phase::Failed { .. }
            | Phase::Disabled => self.follow(turn, end),
            Phase::Spawning => self.ask_to_end(turn, None, by, end),
            Phase::Running(life) => {
                let life = Some(*life);
                self.ask_to_end(turn, life, by, end);
            }
            Phase::Replacing(life, _) => {
                let life = *life;
                self.ask_to_end(turn, life, by, end);
            }
            Phase::Stopping { then, .. } | Phase::Emptying { then } | Phase::Crashed { then } => {
                if *then != Then::Disable {
                    *then = end;
                    self.changed = true;
                }
            }
        }
    }

    /// Sends the stop signal. A child that has not yet executed its program has all signals blocked, and gets
    /// this one as soon as it unblocks them, so it may be sent before the keeper has answered.
    pub(super) fn ask_to_end(&mut self, turn: &mut Turn<'_>, life: Option<Life>, by: By, then: Then) {
        self.signal(turn, self.spec.stop.signal);
        let kill_at = Some(turn.now + self.spec.stop.timeout);
        self.enter(turn, Phase::Stopping { life, kill_at, by, then });
    }
}

pub(super) fn reply(turn: &mut Turn<'_>, id: RequestId, reply: Reply) {
    turn.fx.push(Effect::Reply { id, reply });
}
