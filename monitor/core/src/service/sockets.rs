//! How long the sockets of a service are held: the section *Sockets* of the crate's docs.

use super::{Service, Turn};
use crate::effect::Effect;
use crate::model::{HeldSocket, SocketSpec, Tick, WhenDown};
use crate::phase::{Phase, Then};

impl Service {
    /// The planner has made a plan, and with it opened what the specification names: the keeper has it by now, whether
    /// the plan is still wanted or not. One of an earlier specification may have had sockets where this has none.
    pub(crate) fn sockets_came(&mut self) {
        let launch = &self.spec.launch;
        let holds = !launch.sockets.is_empty() || !launch.hold_ports.is_empty() || self.memo.other_sockets;
        // The plan may be the one that was waited for: what is shown of the sockets changes with it.
        if self.memo.holds != holds || self.memo.other_sockets {
            self.memo.holds = holds;
            self.changed = true;
        }
    }

    /// Whether a life that began now would lack its sockets. One that the keeper began when they were given up has them.
    pub(super) fn lacks_sockets(&self) -> bool {
        !self.spec.launch.sockets.is_empty() && !self.memo.holds
    }

    /// What the surfaces show of a socket.
    pub(super) fn held_socket(&self, socket: &SocketSpec) -> HeldSocket {
        let name = socket.name.clone().unwrap_or_else(|| self.spec.name.to_string());
        // Until a plan that names these has come, others are held.
        let held = self.memo.holds && !self.memo.other_sockets;
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
    /// soon enough once stays so. What is down keeps its sockets only if they are those of the present specification,
    /// whatever else of it has changed.
    fn wants_sockets(&self, now: Tick) -> bool {
        let soon = |due: Tick| due.since(now) <= self.spec.hold_for;
        let down = self.spec.when_down == WhenDown::Hold && !self.memo.other_sockets;
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

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::sync::Arc;

    use crate::model::{
        Draft, Incarnation, RequestId, ServiceSpec, SocketAddress, SocketSpec, Tick, WhenDown,
    };
    use crate::{Effect, Effects, Input, Supervisor, Verb};

    fn spec(program: &str, port: u16) -> ServiceSpec {
        let mut spec = ServiceSpec::new("api".parse().expect("a name"), vec![program.to_owned()]);
        spec.when_down = WhenDown::Hold;
        spec.launch.sockets = vec![SocketSpec::new(SocketAddress::Tcp((Ipv4Addr::LOCALHOST, port).into()))];
        spec
    }

    /// A service that is stopped, and holds its socket.
    fn stopped() -> Supervisor {
        let mut core = Supervisor::new(1);
        let (service, incarnation) = (spec("a", 80).name, Incarnation(1));
        let draft = Draft::default().next();
        for input in [
            Input::Configure(vec![Arc::new(spec("a", 80))]),
            Input::Begin,
            Input::Prepared { service: service.clone(), draft, failure: None, taken: Vec::new() },
            Input::Request { id: RequestId(1), service: service.clone(), verb: Verb::Stop },
            Input::SpawnFailed { service, incarnation, failure: failure() },
        ] {
            assert!(!closes(&mut core, input));
        }
        core
    }

    fn failure() -> crate::model::StartFailure {
        crate::model::StartFailure {
            kind: crate::model::StartFailureKind::Exec,
            call: String::new(),
            errno: None,
            error: String::new(),
            remedy: String::new(),
        }
    }

    fn closes(core: &mut Supervisor, input: Input) -> bool {
        let mut fx = Effects::new();
        core.handle(Tick(1_000), input, &mut fx);
        fx.drain().any(|effect| matches!(effect, Effect::CloseSockets { .. }))
    }

    fn shown(core: &Supervisor) -> bool {
        core.view(&spec("a", 80).name).expect("it is configured").sockets[0].held
    }

    #[test]
    fn what_is_down_keeps_its_sockets_over_a_reload_of_anything_else() {
        let mut core = stopped();
        assert!(shown(&core));
        assert!(!closes(&mut core, Input::Reload(vec![Arc::new(spec("b", 80))])));
        assert!(shown(&core));
        assert!(closes(&mut core, Input::Reload(vec![Arc::new(spec("b", 81))])));
        assert!(!shown(&core));
    }

    #[test]
    fn a_plan_that_was_asked_for_before_a_reload_brings_nothing_that_is_kept() {
        let mut core = stopped();
        let service = spec("a", 80).name;
        assert!(!closes(
            &mut core,
            Input::Request { id: RequestId(2), service: service.clone(), verb: Verb::Start }
        ));
        assert!(!closes(
            &mut core,
            Input::Request { id: RequestId(3), service: service.clone(), verb: Verb::Stop }
        ));
        assert!(closes(&mut core, Input::Reload(vec![Arc::new(spec("a", 81))])));
        let late = Input::Prepared {
            service,
            draft: Draft::default().next().next(),
            failure: None,
            taken: Vec::new(),
        };
        assert!(closes(&mut core, late), "the keeper has them again");
        assert!(!shown(&core));
    }
}
