//! A script of events, for tests: one JSON [`KernelEvent`] a line, from a file or a FIFO.

use std::collections::BTreeMap;
use std::fs::File;
use std::future;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use defib_core::model::{KernelEvent, KernelFact, Witness};
use tokio::sync::mpsc::{self, Receiver, Sender};

use super::any::Batch;
use super::stats::SourceStats;

/// Events that the reader may be ahead. When it is full the reader waits, and with it whoever writes the FIFO.
const AHEAD: usize = 64;

/// Events read from a script by a thread of their own, because opening and reading a FIFO blocks. The thread ends with
/// the script, or at the first event that nobody waits for any more.
#[derive(Debug)]
pub struct ScriptedSource {
    events: Receiver<KernelEvent>,
    /// Lines that are no event; written by the reader, read here.
    malformed: Arc<AtomicU64>,
    /// How many of those have been told in a [`Batch`].
    told: u64,
    ends: BTreeMap<(u32, u64), Witness>,
}

impl ScriptedSource {
    /// Starts to read the script at `path`.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let path = path.to_owned();
        let (sender, events) = mpsc::channel(AHEAD);
        let malformed = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&malformed);
        thread::Builder::new().name("script".into()).spawn(move || read(path, &sender, &counter))?;
        Ok(Self { events, malformed, told: 0, ends: BTreeMap::new() })
    }

    /// The next event, and those behind it that are there already. Pending for ever when the script has ended.
    pub(super) async fn wait(&mut self, batch: &mut Batch) {
        match self.events.recv().await {
            Some(event) => self.add(event, batch),
            None => future::pending().await,
        }
        self.drain(batch);
    }

    pub(super) fn drain(&mut self, batch: &mut Batch) {
        for _ in 0..AHEAD {
            let Ok(event) = self.events.try_recv() else { break };
            self.add(event, batch);
        }
        let malformed = self.malformed.load(Ordering::Relaxed);
        batch.lost += malformed - self.told;
        self.told = malformed;
    }

    pub(super) fn take_end(&mut self, pid: u32, start: u64) -> Option<Witness> {
        self.ends.remove(&(pid, start))
    }

    pub(super) fn stats(&self) -> SourceStats {
        SourceStats { malformed: self.malformed.load(Ordering::Relaxed), ..SourceStats::default() }
    }

    fn add(&mut self, event: KernelEvent, batch: &mut Batch) {
        if let KernelFact::Exit(witness) = &event.fact
            && event.main
        {
            self.ends.insert((event.pid, event.start), witness.clone());
        }
        batch.events.push(event);
    }
}

fn read(path: PathBuf, events: &Sender<KernelEvent>, malformed: &AtomicU64) {
    let file = match File::open(&path) {
        Ok(file) => file,
        Err(error) => {
            tracing::error!(path = %path.display(), %error, "cannot open the script of events");
            return;
        }
    };
    for line in BufReader::new(file).lines() {
        let line = match line {
            Ok(line) => line,
            Err(error) => {
                tracing::error!(path = %path.display(), %error, "cannot read the script of events");
                return;
            }
        };
        match serde_json::from_str(&line) {
            Ok(event) => {
                if events.blocking_send(event).is_err() {
                    return;
                }
            }
            Err(error) => {
                malformed.fetch_add(1, Ordering::Relaxed);
                tracing::warn!(path = %path.display(), %error, "a line of the script is no event");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use defib_core::model::{Tick, WaitStatus};

    use super::*;

    #[tokio::test(flavor = "current_thread")]
    async fn events_come_in_order_and_a_bad_line_is_a_loss() {
        let witness = Witness { at: Some(Tick(7)), status: Some(WaitStatus(0x700)), ..Witness::default() };
        let event = |pid, fact| KernelEvent {
            at: Tick(1),
            pid,
            start: 5,
            slot: Some(0),
            main: true,
            name: None,
            fact,
        };
        let exec = event(10, KernelFact::Exec { filename: "/bin/true".into() });
        let exit = event(10, KernelFact::Exit(witness.clone()));
        let line = |event| serde_json::to_string(event).expect("an event is JSON");
        let script = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(script.path(), format!("{}\nnonsense\n{}\n", line(&exec), line(&exit)))
            .expect("written");

        let mut source = ScriptedSource::open(script.path()).expect("a thread");
        let mut batch = Batch::default();
        while batch.events.len() < 2 {
            source.wait(&mut batch).await;
        }
        assert_eq!(batch.events, [exec, exit]);
        assert_eq!(batch.lost, 1);
        assert_eq!(source.take_end(10, 6), None, "another life");
        assert_eq!(source.take_end(10, 5), Some(witness));
        assert_eq!(source.take_end(10, 5), None, "it was taken");
    }
}
