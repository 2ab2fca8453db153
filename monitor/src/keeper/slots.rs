//! What the keeper holds for a service: a plan, a memo, and at most one life.
//!
//! ```text
//! Empty ─Spawn→ Queued ─→ Starting ─executed→ Living ─end→ Ended ─acknowledged and cleared→ Empty
//!                 │ ↑        │                               │
//!                 │ └────────│─────cleared, standing order───┘
//!                 └──────────┴─failed→ Failed ─acknowledged→ Empty
//! ```
//!
//! An end that was followed by the standing order is kept beside the next life until it is acknowledged.

mod over;

use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::Duration;

use defib_core::model::{Standing, Usage, WaitStatus};

use super::pipes::Pipes;
use super::plan::{PackedPlan, ReadyPlan};
use super::ports::Ports;
use super::protocol::{LifeEnd, SlotState, Step};
use super::sockets::Sockets;
use super::spawn::{Berth, Flight};
use super::stranger::Stranger;
use super::tree::{self, Leaf, Leaves, Tag};

/// One service.
#[derive(Debug)]
pub(super) struct Slot {
    provision: Option<Provision>,
    /// The leaves of a life that was taken over, until the first plan comes.
    inherited: Option<Leaves>,
    /// What the daemon wants the next daemon to know.
    pub(super) memo: Option<Vec<u8>>,
    pub(super) pipes: Option<Pipes>,
    pub(super) sockets: Option<Sockets>,
    pub(super) ports: Ports,
    pub(super) state: State,
    /// What may be done without asking.
    standing: Option<Standing>,
    /// The ends that were followed without asking and have not been acknowledged, oldest first. How many there may be is
    /// for the whole keeper to say.
    followed: VecDeque<Followed>,
    /// Whose lives there were.
    tag: Option<Rc<Tag>>,
}

/// An end that was followed without asking.
#[derive(Clone, Copy, Debug)]
pub(super) struct Followed {
    pub(super) end: LifeEnd,
    /// As in [`Report::Followed`](super::protocol::Report::Followed).
    pub(super) output: [u64; 2],
}

/// What a start needs.
#[derive(Debug)]
struct Provision {
    plan: PackedPlan,
    /// Whether the output goes into the pipes.
    capture: bool,
    leaves: Option<Leaves>,
    /// What the life that is expected next needs.
    ready: Option<(u64, Ready)>,
}

/// What one life needs.
#[derive(Debug)]
struct Ready {
    plan: Rc<ReadyPlan>,
    leaf: Option<Rc<Leaf>>,
}

/// The state of a slot.
#[derive(Debug)]
pub(super) enum State {
    /// Nothing to do and nothing to acknowledge.
    Empty {
        /// The latest life; 0 if there was none.
        last: u64,
    },
    /// Waits until fewer children are between clone3 and execve.
    Queued {
        incarnation: u64,
    },
    /// Between clone3 and execve. `failed`: what the child has said before it ended.
    Starting {
        life: Life,
        flight: Flight,
        failed: Option<(Step, i32)>,
    },
    Living {
        life: Life,
        pidfd: OwnedFd,
    },
    /// Not started; not acknowledged.
    Failed {
        incarnation: u64,
        step: Step,
        errno: i32,
    },
    /// Ended; not acknowledged, or its tree not cleared.
    Ended {
        life: Life,
        end: RawEnd,
        cleared: bool,
        acknowledged: bool,
        /// Whether the next life begins, by the standing order, once the tree is cleared.
        follows: bool,
    },
}

/// A life that has been made.
#[derive(Debug)]
pub(super) struct Life {
    pub(super) incarnation: u64,
    pub(super) pid: i32,
    /// In ns of CLOCK_BOOTTIME.
    started: u64,
    /// By which its processes are known.
    tag: Rc<Tag>,
    /// Whether the rest of the tree is ended with the main process.
    end_leftovers: bool,
    leaf: Option<Rc<Leaf>>,
    /// What there is to know of it instead, if it is no child of this keeper.
    stranger: Option<Stranger>,
}

/// A life that was found.
#[derive(Clone, Copy, Debug)]
pub(super) struct Found {
    pub(super) incarnation: u64,
    pub(super) pid: i32,
    pub(super) started: u64,
    pub(super) end_leftovers: bool,
}

