//! Reload: the configuration is read again on a thread of its own, compared with the one in force, and handed to the
//! core, which touches only what has changed. A bad one changes nothing.

use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};

use defib_core::Input;
use defib_core::model::ServiceName;
use tokio::sync::{mpsc, oneshot};

use super::accepted;
use super::boot;
use super::door::Wish;
use super::journal::Event;
use super::lifecycle;
use super::link::LinkError;
use super::run::Daemon;
use crate::config::{self, ConfigErrors, Finding, Loaded, Overrides, Place, diff::Diff};
use crate::effect::clock;
use crate::effect::planner::Job;
use crate::keeper::protocol::Order;

/// How many reloads may wait for the one that is being read. One more is refused.
const QUEUE: usize = 16;

/// What came of a reload.
#[derive(Debug)]
pub struct Reloaded {
    /// Whether it is in force now; otherwise it was only a question.
    pub applied: bool,
    /// What it changes.
    pub changes: Diff,
    /// What is allowed but unwise.
    pub warnings: Vec<String>,
}

/// Why nothing was reloaded.
#[derive(Debug, thiserror::Error)]
pub enum ReloadRefused {
    /// What is wrong with the configuration, a line each.
    #[error("{0}")]
    Config(ConfigErrors),
    /// Others wait.
    #[error("{QUEUE} reloads are waiting already; try again in a moment")]
    Busy,
    /// Everything is being ended.
    #[error("defib is shutting down")]
    Leaving,
    /// The system does not allow it.
    #[error("the configuration cannot be kept: {0}")]
    System(io::Error),
}

type Answer = oneshot::Sender<Result<Reloaded, ReloadRefused>>;

/// A wish to reload. A signal waits for no answer.
#[derive(Debug)]
pub(super) struct ReloadAsk {
    pub(super) dry_run: bool,
    pub(super) reply: Option<Answer>,
}

impl ReloadAsk {
    fn answer(self, answer: Result<Reloaded, ReloadRefused>) {
        if let Some(reply) = self.reply {
            // The client may have gone away.
            reply.send(answer).ok();
        }
    }
}

/// A configuration that was read for a wish.
#[derive(Debug)]
pub(super) struct ReadAgain {
    ask: ReloadAsk,
    result: Result<Box<(Loaded, Wish)>, ConfigErrors>,
}

/// The way to the thread that reads: files may be on a disk that hangs.
#[derive(Debug)]
pub(super) struct Reloads {
    asks: SyncSender<ReloadAsk>,
    read: mpsc::Receiver<ReadAgain>,
}

impl Reloads {
    /// Starts the thread, which reads the file at `path`. It ends when this is dropped.
    pub(super) fn start(path: PathBuf, overrides: Overrides) -> io::Result<Self> {
        let (asks, waiting) = sync_channel(QUEUE);
        let (results, read) = mpsc::channel(1);
        std::thread::Builder::new()
            .name("defib-reload".into())
            .spawn(move || read_again(&path, &overrides, &waiting, &results))?;
        Ok(Self { asks, read })
    }

    /// Asks for a reload. Never waits.
    pub(super) fn ask(&self, ask: ReloadAsk) {
        if let Err(TrySendError::Full(ask) | TrySendError::Disconnected(ask)) = self.asks.try_send(ask) {
            tracing::warn!("not reloaded: {QUEUE} reloads are waiting already");
            ask.answer(Err(ReloadRefused::Busy));
        }
    }

    /// The next configuration that was read.
    pub(super) async fn read(&mut self) -> Option<ReadAgain> {
        self.read.recv().await
    }
}

fn read_again(
    path: &std::path::Path,
    overrides: &Overrides,
    asks: &Receiver<ReloadAsk>,
    results: &mpsc::Sender<ReadAgain>,
) {
    while let Ok(ask) = asks.recv() {
        let result = config::load(path, overrides).map(|mut loaded| {
            boot::apply(&mut loaded.settings);
            let wish = Wish::read(&loaded.settings.listen);
            if let Err(error) = &wish.web {
                let (place, key) = (Place::Override, "listen.web_config".to_owned());
                loaded.warnings.push(Finding { place, key, message: error.to_string() });
            }
            Box::new((loaded, wish))
        });
        if results.blocking_send(ReadAgain { ask, result }).is_err() {
            return;
        }
    }
}

