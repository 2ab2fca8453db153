//! What the surfaces see of the daemon, and what it has of them.

use std::sync::Arc;

use defib_core::model::SourceName;
use tokio::sync::{mpsc, watch};

use super::DaemonError;
use crate::config::Settings;
use crate::connections::Connections;
use crate::daemon::boot::BootFile;
use crate::daemon::capture::Captured;
use crate::daemon::connections;
use crate::daemon::feed::FeedHandle;
use crate::daemon::handle::{self, Ask, Handle, Tenants, Views, Watched};
use crate::daemon::journal::Journal;
use crate::daemon::remember::{self, Memory};
use crate::daemon::slots::Slots;
use crate::effect::holders::Household;
use crate::effect::output::Logs;
use crate::effect::usage::Tasks;
use crate::metrics::Metrics;
use crate::source::Selection;

/// The supervisor thread's ends of what the surfaces hold.
pub(super) struct Desk {
    pub(super) asks: mpsc::Receiver<Ask>,
    pub(super) views: watch::Sender<Views>,
    pub(super) tenants: watch::Sender<Tenants>,
    pub(super) watched: watch::Sender<Watched>,
    pub(super) connections: Arc<Connections>,
}

/// Makes both ends. Takes from the source what the surfaces have of it: the feed, who counts connections, and who
/// looks at tasks.
pub(super) fn open(
    selection: &mut Selection,
    settings: &Settings,
    household: Household,
    slots: &Slots,
    events: &Arc<Journal>,
    logs: &Logs,
) -> Result<(Handle, Desk), DaemonError> {
    let (asked, asks) = mpsc::channel(handle::QUEUE);
    let (views, shown) = watch::channel(Views::default());
    let (tenants, shown_tenants) = watch::channel(Arc::new(slots.names().clone()));
    let (watched, shown_watched) = watch::channel(Arc::new(settings.ports.watch.clone()));
    let feed = selection.feed.take().map(FeedHandle::start).transpose();
    let feed = feed.map_err(DaemonError::system("start the feed of all processes"))?;
    let counter = connections::counter(selection.ports.take());
    let connections = Arc::new(Connections::new(counter, household.clone()));
    let boot = BootFile::of(&settings.daemon.state_dir);
    let (events, logs, source) = (Arc::clone(events), logs.clone(), selection.name);
    let mut handle = Handle::new(asked, shown, events, source, feed, shown_tenants, household, boot, logs);
    handle.tasks = selection.tasks.take().map(|tasks| Arc::new(tasks) as Arc<dyn Tasks>);
    (handle.connections, handle.watched) = (Arc::clone(&connections), shown_watched);
    Ok((handle, Desk { asks, views, tenants, watched, connections }))
}

/// Has the metrics count what others know.
pub(super) fn count(metrics: &Metrics, source: SourceName, logs: &Logs, memory: &Memory) {
    metrics.source(source);
    // Nobody else has set these.
    metrics.output.set(Arc::new(Captured(logs.clone()))).ok();
    metrics.state.set(Arc::new(remember::Keeping(memory.health()))).ok();
}
