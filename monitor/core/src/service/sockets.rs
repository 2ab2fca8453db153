//! How long the sockets of a service are held: the section *Sockets* of the crate's docs.

use super::{Service, Turn};
use crate::effect::Effect;
use crate::model::{HeldSocket, SocketSpec, Tick, WhenDown};
use crate::phase::{Phase, Then};

impl Service {
    /// The planner has made a plan, and with it opened what the specification names: the keeper has it by now, whether
    /// the plan is still wanted or not. One of an earlier specification may have had sockets where this has none.
    pub(crate) fn sockets_came(&mut self) {
        let holds = !self.spec.launch.sockets.is_empty() || self.memo.outdated;
        // The plan may be the one that was waited for: what is shown of the sockets changes with it.
        if self.memo.holds != holds || self.memo.outdated {
            self.memo.holds = holds;
            self.changed = true;
        }
    }

    /// What the surfaces show of a socket.
    pub(super) fn held_socket(&self, socket: &SocketSpec) -> HeldSocket {
        let name = socket.name.clone().unwrap_or_else(|| self.spec.name.to_string());
        // Until a plan of the present specification has come, what is held is that of an earlier one.
        let held = self.memo.holds && !self.memo.outdated;
        HeldSocket { listen: socket.listen.to_string(), name, held }
    }

    /// After every transition: closes what nobody is to wait at any longer.
    pub(crate) fn settle_sockets(&mut self, turn: &mut Turn<'_>) {
        if self.memo.holds && (self.removed || !self.wants_sockets(turn.now)) {
            self.memo.holds = false;
            self.changed = true;
            turn.fx.push(Effect::CloseSockets { service: self.spec.name.clone() });
        }
    }

    /// Whether somebody will serve those who connect, soon enough. A wait only becomes shorter, so what has been found
    /// soon enough once stays so. What is down keeps its sockets only if they are those of the present specification.
    fn wants_sockets(&self, now: Tick) -> bool {
        let soon = |due: Tick| due.since(now) <= self.spec.hold_for;
        let down = self.spec.when_down == WhenDown::Hold && !self.memo.outdated;
        match &self.memo.phase {
            Phase::Preparing | Phase::Spawning | Phase::Running(_) | Phase::Replacing(..) => true,
            Phase::Stopping { then, .. } | Phase::Emptying { then } | Phase::Crashed { then } => match then {
                Then::Prepare | Then::Spawn => true,
                Then::Restart { due, .. } => down || soon(*due),
                Then::Stop | Then::Fail { .. } => down,
                Then::Disable => false,
            },
            Phase::Retrying { due, .. } => down || soon(*due),
            Phase::Stopped | Phase::Failed { .. } => down,
            Phase::Disabled => false,
        }
    }
}
