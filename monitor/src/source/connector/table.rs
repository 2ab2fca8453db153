//! The processes of the services: the keeper's children and all that descends from them.
//!
//! A child of the keeper is *unclaimed* until the keeper's report tells its slot; its events wait with it. The daemon
//! itself and starts that failed are never claimed. A descendant belongs to its main process, whatever becomes of that.

use std::collections::{HashMap, VecDeque};

use defib_core::model::{Blame, KernelEvent, KernelFact, Signal, Tick, WaitStatus, Witness};

use super::super::any::{Batch, Life};
use super::threads::{After, Threads};

/// Children that wait to be claimed. The keeper reports a start when its program has been executed, some hundred
/// microseconds after the fork. When there are more, one that has ended goes first, then the oldest; if it is claimed
/// all the same, it is found in `/proc`.
const UNCLAIMED: usize = 256;

/// Events that wait with each. Further ones are dropped: an unclaimed child that goes on executing programs is none of
/// the keeper's services.
const WAITING: usize = 64;

/// Descendants that are known at a time. Those beyond are not followed, and counted.
const DESCENDANTS: usize = 16_384;

/// Core dumps of descendants that are told in one second for each slot. Further ones are counted.
const CORES: u32 = 64;

/// A process starts after the keeper has looked at the clock; but `/proc` rounds that down to 10 ms, and two clocks are
/// never read at the same moment.
const SKEW: u64 = 20_000_000;

/// Two start times of one number that are not further apart are of one process: no number comes back so soon.
const SAME: u64 = 1_000_000_000;

/// A process.
#[derive(Debug)]
struct Process {
    /// In nanoseconds of `CLOCK_BOOTTIME`.
    start: u64,
    role: Role,
    threads: Threads,
    /// Of an unclaimed or a main process that has ended, until the keeper's report.
    end: Option<Witness>,
    /// Whether its core dump was told of.
    dumping: bool,
}

#[derive(Debug)]
enum Role {
    Unclaimed(Vec<KernelEvent>),
    Main { slot: u32 },
    Descendant { root: u32, slot: Option<u32> },
}

/// What is counted here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Counted {
    /// Descendants that have ended.
    pub(super) descendant_exits: u64,
    /// Descendants for which there was no room.
    pub(super) untracked: u64,
    /// Core dumps whose signal is known.
    pub(super) cores: u64,
    /// Those of them that were not told because there were too many.
    pub(super) suppressed: u64,
}

/// All of them by pid.
#[derive(Debug)]
pub(super) struct Table {
    keeper: u32,
    processes: HashMap<u32, Process>,
    /// The unclaimed in the order of their forks.
    unclaimed: VecDeque<u32>,
    /// The main process of each slot.
    mains: HashMap<u32, u32>,
    descendants: usize,
    /// How many core dumps were told in which second, by slot.
    cores: HashMap<u32, (u64, u32)>,
    pub(super) counted: Counted,
}

impl Table {
    pub(super) fn new(keeper: u32) -> Self {
        Self {
            keeper,
            processes: HashMap::new(),
            unclaimed: VecDeque::new(),
            mains: HashMap::new(),
            descendants: 0,
            cores: HashMap::new(),
            counted: Counted::default(),
        }
    }

    /// A thread was made, of the new process `tgid` if both numbers are the same.
    pub(super) fn forked(&mut self, parent: u32, tid: u32, tgid: u32, at: Tick, batch: &mut Batch) {
        if tid != tgid {
            if let Some(process) = self.processes.get_mut(&tgid) {
                process.threads.forked(tid);
            }
            return;
        }
        if let Some(process) = self.processes.get_mut(&tgid)
            && process.is_fork_of(at)
        {
            // It was claimed before this could be read.
            process.start = at.0;
            return self.tell(tgid, at, KernelFact::Fork { parent }, batch);
        }
        // Whoever had this number before is gone.
        self.forget(tgid);
        let role = if parent == self.keeper {
            Role::Unclaimed(Vec::new())
        } else {
            let Some(maker) = self.processes.get(&parent) else { return };
            if self.descendants == DESCENDANTS {
                self.counted.untracked += 1;
                return;
            }
            match maker.role {
                Role::Unclaimed(_) => Role::Descendant { root: parent, slot: None },
                Role::Main { slot } => Role::Descendant { root: parent, slot: Some(slot) },
                Role::Descendant { root, slot } => Role::Descendant { root, slot },
            }
        };
        self.insert(tgid, at.0, role, Threads::default());
        self.tell(tgid, at, KernelFact::Fork { parent }, batch);
    }