/// An end as it was reaped, or told of one who is no child.
#[derive(Clone, Copy, Debug)]
pub(super) struct RawEnd {
    pub(super) at: u64,
    /// `None`: nobody has told it yet.
    pub(super) status: Option<i32>,
    pub(super) usage: Usage,
}

impl Slot {
    /// An empty slot.
    pub(super) fn new() -> Self {
        Self {
            provision: None,
            inherited: None,
            memo: None,
            pipes: None,
            sockets: None,
            ports: Ports::default(),
            state: State::Empty { last: 0 },
            standing: None,
            followed: VecDeque::new(),
            tag: None,
        }
    }

    /// Takes a new plan for the next life. The present one keeps its own. `cgroup` is the folder of the service: the
    /// first one stays. Returns whether it is for the same user as the one before.
    pub(super) fn provide(
        &mut self,
        plan: OwnedFd,
        capture: bool,
        cgroup: Option<OwnedFd>,
    ) -> io::Result<bool> {
        let plan = PackedPlan::unseal(plan)?;
        let same_user = self.provision.as_ref().is_none_or(|before| before.plan.user == plan.user);
        let known = self.provision.take().and_then(|provision| provision.leaves);
        let leaves = known.or_else(|| self.inherited.take()).or_else(|| cgroup.map(Leaves::new));
        self.provision = Some(Provision { plan, capture, leaves, ready: None });
        self.prepare_next();
        Ok(same_user)
    }

    /// Makes ready what the next life will need, while there is time.
    pub(super) fn prepare_next(&mut self) {
        let next = self.latest() + 1;
        if let Some(provision) = &mut self.provision
            && provision.ready.as_ref().is_none_or(|(expected, _)| *expected != next)
        {
            // What fails now fails again, and is told, when it is wanted.
            provision.ready = provision.make_ready(next).ok().map(|ready| (next, ready));
        }
    }

    /// Writes down who lives here, for a keeper that may come after this one.
    pub(super) fn mark(&self) {
        if let State::Living { life, .. } = &self.state
            && let Some(leaf) = &life.leaf
        {
            leaf.mark(life.incarnation, Some((life.pid, life.started)));
        }
    }

