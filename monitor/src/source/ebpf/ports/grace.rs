//! Waiting for probes that are running.

use std::time::Duration;

use rustix::thread::{MembarrierCommand, membarrier};

/// What is waited where the kernel cannot tell. The longest that was measured of a probe is a millisecond, on a machine
/// whose CPU was taken away meanwhile.
const GUESS: Duration = Duration::from_millis(50);

/// Returns when every probe that ran as this was called has ended, and so has the softirq in which it ran: what it has
/// counted can be read, and the state of its socket seen. Takes 10–50 ms.
///
/// membarrier(2) waits for what the kernel calls a grace period of RCU. A process that was preempted between the probe and
/// the change of the socket's state is not waited for; whoever must not be wrong about that looks twice.
pub fn grace() {
    // A kernel with CPUs that no timer interrupts refuses.
    if membarrier(MembarrierCommand::Global).is_err() {
        pause();
    }
}

#[expect(clippy::disallowed_methods, reason = "nothing tells when the probes have ended")]
fn pause() {
    std::thread::sleep(GUESS);
}
