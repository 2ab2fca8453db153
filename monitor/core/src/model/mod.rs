//! Layer 0: the values that every part of defib speaks of. No behaviour beyond parsing and printing.

mod event;
mod exit;
mod ids;
mod log_spec;
mod port;
mod record;
mod signal;
mod socket;
mod spec;
mod standing;
mod time;
mod view;

pub use event::{KernelEvent, KernelFact, Listener, SourceName, Witness};
pub use exit::{
    Blame, By, Cause, End, Ending, Sender, StartFailure, StartFailureKind, UNWATCHED, Unknown, Usage,
    WaitStatus,
};
pub use ids::{Draft, Incarnation, InvalidName, RequestId, ServiceName, Withdrawal};
pub use log_spec::{LogLayout, LogSpec, LogStreams};
pub use port::{Holder, TakenPort};
pub use record::{GAVE_UP, Reason, Record, What};
pub use signal::{Signal, UnknownSignal};
pub use socket::{NoAddress, SocketAddress, SocketSpec, WhenDown};
pub use spec::{
    Backoff, Command, Delays, GiveUp, Launch, Leftovers, Policy, ReadySpec, RestartSpec, ServiceSpec,
    StopSpec,
};
pub use standing::{Codes, Left, Standing};
pub use time::{MADE_WITHIN, Tick};
pub use view::{HeldSocket, Paused, ServiceView, State};
