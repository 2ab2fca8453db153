//! The loop of the supervisor thread: waits for one thing to happen, lets the core take it, carries out what the
//! core wants. Everything but the waiting is plain functions.

mod reports;
mod turns;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use defib_core::model::{RequestId, SourceName, Tick};
use defib_core::{Input, Reply, Supervisor};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use super::capture::Capture;
use super::door::Door;
use super::ends::Ends;
use super::handle::{Ask, Tenants, Views, Watched};
use super::journal::JournalWriter;
use super::link::{KeeperLink, LinkError};
use super::own_log::Log;
use super::ports::Ports;
use super::reload::{ReadAgain, ReloadAsk, Reloads};
use super::remember::Memory;
use super::restart::Restart;
use super::slots::Slots;
use super::sockets::HeldSockets;
use crate::config::Settings;
use crate::connections::Connections;
use crate::effect::cgroup::CgroupTree;
use crate::effect::clock;
use crate::effect::pid_files::PidFiles;
use crate::effect::planner::{Job, Planned, Planner};
use crate::effect::port_watch::Found;
use crate::keeper::protocol::{Order, Received, Report};
use crate::metrics::Metrics;
use crate::source::{Batch, Source};
pub(super) use turns::log;

/// Everything that the supervisor thread owns.
#[derive(Debug)]
pub(super) struct Daemon {
    pub(super) core: Supervisor,
    pub(super) slots: Slots,
    pub(super) link: KeeperLink,
    pub(super) source: Source,
    pub(super) source_name: SourceName,
    pub(super) planner: Planner,
    pub(super) planned: mpsc::Receiver<Planned>,
    pub(super) ports: Ports,
    pub(super) reloads: Reloads,
    /// The configuration in force.
    pub(super) settings: Settings,
    pub(super) tenants: watch::Sender<Tenants>,
    /// Who knows of the connections of ports, and the ports of the host that are watched.
    pub(super) connections: Arc<Connections>,
    pub(super) watched: watch::Sender<Watched>,
    pub(super) pid_files: PidFiles,
    /// Where services live, if there are cgroups.
    pub(super) cgroups: Option<CgroupTree>,
    pub(super) capture: Capture,
    pub(super) sockets: HeldSockets,
    pub(super) asks: mpsc::Receiver<Ask>,
    pub(super) views: watch::Sender<Views>,
    pub(super) journal: JournalWriter,
    /// The latest ends that were told.
    pub(super) ends: Ends,
    /// What outlives the keeper.
    pub(super) memory: Memory,
    pub(super) metrics: Arc<Metrics>,
    /// Where metrics are served over TCP.
    pub(super) door: Door,
    /// When the orders of the present turn had been sent.
    pub(super) acted: Tick,
    /// Clients that wait, by the number of their request. Bounded by the connections that the API allows.
    pub(super) replies: BTreeMap<RequestId, oneshot::Sender<Reply>>,
    pub(super) next_request: u64,
    pub(super) own_log: Log,
    /// When the first request to leave came.
    pub(super) leaving_since: Option<Tick>,
    /// Whether the core has said that everything has ended.
    pub(super) done: bool,
    /// Whether services are left running for the next start.
    pub(super) leaves_alive: bool,
    /// Whether another daemon is to take over.
    pub(super) restart: Restart,
}

/// What the loop can wake up for.
enum Wake {
    Reports(Result<Received<Report>, LinkError>),
    Source,
    Planned(Option<Planned>),
    Ports(Option<Found>),
    Reload(Option<ReadAgain>),
    Ask(Option<Ask>),
    Memory,
    Deadline,
}

