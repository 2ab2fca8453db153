//! What one keeper tells the next.

use std::collections::BTreeMap;
use std::os::fd::RawFd;

use defib_core::model::{Standing, Usage};
use serde::{Deserialize, Serialize};

use super::{Hex, Words};
use crate::keeper::plan::{Identity, Plan};

/// The version of the text.
///
/// Whoever changes what the keeper holds must see to it that it goes over, and that texts of older keepers are still
/// understood: an upgrade may skip releases, and a new daemon that does not work is rolled back, by a text of the new
/// keeper for the old one. So:
///
/// - A new field has a default that does what keepers without it did, and older readers can do without it. Then nothing
///   else changes: no version, no fixture.
/// - A field never changes its meaning or its type, and is never removed while a release that needs it may come after
///   this one.
/// - Where that cannot be: raise this, write in the old way too for one release, raise [`READABLE_BY`] in the release
///   after, and keep reading what earlier versions wrote. Add a fixture, `version-N.json`, and a test that reads it;
///   `tests/tests/upgrade.rs` plays a keeper of each fixture.
pub(in crate::keeper) const VERSION: u32 = 1;

/// What a reader must at least be able to read.
pub(in crate::keeper) const READABLE_BY: u32 = 1;

/// The part that every version understands.
#[derive(Debug, Deserialize)]
pub(super) struct Readable {
    pub(super) readable_by: u32,
}

/// All that the keeper holds.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(in crate::keeper) struct Text {
    /// The [`VERSION`] of who wrote it.
    pub(in crate::keeper) version: u32,
    /// The oldest version that can read it.
    pub(in crate::keeper) readable_by: u32,
    /// Whether defib was asked to end.
    pub(in crate::keeper) ending: bool,
    /// The limits of descriptors that the first keeper was started with: those of the services.
    pub(in crate::keeper) nofile: Option<(u64, u64)>,
    pub(in crate::keeper) daemon: DaemonText,
    /// What the daemon has asked the keeper to watch it by.
    pub(in crate::keeper) watchdog_ms: u64,
    /// The binary to go back to, if the successor's daemon does not work.
    pub(in crate::keeper) previous: Option<RawFd>,
    /// Why the successor is the binary that there was before.
    pub(in crate::keeper) failure: Option<String>,
    /// What is kept for the next daemon.
    pub(in crate::keeper) held: BTreeMap<String, RawFd>,
    /// Slots that wait to be started, in their order.
    pub(in crate::keeper) queue: Vec<u32>,
    pub(in crate::keeper) slots: Vec<SlotText>,
    /// What is written in the file of the ends that are not acknowledged, if there is one.
    pub(in crate::keeper) ends: Option<EndsText>,
}

/// The file of the ends that are not acknowledged.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(in crate::keeper) struct EndsText {
    /// The number of the next record.
    pub(in crate::keeper) next: u64,
    /// The number of the first one.
    pub(in crate::keeper) first: u64,
    /// Slot, life and number of those that are written.
    pub(in crate::keeper) written: Vec<(u32, u64, u64)>,
}

/// The daemon's care.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(in crate::keeper) struct DaemonText {
    pub(in crate::keeper) short_lives: u32,
    pub(in crate::keeper) protection: Option<i32>,
}

/// A slot.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(in crate::keeper) struct SlotText {
    pub(in crate::keeper) slot: u32,
    pub(in crate::keeper) plan: Option<PlanText>,
    /// Whether the output goes into the pipes.
    pub(in crate::keeper) capture: bool,
    /// The cgroup of the service.
    pub(in crate::keeper) cgroup: Option<RawFd>,
    /// The two leaves in it: not known, or whether `cgroup.kill` has been used.
    pub(in crate::keeper) leaves: [Option<bool>; 2],
    pub(in crate::keeper) memo: Option<Hex>,
    pub(in crate::keeper) pipes: Option<PipesText>,
    pub(in crate::keeper) sockets: Option<SocketsText>,
    /// What makes the service share its ports with a socket that is held. Harmless to a keeper that does not know it.
    pub(in crate::keeper) guard: Vec<RawFd>,
    /// A [`Standing`]. What does not understand it goes without, and asks at each end.
    pub(in crate::keeper) standing: Option<serde_json::Value>,
    /// Ends that were followed and not acknowledged, oldest first.
    pub(in crate::keeper) followed: Vec<FollowedText>,
    pub(in crate::keeper) state: StateText,
}

/// A [`Plan`]. In this form, not in that of the daemon that made it: this one is understood by later versions.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(in crate::keeper) struct PlanText {
    program: Words,
    args: Vec<Words>,
    env: Vec<Words>,
    cwd: Words,
    /// User, group, supplementary groups.
    identity: Option<(u32, u32, Vec<u32>)>,
    umask: u32,
    end_leftovers: bool,
    sockets: u32,
}

impl Default for PlanText {
    fn default() -> Self {
        Self {
            program: Words::default(),
            args: Vec::new(),
            env: Vec::new(),
            cwd: Words(b"/".to_vec()),
            identity: None,
            umask: 0o22,
            end_leftovers: true,
            sockets: 0,
        }
    }
}