impl Daemon {
    /// A configuration was read again.
    pub(super) fn take_reload(&mut self, ReadAgain { ask, result }: ReadAgain) -> Result<(), LinkError> {
        let (loaded, wish) = match result {
            Ok(read) => *read,
            Err(errors) => {
                if !ask.dry_run {
                    self.tell_of_refusal(&errors.to_string());
                }
                ask.answer(Err(ReloadRefused::Config(errors)));
                return Ok(());
            }
        };
        let changes = config::diff::diff(&self.settings, &loaded.settings);
        let warnings: Vec<String> = loaded.warnings.iter().map(ToString::to_string).collect();
        if ask.dry_run {
            ask.answer(Ok(Reloaded { applied: false, changes, warnings }));
            return Ok(());
        }
        if self.leaving_since.is_some() {
            ask.answer(Err(ReloadRefused::Leaving));
            return Ok(());
        }
        let kept = match accepted::seal(&loaded, &self.settings.daemon) {
            Ok(kept) => kept,
            Err(error) => {
                self.tell_of_refusal(&error.to_string());
                ask.answer(Err(ReloadRefused::System(error)));
                return Ok(());
            }
        };
        for warning in &warnings {
            tracing::warn!("{warning}");
        }
        self.apply(loaded, wish, kept)?;
        let detail = changes.to_string();
        for line in detail.lines() {
            tracing::info!("reload: {line}");
        }
        self.journal.tell(clock::now(), Event::Config { ok: true, detail });
        ask.answer(Ok(Reloaded { applied: true, changes, warnings }));
        Ok(())
    }

    /// A new configuration comes into force: the core and the keeper learn of it in one turn.
    fn apply(&mut self, loaded: Loaded, wish: Wish, kept: OwnedFd) -> Result<(), LinkError> {
        let settings = accepted::in_force(loaded.settings, &self.settings.daemon);
        self.link.order(Order::Reloading, Vec::new())?;
        for spec in &settings.services {
            if self.slots.spec(&spec.name).is_none_or(|old| old.log != spec.log) {
                self.capture.configure(spec);
            }
        }
        self.slots.reload(&settings.services);
        let rest = self.orders([Input::Reload(settings.services.clone())])?;
        // The last of the turn: should it need more than one packet, and the daemon die between them, the next one goes
        // on with the old configuration and with what the core remembers of services whose plans are outdated.
        self.link.order(Order::Hold { name: accepted::HELD.to_owned() }, vec![kept])?;
        self.door.change(wish, &mut self.link)?;
        self.metrics.limit(settings.listen.max_series);
        self.link.order(lifecycle::watch_order(&settings), Vec::new())?;
        self.link.order(Order::Ready, Vec::new())?;
        self.link.send_turn()?;
        self.own_log.change(&settings.daemon.log);
        if **self.watched.borrow() != settings.ports.watch {
            self.watched.send_replace(std::sync::Arc::new(settings.ports.watch.clone()));
        }
        self.settings = settings;
        self.metrics.loads.told(true, clock::now());
        self.tell_all(rest);
        self.publish_tenants();
        self.look_at_ports();
        Ok(())
    }

    /// A service that was removed is gone.
    pub(super) fn forget(&mut self, service: &ServiceName) {
        if let Some(slot) = self.slots.forget(service) {
            self.capture.forget(slot, service);
        }
        self.pid_files.forget(service);
        self.memory.forget(service);
        self.metrics.tally.remove(service, clock::now());
        self.planner.ask(Job::Forget(service.clone()));
        self.views.send_modify(|views| {
            std::sync::Arc::make_mut(views).remove(service);
        });
        self.publish_tenants();
    }

    fn publish_tenants(&self) {
        self.tenants.send_replace(std::sync::Arc::new(self.slots.names().clone()));
    }

    fn tell_of_refusal(&mut self, why: &str) {
        for line in why.lines() {
            tracing::error!("{line}");
        }
        self.metrics.loads.told(false, clock::now());
        tracing::error!("not reloaded: the configuration that was in force stays so");
        self.journal.tell(clock::now(), Event::Config { ok: false, detail: why.to_owned() });
    }
}