impl Daemon {
    /// Runs until every service has ended after a request to leave, or another daemon is to take over.
    pub(super) async fn run(&mut self) -> Result<(), LinkError> {
        let mut batch = Batch::default();
        while !self.done && !self.leaves_for_another() {
            let deadline = self.core.next_deadline();
            // The keeper first: an end waits for nothing else.
            let wake = tokio::select! {
                biased;
                reports = self.link.receive() => Wake::Reports(reports),
                planned = self.planned.recv() => Wake::Planned(planned),
                () = sleep_until(deadline), if deadline.is_some() => Wake::Deadline,
                () = self.source.wait(&mut batch) => Wake::Source,
                found = self.ports.found() => Wake::Ports(found),
                read = self.reloads.read() => Wake::Reload(read),
                ask = self.asks.recv() => Wake::Ask(ask),
                () = self.memory.wanted() => Wake::Memory,
            };
            match wake {
                Wake::Reports(reports) => {
                    for (report, _) in reports? {
                        self.hear(report)?;
                    }
                }
                Wake::Source => {
                    let batch = std::mem::take(&mut batch);
                    batch.events.iter().for_each(|event| self.slots.learn(event));
                    self.tell_events(batch);
                }
                Wake::Planned(Some(planned)) => self.take_plan(planned)?,
                Wake::Ask(Some(ask)) => self.take_ask(ask)?,
                Wake::Deadline => self.turn([Input::Deadline])?,
                Wake::Memory => self.tell_memory(),
                Wake::Ports(Some(found)) => self.take_found(found)?,
                Wake::Reload(Some(read)) => self.take_reload(read)?,
                // All are held by threads that live as long as this one.
                Wake::Planned(None) | Wake::Ask(None) | Wake::Ports(None) | Wake::Reload(None) => {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    fn take_plan(&mut self, planned: Planned) -> Result<(), LinkError> {
        let Planned { service, of: (slot, draft), result, taken } = planned;
        // The plan of a service that is gone, or of its namesake, is nobody's.
        if self.slots.slot(&service) != Some(slot) {
            return Ok(());
        }
        let failure = match result {
            Ok(provision) => {
                if let Some(pipes) = provision.pipes {
                    self.capture.connect(slot, &service, pipes, &mut self.link)?;
                }
                let deserted = self.sockets.give(slot, provision.sockets, &mut self.link)?;
                self.remove_paths(deserted);
                let (cgroup, capture) = (provision.cgroup.is_some(), provision.capture);
                // Two links at most.
                let guard = provision.guard.len() as u8;
                let plan = std::iter::once(provision.plan).chain(provision.cgroup);
                let fds = plan.chain(provision.guard).collect();
                self.link.order(Order::Plan { slot, cgroup, capture, guard }, fds)?;
                None
            }
            Err(failure) => Some(failure),
        };
        self.turn([Input::Prepared { service, draft, failure, taken }])
    }

    /// The sockets at these paths have been closed.
    pub(super) fn remove_paths(&self, paths: Vec<PathBuf>) {
        if !paths.is_empty() {
            self.planner.ask(Job::Remove(paths));
        }
    }

    fn take_ask(&mut self, ask: Ask) -> Result<(), LinkError> {
        match ask {
            Ask::Verb { service, verb, reply } => {
                let id = RequestId(self.next_request);
                self.next_request += 1;
                // Whoever has gone away meanwhile waits no longer.
                self.replies.retain(|_, waiting| !waiting.is_closed());
                self.replies.insert(id, reply);
                tracing::info!(service = %service, verb = verb.as_str(), "asked");
                self.turn([Input::Request { id, service, verb }])
            }
            Ask::Reload { dry_run, reply } => {
                self.reloads.ask(ReloadAsk { dry_run, reply: Some(reply) });
                Ok(())
            }
            Ask::Shutdown { hurry } => self.leave(hurry),
            Ask::Leave => {
                self.leave_alive();
                Ok(())
            }
            Ask::Restart { binary, reply } => self.restart(binary, reply),
            Ask::Stats { reply } => {
                // The scrape may have given up.
                reply.send(self.pipeline()).ok();
                Ok(())
            }
        }
    }

    /// Leaves as it is: the next keeper's daemon takes the services over.
    fn leave_alive(&mut self) {
        (self.done, self.leaves_alive) = (true, true);
    }

    fn leave(&mut self, hurry: bool) -> Result<(), LinkError> {
        self.leaving_since.get_or_insert_with(clock::now);
        self.link.order(Order::Ending, Vec::new())?;
        self.turn([if hurry { Input::Hurry } else { Input::Shutdown }])
    }
}

/// Sleeps until a tick, by tokio's clock: if that stands still during a suspend, the core only asks again.
async fn sleep_until(deadline: Option<Tick>) {
    match deadline {
        Some(at) => tokio::time::sleep_until(Instant::now() + at.since(clock::now())).await,
        None => std::future::pending().await,
    }
}
