//! What every source rests on: pidfds, and the making of processes.

use rustix::process::{PidfdFlags, getpid, pidfd_open};

use super::facts::{Facts, brief};
use super::row::{Group, Row};
use crate::keeper;
use crate::source::tells_ends;

const GROUP: Group = Group::Sources;

pub(super) fn rows(facts: &Facts) -> Vec<Row> {
    vec![pidfd(facts), exit_info(), start(facts), start_cost(facts)]
}

/// Without it there is no supervision at all.
fn pidfd(facts: &Facts) -> Row {
    match pidfd_open(getpid(), PidfdFlags::empty()) {
        Ok(_) => GROUP.ok("pidfd", "tells the end of every process that defib starts"),
        Err(errno) => GROUP
            .missing(
                "pidfd",
                format!("pidfd_open: {}; nothing can be supervised", brief(&errno.into())),
                facts.of_kernel((5, 7), "let the seccomp filter allow pidfd_open"),
            )
            .fatal(),
    }
}

/// `PIDFD_GET_INFO` with exit information (Linux 6.15).
fn exit_info() -> Row {
    if tells_ends() {
        GROUP.ok("pidfd-exit", "tells how a process ended that is no child of defib's, too")
    } else {
        let found = "how a process ended is told of defib's own children only, not of adopted ones";
        GROUP.limited("pidfd-exit", found, "run Linux 6.15 or later, or eBPF")
    }
}

/// Makes a process the way the keeper does.
fn start(facts: &Facts) -> Row {
    match keeper::trial(None) {
        Ok(()) => GROUP.ok("start", "a process was made in the way of every start (clone3)"),
        Err(error) => GROUP
            .missing(
                "start",
                format!("no process can be made: {}: {}", error.call(), brief(&error.cause)),
                facts.of_kernel((5, 7), "let the seccomp filter and the limits allow clone3"),
            )
            .fatal(),
    }
}

/// A table of descriptors that is not copied: `close_range` with CLOSE_RANGE_UNSHARE (Linux 5.9).
fn start_cost(facts: &Facts) -> Row {
    let name = "start-cost";
    if keeper::shares_tables() {
        GROUP.ok(name, "a start costs the same with thousands of open files")
    } else {
        GROUP.limited(
            name,
            "each start copies all descriptors of the keeper (0.1 ms for each thousand)",
            facts.of_kernel((5, 9), "let the seccomp filter allow close_range"),
        )
    }
}
