//! The daemon's own log: to standard error, the journal or a file, as text or as JSON.
//!
//! Whoever logs puts a [`Line`] into a bounded queue and goes on; a thread of its own gives it its form and writes it, so
//! that a full disk or a reader that sleeps never holds up the supervisor thread.
//!
//! - `line`: what was said, taken out of an event of `tracing`;
//! - `form`: text, JSON, or fields for the journal, with nothing in it that could break a line or steer a terminal;
//! - `queue`: what waits to be written;
//! - `sink`: where it goes.

mod form;
mod line;
mod queue;
mod sink;

use std::io;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use tracing::{Event, Subscriber};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};
use tracing_subscriber::{Registry, registry, reload};

use self::line::Line;
use self::queue::{Job, Queue};
use self::sink::Sink;
pub(super) use self::sink::SinkError;
use crate::config::OwnLog;
use crate::metrics::LogLayer;

/// How long the last lines may take when the daemon leaves, or panics.
const FAREWELL: Duration = Duration::from_secs(1);

/// Why there is no log.
#[derive(Debug, thiserror::Error)]
pub(super) enum StartError {
    /// There is one already.
    #[error("the log has been started before: {0}")]
    Twice(#[from] TryInitError),
    /// It has nobody to write it.
    #[error("start the thread that writes the log: {0}")]
    Thread(#[from] io::Error),
}

/// The running log.
#[derive(Clone, Debug)]
pub(super) struct Log {
    queue: Arc<Queue>,
    filter: reload::Handle<Targets, Registry>,
}

/// Starts the log of this process.
///
/// # Errors
/// If it was started before, or no thread can be had.
pub(super) fn start(settings: &OwnLog, count: LogLayer) -> Result<Log, StartError> {
    let queue = Arc::new(Queue::default());
    let (filter, handle) = reload::Layer::new(targets(settings));
    // The filter is everybody's: a layer that counts lines, put beside the writer, counts those that are told.
    registry().with(filter).with(Writer(Arc::clone(&queue))).with(count).try_init()?;
    let mut sink = Sink::stderr(settings);
    let jobs = Arc::clone(&queue);
    thread::Builder::new().name("defib-log".into()).spawn(move || {
        loop {
            sink.carry_out(jobs.take());
        }
    })?;
    let log = Log { queue, filter: handle };
    tell_panics(log.clone());
    Ok(log)
}

impl Log {
    /// Goes over to these settings, now that they are known. Opens files: not for the supervisor thread's loop.
    ///
    /// # Errors
    /// If the file cannot be opened; nothing has changed then.
    pub(super) fn settle(&self, settings: &OwnLog) -> Result<(), SinkError> {
        let sink = Sink::open(settings)?;
        self.set_level(settings);
        self.queue.push(Job::Become(Box::new(sink)));
        Ok(())
    }

    /// Goes over to these settings without waiting. If the file cannot be opened, the log says so and stays where it is.
    pub(super) fn change(&self, settings: &OwnLog) {
        self.set_level(settings);
        self.queue.push(Job::Change(settings.clone()));
    }

    /// Opens the file anew, by its name: whoever rotates logs has moved the old one away.
    pub(super) fn reopen(&self) {
        self.queue.push(Job::Reopen);
    }

    /// Waits a moment for the last lines to be written.
    pub(super) fn finish(&self) {
        self.queue.wait_until_idle(FAREWELL);
    }

    fn set_level(&self, settings: &OwnLog) {
        if let Err(error) = self.filter.reload(targets(settings)) {
            tracing::error!(%error, "the level of the log stays as it was");
        }
    }
}

/// The configuration has checked the level more strictly than this does.
///
/// h2 warns of what a client does wrong, a line for each frame: strangers could fill a disk with that. Whoever wants to read it
/// names it, as in `info,h2=warn`.
fn targets(settings: &OwnLog) -> Targets {
    let wanted = settings.level.parse();
    let wanted = wanted.unwrap_or_else(|_| Targets::new().with_default(tracing::Level::INFO));
    let named = wanted.iter().any(|(target, _)| target.starts_with("h2"));
    if named { wanted } else { wanted.with_target("h2", LevelFilter::ERROR) }
}

/// Puts what is said into the queue.
struct Writer(Arc<Queue>);

impl<S: Subscriber> Layer<S> for Writer {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        self.0.push(Job::Write(Line::of(event)));
    }
}

/// A panic is told like everything else, in one line and where it will be found, before it ends the daemon.
fn tell_panics(log: Log) {
    std::panic::set_hook(Box::new(move |panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let what = panic.payload_as_str().unwrap_or("something that is no text");
        tracing::error!(place, "panic: {what}");
        log.finish();
    }));
}
