//! One reader's way through what happens to processes that are no main process of a service.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use defib_core::model::{KernelEvent, KernelFact, ServiceName, Witness};

use super::show;
use super::types::{Event, What};
use crate::daemon::feed::Listener;
use crate::daemon::handle::Handle;
use crate::effect::clock;

/// Events of descendants and strangers, as they come. Nothing of it is kept, so they have no numbers.
#[derive(Debug)]
pub(super) struct Crowd {
    listener: Listener,
    handle: Handle,
    /// What has come and was not passed on.
    waiting: VecDeque<Event>,
}

impl Crowd {
    /// Begins to listen; `None` if the source hears of no other processes.
    pub(super) fn listen(handle: &Handle) -> Option<Self> {
        let listener = handle.feed.as_ref()?.listen();
        Some(Self { listener, handle: handle.clone(), waiting: VecDeque::new() })
    }

    /// The next event, waited for. Cancelling it loses nothing.
    pub(super) async fn next(&mut self) -> Event {
        loop {
            if let Some(event) = self.waiting.pop_front() {
                return event;
            }
            let news = self.listener.next().await;
            if news.lost > 0 {
                let what = What::Lost { source: Some(self.handle.source), count: Some(news.lost) };
                self.waiting.push_back(nobodys(what));
            }
            if let Some(why) = &news.failure {
                tracing::warn!(%why, "the events of all processes cannot be had");
                self.waiting.push_back(nobodys(What::Lost { source: Some(self.handle.source), count: None }));
            }
            // Main processes are told of in the journal; not every source knows them from others.
            let mains: BTreeSet<u32> = self.handle.views().values().filter_map(|view| view.pid).collect();
            let others = news.events.iter().filter(|event| !mains.contains(&event.pid) && !is_kept(event));
            let tenants = self.handle.tenants.borrow().clone();
            self.waiting.extend(others.map(|event| shown(event, &tenants)));
        }
    }
}

/// Whether the journal has it too: a descendant that was killed for memory is news to whoever follows its service.
fn is_kept(event: &KernelEvent) -> bool {
    event.slot.is_some() && matches!(event.fact, KernelFact::Exit(Witness { oom: Some(true), .. }))
}

fn shown(event: &KernelEvent, tenants: &BTreeMap<u32, ServiceName>) -> Event {
    let service = event.slot.and_then(|slot| tenants.get(&slot)).cloned();
    let (at, pid, name) = (show::time(event.at), Some(event.pid), event.name.clone());
    Event { seq: None, at, service, pid, name, what: show::seen(event) }
}

/// An event that is about no process.
fn nobodys(what: What) -> Event {
    Event { seq: None, at: show::time(clock::now()), service: None, pid: None, name: None, what }
}
