//! A slot on its way from one keeper to the next.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::rc::Rc;

use defib_core::model::Usage;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use super::{Followed, Life, LifeEnd, Provision, RawEnd, Slot, State};
use crate::keeper::handover::{
    EndText, FollowedText, Hex, LifeText, PipesText, PlanText, SlotText, SocketsText, StateText, Taken, Words,
};
use crate::keeper::pipes::Pipes;
use crate::keeper::plan::PackedPlan;
use crate::keeper::ports::Ports;
use crate::keeper::protocol::Step;
use crate::keeper::say;
use crate::keeper::sockets::Sockets;
use crate::keeper::spawn::Flight;
use crate::keeper::stranger::Stranger;
use crate::keeper::tree::{Leaves, Tag};

impl Slot {
    /// What is told of it. What it names by number must stay open.
    pub(in crate::keeper) fn hand_over(&self, slot: u32) -> SlotText {
        let provision = self.provision.as_ref();
        let leaves = provision.and_then(|provision| provision.leaves.as_ref()).or(self.inherited.as_ref());
        SlotText {
            slot,
            // It was read when it came.
            plan: provision.and_then(|provision| provision.plan.unpack().ok()).map(PlanText::new),
            capture: provision.is_some_and(|provision| provision.capture),
            cgroup: leaves.map(|leaves| leaves.service().as_raw_fd()),
            leaves: leaves.map(Leaves::spent).unwrap_or_default(),
            memo: self.memo.clone().map(Hex),
            pipes: self
                .pipes
                .as_ref()
                .map(|pipes| PipesText { streams: pipes.streams(), fds: numbers(pipes.all()) }),
            sockets: self.sockets.as_ref().map(|sockets| SocketsText {
                label: Hex(sockets.of_daemon().0),
                fds: numbers(sockets.fds().iter().map(AsFd::as_fd)),
            }),
            guard: numbers(self.ports.guard.iter().map(AsFd::as_fd)),
            // Numbers can always be written.
            standing: self.standing.and_then(|standing| serde_json::to_value(standing).ok()),
            followed: self.followed.iter().map(followed_text).collect(),
            state: self.state.hand_over(),
        }
    }

    /// Takes a slot over. `embark` makes a start that is under way this keeper's.
    pub(in crate::keeper) fn take_over(
        text: SlotText,
        taken: &mut Taken,
        embark: impl FnOnce(i32, OwnedFd, OwnedFd) -> Flight,
    ) -> Self {
        let slot = text.slot;
        let standing = text.standing();
        if standing.is_none() && text.standing.is_some() {
            say(&format!(
                "the standing order of slot {slot} is not understood: its ends wait for the daemon"
            ));
        }
        let mut leaves =
            text.cgroup.and_then(|number| taken.take(number)).map(|fd| Leaves::reopen(fd, text.leaves));
        let state = take_state(slot, text.state, taken, leaves.as_mut(), embark);
        let plan = text.plan.map(|plan| PackedPlan::pack(&plan.into_plan())).and_then(|packed| {
            packed.inspect_err(|error| say(&format!("the plan of slot {slot} is lost: {error}"))).ok()
        });
        let (provision, inherited) = match plan {
            Some(plan) => (Some(Provision { plan, capture: text.capture, leaves, ready: None }), None),
            None => (None, leaves),
        };
        let tag = match &state {
            State::Starting { life, .. } | State::Living { life, .. } | State::Ended { life, .. } => {
                Some(Rc::clone(&life.tag))
            }
            State::Empty { .. } | State::Queued { .. } | State::Failed { .. } => None,
        };
        Self {
            tag,
            provision,
            inherited,
            memo: text.memo.map(|memo| memo.0),
            pipes: text.pipes.and_then(|pipes| Pipes::new(pipes.streams, taken.all(&pipes.fds)?)),
            sockets: text.sockets.and_then(|sockets| Sockets::new(sockets.label.0, taken.all(&sockets.fds)?)),
            ports: Ports::of_guard(taken.all(&text.guard).unwrap_or_default()),
            state,
            standing,
            followed: text.followed.into_iter().map(followed).collect(),
        }
    }
}

impl State {
    fn hand_over(&self) -> StateText {
        match self {
            Self::Empty { last } => StateText::Empty { last: *last },
            Self::Queued { incarnation } => StateText::Queued { incarnation: *incarnation },
            Self::Starting { life, flight, failed } => StateText::Starting {
                life: life.hand_over(),
                pidfd: flight.pidfd.as_raw_fd(),
                status: flight.status.as_raw_fd(),
                failed: failed.map(|(step, errno)| (format!("{step:?}"), errno)),
            },
            Self::Living { life, pidfd } => {
                StateText::Living { life: life.hand_over(), pidfd: pidfd.as_raw_fd() }
            }
            Self::Failed { incarnation, step, errno } => {
                StateText::Failed { incarnation: *incarnation, step: format!("{step:?}"), errno: *errno }
            }
            Self::Ended { life, end, cleared, acknowledged, follows } => StateText::Ended {
                life: life.hand_over(),
                end: end_text(&life.end(end)),
                cleared: *cleared,
                acknowledged: *acknowledged,
                follows: *follows,
            },
        }
    }
}

