//! Every process of the host, for as long as somebody listens.
//!
//! The feed has a thread of its own, which sleeps while nobody listens: not even the kernel's side of it runs then. What
//! it reads goes to the listeners in batches. A listener who is too slow misses batches, and learns how many events
//! were in them; the thread never waits for anybody.

use std::sync::Arc;
use std::thread;
use std::{future, io};

use defib_core::model::KernelEvent;
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::{Notify, broadcast};

use crate::source::{Batch, Feed};

/// How many batches a listener may lag behind before it misses some. A batch holds some hundred events.
const LAG: usize = 256;

/// What the feed brought at once.
#[derive(Clone, Debug)]
pub struct News {
    /// How many events came, or were lost, before these since the feed was made.
    before: u64,
    /// The events in their order.
    pub events: Arc<[KernelEvent]>,
    /// How many were lost by the source just before these.
    pub lost: u64,
    /// Why there is nothing to hear; the feed ends with it.
    pub failure: Option<Arc<str>>,
}

/// The way to the feed's thread. Cheap to clone.
#[derive(Clone, Debug)]
pub struct FeedHandle {
    news: broadcast::Sender<News>,
    /// Somebody has come or gone.
    change: Arc<Notify>,
}

/// A listener. The feed rests when the last one is dropped.
#[derive(Debug)]
pub struct Listener {
    news: broadcast::Receiver<News>,
    /// The number of the next event, once one has been seen.
    next: Option<u64>,
    /// Dropped after `news`, as the fields are in this order: the feed's thread must find one listener less.
    _farewell: Farewell,
}

/// Wakes the feed's thread when it is dropped.
#[derive(Debug)]
struct Farewell(Arc<Notify>);

impl Drop for Farewell {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

impl FeedHandle {
    /// Starts the thread of a feed. It ends with the process.
    pub(super) fn start(feed: Feed) -> io::Result<Self> {
        let handle = Self { news: broadcast::channel(LAG).0, change: Arc::default() };
        let worker = handle.clone();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        thread::Builder::new().name("defib-feed".into()).spawn(move || runtime.block_on(worker.run(feed)))?;
        Ok(handle)
    }

    /// Begins to listen.
    pub fn listen(&self) -> Listener {
        let news = self.news.subscribe();
        self.change.notify_one();
        Listener { news, next: None, _farewell: Farewell(Arc::clone(&self.change)) }
    }

    async fn run(self, mut feed: Feed) {
        let mut count = 0;
        loop {
            while self.news.receiver_count() == 0 {
                self.change.notified().await;
            }
            if let Err(error) = feed.start() {
                self.tell(&mut count, Batch::default(), Some(error.chain().into()));
                // Whoever was told goes away.
                self.change.notified().await;
                continue;
            }
            tracing::info!("the events of all processes are wanted");
            while self.news.receiver_count() > 0 {
                let mut batch = Batch::default();
                tokio::select! {
                    () = feed.read(&mut batch) => self.tell(&mut count, batch, None),
                    () = self.change.notified() => {}
                }
            }
            feed.stop();
            tracing::info!("the events of all processes are not wanted any more");
        }
    }

    fn tell(&self, count: &mut u64, batch: Batch, failure: Option<Arc<str>>) {
        let Batch { events, lost } = batch;
        if events.is_empty() && lost == 0 && failure.is_none() {
            return;
        }
        let (before, number) = (*count, events.len() as u64);
        *count += lost + number;
        // Nobody may be left to hear it.
        self.news.send(News { before, events: events.into(), lost, failure }).ok();
    }
}

impl Listener {
    /// The next events; `lost` includes those that this listener was too slow for.
    pub async fn next(&mut self) -> News {
        loop {
            match self.news.recv().await {
                Ok(mut news) => {
                    let missed = self.next.map_or(0, |next| news.before.saturating_sub(next));
                    self.next = Some(news.before + news.lost + news.events.len() as u64);
                    news.lost += missed;
                    return news;
                }
                Err(RecvError::Lagged(_)) => {}
                // The feed's thread lives as long as the process.
                Err(RecvError::Closed) => future::pending().await,
            }
        }
    }
}
