//! Every process of the host, for the feed: who runs, since when, under which name.

use std::collections::HashMap;

use defib_core::model::{Blame, KernelEvent, KernelFact, Tick, WaitStatus, Witness};

use super::super::any::Batch;
use super::super::procfs;
use super::live::program;
use super::message::{Fact, Message};
use super::threads::{After, Threads};

/// Processes that are known at a time: twice what a kernel with the usual `pid_max` of 32,768 can have. Those beyond are
/// looked up when something happens to them, like those that nobody has heard of yet.
const KNOWN: usize = 65_536;

/// A process.
#[derive(Debug)]
struct Known {
    start: u64,
    name: Option<String>,
    threads: Threads,
}

/// When a process started, and its name.
type Who = (u64, Option<String>);

/// All that is known.
#[derive(Debug, Default)]
pub(super) struct Crowd {
    known: HashMap<u32, Known>,
}

impl Crowd {
    /// Everybody who is known.
    pub(super) fn pids(&self) -> impl Iterator<Item = u32> {
        self.known.keys().copied()
    }

    /// Looks a process up that ran before, or of which something may have been missed.
    pub(super) fn look(&mut self, pid: u32) {
        let seen = look(pid);
        match (self.known.get_mut(&pid), seen) {
            (Some(known), Some(seen)) if known.start.abs_diff(seen.start) < 1_000_000_000 => {
                known.threads.refresh(seen.threads);
            }
            (_, Some(seen)) if !seen.threads.all_left() => self.insert(pid, seen),
            // A zombie whose last message was read is not known any more, and must not become so again.
            (None, Some(_)) => {}
            (_, _) => {
                self.known.remove(&pid);
            }
        }
    }

    /// Tells what a message means; `later` are the messages behind it.
    pub(super) fn take_in(&mut self, message: &Message, at: Tick, later: &[Message], batch: &mut Batch) {
        match message.fact {
            Fact::Fork { tid, tgid, .. } if tid != tgid => {
                if let Some(known) = self.known.get_mut(&tgid) {
                    known.threads.forked(tid);
                }
            }
            Fact::Fork { parent, tgid, .. } => {
                // The kernel copies it, from the thread that forked: as good as always the leading one.
                let name = self.known.get(&parent).and_then(|known| known.name.clone());
                let event = event(at, tgid, (at.0, name.clone()), KernelFact::Fork { parent });
                self.insert(tgid, Known { start: at.0, name, threads: Threads::default() });
                batch.events.push(event);
            }
            Fact::Exec { tgid } => {
                let filename = program(tgid, later);
                let name = if filename.is_empty() { None } else { procfs::name(tgid) };
                if !self.known.contains_key(&tgid) {
                    self.look(tgid);
                }
                let mut start = 0;
                if let Some(known) = self.known.get_mut(&tgid) {
                    known.threads.executed(message.stamp);
                    known.name.clone_from(&name);
                    start = known.start;
                }
                batch.events.push(event(at, tgid, (start, name), KernelFact::Exec { filename }));
            }
            Fact::Name { tgid, name } => {
                if let Some(known) = self.known.get_mut(&tgid) {
                    let name = name.split(|&byte| byte == 0).next().unwrap_or_default();
                    known.name = Some(String::from_utf8_lossy(name).into_owned());
                }
            }
            Fact::Exit { tid, tgid, code } => {
                if let Some((who, status)) = self.exited((tid, tgid), code, message.stamp) {
                    let status = status.map(WaitStatus);
                    let witness = Witness { at: Some(at), status, oom: None, blame: Blame::Unknown };
                    batch.events.push(event(at, tgid, who, KernelFact::Exit(witness)));
                }
            }
            Fact::Answer { .. } | Fact::Core { .. } | Fact::Other => {}
        }
    }

    /// A thread has ended. If the process has with it: its start and name, and its status.
    fn exited(&mut self, (tid, tgid): (u32, u32), code: i32, stamp: u64) -> Option<(Who, Option<i32>)> {
        if let Some(known) = self.known.get_mut(&tgid) {
            let After::Ended(status) = known.threads.exited(tid, tgid, code, stamp) else { return None };
            return self.known.remove(&tgid).map(|known| ((known.start, known.name), status));
        }
        match look(tgid) {
            // Nobody looked before it went: its leading thread's message stands for it, and tells no status, because
            // other threads may have been there.
            None => (tid == tgid).then_some(((0, None), None)),
            // A leading thread that waits to be reaped, or has left others behind.
            Some(seen) if tid == tgid => {
                if seen.threads.all_left() {
                    return Some(((seen.start, seen.name), None));
                }
                self.insert(tgid, seen);
                None
            }
            Some(mut seen) => {
                // It may be in the list still.
                if let After::Ended(status) = seen.threads.exited(tid, tgid, code, stamp) {
                    return Some(((seen.start, seen.name), status));
                }
                if !seen.threads.all_left() {
                    self.insert(tgid, seen);
                }
                None
            }
        }
    }

    fn insert(&mut self, pid: u32, known: Known) {
        if self.known.len() < KNOWN || self.known.contains_key(&pid) {
            self.known.insert(pid, known);
        }
    }
}

fn look(pid: u32) -> Option<Known> {
    let stat = procfs::stat(pid)?;
    let threads = Threads::of(pid, &stat);
    Some(Known { start: stat.start, name: Some(stat.name), threads })
}

fn event(at: Tick, pid: u32, (start, name): Who, fact: KernelFact) -> KernelEvent {
    KernelEvent { at, pid, start, slot: None, main: false, name, fact }
}