impl PlanText {
    pub(in crate::keeper) fn new(plan: Plan) -> Self {
        let Plan { program, args, env, cwd, identity, umask, end_leftovers, sockets } = plan;
        let words = |texts: Vec<Vec<u8>>| texts.into_iter().map(Words).collect();
        Self {
            program: Words(program),
            args: words(args),
            env: words(env),
            cwd: Words(cwd),
            identity: identity.map(|Identity { uid, gid, groups }| (uid, gid, groups)),
            umask,
            end_leftovers,
            sockets,
        }
    }

    pub(in crate::keeper) fn into_plan(self) -> Plan {
        let Self { program, args, env, cwd, identity, umask, end_leftovers, sockets } = self;
        let bytes = |texts: Vec<Words>| texts.into_iter().map(|text| text.0).collect();
        Plan {
            program: program.0,
            args: bytes(args),
            env: bytes(env),
            cwd: cwd.0,
            identity: identity.map(|(uid, gid, groups)| Identity { uid, gid, groups }),
            umask,
            end_leftovers,
            sockets,
        }
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(in crate::keeper) struct PipesText {
    pub(in crate::keeper) streams: u8,
    /// The services' ends, the daemon's, the spools: of each so many.
    pub(in crate::keeper) fds: Vec<RawFd>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(in crate::keeper) struct SocketsText {
    pub(in crate::keeper) label: Hex,
    pub(in crate::keeper) fds: Vec<RawFd>,
}

/// As in `Report::Followed`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(in crate::keeper) struct FollowedText {
    pub(in crate::keeper) end: EndText,
    pub(in crate::keeper) output: [u64; 2],
}

/// The end of a life.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(in crate::keeper) struct EndText {
    pub(in crate::keeper) incarnation: u64,
    pub(in crate::keeper) pid: u32,
    pub(in crate::keeper) started: u64,
    pub(in crate::keeper) at: u64,
    pub(in crate::keeper) status: i32,
    /// Whether nobody knows the status.
    pub(in crate::keeper) unknown: bool,
    #[serde(flatten)]
    pub(in crate::keeper) usage: Usage,
}

/// A life that has been made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(in crate::keeper) struct LifeText {
    pub(in crate::keeper) incarnation: u64,
    pub(in crate::keeper) pid: i32,
    pub(in crate::keeper) started: u64,
    /// The variable that says whose it is.
    pub(in crate::keeper) service: Words,
    pub(in crate::keeper) end_leftovers: bool,
    /// Whether it has a leaf.
    pub(in crate::keeper) leaf: bool,
    /// Whether an earlier keeper made it, which was killed: it is no child of this one.
    pub(in crate::keeper) stranger: bool,
}

/// How a slot is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "is", rename_all = "lowercase")]
pub(in crate::keeper) enum StateText {
    Empty {
        #[serde(default)]
        last: u64,
    },
    Queued {
        incarnation: u64,
    },
    Starting {
        life: LifeText,
        pidfd: RawFd,
        /// The keeper's end of the status pipe.
        status: RawFd,
        /// The name of a `Step`, and the error number.
        #[serde(default)]
        failed: Option<(String, i32)>,
    },
    Living {
        life: LifeText,
        pidfd: RawFd,
    },
    Failed {
        incarnation: u64,
        step: String,
        errno: i32,
    },
    Ended {
        life: LifeText,
        end: EndText,
        #[serde(default)]
        cleared: bool,
        #[serde(default)]
        acknowledged: bool,
        #[serde(default)]
        follows: bool,
    },
}

impl Default for StateText {
    fn default() -> Self {
        Self::Empty { last: 0 }
    }
}

impl SlotText {
    /// The standing order, if there is one that is understood.
    pub(in crate::keeper) fn standing(&self) -> Option<Standing> {
        serde_json::from_value(self.standing.clone()?).ok()
    }

    fn numbers(&self) -> impl Iterator<Item = RawFd> {
        let state = match &self.state {
            StateText::Starting { pidfd, status, .. } => vec![*pidfd, *status],
            StateText::Living { pidfd, .. } => vec![*pidfd],
            StateText::Empty { .. }
            | StateText::Queued { .. }
            | StateText::Failed { .. }
            | StateText::Ended { .. } => Vec::new(),
        };
        let pipes = self.pipes.iter().flat_map(|pipes| pipes.fds.iter().copied());
        let sockets = self.sockets.iter().flat_map(|sockets| sockets.fds.iter().copied());
        self.cgroup.into_iter().chain(pipes).chain(sockets).chain(self.guard.iter().copied()).chain(state)
    }
}

impl Text {
    /// The numbers of all descriptors that go over.
    pub(in crate::keeper) fn numbers(&self) -> Vec<RawFd> {
        let slots = self.slots.iter().flat_map(SlotText::numbers);
        self.held.values().copied().chain(slots).chain(self.previous).collect()
    }
}
