//! Requests to end that come before the keeper can hear them.

use nix::sys::signal::{SigSet, SigmaskHow, Signal};

/// Signals by which a keeper is asked to end wait from here on: the keeper reads them when its loop begins, and ends in
/// order. Without this whoever ends a defib that has only just been started finds it killed by the signal, up to several
/// milliseconds after its execve, more on a machine under load: reading the command line and reserving the low descriptor
/// numbers come before the loop.
#[derive(Debug)]
pub struct Early(SigSet);

impl Early {
    /// Holds them back. To be called before there are other threads.
    pub fn hold() -> Self {
        let mut asked = SigSet::empty();
        for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGQUIT, Signal::SIGHUP] {
            asked.add(signal);
        }
        // Refused for a bad pointer only.
        Self(asked.thread_swap_mask(SigmaskHow::SIG_BLOCK).unwrap_or_else(|_refused| SigSet::empty()))
    }

    /// As it was before: for whoever is no keeper, and is ended by them.
    pub fn let_go(self) {
        self.0.thread_set_mask().ok();
    }
}
