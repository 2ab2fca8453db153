//! What the keeper writes, and how the daemon reads it.

use defib_core::Input;
use defib_core::model::{End, Incarnation, ServiceName, Withdrawal};

use super::{Daemon, World};
use crate::sim::invariants::Violation;
use crate::sim::keeper::{Process, Slot};

/// What the keeper writes.
#[derive(Clone, Debug)]
pub(crate) enum Letter {
    /// How a slot is.
    Slot(Slot),
    /// An end that it has followed by itself.
    Followed(Process, End),
    /// A standing order has been withdrawn.
    Withdrawn(Withdrawal),
}

impl Daemon {
    /// Takes a letter out of the mailbox. It may overtake others, but none of the same service where one of them tells of
    /// an end that was followed: the socket keeps their order, and what comes later builds upon it.
    pub(super) fn take_letter(&mut self, overtakes: usize) -> Option<(ServiceName, Letter)> {
        let service = self.mailbox.get(overtakes)?.0.clone();
        let first = self.mailbox.iter().position(|(of, letter)| {
            *of == service && matches!(letter, Letter::Followed(..) | Letter::Withdrawn(_))
        });
        self.mailbox.remove(first.map_or(overtakes, |first| {
            let before = self.mailbox.iter().position(|(of, _)| *of == service).unwrap_or(first);
            if overtakes >= first { before } else { overtakes }
        }))
    }
}

impl World {
    /// The daemon reads a letter of the keeper.
    pub(super) fn deliver(
        &mut self,
        service: &ServiceName,
        letter: Letter,
        whole: bool,
    ) -> Result<(), Violation> {
        match letter {
            Letter::Slot(slot) => self.report(service, slot, whole),
            Letter::Followed(process, end) => self.ended(service, &process, end, whole, true),
            Letter::Withdrawn(withdrawal) => {
                self.turn(Input::Withdrawn { service: service.clone(), withdrawal })
            }
        }
    }

    fn ended(
        &mut self,
        service: &ServiceName,
        process: &Process,
        end: End,
        whole: bool,
        followed: bool,
    ) -> Result<(), Violation> {
        let service = || service.clone();
        let (incarnation, pid, started, seen) = (process.incarnation, process.pid, process.started, end.at);
        if whole {
            self.turn(Input::Spawned { service: service(), incarnation, pid, at: started })?;
        }
        self.turn(Input::Ended { service: service(), incarnation, pid, started, end, seen, followed })
    }

    /// The daemon reads the state of a slot. `whole`: it tells the core of the beginning of an ended life too.
    fn report(&mut self, service: &ServiceName, slot: Slot, whole: bool) -> Result<(), Violation> {
        let name = service;
        let service = || service.clone();
        match slot {
            Slot::Empty { last } if last == Incarnation::default() => Ok(()),
            Slot::Empty { last } => self.turn(Input::Cleared { service: service(), incarnation: last }),
            Slot::Starting(_) => Ok(()),
            Slot::Living(process) => {
                let Process { incarnation, pid, started, .. } = process;
                self.turn(Input::Spawned { service: service(), incarnation, pid, at: started })?;
                self.look_at_ports_of(name);
                Ok(())
            }
            Slot::Failed { incarnation, failure } => {
                self.turn(Input::SpawnFailed { service: service(), incarnation, failure })
            }
            Slot::Ended { process, end, cleared, acknowledged: _ } => {
                let incarnation = process.incarnation;
                self.ended(name, &process, end, whole, false)?;
                if cleared {
                    self.turn(Input::Cleared { service: service(), incarnation })?;
                }
                Ok(())
            }
        }
    }
}
