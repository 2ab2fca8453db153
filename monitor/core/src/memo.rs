//! What the next daemon must know of a service, held by the keeper while no daemon lives.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use crate::model::{Draft, Ending, Incarnation, Standing, TakenPort, Withdrawal};
use crate::phase::Phase;
use crate::series::Series;
use crate::service::Pause;

/// The whole memory of a service besides its specification. Opaque outside the core; a daemon that comes back
/// hands it in again with [`Input::Resume`](crate::Input::Resume) and goes on where its predecessor was.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Memo {
    pub(crate) phase: Phase,
    /// The latest life that was begun or is being prepared.
    pub(crate) incarnation: Incarnation,
    /// The latest plan that was asked for.
    pub(crate) draft: Draft,
    /// Whether the plan that the keeper holds is that of an earlier specification.
    pub(crate) outdated: bool,
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
    /// Whether the keeper holds its sockets.
    pub(crate) holds: bool,
    /// Restarts by itself are paused.
    pub(crate) paused: Option<Pause>,
}

impl Memo {
    /// A service that has never been started.
    pub(crate) fn new() -> Self {
        Self {
            phase: Phase::Stopped,
            incarnation: Incarnation::default(),
            draft: Draft::default(),
            outdated: false,
            series: Series::default(),
            standing: None,
            withdrawal: Withdrawal::default(),
            restarts: 0,
            last_exit: None,
            listening: BTreeSet::new(),
            taken: Vec::new(),
            holds: false,
            paused: None,
        }
    }
}
