//! What daemon and keeper say to each other.
//!
//! Messages are sequences of [`Order`]s or [`Report`]s in one packet of a SOCK_SEQPACKET pair, with the file
//! descriptors that belong to them. The orders of one turn of the daemon are one packet: they arrive together or not at
//! all, so that what the keeper remembers always fits what it was told to do.
//!
//! Reports are levels, not edges: a [`Report::Slot`] says how a slot *is*. It may be told twice, and states that have
//! passed may never be told; an end stays in its slot until it is acknowledged, so it is never lost, not even between
//! two daemons.

mod packet;

use defib_core::model::{Standing, Usage};
use serde::{Deserialize, Serialize};

pub use packet::{MAX_FDS, MAX_PACKET, Message, Received, pack, receive, send};

/// Changes with every change of the messages. Keeper and daemon are one binary until one of them is upgraded.
pub const VERSION: u32 = 5;

/// The most slots: one for each service.
pub const MAX_SLOTS: u32 = 4096;

/// The name under which the daemon hands over the ledger of the logs.
pub const LEDGER: &str = "log-ledger";

/// Where in that ledger the keeper writes, as 8 bytes, which life of a slot it has begun by itself last.
pub const fn followed_at(slot: u64) -> u64 {
    slot * 128 + 40
}

/// What the daemon wants.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Order {
    /// The first order: answered by everything that the keeper holds, and [`Report::Synced`].
    Hello {
        /// The daemon's [`VERSION`].
        version: u32,
    },
    /// The daemon supervises: from now on it is started again when it dies. Told again, it supervises by what it has
    /// read anew.
    Ready,
    /// A plan for the next start in a slot. Descriptors: the sealed plan, the cgroup of the service if there are
    /// cgroups, and its guard.
    Plan {
        /// The slot.
        slot: u32,
        /// Whether the cgroup comes with it.
        cgroup: bool,
        /// Whether the output goes into the pipes of the slot, if it has any; otherwise to /dev/null.
        capture: bool,
        /// How many descriptors keep the guard of its ports, which makes what it binds share them with what is held of
        /// them. That of an earlier plan ends.
        guard: u8,
    },
    /// The pipes for the output of the starts that are planned from now on, in place of earlier ones. Descriptors: the
    /// services' ends, then the daemon's, then the spools (see `effect::output`), of each so many.
    Pipes {
        /// The slot.
        slot: u32,
        /// 1: standard output and error are one stream; 2: standard error is the second.
        streams: u8,
    },
    /// The sockets that are passed to the starts that are planned from now on, in place of earlier ones, which are
    /// closed. Descriptors: those sockets.
    Sockets {
        /// The slot.
        slot: u32,
        /// How many.
        count: u8,
        /// What they are, for the next daemon. Opaque to the keeper.
        label: Vec<u8>,
    },
    /// A life listens on a port: hold this for the life after it, in place of what is held of that port. Descriptors:
    /// the pidfd of the process, then the sockets.
    HoldPort {
        /// The slot.
        slot: u32,
        /// The life.
        incarnation: u64,
        /// The port.
        port: u16,
        /// The process that listens.
        pid: u32,
        /// The numbers that the sockets have there.
        numbers: Vec<i32>,
        /// How long they are held after the end of the life, in milliseconds.
        hold_ms: u64,
    },
    /// Hold no port of the slot any longer.
    ClosePorts {
        /// The slot.
        slot: u32,
    },
    /// Start a life by the plan of the slot.
    Spawn {
        /// The slot.
        slot: u32,
        /// The life.
        incarnation: u64,
    },
    /// Take over a life that an earlier keeper had begun, in an empty slot. Descriptors: its pidfd, and the cgroup of the
    /// service if there are cgroups.
    Adopt {
        /// The slot.
        slot: u32,
        /// The life.
        incarnation: u64,
        /// Its main process.
        pid: u32,
        /// When the earlier keeper made it, in ns of CLOCK_BOOTTIME.
        started: u64,
        /// Whether the rest of the tree is ended with the main process.
        end_leftovers: bool,
        /// Whether the cgroup comes with it.
        cgroup: bool,
    },
    /// What may be done without asking at the end of this life and of those that follow by it, in place of an earlier
    /// order.
    Stand {
        /// The slot.
        slot: u32,
        /// The life.
        incarnation: u64,
        /// The order.
        standing: Standing,
    },
    /// Nothing may be done without asking. Answered by [`Report::Withdrawn`].
    Withdraw {
        /// The slot.
        slot: u32,
        /// Names the answer.
        withdrawal: u64,
    },
    /// Send a signal to the main process.
    Signal {
        /// The slot.
        slot: u32,
        /// The life.
        incarnation: u64,
        /// The number of the signal.
        signal: i32,
    },
    /// SIGKILL to the whole tree.
    KillTree {
        /// The slot.
        slot: u32,
        /// The life.
        incarnation: u64,
    },
    /// The end, or the failed start, has been taken into account.
    Acknowledge {
        /// The slot.
        slot: u32,
        /// The life.
        incarnation: u64,
        /// Whether the end was told by [`Report::Followed`].
        followed: bool,
    },
    /// Keep this for the next daemon.
    Remember {
        /// The slot.
        slot: u32,
        /// Opaque to the keeper.
        memo: Vec<u8>,
    },
    /// The service of an empty slot is gone for good: its plan, memo and pipes are dropped.
    Forget {
        /// The slot.
        slot: u32,
    },
    /// Keep this descriptor for the next daemon, in place of one of the same name.
    Hold {
        /// Its name.
        name: String,
    },
    /// Everything is being ended: if this daemon dies of it, the next one is to go on.
    Ending,
    /// Leave as soon as the daemon has.
    Leave,
    /// Go on as another program, which starts the next daemon. Answered by [`Report::Restart`]. Descriptor: the binary.
    Restart,
    /// Ask this daemon by [`Report::Ping`], and replace it if it has not answered for so long; 0: do not.
    Watch {
        /// In milliseconds.
        limit_ms: u64,
    },
    /// The answer to [`Report::Ping`].
    Pong,
    /// The configuration is being read anew, until the next [`Order::Ready`].
    Reloading,
}

