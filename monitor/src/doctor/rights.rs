//! What this process may do, and in which namespaces it is.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;

use nix::unistd::{geteuid, getpid};

/// Rights, as far as defib uses them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Rights {
    pub(super) uid: u32,
    /// The effective capabilities.
    effective: u64,
    /// Whether a seccomp filter is in force.
    pub(super) seccomp: bool,
}

/// A capability: its name and number in capability(7), and what defib cannot do without.
#[derive(Debug)]
pub(super) struct Capability {
    pub(super) name: &'static str,
    bit: u32,
    pub(super) purpose: &'static str,
}

const SYS_ADMIN: u32 = 21;

pub(super) const BPF: Capability = Capability { name: "CAP_BPF", bit: 39, purpose: "eBPF" };
pub(super) const PERFMON: Capability = Capability { name: "CAP_PERFMON", bit: 38, purpose: "eBPF" };
pub(super) const NET_ADMIN: Capability =
    Capability { name: "CAP_NET_ADMIN", bit: 12, purpose: "the proc connector" };
pub(super) const SYS_PTRACE: Capability =
    Capability { name: "CAP_SYS_PTRACE", bit: 19, purpose: "tracing other users' processes" };
pub(super) const SYS_NICE: Capability = Capability { name: "CAP_SYS_NICE", bit: 23, purpose: "realtime" };
const SETUID: Capability = Capability { name: "CAP_SETUID", bit: 7, purpose: "services of other users" };
const SETGID: Capability = Capability { name: "CAP_SETGID", bit: 6, purpose: "services of other users" };
const KILL: Capability = Capability { name: "CAP_KILL", bit: 5, purpose: "signals to other users" };

/// Those that defib uses, the weightiest first.
pub(super) const USED: [Capability; 8] =
    [BPF, PERFMON, SETUID, SETGID, KILL, NET_ADMIN, SYS_NICE, SYS_PTRACE];

impl Rights {
    /// Of this process. `status` is `/proc/self/status`.
    pub(super) fn of_self(status: &str) -> Self {
        // Without /proc, too. A kernel that refuses the call grants nothing that we know of.
        let effective = rustix::thread::capabilities(None).map_or(0, |sets| sets.effective.bits());
        Self { uid: geteuid().as_raw(), effective, seccomp: filtered(status) }
    }

    pub(super) fn has(&self, capability: &Capability) -> bool {
        let bits = match capability.bit {
            // CAP_SYS_ADMIN includes what was split off from it.
            bit @ (38 | 39) => 1 << bit | 1 << SYS_ADMIN,
            bit => 1_u64 << bit,
        };
        self.effective & bits != 0
    }
}

/// Whether a seccomp filter is in force, by proc_pid_status(5).
fn filtered(status: &str) -> bool {
    status.lines().any(|line| line.strip_prefix("Seccomp:").is_some_and(|mode| mode.trim() == "2"))
}

/// Where this process is.
#[derive(Clone, Debug)]
pub(super) struct Namespaces {
    pub(super) pid: Place,
    pub(super) user: Place,
    pub(super) time: Place,
    pub(super) net: Place,
    pub(super) cgroup: Place,
}

/// Whether a namespace is the host's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// It is.
    Host,
    /// It is another one.
    Own,
    /// The kernel does not tell.
    Unknown,
}

/// The host's namespaces by their inode numbers in include/linux/proc_ns.h, and in include/uapi/linux/nsfs.h of later
/// kernels: the network's is fixed since Linux 6.18.
const PID: u64 = 0xEFFF_FFFC;
const USER: u64 = 0xEFFF_FFFD;
const TIME: u64 = 0xEFFF_FFFA;
const CGROUP: u64 = 0xEFFF_FFFB;
const NET: u64 = 0xEFFF_FFF9;

impl Namespaces {
    /// Of this process. `fixed`: the number of the host's network namespace is [`NET`].
    pub(super) fn of_self(fixed: bool) -> Self {
        let place = |name, initial| place(inode("self", name), initial);
        let pid = place("pid", PID);
        let net = match place("net", NET) {
            Place::Own if fixed => Place::Own,
            // Before the number was fixed: process 1 of the host is in the host's, if it may be looked at.
            Place::Own if pid == Place::Host => beside(inode("self", "net"), inode("1", "net")),
            Place::Own => Place::Unknown,
            other => other,
        };
        Self {
            pid,
            user: place("user", USER),
            time: place("time", TIME),
            net,
            cgroup: place("cgroup", CGROUP),
        }
    }

    /// Each with its name.
    pub(super) fn all(&self) -> [(&'static str, Place); 5] {
        [
            ("pid", self.pid),
            ("user", self.user),
            ("time", self.time),
            ("net", self.net),
            ("cgroup", self.cgroup),
        ]
    }
}

fn inode(process: &str, namespace: &str) -> io::Result<u64> {
    // /proc may be that of another pid namespace, in which `self` is nobody.
    let process = if process == "self" && !fs::exists("/proc/self").unwrap_or(false) {
        getpid().to_string()
    } else {
        process.to_owned()
    };
    fs::metadata(format!("/proc/{process}/ns/{namespace}")).map(|found| found.ino())
}

fn place(found: io::Result<u64>, initial: u64) -> Place {
    match found {
        Ok(inode) if inode == initial => Place::Host,
        Ok(_) => Place::Own,
        // A kernel that was built without this kind of namespace has only the initial one.
        Err(error)
            if error.kind() == io::ErrorKind::NotFound && fs::exists("/proc/self/ns").unwrap_or(false) =>
        {
            Place::Host
        }
        Err(_) => Place::Unknown,
    }
}

fn beside(ours: io::Result<u64>, theirs: io::Result<u64>) -> Place {
    match (ours, theirs) {
        (Ok(ours), Ok(theirs)) if ours == theirs => Place::Host,
        (Ok(_), Ok(_)) => Place::Own,
        (_, _) => Place::Unknown,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_split_off_from_cap_sys_admin_is_in_it() {
        let of = |effective| Rights { uid: 0, effective, seccomp: false };
        assert!(USED.iter().all(|capability| of(u64::MAX).has(capability)));
        assert!(!USED.iter().any(|capability| of(0).has(capability)));
        let admin = of(1 << SYS_ADMIN);
        assert!(admin.has(&BPF) && admin.has(&PERFMON) && !admin.has(&NET_ADMIN));
        assert!(of(1 << 39).has(&BPF) && !of(1 << 39).has(&PERFMON));
    }

    #[test]
    fn a_seccomp_filter_is_told_from_none() {
        assert!(filtered("Name:\tx\nSeccomp:\t2\nSeccomp_filters:\t1\n"));
        assert!(!filtered("Seccomp:\t0\nSeccomp_filters:\t2\n"));
        assert!(!filtered(""));
    }

    #[test]
    fn a_namespace_that_cannot_be_told_is_unknown() {
        assert_eq!(place(Ok(PID), PID), Place::Host);
        assert_eq!(place(Ok(7), PID), Place::Own);
        assert_eq!(place(Err(io::ErrorKind::PermissionDenied.into()), PID), Place::Unknown);
        assert_eq!(beside(Ok(1), Ok(1)), Place::Host);
        assert_eq!(beside(Ok(1), Err(io::ErrorKind::PermissionDenied.into())), Place::Unknown);
    }
}
