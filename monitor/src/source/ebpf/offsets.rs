//! Resolves what the probes must know of the running kernel.

use defib_ebpf::{ABSENT, Facts, Group, Offsets};

use super::btf::Btf;
use super::error::EbpfError;

/// What gives probes the number of a socket, since Linux 5.12.
const COOKIE_OF_SOCKET: &str = "bpf_get_socket_ptr_cookie";

/// The counters of a process's pages: until 6.2 a struct with an array of numbers, since then an array of structs.
const RSS: &str = "mm_struct.rss_stat";

/// What the probes must know, and what this kernel does not have.
#[derive(Debug)]
pub(super) struct Resolved {
    pub(super) offsets: Offsets,
    pub(super) facts: Facts,
    /// The fields that are missing, by the probes that need them. None of the base.
    missing: Vec<(Group, &'static str)>,
}

impl Resolved {
    /// Why the probes of a group cannot be loaded, if they cannot.
    pub(super) fn check(&self, group: Group) -> Result<(), EbpfError> {
        match self.missing.iter().find(|(needed_by, _)| *needed_by == group) {
            Some((_, what)) => Err(EbpfError::Kernel { what: (*what).into(), since: since(group) }),
            None => Ok(()),
        }
    }

    /// As if this kernel had nothing for a group.
    #[cfg(test)]
    pub(super) fn forget(&mut self, group: Group) {
        self.missing.push((group, "what.was.forgotten"));
    }
}

/// The first version of Linux that has all that a group needs.
fn since(group: Group) -> &'static str {
    match group {
        Group::Base | Group::Signals | Group::Ports | Group::Tasks => "5.10",
        Group::Connections => "5.12",
    }
}

/// The offsets and facts of the kernel that `btf` describes.
pub(super) fn resolve(btf: &Btf) -> Result<Resolved, EbpfError> {
    let mut offsets = [ABSENT; Offsets::PATHS.len()];
    let mut missing = Vec::new();
    for (offset, (group, path)) in offsets.iter_mut().zip(Offsets::PATHS) {
        match (btf.offset(path), group) {
            (Some(found), _) => *offset = found,
            (None, Group::Base) => {
                return Err(EbpfError::Kernel { what: path.into(), since: since(group) });
            }
            (None, _) => missing.push((group, path)),
        }
    }
    let action_size = btf.size("k_sigaction");
    if action_size.is_none() {
        missing.push((Group::Signals, "k_sigaction"));
    }
    let tells_sockets = btf.has_function(COOKIE_OF_SOCKET);
    if !tells_sockets {
        missing.push((Group::Connections, COOKIE_OF_SOCKET));
    }
    let rss = rss(btf);
    if rss.is_none() {
        missing.push((Group::Tasks, RSS));
    }
    let (rss_at, rss_step) = rss.unwrap_or_default();
    let arguments = |tracepoint: &str| {
        let found = btf.tracepoint(tracepoint).filter(|arguments| !arguments.is_empty());
        found.ok_or_else(|| EbpfError::Kernel {
            what: format!("tracepoint {tracepoint}"),
            since: since(Group::Base),
        })
    };
    let facts = Facts {
        exit_has_group_dead: (arguments("sched_process_exit")?.len() > 1).into(),
        oom_arg_is_task: btf.is_pointer(arguments("mark_victim")?[0]).into(),
        action_size: action_size.unwrap_or(0),
        counts_connections: tells_sockets.into(),
        rss_at,
        rss_step,
    };
    Ok(Resolved { offsets: Offsets::from_array(offsets), facts, missing })
}

/// Where the counters of a process's pages begin, and how far it is from one to the next.
fn rss(btf: &Btf) -> Option<(u32, u32)> {
    if let Some(at) = btf.offset("mm_struct.rss_stat.count") {
        return Some((at, size_of::<u64>() as u32));
    }
    let at = btf.offset(RSS)?.checked_add(btf.offset("percpu_counter.count")?)?;
    Some((at, btf.size("percpu_counter")?))
}
