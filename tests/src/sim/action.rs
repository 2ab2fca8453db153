//! What can happen in a world.

use defib_core::Verb;
use defib_core::model::{ServiceName, ServiceSpec};
use serde::{Deserialize, Serialize};

/// What a world begins with.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Setup {
    /// Where the core's jitter comes from.
    pub seed: u64,
    /// The services.
    pub services: Vec<ServiceSpec>,
}

/// One thing that happens. It says all there is to say: a list of actions is a history that can be done again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// Time passes.
    Wait {
        /// So much of it.
        ns: u64,
    },
    /// A daemon starts.
    Boot,
    /// An operator asks for something.
    Ask {
        /// The service.
        service: ServiceName,
        /// What is asked.
        verb: Verb,
    },
    /// The planner is done with the plan that it was asked for first.
    Plan {
        /// Whether it could not make it.
        fails: bool,
    },
    /// A child executes its program.
    Exec {
        /// The service.
        service: ServiceName,
        /// Whether the program ignores SIGTERM.
        defies: bool,
    },
    /// A child cannot execute its program.
    Fail {
        /// The service.
        service: ServiceName,
    },
    /// A main process listens on a port, or ceases to, and somebody looks.
    Bind {
        /// The service.
        service: ServiceName,
        /// The port.
        port: u16,
        /// Whether it listens now.
        listens: bool,
    },
    /// The daemon reads what came of the oldest look at a port.
    Look,
    /// A main process ends.
    Die {
        /// The service.
        service: ServiceName,
        /// As wait(2) tells it.
        status: i32,
        /// Whether the event source saw the out-of-memory killer.
        oom: Option<bool>,
        /// Whether nothing is left of its tree.
        clean: bool,
    },
    /// The last of a tree ends.
    Clear {
        /// The service.
        service: ServiceName,
    },
    /// The keeper reads the orders of the oldest turn that it has not read.
    Obey,
    /// The keeper writes to the daemon: the ends that it has followed by itself, and the present state of a slot.
    Report {
        /// The service.
        service: ServiceName,
    },
    /// The daemon reads what the keeper wrote.
    Deliver {
        /// How many older reports this one overtakes.
        overtakes: usize,
        /// Whether it passes on the beginning of a life of which it reads the end.
        whole: bool,
    },
    /// The daemon looks at its deadlines.
    Wake,
    /// The configuration is read again.
    Reload {
        /// What it says now.
        services: Vec<ServiceSpec>,
    },
    /// Defib is asked to end.
    Shutdown {
        /// Without waiting for anybody.
        hurry: bool,
    },
    /// The daemon is going to die, in the course of a turn.
    Doom {
        /// How many turns it still takes.
        turns: u32,
        /// How many effects of the turn after those it carries out.
        effects: u32,
    },
    /// The keeper dies, and the daemon with it. What lives, lives on; the next keeper holds nothing.
    Orphan,
    /// All faults stop, and time passes until nothing is left to happen: nothing may be pending then.
    Rest,
}