    /// Whether somebody would hear which program this process has executed.
    pub(super) fn tells_execs(&self, pid: u32) -> bool {
        let role = self.processes.get(&pid).map(|process| &process.role);
        matches!(role, Some(Role::Main { .. } | Role::Unclaimed(_)))
    }

    /// A process executed a program; its path if that is known.
    pub(super) fn executed(&mut self, pid: u32, stamp: u64, at: Tick, program: String, batch: &mut Batch) {
        if let Some(process) = self.processes.get_mut(&pid) {
            process.threads.executed(stamp);
            self.tell(pid, at, KernelFact::Exec { filename: program }, batch);
        }
    }

    /// Whether the signal behind a core dump is to be looked for.
    pub(super) fn tells_core(&self, pid: u32) -> bool {
        self.processes.get(&pid).is_some_and(|process| !process.dumping)
    }

    /// A process dumps its core because of this signal.
    pub(super) fn dumped(&mut self, pid: u32, signal: Signal, at: Tick, batch: &mut Batch) {
        let Some(process) = self.processes.get_mut(&pid) else { return };
        process.dumping = true;
        self.counted.cores += 1;
        if let Role::Descendant { slot: Some(slot), .. } = process.role {
            let second = at.0 / 1_000_000_000;
            let (of, count) = self.cores.entry(slot).or_default();
            *count = if *of == second { *count + 1 } else { 1 };
            *of = second;
            if *count > CORES {
                self.counted.suppressed += 1;
                return;
            }
        }
        self.tell(pid, at, KernelFact::Signal { signal, blame: Blame::Unknown }, batch);
    }

    /// A thread of the process `tgid` has ended.
    pub(super) fn exited(
        &mut self,
        (tid, tgid): (u32, u32),
        code: i32,
        (stamp, at): (u64, Tick),
        batch: &mut Batch,
    ) {
        let Some(process) = self.processes.get_mut(&tgid) else { return };
        let After::Ended(status) = process.threads.exited(tid, tgid, code, stamp) else { return };
        if let Role::Descendant { .. } = process.role {
            self.forget(tgid);
            self.counted.descendant_exits += 1;
            return;
        }
        let witness =
            Witness { at: Some(at), status: status.map(WaitStatus), oom: None, blame: Blame::Unknown };
        process.end = Some(witness.clone());
        self.tell(tgid, at, KernelFact::Exit(witness), batch);
    }

    /// The keeper says whose the process is. False if it is not known here.
    pub(super) fn claim(&mut self, life: &Life, batch: &mut Batch) -> bool {
        let Some(process) = self.processes.get_mut(&life.pid).filter(|process| process.is(life)) else {
            return false;
        };
        let slot = life.slot;
        match &mut process.role {
            Role::Main { slot: known } => return *known == slot,
            Role::Descendant { .. } => return false,
            Role::Unclaimed(waiting) => {
                let waiting = std::mem::take(waiting);
                batch
                    .events
                    .extend(waiting.into_iter().map(|event| KernelEvent { slot: Some(slot), ..event }));
                process.role = Role::Main { slot };
            }
        }
        self.unclaimed.retain(|&pid| pid != life.pid);
        self.settle_in(slot, life.pid);
        for process in self.processes.values_mut() {
            if let Role::Descendant { root, slot: of @ None } = &mut process.role
                && *root == life.pid
            {
                *of = Some(slot);
            }
        }
        true
    }

    /// A main process that ran already.
    pub(super) fn adopt(&mut self, life: &Life, start: u64, threads: Threads) {
        self.forget(life.pid);
        self.insert(life.pid, start, Role::Main { slot: life.slot }, threads);
        self.settle_in(life.slot, life.pid);
    }

    /// Takes the end of a main process, and with it all that is known of the process. `None` if it is not known here, or
    /// its last thread has not been heard to end.
    pub(super) fn take_end(&mut self, life: &Life) -> Option<Witness> {
        self.processes.get(&life.pid).filter(|process| process.is(life) && process.is_main())?;
        self.forget(life.pid)?.end
    }