impl Order {
    /// How many descriptors come with it.
    fn fds(&self) -> usize {
        match self {
            Self::Plan { cgroup, guard, .. } => 1 + usize::from(*cgroup) + usize::from(*guard),
            Self::Adopt { cgroup, .. } => 1 + usize::from(*cgroup),
            Self::HoldPort { numbers, .. } => 1 + numbers.len(),
            Self::Pipes { streams, .. } => 3 * usize::from(*streams),
            Self::Sockets { count, .. } => usize::from(*count),
            Self::Hold { .. } | Self::Restart => 1,
            Self::Hello { .. }
            | Self::Watch { .. }
            | Self::Ready
            | Self::ClosePorts { .. }
            | Self::Spawn { .. }
            | Self::Stand { .. }
            | Self::Withdraw { .. }
            | Self::Signal { .. }
            | Self::KillTree { .. }
            | Self::Acknowledge { .. }
            | Self::Remember { .. }
            | Self::Forget { .. }
            | Self::Ending
            | Self::Leave
            | Self::Pong
            | Self::Reloading => 0,
        }
    }
}

/// What the keeper tells.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Report {
    /// A descriptor that was kept for this daemon, which comes with it.
    Held {
        /// Its name.
        name: String,
    },
    /// What was remembered.
    Memo {
        /// The slot.
        slot: u32,
        /// As it was given.
        memo: Vec<u8>,
    },
    /// The pipes of a slot. Descriptors: the daemon's ends, then the spools, of each so many.
    Pipes {
        /// The slot.
        slot: u32,
        /// As in [`Order::Pipes`].
        streams: u8,
    },
    /// The sockets of a slot. Descriptors: those sockets.
    Sockets {
        /// The slot.
        slot: u32,
        /// How many.
        count: u8,
        /// As in [`Order::Sockets`].
        label: Vec<u8>,
    },
    /// A life that has ended, and after which the next one was begun by the standing order. Told before how the slot is,
    /// and kept until it is acknowledged.
    Followed {
        /// The slot.
        slot: u32,
        /// The end.
        end: LifeEnd,
        /// How much had been written to each stream when the next life was begun: the length of its spool, and what was
        /// in its pipe.
        output: [u64; 2],
    },
    /// A standing order has been withdrawn.
    Withdrawn {
        /// The slot.
        slot: u32,
        /// Which withdrawal it was.
        withdrawal: u64,
    },
    /// How a slot is.
    Slot {
        /// The slot.
        slot: u32,
        /// Its state.
        state: SlotState,
    },
    /// Everything that was held has been told.
    Synced,
    /// The keeper got a signal that is meant for the daemon.
    Signal(i32),
    /// Whether the daemon's loop turns. Told only where it is to be watched.
    Ping,
    /// The answer to [`Order::Restart`].
    Restart {
        /// Why nothing comes of it; `None`: the daemon is to leave, and the keeper goes on when it has.
        refused: Option<String>,
    },
    /// This process has executed another binary, the last time that it was asked to.
    Restarted {
        /// Why it is the one that there was before.
        failure: Option<String>,
    },
}

