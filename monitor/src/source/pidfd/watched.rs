//! Processes that are watched by their pidfds.

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;

use defib_core::model::{Blame, KernelEvent, KernelFact, Witness};
use rustix::event::{Timespec, epoll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tokio::io::unix::AsyncFd;

use super::super::any::{Batch, Life};
use super::super::{clocks, procfs, watch};
use super::info;

/// Ends that one turn reads at most.
const TURN: usize = 64;

/// The processes, by pid.
#[derive(Debug)]
pub(super) struct Watched {
    /// One epoll for all pidfds, which the runtime polls: it can grow while it is waited for.
    epoll: AsyncFd<OwnedFd>,
    processes: HashMap<u32, Process>,
    /// Whether the status can be read once a process has been reaped.
    exact: bool,
}

#[derive(Debug)]
struct Process {
    life: Life,
    start: u64,
    pidfd: OwnedFd,
    end: Option<Witness>,
}

impl Watched {
    pub(super) fn new(exact: bool) -> io::Result<Self> {
        let epoll = watch::readable(epoll::create(epoll::CreateFlags::CLOEXEC)?)?;
        Ok(Self { epoll, processes: HashMap::new(), exact })
    }

    /// Watches a process, and returns its start time as `/proc` tells it. `None` if there is no such process any more.
    pub(super) fn track(&mut self, life: &Life) -> Option<u64> {
        let pid = Pid::from_raw(life.pid.cast_signed())?;
        let pidfd = pidfd_open(pid, PidfdFlags::empty()).ok()?;
        // Read while the pidfd holds the number: it is this process's.
        let start = procfs::stat(life.pid)?.start;
        // A pidfd is readable when its process has ended, and hung up when it has been reaped: only then is there a
        // status. A hang-up is reported without being asked for.
        let wanted = if self.exact { epoll::EventFlags::empty() } else { epoll::EventFlags::IN };
        let data = epoll::EventData::new_u64(life.pid.into());
        epoll::add(self.epoll.get_ref(), &pidfd, data, wanted | epoll::EventFlags::ONESHOT).ok()?;
        // A slot holds one life: whoever was in it has been taken, or nobody will.
        self.processes.retain(|_, process| process.life.slot != life.slot);
        self.processes.insert(life.pid, Process { life: *life, start, pidfd, end: None });
        Some(start)
    }

    pub(super) async fn wait(&mut self, batch: &mut Batch) {
        match self.epoll.readable().await {
            Ok(mut ready) => ready.clear_ready(),
            Err(error) => {
                // The runtime is shutting down.
                tracing::debug!(%error, "the pidfds are not polled any more");
                std::future::pending().await
            }
        }
        self.drain(batch);
    }

    pub(super) fn drain(&mut self, batch: &mut Batch) {
        let mut ready = Vec::with_capacity(TURN);
        loop {
            let now = Timespec { tv_sec: 0, tv_nsec: 0 };
            if epoll::wait(self.epoll.get_ref(), rustix::buffer::spare_capacity(&mut ready), Some(&now))
                .is_err()
            {
                return;
            }
            let full = ready.len() == TURN;
            for event in ready.drain(..) {
                self.ended(event.data.u64(), batch);
            }
            if !full {
                return;
            }
        }
    }

    /// What a pidfd has told of the end, once.
    pub(super) fn take_end(&mut self, life: &Life) -> Option<Witness> {
        let process = self.processes.get(&life.pid).filter(|process| process.life == *life)?;
        // Reaped by the keeper, so the status is there even if the epoll was not asked since.
        let status = info::status(&process.pidfd);
        let end = self.processes.remove(&life.pid)?.end;
        Some(end.unwrap_or(Witness { status, ..Witness::default() }))
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.processes.len()
    }

    fn ended(&mut self, pid: u64, batch: &mut Batch) {
        let process = u32::try_from(pid).ok().and_then(|pid| self.processes.get_mut(&pid));
        let Some(process) = process.filter(|process| process.end.is_none()) else { return };
        // When it ended a pidfd does not say; the event is of when it was heard.
        let witness =
            Witness { at: None, status: info::status(&process.pidfd), oom: None, blame: Blame::Unknown };
        process.end = Some(witness.clone());
        batch.events.push(KernelEvent {
            at: clocks::boottime(),
            pid: process.life.pid,
            start: process.start,
            slot: Some(process.life.slot),
            main: true,
            name: None,
            fact: KernelFact::Exit(witness),
        });
    }
}