    /// The start time of a process that is heard of.
    pub(super) fn start_of(&self, pid: u32) -> Option<u64> {
        self.processes.get(&pid).filter(|process| process.is_main()).map(|process| process.start)
    }

    /// Every process that has not ended.
    pub(super) fn living(&self) -> impl Iterator<Item = u32> {
        self.processes.iter().filter(|(_, process)| process.end.is_none()).map(|(pid, _)| *pid)
    }

    /// What `/proc` shows of a process after a loss: its start, rounded down, and its threads; nothing if it is gone.
    pub(super) fn refresh(&mut self, pid: u32, seen: Option<(u64, Threads)>) {
        let Some(process) = self.processes.get_mut(&pid) else { return };
        match seen {
            Some((start, threads)) if start <= process.start && process.start - start < SAME => {
                process.threads.refresh(threads);
            }
            // Of a main process that has gone the keeper will tell.
            _ if process.is_main() => {}
            _ => {
                self.forget(pid);
            }
        }
    }

    fn insert(&mut self, pid: u32, start: u64, role: Role, threads: Threads) {
        match role {
            Role::Unclaimed(_) => {
                self.make_room();
                self.unclaimed.push_back(pid);
            }
            Role::Descendant { .. } => self.descendants += 1,
            Role::Main { .. } => {}
        }
        self.processes.insert(pid, Process { start, role, threads, end: None, dumping: false });
    }

    /// Makes room for one more unclaimed child.
    fn make_room(&mut self) {
        if self.unclaimed.len() < UNCLAIMED {
            return;
        }
        let has_ended = |pid: &u32| self.processes.get(pid).is_none_or(|process| process.end.is_some());
        let index = self.unclaimed.iter().position(has_ended).unwrap_or(0);
        if let Some(pid) = self.unclaimed.get(index).copied() {
            self.forget(pid);
        }
    }

    /// A slot holds one life: the one before it has been taken, or nobody will.
    fn settle_in(&mut self, slot: u32, pid: u32) {
        if let Some(before) = self.mains.insert(slot, pid)
            && before != pid
        {
            self.processes.remove(&before);
        }
    }

    fn forget(&mut self, pid: u32) -> Option<Process> {
        let process = self.processes.remove(&pid)?;
        match process.role {
            Role::Unclaimed(_) => self.unclaimed.retain(|&other| other != pid),
            Role::Main { slot } => {
                self.mains.remove(&slot);
            }
            Role::Descendant { .. } => self.descendants -= 1,
        }
        Some(process)
    }

    /// Tells of a process, now or when it is claimed. Of a descendant only a fatal signal is told.
    fn tell(&mut self, pid: u32, at: Tick, fact: KernelFact, batch: &mut Batch) {
        let Some(Process { start, role, .. }) = self.processes.get_mut(&pid) else { return };
        let (start, main) = (*start, !matches!(role, Role::Descendant { .. }));
        let event = |slot, fact| KernelEvent { at, pid, start, slot, main, name: None, fact };
        match role {
            Role::Unclaimed(waiting) => {
                if waiting.len() < WAITING {
                    waiting.push(event(None, fact));
                }
            }
            Role::Main { slot } => batch.events.push(event(Some(*slot), fact)),
            Role::Descendant { slot, .. } => {
                if let (Some(slot), KernelFact::Signal { .. }) = (*slot, &fact) {
                    batch.events.push(event(Some(slot), fact));
                }
            }
        }
    }
}

impl Process {
    /// Whether this is the process of that life, and not another that had its number before.
    fn is(&self, life: &Life) -> bool {
        self.start.saturating_add(SKEW) >= life.started.0
    }

    /// Whether a fork at that time made this main process, which was found in `/proc`.
    fn is_fork_of(&self, at: Tick) -> bool {
        let after = at.0.checked_sub(self.start).is_some_and(|after| after < SAME);
        matches!(self.role, Role::Main { .. }) && self.end.is_none() && after
    }

    fn is_main(&self) -> bool {
        matches!(self.role, Role::Main { .. } | Role::Unclaimed(_))
    }
}

#[cfg(test)]
mod tests;
