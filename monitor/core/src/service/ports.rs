//! What a service listens on: readiness by port, and the ports that others hold.

use super::{Report, Service, Turn};
use crate::model::{End, Incarnation, ReadySpec, TakenPort, What};
use crate::phase::{Life, Phase};

impl Service {
    /// Whether it runs and is ready.
    pub(super) fn ready(&self) -> bool {
        let runs = matches!(self.memo.phase, Phase::Running(_) | Phase::Replacing(Some(_), _));
        runs && match self.spec.ready {
            ReadySpec::Exec => true,
            ReadySpec::Port(port) => self.memo.listening.contains(&port),
        }
    }

    /// A life listens on a port, or does so no longer. Ports that the specification does not name are told of and not
    /// kept: there may be any number of them.
    pub(crate) fn port(
        &mut self,
        turn: &mut Turn<'_>,
        incarnation: Incarnation,
        port: u16,
        listening: bool,
    ) -> Report {
        // The kernel's word may come before the keeper's that the program has been executed.
        if incarnation != self.memo.incarnation || !self.memo.phase.may_have_process() {
            return Report::Stale;
        }
        if self.spec.wanted_ports().contains(&port) {
            let set = &mut self.memo.listening;
            let changed = if listening { set.insert(port) } else { set.remove(&port) };
            if !changed {
                return Report::Stale;
            }
            self.changed = true;
        }
        let what = if listening { What::Listen { port } } else { What::Unlisten { port } };
        self.record(turn, turn.now, what);
        self.answer_waiters(turn);
        Report::Fresh
    }

    /// Ports that were found taken when a start was prepared.
    pub(super) fn note_taken(&mut self, turn: &mut Turn<'_>, taken: Vec<TakenPort>) {
        for port in &taken {
            self.record(turn, turn.now, What::PortTaken(port.clone()));
        }
        self.memo.taken = taken;
        self.changed = true;
    }

    /// An end in a few words, with what may explain it: a port that was taken before the life began, and on which it
    /// never listened.
    pub(super) fn explain(&self, life: Life, end: &End) -> String {
        let mut text = end.in_words(life.pid);
        for taken in self.memo.taken.iter().filter(|taken| !self.memo.listening.contains(&taken.port)) {
            text.push_str(&format!("; {taken} when it was started"));
        }
        text
    }
}
