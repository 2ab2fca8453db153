//! What a source has counted, for metrics and `doctor`.

/// The counters of one kind of event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KindStats {
    /// `fork`, `exec`, `exit`, `oom`, `signal`, `listen` or `unlisten`; `unknown` for what was lost before its kind
    /// could be read.
    pub kind: &'static str,
    /// Records that the kernel side wrote.
    pub emitted: u64,
    /// Records that arrived here.
    pub received: u64,
    /// Records for which the kernel side had no room.
    pub lost: u64,
    /// How often it happened on the whole host, to processes of defib's or others.
    pub host: u64,
}

/// How processes have ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EndStats {
    /// By themselves.
    pub exit: u64,
    /// By a signal.
    pub signal: u64,
    /// By a signal, with a core dumped.
    pub core: u64,
}

impl EndStats {
    /// All of them.
    pub fn total(self) -> u64 {
        self.exit + self.signal + self.core
    }
}

/// A ring that the kernel side writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingStats {
    /// Its name.
    pub name: &'static str,
    /// Bytes that wait to be read.
    pub used: u64,
    /// Bytes that can.
    pub capacity: u64,
}

/// What a program of the kernel side has cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProgramStats {
    /// Its name.
    pub name: &'static str,
    /// How often it has run.
    pub runs: u64,
    /// For how many nanoseconds in all.
    pub nanoseconds: u64,
}

/// Everything a source has counted since it was opened. A source without a kernel side counts nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SourceStats {
    /// The counters by kind.
    pub kinds: Vec<KindStats>,
    /// How processes of the whole host have ended; `None` where the source does not hear of them.
    pub ends: Option<EndStats>,
    /// Ends of descendants of services, which make no event.
    pub descendant_exits: u64,
    /// Events of descendants, and ports, that were not told because their service had told too many in that second.
    /// What is left out on purpose is not lost.
    pub suppressed: u64,
    /// Processes that could not be tracked because there were too many.
    pub untracked: u64,
    /// Ends that could not be kept for [`take_end`](super::Source::take_end) because too many were kept already.
    pub unrecorded: u64,
    /// Signals whose senders could not be remembered for want of memory.
    pub unblamed: u64,
    /// Sockets that could not be followed because there were too many.
    pub unfollowed: u64,
    /// Records that made no sense and were dropped.
    pub malformed: u64,
    /// Runs of a probe that the kernel skipped and that may have mattered; `None` before Linux 5.12, which does not count them.
    pub skipped: Option<u64>,
    /// The rings that are read all the time.
    pub rings: Vec<RingStats>,
    /// What each program has cost; empty unless the kernel measures it (`kernel.bpf_stats_enabled`).
    pub programs: Vec<ProgramStats>,
}

impl SourceStats {
    /// Everything that was missed. When it grows, what is known may be stale.
    pub fn lost(&self) -> u64 {
        let lost: u64 = self.kinds.iter().map(|kind| kind.lost).sum();
        let unkept = self.untracked + self.unrecorded + self.unblamed + self.unfollowed;
        lost + unkept + self.malformed + self.skipped.unwrap_or(0)
    }

    /// What was missed so far, by its reason: `exit 3, skipped runs 2`.
    pub fn losses(&self) -> String {
        let kinds = self.kinds.iter().map(|kind| (kind.kind, kind.lost));
        let others = [
            ("untracked", self.untracked),
            ("unrecorded", self.unrecorded),
            ("unblamed", self.unblamed),
            ("unfollowed", self.unfollowed),
            ("malformed", self.malformed),
            ("skipped runs", self.skipped.unwrap_or(0)),
        ];
        let reasons = kinds.chain(others).filter(|(_, count)| *count > 0);
        reasons.map(|(reason, count)| format!("{reason} {count}")).collect::<Vec<_>>().join(", ")
    }
}
