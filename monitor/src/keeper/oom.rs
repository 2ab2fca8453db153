//! How willing the kernel is to kill the keeper, the daemon and the services for want of memory.
//!
//! The unit protects defib by a negative `OOMScoreAdjust=`, which children inherit; a service starts with the default.
//! Its own few system calls before execve cannot see to that: a child that shares the keeper's memory, as clone3 makes it
//! here, changes the value of both (`__set_oom_adj` in the kernel keeps all processes of one memory equal). So the keeper,
//! whose memory is the smallest of all, does without the protection, and gives it to the daemon.

use std::env;
use std::fs;

/// Takes the protection of the unit from this process. Returns what it was, if it was any.
///
/// What was not set by a unit stays, for the services too: in a container it is the container's.
pub(super) fn renounce() -> Option<i32> {
    let unit = ["INVOCATION_ID", "NOTIFY_SOCKET"].iter().any(|name| env::var_os(name).is_some());
    let own: i32 = fs::read_to_string("/proc/self/oom_score_adj").ok()?.trim().parse().ok()?;
    if !unit || own >= 0 {
        return None;
    }
    match fs::write("/proc/self/oom_score_adj", "0") {
        Ok(()) => Some(own),
        Err(error) => {
            super::say(&format!("services inherit the OOM score adjustment {own}: {error}"));
            None
        }
    }
}

/// Gives a process of its own memory the protection. Without the right to (CAP_SYS_RESOURCE) it goes without.
pub(super) fn protect(pid: i32, adjustment: i32) {
    fs::write(format!("/proc/{pid}/oom_score_adj"), adjustment.to_string()).ok();
}
