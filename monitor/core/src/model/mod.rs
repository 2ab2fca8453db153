//! Layer 0: the values that every part of defib speaks of. No behaviour beyond parsing and printing.

mod event;
mod exit;
mod ids;
mod record;
mod signal;
mod spec;
mod time;
mod view;

pub use event::{KernelEvent, KernelFact, SourceName, Witness};
pub use exit::{By, Cause, End, Ending, StartFailure, StartFailureKind, Usage, WaitStatus};
pub use ids::{Incarnation, InvalidName, RequestId, ServiceName};
pub use record::{Reason, Record, What};
pub use signal::{Signal, UnknownSignal};
pub use spec::{
    Backoff, Command, Delays, GiveUp, Launch, Leftovers, Policy, RestartSpec, ServiceSpec, StopSpec,
};
pub use time::Tick;
pub use view::{ServiceView, State};
