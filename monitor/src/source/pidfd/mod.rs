//! The source that hears nothing of the keeper's children by itself.
//!
//! The keeper holds a pidfd of each of its children and reports how they ended, which is enough to restart them. Forks,
//! execs and who sent a signal stay unseen; whether it was the out-of-memory killer is in the kernel's log.
//!
//! Processes that are to be followed from elsewhere ([`watched`]) have their pidfds here, too: a process need not be a
//! child of ours for its pidfd to become readable, and since Linux 6.15 it tells the status of anybody ([`info`]). A
//! process that an earlier daemon had made is watched as well as reported by the keeper; the core is told of its end
//! once, by the keeper's report.

mod info;
#[cfg(test)]
mod tests;
mod watched;

use defib_core::model::{WaitStatus, Witness};

use super::any::{Batch, Life};
use super::kmsg::Kmsg;
pub use info::tells_ends;
use watched::Watched;

/// Always there, on every kernel and without rights.
#[derive(Debug)]
pub struct PidfdSource {
    /// Nothing where the kernel has no epoll to give, which it says at the beginning.
    watched: Option<Watched>,
    kmsg: Kmsg,
}

impl PidfdSource {
    /// The source, and what it cannot tell here. To be called on the runtime that will wait for it.
    pub(super) fn open() -> (Self, Vec<String>) {
        let (kmsg, limit) = Kmsg::open();
        let exact = tells_ends();
        let mut why = vec![
            match exact {
                true => "ends of processes that are not ours: exact",
                false => "ends of processes that are not ours: without status, which needs Linux 6.15",
            }
            .to_owned(),
        ];
        let watched = Watched::new(exact).inspect_err(|error| {
            why.push(format!("processes of an earlier daemon are not watched: {error}"))
        });
        why.extend(limit);
        (Self { watched: watched.ok(), kmsg }, why)
    }

    /// Waits until a watched process has ended.
    pub(super) async fn wait(&mut self, batch: &mut Batch) {
        match &mut self.watched {
            Some(watched) => watched.wait(batch).await,
            None => std::future::pending().await,
        }
    }

    pub(super) fn drain(&mut self, batch: &mut Batch) {
        if let Some(watched) = &mut self.watched {
            watched.drain(batch);
        }
    }

    pub(super) fn settle(&mut self, _batch: &mut Batch) {}

    pub(super) fn take_end(&mut self, life: &Life, status: WaitStatus) -> Option<Witness> {
        let seen = self.watched.as_mut().and_then(|watched| watched.take_end(life));
        Some(Witness { oom: self.kmsg.judge(life, status), ..seen.unwrap_or_default() })
    }

    pub(super) fn track(&mut self, life: &Life) -> Option<u64> {
        self.watched.as_mut()?.track(life)
    }
}
