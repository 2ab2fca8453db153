//! One reader's way through the events: past ones, then new ones, each once, and every gap told.

use std::collections::VecDeque;
use std::sync::Arc;

use defib_core::model::ServiceName;
use tokio::sync::broadcast::error::{RecvError, TryRecvError};
use tokio::sync::{broadcast, watch};
use tokio::task::yield_now;

use super::server::stopped;
use super::show;
use super::types::{Event, What};
use crate::daemon::journal::{Entry, Journal};

/// The events after a number, in order.
///
/// The numbers of the journal have no holes, so a hole between two events means that something is missing: the
/// reader was too slow, or the supervisor thread found the journal's queue full. It is told as `lost`, under the
/// number of the last event that is missing, so a reader that resumes after it misses nothing more. What an earlier daemon
/// has told stands apart, with holes of which nobody but who resumes is told.
#[derive(Debug)]
pub(super) struct Follower {
    journal: Arc<Journal>,
    /// The number of the last event that was passed on or passed over.
    last: Option<u64>,
    /// Whether `last` has been seen by this follower and is not just the client's word: only then is the width of
    /// a hole known, as the numbers may jump from one daemon to the next.
    seen: bool,
    past: VecDeque<Arc<Entry>>,
    news: broadcast::Receiver<Arc<Entry>>,
    only: Option<ServiceName>,
}

impl Follower {
    /// Begins after number `after`, or with the oldest event that is kept; `only` the events of one service.
    pub(super) fn new(journal: Arc<Journal>, after: Option<u64>, only: Option<ServiceName>) -> Self {
        let (past, news) = journal.follow(after.unwrap_or(0));
        Self { journal, last: after, seen: false, past: past.into(), news, only }
    }

    /// The next event that is there already.
    pub(super) fn past(&mut self) -> Option<Event> {
        while let Some(entry) = self.past.pop_front() {
            let before = entry.seq.saturating_sub(1);
            let missed =
                self.last.replace(before).filter(|last| *last < before && !(self.seen && entry.apart));
            if let Some(last) = missed {
                let count = self.seen.then_some(before - last);
                let lost = What::Lost { source: None, count };
                let at = show::time(entry.at);
                let event = Event { seq: Some(before), at, service: None, pid: None, name: None, what: lost };
                self.past.push_front(entry);
                return Some(event);
            }
            (self.last, self.seen) = (Some(entry.seq), true);
            let event = show::event(&entry);
            if self.only.is_none() || event.service.is_none() || event.service == self.only {
                return Some(event);
            }
        }
        None
    }