impl Life {
    fn hand_over(&self) -> LifeText {
        LifeText {
            incarnation: self.incarnation,
            pid: self.pid,
            started: self.started,
            service: Words(self.tag.service().to_vec()),
            end_leftovers: self.end_leftovers,
            leaf: self.leaf.is_some(),
            stranger: self.stranger.is_some(),
        }
    }
}

fn take_state(
    slot: u32,
    text: StateText,
    taken: &mut Taken,
    leaves: Option<&mut Leaves>,
    embark: impl FnOnce(i32, OwnedFd, OwnedFd) -> Flight,
) -> State {
    let life = |text: LifeText| Life {
        incarnation: text.incarnation,
        pid: text.pid,
        started: text.started,
        tag: Rc::new(Tag::new(&[text.service.0], text.incarnation)),
        end_leftovers: text.end_leftovers,
        leaf: leaves.filter(|_| text.leaf).and_then(|leaves| leaves.known(text.incarnation)),
        stranger: text.stranger.then(|| Stranger::new(text.pid)),
    };
    // A child that has not been reaped has its number for itself, so its descriptor can be had again.
    let pidfd = |taken: &mut Taken, number, life: &LifeText| {
        let again = || {
            let pid = Pid::from_raw(life.pid).filter(|_| !life.stranger)?;
            pidfd_open(pid, PidfdFlags::empty()).ok()
        };
        taken.take(number).or_else(again)
    };
    match text {
        StateText::Empty { last } => State::Empty { last },
        StateText::Queued { incarnation } => State::Queued { incarnation },
        StateText::Failed { incarnation, step: name, errno } => {
            State::Failed { incarnation, step: step(&name), errno }
        }
        StateText::Starting { life: told, pidfd: number, status, failed } => {
            let failed = failed.map(|(name, errno)| (step(&name), errno));
            match (pidfd(taken, number, &told), taken.take(status)) {
                (Some(pidfd), Some(status)) => {
                    let flight = embark(told.pid, pidfd, status);
                    State::Starting { life: life(told), flight, failed }
                }
                (Some(pidfd), None) => State::Living { life: life(told), pidfd },
                (None, _) => gone(slot, life(told)),
            }
        }
        StateText::Living { life: told, pidfd: number } => match pidfd(taken, number, &told) {
            Some(pidfd) => State::Living { life: life(told), pidfd },
            None => gone(slot, life(told)),
        },
        StateText::Ended { life: told, end, cleared, acknowledged, follows } => {
            let LifeEnd { at, status, usage, .. } = life_end(&end);
            let end = RawEnd { at, status, usage };
            State::Ended { life: life(told), end, cleared, acknowledged, follows }
        }
    }
}

/// Nothing of it came over but what was told: it is taken to have ended, nobody knows how.
fn gone(slot: u32, life: Life) -> State {
    say(&format!("slot {slot}: process {} was not handed over, and cannot be found", life.pid));
    let end = RawEnd { at: life.started, status: None, usage: Usage::default() };
    State::Ended { life, end, cleared: true, acknowledged: false, follows: false }
}

fn numbers<'a>(fds: impl Iterator<Item = BorrowedFd<'a>>) -> Vec<i32> {
    fds.map(|fd| fd.as_raw_fd()).collect()
}

/// The step of this name. One that this version does not know is not told apart from the last.
fn step(name: &str) -> Step {
    Step::ALL.into_iter().find(|step| format!("{step:?}") == name).unwrap_or(Step::Exec)
}

fn followed_text(followed: &Followed) -> FollowedText {
    FollowedText { end: end_text(&followed.end), output: followed.output }
}

fn followed(text: FollowedText) -> Followed {
    Followed { end: life_end(&text.end), output: text.output }
}

fn end_text(end: &LifeEnd) -> EndText {
    let LifeEnd { incarnation, pid, started, at, status, usage } = *end;
    let (status, unknown) = (status.unwrap_or_default(), status.is_none());
    EndText { incarnation, pid, started, at, status, unknown, usage }
}

fn life_end(text: &EndText) -> LifeEnd {
    let EndText { incarnation, pid, started, at, status, unknown, usage } = *text;
    let status = (!unknown).then_some(status);
    LifeEnd { incarnation, pid, started, at, status, usage }
}
