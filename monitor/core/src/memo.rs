//! What the next daemon must know of a service, held by the keeper while no daemon lives.

use std::collections::BTreeSet;

use serde::{Deserialize, Deserializer, Serialize};

use crate::model::{Draft, Ending, Incarnation, Standing, TakenPort, Tick, WaitStatus, Withdrawal};
use crate::phase::{Phase, Then};
use crate::series::Series;
use crate::service::Pause;

/// The whole memory of a service besides its specification. Opaque outside the core; a daemon that comes back
/// hands it in again with [`Input::Resume`](crate::Input::Resume) and goes on where its predecessor was.
///
/// A text of it that an earlier defib has written may lack fields: they are as in a service that has never been started.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Memo {
    pub(crate) phase: Phase,
    /// The latest life that was begun or is being prepared.
    pub(crate) incarnation: Incarnation,
    /// The latest plan that was asked for.
    pub(crate) draft: Draft,
    /// Whether the plan that the keeper holds is that of an earlier specification.
    pub(crate) outdated: bool,
    /// Whether the keeper is a new one, and holds no plan yet.
    pub(crate) unplanned: bool,
    /// The latest life that was taken over from an earlier keeper.
    pub(crate) adopted: Option<Incarnation>,
    pub(crate) series: Series,
    /// The order that stands with the keeper, as it was given and counted down since.
    pub(crate) standing: Option<Standing>,
    /// The latest withdrawal of one.
    pub(crate) withdrawal: Withdrawal,
    /// All restarts, by whatever cause.
    pub(crate) restarts: u64,
    pub(crate) last_exit: Option<Ending>,
    /// The ports of its specification on which the present life listens.
    pub(crate) listening: BTreeSet<u16>,
    /// The ports that were taken when the present life was prepared.
    pub(crate) taken: Vec<TakenPort>,
    /// Whether the keeper holds its sockets, or may hold its ports.
    pub(crate) holds: bool,
    /// Restarts by itself are paused.
    pub(crate) paused: Option<Pause>,
    /// Whether a reload has named other sockets, or ports to hold, than those that the keeper holds, if it holds any.
    pub(crate) other_sockets: bool,
}

/// The fields of a memo up to what its last life used, in their order, as they were when that was three numbers.
type UpToUsage = (
    (Phase, Incarnation, Draft, bool, bool, Option<Incarnation>),
    (Series, Option<Standing>, Withdrawal, u64),
    Option<(Option<WaitStatus>, Tick, [u64; 3])>,
);

/// What counts most of a memo, where the whole cannot be read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gist {
    /// The latest life: no later one may have its number.
    pub incarnation: u64,
    /// All restarts.
    pub restarts: u64,
    /// Whether every start is refused.
    pub disabled: bool,
}

impl Default for Memo {
    fn default() -> Self {
        Self::new()
    }
}

impl Memo {
    /// Reads a memo in which what a life used is three numbers, in a form without names, up to what follows the third of
    /// its last life: for who makes it one of today. Tells whether there was a last life; the caller has the rest.
    ///
    /// # Errors
    ///
    /// Where it is none.
    pub fn pass_old_usage<'de, D: Deserializer<'de>>(from: D) -> Result<bool, D::Error> {
        UpToUsage::deserialize(from).map(|(.., last)| last.is_some())
    }

    /// What counts most of it.
    pub fn gist(&self) -> Gist {
        let disabled = match &self.phase {
            Phase::Disabled => true,
            Phase::Stopping { then, .. } | Phase::Emptying { then } | Phase::Crashed { then } => {
                *then == Then::Disable
            }
            Phase::Stopped
            | Phase::Preparing
            | Phase::Spawning
            | Phase::Running(_)
            | Phase::Replacing(..)
            | Phase::Retrying { .. }
            | Phase::Failed { .. } => false,
        };
        Gist { incarnation: self.incarnation.0, restarts: self.restarts, disabled }
    }

    /// As much of a memo as its gist tells.
    pub fn of_gist(gist: Gist) -> Self {
        let Gist { incarnation, restarts, disabled } = gist;
        let phase = if disabled { Phase::Disabled } else { Phase::Stopped };
        Self { phase, incarnation: Incarnation(incarnation), restarts, ..Self::new() }
    }

    /// Makes a memo of another boot one of the present: `zero` is the wall time of that boot's tick 0 less that of the
    /// present one's, in nanoseconds. What was to happen at a time of that boot has no time any more: the series of
    /// restarts begins anew, and a pause that was to end is over. The last end is moved to where it was, before the
    /// present boot: such a tick is a negative number, as wrapping arithmetic makes it, for display only.
    pub fn carry_over(&mut self, zero: i64) {
        self.series = Series::default();
        self.paused = self.paused.filter(|pause| pause.until.is_none());
        if let Some(Ending { end, .. }) = &mut self.last_exit {
            end.at = Tick(end.at.0.wrapping_add_signed(zero));
        }
    }

    /// Of a service of which nothing is known but what the keeper holds: the number of its latest life, whether there is
    /// something of that, and whether it holds sockets. What the keeper reports next decides. If there is nothing, it is
    /// started where that is `wanted`: a service that is up for nothing does less harm than one that is down for nothing.
    pub fn found(latest: Incarnation, present: bool, wanted: bool, holds: bool) -> Self {
        let phase = match (present, wanted) {
            // As if that life had been asked for and not been heard of.
            (true, _) => Phase::Spawning,
            (false, true) => Phase::Retrying { due: Tick(0), why: "what was known of it is lost".to_owned() },
            (false, false) => Phase::Stopped,
        };
        Self { phase, incarnation: latest, holds, ..Self::new() }
    }

    /// A service that has never been started.
    pub(crate) fn new() -> Self {
        Self {
            phase: Phase::Stopped,
            incarnation: Incarnation::default(),
            draft: Draft::default(),
            outdated: false,
            unplanned: false,
            adopted: None,
            series: Series::default(),
            standing: None,
            withdrawal: Withdrawal::default(),
            restarts: 0,
            last_exit: None,
            listening: BTreeSet::new(),
            taken: Vec::new(),
            holds: false,
            paused: None,
            other_sockets: false,
        }
    }
}
