//! The threads of one process, and the status with which it ends.
//!
//! A process has ended when its last thread has. wait(2) tells the code of the group's exit (exit_group(2) or a fatal
//! signal), which all threads that were there then end with; without one, the leading thread's before Linux 6.0 and since
//! then the one's that was last (`synchronize_group_exit` in kernel/exit.c). The connector tells every thread's code, in
//! an order that is not the kernel's: a thread is told of when it is done, and threads are done in any order.
//!
//! | the last to be told of | the status is |
//! | --- | --- |
//! | the leading thread, code not 0 | that: only a group's exit has such a code |
//! | the leading thread, code 0 | 0, if no other thread ended with another code |
//! | another, the code of the leading thread before it | that; if it is 0 as above |
//! | another, another code | not to be known |
//! | any, the leading thread's end was not heard | not to be known |
//!
//! A thread of its own accord ends with 0 in every C library (pthread_exit(3)); who calls exit(2) itself, with other
//! codes in several threads at the same moment, can make the first line lie.

use std::collections::BTreeSet;

use super::super::procfs::{self, Stat};

/// The threads that a process has. Each entry is a thread that lives, so the kernel bounds them; after a loss they are
/// read anew.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Threads {
    leader: Leader,
    others: BTreeSet<u32>,
    /// Whether a thread that was not the leading one has ended with a code that is not 0.
    failed: bool,
    /// When it last executed a program. What is stamped before is of the threads that the exec ended, even if it arrives
    /// afterwards: the old leading thread is told of after it has been replaced.
    executed: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Leader {
    #[default]
    Lives,
    /// With its code, if that was heard.
    Left(Option<i32>),
}

/// What the end of a thread means to its process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(super) enum After {
    /// It goes on.
    Goes,
    /// It has ended, with this status if that follows.
    Ended(Option<i32>),
}

impl Threads {
    /// Those of a process that runs, as `/proc` shows them.
    pub(super) fn of(pid: u32, stat: &Stat) -> Self {
        let others = if stat.threads > 1 { procfs::threads(pid).unwrap_or_default() } else { Vec::new() };
        let leader = if stat.left { Leader::Left(None) } else { Leader::Lives };
        Self { leader, others: others.into_iter().collect(), ..Self::default() }
    }

    /// Takes over what `/proc` shows after a loss. What was heard and cannot be seen any more stays.
    pub(super) fn refresh(&mut self, seen: Self) {
        self.others = seen.others;
        if self.leader == Leader::Lives {
            self.leader = seen.leader;
        }
    }

    /// Whether none is left.
    pub(super) fn all_left(&self) -> bool {
        self.leader != Leader::Lives && self.others.is_empty()
    }

    /// A further thread was made.
    pub(super) fn forked(&mut self, tid: u32) {
        self.others.insert(tid);
    }

    /// A program was executed: the thread that did it is the leading one now, and alone.
    pub(super) fn executed(&mut self, stamp: u64) {
        *self = Self { executed: stamp, ..Self::default() };
    }

    /// A thread of the process `tgid` has ended.
    pub(super) fn exited(&mut self, tid: u32, tgid: u32, code: i32, stamp: u64) -> After {
        if stamp < self.executed {
            return After::Goes;
        }
        if tid == tgid {
            if self.leader != Leader::Lives {
                return After::Goes;
            }
            self.leader = Leader::Left(Some(code));
        } else {
            if !self.others.remove(&tid) {
                return After::Goes;
            }
            self.failed |= code != 0;
        }
        if !self.all_left() {
            return After::Goes;
        }
        let follows = self.leader == Leader::Left(Some(code)) && (code != 0 || !self.failed);
        After::Ended(follows.then_some(code))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PID: u32 = 100;

    /// A process with this many threads besides the leading one.
    fn threads(others: u32) -> Threads {
        let mut threads = Threads::default();
        (1..=others).for_each(|tid| threads.forked(PID + tid));
        threads
    }

    #[test]
    fn a_process_ends_with_its_last_thread() {
        const EXIT: i32 = 0x700;
        // Threads besides the leading one, the ends in order (which one, its code), the status.
        type Case<'a> = (u32, &'a [(u32, i32)], Option<i32>);
        let table: [Case<'_>; 12] = [
            (0, &[(0, 0)], Some(0)),
            (0, &[(0, EXIT)], Some(EXIT)),
            (0, &[(0, 0x8b)], Some(0x8b)),
            (1, &[(1, 0), (0, EXIT)], Some(EXIT)),
            (2, &[(2, 9), (0, 9), (1, 9)], Some(9)),
            (2, &[(1, 9), (2, 9), (0, 9)], Some(9)),
            (1, &[(0, 0), (1, 0)], Some(0)),
            // The leading thread left first: which of the two it is depends on the kernel, and on how the other ended.
            (1, &[(0, 0), (1, EXIT)], None),
            (1, &[(0, EXIT), (1, 0)], None),
            // A group's exit with 7 while the leading thread was leaving by itself.
            (1, &[(1, EXIT), (0, 0)], None),
            (2, &[(1, EXIT), (0, 0), (2, 0)], None),
            (2, &[(0, EXIT), (1, EXIT), (2, EXIT)], Some(EXIT)),
        ];
        for (others, ends, status) in table {
            let mut threads = threads(others);
            let (last, first) = ends.split_last().expect("an end");
            for (tid, code) in first {
                assert_eq!(threads.exited(PID + tid, PID, *code, 1), After::Goes, "{ends:?}");
            }
            assert_eq!(threads.exited(PID + last.0, PID, last.1, 1), After::Ended(status), "{ends:?}");
            assert_eq!(threads.exited(PID + last.0, PID, last.1, 1), After::Goes, "once: {ends:?}");
        }
    }

    #[test]
    fn an_exec_leaves_one_thread_whatever_is_told_afterwards() {
        let mut threads = threads(2);
        assert_eq!(threads.exited(PID + 1, PID, 0, 4), After::Goes);
        threads.executed(5);
        // The old leading thread, by its own number and by that of the thread that took its place.
        assert_eq!(threads.exited(PID, PID, 0, 4), After::Goes);
        assert_eq!(threads.exited(PID + 2, PID, 0, 6), After::Goes);
        threads.forked(PID + 3);
        assert_eq!(threads.exited(PID + 3, PID, 0, 7), After::Goes);
        assert_eq!(threads.exited(PID, PID, 9, 8), After::Ended(Some(9)));
    }

    #[test]
    fn what_was_not_heard_stays_open() {
        let mut late = Threads { leader: Leader::Left(None), ..threads(1) };
        assert_eq!(late.exited(PID + 1, PID, 0, 1), After::Ended(None));

        let mut lossy = threads(3);
        assert_eq!(lossy.exited(PID, PID, 9, 1), After::Goes);
        lossy.refresh(Threads { leader: Leader::Left(None), ..threads(1) });
        assert_eq!(lossy.exited(PID + 3, PID, 9, 1), After::Goes, "it has gone already");
        assert_eq!(
            lossy.exited(PID + 1, PID, 9, 1),
            After::Ended(Some(9)),
            "the leading one's code was heard"
        );
    }
}