    /// The next event, waited for; `None` when the daemon stops.
    pub(super) async fn next(&mut self, stop: &mut watch::Receiver<bool>) -> Option<Event> {
        loop {
            if let Some(event) = self.past() {
                return Some(event);
            }
            let news = tokio::select! {
                biased;
                news = self.news.recv() => news,
                () = stopped(stop) => {
                    // What was told before the stop is on its way: the journal's task has been woken, and runs now.
                    yield_now().await;
                    match self.news.try_recv() {
                        Ok(entry) => Ok(entry),
                        Err(TryRecvError::Lagged(count)) => Err(RecvError::Lagged(count)),
                        Err(TryRecvError::Empty | TryRecvError::Closed) => return None,
                    }
                }
            };
            match news {
                Ok(entry) => self.past.push_back(entry),
                // Too slow for the queue, but the journal keeps more than the queue holds.
                Err(RecvError::Lagged(_)) => {
                    let (past, news) = self.journal.follow(self.last.unwrap_or(0));
                    (self.past, self.news) = (past.into(), news);
                }
                Err(RecvError::Closed) => return None,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use defib_core::model::{SourceName, Tick};
    use tokio::sync::mpsc;

    use super::*;
    use crate::daemon::journal::{Event as Happened, JournalWriter};

    const FIRST: u64 = 101;

    fn journal() -> (JournalWriter, Arc<Journal>, mpsc::Receiver<Entry>) {
        Journal::new(FIRST, Vec::new())
    }

    fn tell(writer: &mut JournalWriter, times: u64) {
        for _ in 0..times {
            writer.tell(Tick(1), Happened::Lost { source: SourceName::Ebpf, count: 1 });
        }
    }

    fn numbers(follower: &mut Follower) -> Vec<(u64, bool)> {
        std::iter::from_fn(|| follower.past())
            .map(|event| (event.seq.unwrap(), gap(&event).is_some()))
            .collect()
    }

    /// What is missing, if the event says that something is.
    fn gap(event: &Event) -> Option<Option<u64>> {
        match event.what {
            What::Lost { source: None, count } => Some(count),
            _ => None,
        }
    }

    #[tokio::test]
    async fn past_and_new_events_join_without_a_gap_or_a_double() {
        let (mut writer, journal, waiting) = journal();
        let running = tokio::spawn(Arc::clone(&journal).run(waiting));
        tell(&mut writer, 3);
        while journal.since(0).len() < 3 {
            yield_now().await;
        }
        let (_stop, mut stop) = watch::channel(false);
        let mut follower = Follower::new(Arc::clone(&journal), Some(FIRST), None);
        tell(&mut writer, 2);
        for wanted in FIRST + 1..FIRST + 5 {
            let event = follower.next(&mut stop).await.unwrap();
            assert_eq!((event.seq, gap(&event)), (Some(wanted), None));
        }
        drop(writer);
        running.await.unwrap();
    }

    #[tokio::test]
    async fn a_slow_follower_is_told_what_it_missed_and_goes_on() {
        let (mut writer, journal, mut waiting) = journal();
        let (_stop, mut stop) = watch::channel(false);
        let mut follower = Follower::new(Arc::clone(&journal), None, None);
        // 6000 events are more than the journal keeps; they arrive while nobody reads.
        tell(&mut writer, 1);
        let (relay, relayed) = mpsc::channel(8192);
        relay.send(waiting.recv().await.unwrap()).await.unwrap();
        let running = tokio::spawn(Arc::clone(&journal).run(relayed));
        assert_eq!(follower.next(&mut stop).await.unwrap().seq, Some(FIRST));
        tell(&mut writer, 6000);
        drop(writer);
        while let Some(entry) = waiting.recv().await {
            relay.send(entry).await.unwrap();
        }
        drop(relay);
        running.await.unwrap();

        let lost = follower.next(&mut stop).await.unwrap();
        let kept = journal.since(0);
        assert_eq!(lost.seq, Some(kept[0].seq - 1));
        assert_eq!(gap(&lost), Some(Some(6000 - kept.len() as u64)));
        for entry in kept {
            assert_eq!(follower.next(&mut stop).await.unwrap().seq, Some(entry.seq));
        }
    }

    #[tokio::test]
    async fn a_reader_that_comes_back_late_is_told_so() {
        let (mut writer, journal, waiting) = journal();
        tell(&mut writer, 2);
        drop(writer);
        Arc::clone(&journal).run(waiting).await;
        let mut late = Follower::new(Arc::clone(&journal), Some(7), None);
        let lost = late.past().unwrap();
        assert_eq!((lost.seq, gap(&lost)), (Some(FIRST - 1), Some(None)), "how many is not known");
        assert_eq!(numbers(&mut late), [(FIRST, false), (FIRST + 1, false)]);
        let mut new = Follower::new(journal, None, None);
        assert_eq!(
            numbers(&mut new),
            [(FIRST, false), (FIRST + 1, false)],
            "nothing is missing to a new reader"
        );
    }

    #[tokio::test]
    async fn what_is_told_before_a_stop_arrives_before_the_end() {
        for _ in 0..300 {
            let (mut writer, journal, waiting) = journal();
            let running = tokio::spawn(Arc::clone(&journal).run(waiting));
            let (stop, mut stopping) = watch::channel(false);
            let mut follower = Follower::new(journal, None, None);
            let supervisor = std::thread::spawn(move || {
                tell(&mut writer, 5);
                stop.send(true).unwrap();
                writer
            });
            let mut last = 0;
            while let Some(event) = follower.next(&mut stopping).await {
                last = event.seq.unwrap();
            }
            assert_eq!(last, FIRST + 4);
            drop(supervisor.join().unwrap());
            running.await.unwrap();
        }
    }

    #[tokio::test]
    async fn a_stop_ends_the_stream_after_what_is_there() {
        let (mut writer, journal, waiting) = journal();
        tell(&mut writer, 1);
        let (stop, mut stopping) = watch::channel(false);
        let mut follower = Follower::new(Arc::clone(&journal), None, None);
        drop(writer);
        journal.run(waiting).await;
        stop.send(true).unwrap();
        assert_eq!(follower.next(&mut stopping).await.unwrap().seq, Some(FIRST));
        assert_eq!(follower.next(&mut stopping).await, None);
    }
}