impl Report {
    /// How many descriptors come with it.
    fn fds(&self) -> usize {
        match self {
            Self::Held { .. } => 1,
            Self::Pipes { streams, .. } => 2 * usize::from(*streams),
            Self::Sockets { count, .. } => usize::from(*count),
            Self::Memo { .. }
            | Self::Followed { .. }
            | Self::Withdrawn { .. }
            | Self::Slot { .. }
            | Self::Synced
            | Self::Signal(_)
            | Self::Ping
            | Self::Restart { .. }
            | Self::Restarted { .. } => 0,
        }
    }
}

/// How a slot is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SlotState {
    /// There is no process, nothing of a tree, and nothing to acknowledge.
    Empty {
        /// The latest life; 0 if there was none.
        last: u64,
    },
    /// A process is being made.
    Starting {
        /// The life.
        incarnation: u64,
    },
    /// The program has been executed.
    Living {
        /// The life.
        incarnation: u64,
        /// Its main process.
        pid: u32,
        /// When it was made, in ns of CLOCK_BOOTTIME.
        started: u64,
    },
    /// The process could not be made, or the program not be executed.
    Failed {
        /// The life.
        incarnation: u64,
        /// At which step.
        step: Step,
        /// The error number.
        errno: i32,
    },
    /// The main process has ended.
    Ended {
        /// How.
        end: LifeEnd,
        /// Whether nothing of its tree is left.
        cleared: bool,
    },
}

/// The end of a life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LifeEnd {
    /// The life.
    pub incarnation: u64,
    /// The main process.
    pub pid: u32,
    /// When it was made, in ns of CLOCK_BOOTTIME.
    pub started: u64,
    /// When the keeper saw the end, in ns of CLOCK_BOOTTIME.
    pub at: u64,
    /// The raw status of wait(2). `None`: it was no child of this keeper, and who reaped it has not said.
    pub status: Option<i32>,
    /// What it used.
    pub usage: Usage,
}

/// The steps of a start, in their order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Step {
    /// There is no plan, or the slot is occupied.
    Refused,
    /// pipe2 of the status pipe.
    Pipe,
    /// mkdir of the leaf cgroup.
    Cgroup,
    /// clone3.
    Clone,
    /// close_range, for a descriptor table of its own.
    Table,
    /// setsid.
    Session,
    /// dup3 to the standard streams.
    Streams,
    /// dup3 of the sockets that are passed.
    Sockets,
    /// prlimit64 of RLIMIT_NOFILE.
    Limit,
    /// setgroups.
    Groups,
    /// setresgid.
    Group,
    /// setresuid.
    User,
    /// chdir.
    Directory,
    /// rt_sigprocmask.
    Signals,
    /// execve.
    Exec,
}

impl Step {
    /// Every step, by the number that the child writes into the status pipe.
    pub(super) const ALL: [Self; 15] = [
        Self::Refused,
        Self::Pipe,
        Self::Cgroup,
        Self::Clone,
        Self::Table,
        Self::Session,
        Self::Streams,
        Self::Sockets,
        Self::Limit,
        Self::Groups,
        Self::Group,
        Self::User,
        Self::Directory,
        Self::Signals,
        Self::Exec,
    ];
}