    /// Makes a process for a life; `make` is the nursery. On failure the slot is `Failed`.
    pub(super) fn launch(
        &mut self,
        incarnation: u64,
        slot: u32,
        now: u64,
        make: impl FnOnce(&Rc<ReadyPlan>, &Berth<'_>) -> Result<Flight, (Step, io::Error)>,
    ) {
        self.state = match self.try_launch(incarnation, slot, now, make) {
            Ok(starting) => starting,
            Err((step, error)) => {
                State::Failed { incarnation, step, errno: error.raw_os_error().unwrap_or(libc::EINVAL) }
            }
        };
    }

    fn try_launch(
        &mut self,
        incarnation: u64,
        slot: u32,
        now: u64,
        make: impl FnOnce(&Rc<ReadyPlan>, &Berth<'_>) -> Result<Flight, (Step, io::Error)>,
    ) -> Result<State, (Step, io::Error)> {
        let none = || (Step::Refused, io::Error::from_raw_os_error(libc::ENOENT));
        let provision = self.provision.as_mut().ok_or_else(none)?;
        let Ready { plan, leaf } = match provision.ready.take() {
            Some((expected, ready)) if expected == incarnation => ready,
            Some(_) | None => provision.make_ready(incarnation)?,
        };
        let output = self.pipes.as_ref().filter(|_| provision.capture).map(Pipes::of_service);
        let cgroup = leaf.as_ref().map(|leaf| leaf.folder());
        let sockets = self.sockets.as_ref().map(Sockets::fds).unwrap_or_default();
        let berth = Berth { slot, output, sockets, cgroup };
        let flight = make(&plan, &berth)?;
        let (tag, end_leftovers) = (Rc::clone(&plan.tag), plan.end_leftovers);
        self.tag = Some(Rc::clone(&tag));
        let life =
            Life { incarnation, pid: flight.pid, started: now, tag, end_leftovers, leaf, stranger: None };
        Ok(State::Starting { life, flight, failed: None })
    }

    /// Takes a life over that an earlier keeper had begun.
    pub(super) fn adopt(&mut self, found: Found, pidfd: OwnedFd, cgroup: Option<OwnedFd>) {
        let Found { incarnation, pid, started, end_leftovers } = found;
        let mut leaves = cgroup.map(Leaves::new);
        // One that cannot be opened has been removed meanwhile: the life is over, and the pidfd says so.
        let leaf = leaves.as_mut().and_then(|leaves| leaves.of_survivor(incarnation).ok());
        if let Some(leaf) = leaf.as_ref().filter(|_| end_leftovers) {
            // The earlier keeper may have been killed in the middle of ending it.
            leaf.spend();
        }
        let stranger = Stranger::new(pid);
        let tag = Rc::new(stranger.tag(pid, incarnation));
        self.tag = Some(Rc::clone(&tag));
        let life = Life { incarnation, pid, started, tag, end_leftovers, leaf, stranger: Some(stranger) };
        self.inherited = leaves;
        self.state = State::Living { life, pidfd };
    }

    /// Takes the state out, to be replaced.
    pub(super) fn take_state(&mut self) -> State {
        let last = self.latest();
        std::mem::replace(&mut self.state, State::Empty { last })
    }

    /// The life that the slot is about, or was about last.
    pub(super) fn latest(&self) -> u64 {
        match &self.state {
            State::Empty { last } => *last,
            State::Queued { incarnation } | State::Failed { incarnation, .. } => *incarnation,
            State::Starting { life, .. } | State::Living { life, .. } | State::Ended { life, .. } => {
                life.incarnation
            }
        }
    }

    /// The main process while it can be signalled.
    pub(super) fn process(&self) -> Option<(&Life, &OwnedFd)> {
        match &self.state {
            State::Starting { life, flight, .. } => Some((life, &flight.pidfd)),
            State::Living { life, pidfd } => Some((life, pidfd)),
            State::Empty { .. } | State::Queued { .. } | State::Failed { .. } | State::Ended { .. } => None,
        }
    }

    /// Takes an order for the ends to come. It counts from the life that it names, so what has been followed since by
    /// the order before it is counted against it.
    pub(super) fn stand(&mut self, incarnation: u64, mut standing: Standing) {
        standing.skip(self.latest().saturating_sub(incarnation));
        self.standing = Some(standing);
    }

    /// Nothing is done without asking any more.
    pub(super) fn withdraw(&mut self) {
        self.standing = None;
        if let State::Ended { follows, .. } = &mut self.state {
            *follows = false;
        }
    }

    /// Whether an end is to be followed without asking. The order counts down.
    pub(super) fn takes_up(&mut self, life: &Life, end: &RawEnd) -> bool {
        let lasted = Duration::from_nanos(end.at.saturating_sub(life.started));
        // What nobody has told may still be known to the daemon, and decides whether the end was one to be followed.
        let Some(status) = end.status else { return false };
        self.standing.as_mut().is_some_and(|standing| standing.follow(Some(WaitStatus(status)), lasted))
    }

    /// Makes room for the next life after an end that is followed; the end is kept.
    pub(super) fn follow(&mut self) {
        let State::Ended { life, end, .. } = &self.state else { return };
        let output = self.pipes.as_ref().map(Pipes::written).unwrap_or_default();
        self.followed.push_back(Followed { end: life.end(end), output });
        self.state = State::Queued { incarnation: life.incarnation + 1 };
    }

    /// The ends of lives after `told` that were followed, oldest first.
    pub(super) fn followed(&self, told: u64) -> impl Iterator<Item = &Followed> {
        self.followed.iter().filter(move |followed| followed.end.incarnation > told)
    }

    /// The ends that have not been acknowledged, the latest first.
    pub(super) fn owed(&self) -> impl Iterator<Item = LifeEnd> {
        let present = match &self.state {
            State::Ended { life, end, acknowledged: false, .. } => Some(life.end(end)),
            State::Empty { .. }
            | State::Queued { .. }
            | State::Starting { .. }
            | State::Living { .. }
            | State::Failed { .. }
            | State::Ended { .. } => None,
        };
        present.into_iter().chain(self.followed.iter().rev().map(|followed| followed.end))
    }

    /// The name of the service, as its lives are told it; empty if there was none.
    pub(super) fn service(&self) -> &[u8] {
        self.tag.as_ref().map(|tag| tag.name()).unwrap_or_default()
    }

    /// Takes the acknowledgement of an end that was followed. Returns whether there was one.
    pub(super) fn acknowledge_followed(&mut self, of: u64) -> bool {
        let at = self.followed.iter().position(|followed| followed.end.incarnation == of);
        at.and_then(|at| self.followed.remove(at)).is_some()
    }

    /// Takes the acknowledgement of an end or a failed start.
    pub(super) fn acknowledge(&mut self, of: u64) {
        match &mut self.state {
            State::Failed { incarnation, .. } if *incarnation == of => self.state = State::Empty { last: of },
            State::Ended { life, acknowledged, cleared, .. } if life.incarnation == of => {
                *acknowledged = true;
                if *cleared {
                    self.state = State::Empty { last: of };
                }
            }
            State::Empty { .. }
            | State::Queued { .. }
            | State::Starting { .. }
            | State::Living { .. }
            | State::Failed { .. }
            | State::Ended { .. } => {}
        }
    }

    /// Nothing of the tree is left.
    pub(super) fn clear(&mut self) {
        if let State::Ended { life, cleared, acknowledged, .. } = &mut self.state {
            *cleared = true;
            if *acknowledged {
                self.state = State::Empty { last: life.incarnation };
            }
        }
    }

    /// As the daemon is told it.
    pub(super) fn report(&self) -> SlotState {
        match &self.state {
            State::Empty { last } => SlotState::Empty { last: *last },
            State::Queued { incarnation } => SlotState::Starting { incarnation: *incarnation },
            State::Starting { life, .. } => SlotState::Starting { incarnation: life.incarnation },
            State::Living { life, .. } => SlotState::Living {
                incarnation: life.incarnation,
                pid: life.pid.unsigned_abs(),
                started: life.started,
            },
            State::Failed { incarnation, step, errno } => {
                SlotState::Failed { incarnation: *incarnation, step: *step, errno: *errno }
            }
            State::Ended { life, end, cleared, .. } => {
                SlotState::Ended { end: life.end(end), cleared: *cleared }
            }
        }
    }
}

impl Provision {
    fn make_ready(&mut self, incarnation: u64) -> Result<Ready, (Step, io::Error)> {
        let plan = self.plan.unpack().and_then(|plan| ReadyPlan::new(plan, incarnation));
        let plan = plan.map_err(|error| (Step::Exec, error))?;
        let leaf = self.leaves.as_mut().map(|leaves| leaves.of_life(incarnation)).transpose();
        Ok(Ready { plan: Rc::new(plan), leaf: leaf.map_err(|error| (Step::Cgroup, error))? })
    }
}

impl Life {
    fn end(&self, end: &RawEnd) -> LifeEnd {
        LifeEnd {
            incarnation: self.incarnation,
            pid: self.pid.unsigned_abs(),
            started: self.started,
            at: end.at,
            status: end.status,
            usage: end.usage,
        }
    }

    /// Ends what is left of the tree, if that is wanted. Returns whether nothing is left, or nothing is to be done.
    pub(super) fn sweep(&self) -> bool {
        if !self.end_leftovers {
            return true;
        }
        match &self.leaf {
            Some(leaf) => {
                let empty = !leaf.populated();
                if !empty {
                    leaf.kill();
                }
                empty
            }
            None => !self.kill_by_tag(),
        }
    }

    /// Without a cgroup. Returns whether somebody is left.
    fn kill_by_tag(&self) -> bool {
        match &self.stranger {
            Some(stranger) => stranger.kill_by_tag(self.pid, &self.tag),
            None => tree::kill_by_tag(self.pid, &self.tag),
        }
    }

    /// Which one it is, its main process, and when that was made.
    pub(super) fn main(&self) -> (u64, u32, u64) {
        (self.incarnation, self.pid.unsigned_abs(), self.started)
    }

    /// What there is to know of it, if it is no child of this keeper.
    pub(super) fn stranger(&self) -> Option<&Stranger> {
        self.stranger.as_ref()
    }

    /// SIGKILL to the tree while the main process lives.
    pub(super) fn kill_tree(&self) {
        match &self.leaf {
            Some(leaf) => leaf.kill(),
            None => drop(self.kill_by_tag()),
        }
    }

    /// Whether SIGKILL is for the main process alone.
    pub(super) fn keeps_leftovers(&self) -> bool {
        !self.end_leftovers
    }

    /// The leaf, if there is one.
    pub(super) fn leaf(&self) -> Option<&Leaf> {
        self.leaf.as_deref()
    }
}
