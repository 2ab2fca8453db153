//! What the supervisor thread tells the metrics: numbers as things happen, and on request how source and queues are.

use std::time::Duration;

use defib_core::model::{KernelFact, Record, SourceName, State, What};

use super::run::Daemon;
use crate::effect::clock;
use crate::metrics::{Host, Pipeline, Program, Queue, Ring};
use crate::source::{Batch, EndStats, ProgramStats, RingStats, SourceStats};

impl Daemon {
    /// A record is told.
    pub(super) fn count(&self, record: &Record) {
        // Only these can be the moment at which a service becomes ready.
        let may_be_ready = match record.what {
            What::State { to, .. } => to == State::Running,
            What::Listen { .. } => true,
            What::Exit { .. }
            | What::StartFailed { .. }
            | What::PortTaken(_)
            | What::Unlisten { .. }
            | What::Restart { .. } => false,
        };
        let ready = may_be_ready && self.core.view(&record.service).is_some_and(|view| view.ready);
        self.metrics.tally.tell(record, ready, self.acted);
    }

    /// The source has told of events.
    pub(super) fn count_events(&self, batch: &Batch) {
        if !batch.events.is_empty() {
            self.metrics.tally.heard(batch.events.iter().map(|event| event.at), clock::now());
        }
        for event in batch.events.iter().filter(|event| event.fact == KernelFact::Oom && !event.main) {
            if let Some(service) = event.slot.and_then(|slot| self.slots.service(slot)) {
                self.metrics.tally.descendant_killed(service);
            }
        }
        if batch.lost > 0 {
            self.metrics.resynced(self.source_name);
        }
    }

    /// How the source and the queues are now. Reads the counters of the probes: some microseconds.
    pub(super) fn pipeline(&self) -> Pipeline {
        let stats = self.source.stats();
        let (waiting, capacity, dropped) = self.journal.fill();
        let mut lost = lost(self.source_name, &stats);
        lost.push(("queue_full", dropped));
        Pipeline {
            source: self.source_name,
            received: stats.kinds.iter().map(|kind| (kind.kind, kind.received)).collect(),
            lost,
            ends_lost: self.connections.ending().map(|ending| ending.lost),
            suppressed: stats.suppressed,
            host: host(&stats),
            // Who asks adds that: to read it takes longer than this thread has.
            oom_kills: None,
            queues: vec![
                Queue { name: "journal", length: waiting, capacity },
                Queue { name: "requests", length: self.asks.len(), capacity: self.asks.max_capacity() },
                Queue { name: "plans", length: self.planned.len(), capacity: self.planned.max_capacity() },
            ],
            rings: stats.rings.iter().map(ring).collect(),
            programs: stats.programs.iter().map(program).collect(),
        }
    }
}

fn ring(&RingStats { name, used, capacity }: &RingStats) -> Ring {
    Ring { name, used, capacity }
}

fn program(&ProgramStats { name, runs, nanoseconds }: &ProgramStats) -> Program {
    Program { name, runs, took: Duration::from_nanos(nanoseconds) }
}

/// What a source has lost, by reason.
fn lost(source: SourceName, stats: &SourceStats) -> Vec<(&'static str, u64)> {
    let unread = stats.kinds.iter().map(|kind| kind.lost).sum();
    let unread = match source {
        SourceName::Ebpf => Some(("ring_full", unread)),
        SourceName::ProcConnector => Some(("socket_overrun", unread)),
        SourceName::Pidfd | SourceName::Scripted => None,
    };
    let unkept = stats.untracked + stats.unrecorded + stats.unblamed + stats.unfollowed;
    let mut lost: Vec<_> = unread.into_iter().collect();
    lost.extend([("map_full", unkept), ("decode", stats.malformed)]);
    lost.extend(stats.skipped.map(|skipped| ("probe_skipped", skipped)));
    lost
}

/// What happened on the whole host, if the source hears of it.
fn host(stats: &SourceStats) -> Option<Host> {
    let of = |name| stats.kinds.iter().find(|kind| kind.kind == name).map(|kind| kind.host);
    let EndStats { exit: exits, signal: signals, core: cores } = stats.ends?;
    Some(Host { forks: of("fork")?, execs: of("exec")?, exits, signals, cores })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::KindStats;

    fn kind(kind: &'static str, lost: u64, host: u64) -> KindStats {
        KindStats { kind, lost, host, ..KindStats::default() }
    }

    #[test]
    fn reasons_add_up_to_all_that_was_lost() {
        let stats = SourceStats {
            kinds: vec![kind("exit", 3, 0), kind("oom", 4, 0)],
            untracked: 1,
            unrecorded: 2,
            malformed: 5,
            skipped: Some(6),
            ..SourceStats::default()
        };
        let ebpf = lost(SourceName::Ebpf, &stats);
        assert_eq!(ebpf, [("ring_full", 7), ("map_full", 3), ("decode", 5), ("probe_skipped", 6)]);
        assert_eq!(ebpf.iter().map(|(_, count)| count).sum::<u64>(), stats.lost());
    }

    #[test]
    fn a_source_that_hears_of_its_own_only_tells_nothing_of_the_host() {
        assert_eq!(host(&SourceStats::default()), None);
        let kinds = vec![kind("fork", 0, 1), kind("exec", 0, 2), kind("exit", 0, 3)];
        let ends = Some(EndStats { exit: 1, signal: 2, core: 0 });
        let stats = SourceStats { kinds, ends, ..SourceStats::default() };
        assert_eq!(host(&stats), Some(Host { forks: 1, execs: 2, exits: 1, signals: 2, cores: 0 }));
    }
}
