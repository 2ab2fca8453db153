//! The loop of the supervisor thread: waits for one thing to happen, lets the core take it, carries out what the
//! core wants. Everything but the waiting is plain functions.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use defib_core::model::{
    Cause, KernelFact, RequestId, ServiceName, SourceName, Tick, UNWATCHED, WaitStatus, What, Withdrawal,
    Witness,
};
use defib_core::{Effect, Effects, Input, Reply, Supervisor};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use super::capture::Capture;
use super::door::Door;
use super::ends::Ends;
use super::handle::{Ask, Tenants, Views, Watched};
use super::journal::{Event, JournalWriter};
use super::kept;
use super::link::{KeeperLink, LinkError};
use super::own_log::Log;
use super::ports::{self, Ports};
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
use crate::keeper::protocol::{LifeEnd, Order, Received, Report, SlotState};
use crate::metrics::Metrics;
use crate::source::{Batch, Life, Source};

/// A second signal to end within this time is the first one again: timeout(1) and some init systems signal the process
/// and then its group. A later one means: hurry.
const ECHO: Duration = Duration::from_millis(500);

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

    /// A report of the keeper.
    pub(super) fn hear(&mut self, report: Report) -> Result<(), LinkError> {
        match report {
            Report::Slot { slot, state } => self.hear_slot(slot, &state),
            Report::Followed { slot, end, output } => self.hear_followed(slot, &end, output),
            Report::Withdrawn { slot, withdrawal } => {
                let withdrawal = Withdrawal(withdrawal);
                let service = self.slots.service(slot).cloned();
                self.turn(service.map(|service| Input::Withdrawn { service, withdrawal }))
            }
            Report::Signal(libc::SIGHUP) => {
                tracing::info!("SIGHUP: the configuration is read again");
                self.own_log.reopen();
                self.reloads.ask(ReloadAsk { dry_run: false, reply: None });
                Ok(())
            }
            Report::Signal(libc::SIGQUIT) => {
                tracing::info!("SIGQUIT: asked to leave, and the services alone");
                self.leave_alive();
                Ok(())
            }
            Report::Signal(signal) => {
                tracing::info!(signal, "asked to end");
                let hurry = self.leaving_since.is_some_and(|first| clock::now().since(first) > ECHO);
                self.leave(hurry)
            }
            Report::Ping => {
                self.link.order(Order::Pong, Vec::new())?;
                self.link.send_turn()
            }
            Report::Held { .. }
            | Report::Memo { .. }
            | Report::Pipes { .. }
            | Report::Sockets { .. }
            | Report::Restarted { .. }
            | Report::Synced => Ok(()),
            Report::Restart { refused } => {
                self.restart_answered(refused);
                Ok(())
            }
        }
    }

    fn hear_slot(&mut self, slot: u32, state: &SlotState) -> Result<(), LinkError> {
        let heard = clock::now();
        let life = life(slot, state);
        self.slots.occupy(slot, life.filter(|_| matches!(state, SlotState::Living { .. })));
        let mut batch = self.ask_source(life.as_ref());
        // Before the order for the next life: what comes then is that one's.
        if let Some(service) = self.slots.service(slot) {
            self.capture.hear(slot, service, state);
        }
        let end = match state {
            SlotState::Ended { end, .. } => Some(*end),
            SlotState::Empty { .. }
            | SlotState::Starting { .. }
            | SlotState::Living { .. }
            | SlotState::Failed { .. } => None,
        };
        let witness = end.and_then(|end| self.witness(slot, &end));
        let died = witness.as_ref().and_then(|witness| witness.at);
        let rest = self.decide(self.slots.inputs(slot, state, witness))?;
        if let Some(end) = end {
            log_handling(slot, died, &end, heard);
        }
        self.source.settle(&mut batch);
        self.tell_events(batch);
        self.tell_all(rest);
        if let Some(service) = self.slots.service(slot) {
            self.memory.hear(service, state);
        }
        if let SlotState::Living { started, .. } = state {
            self.watch_ports(slot, *started);
        }
        Ok(())
    }

    /// A life has ended, and the keeper has begun the next one by the standing order.
    fn hear_followed(&mut self, slot: u32, end: &LifeEnd, output: [u64; 2]) -> Result<(), LinkError> {
        let heard = clock::now();
        self.slots.occupy(slot, None);
        let mut batch = self.ask_source(Some(&ended_life(slot, end)));
        if let Some(service) = self.slots.service(slot) {
            self.capture.followed(slot, service, end, output);
        }
        let witness = self.witness(slot, end);
        let died = witness.as_ref().and_then(|witness| witness.at);
        let rest = self.decide(self.slots.followed(slot, *end, witness))?;
        log_handling(slot, died, end, heard);
        self.source.settle(&mut batch);
        self.tell_events(batch);
        self.tell_all(rest);
        if let Some(service) = self.slots.service(slot) {
            self.memory.followed(service);
        }
        Ok(())
    }

    /// What the source knows by now. The kernel's side of what the keeper tells was written before the keeper could know,
    /// so it is all there. It is told after the orders have gone out: see `tell_events`.
    fn ask_source(&mut self, life: Option<&Life>) -> Batch {
        let mut batch = Batch::default();
        if let Some(life) = life {
            self.catch_up(life, &mut batch);
            let before = batch.events.len();
            self.source.claim(life, &mut batch);
            batch.events[before..].iter().for_each(|event| self.slots.learn(event));
        }
        batch
    }

    /// What the source knows of an end that the keeper reports.
    fn witness(&mut self, slot: u32, end: &LifeEnd) -> Option<Witness> {
        let (life, status) = (ended_life(slot, end), end.status);
        let start = self.slots.start_of(slot, end.pid);
        // Of an end that the keeper could not read, the source is asked as of the one kind that it may know more of.
        let asked = WaitStatus(status.unwrap_or(libc::SIGKILL));
        let witness = self.source.take_end(&life, start, asked);
        let Some(status) = status else {
            let told = witness.as_ref().is_some_and(|witness| witness.status.is_some());
            let recorded = (!told).then(|| self.source.recorded_end(end.pid, end.started)).flatten();
            return recorded.or(witness);
        };
        let witness = witness?;
        match witness.status {
            // The keeper knows, so a source that says otherwise speaks of another death, or is wrong altogether.
            Some(WaitStatus(other)) if other != status => {
                tracing::error!(slot, keeper = status, source = other, "two statuses of one death");
                None
            }
            Some(_) | None => Some(witness),
        }
    }

    /// Tells of what the kernel told. Each tale may wake the surfaces' thread, so none is told between a death and the
    /// order for the next life.
    fn tell_events(&mut self, batch: Batch) {
        self.count_events(&batch);
        for event in batch.events {
            // The record of an end is the core's, once it is complete.
            let told = matches!(event.fact, KernelFact::Exit(_)) && event.main;
            if let Some(service) = event.slot.and_then(|slot| self.slots.service(slot))
                && !told
            {
                let service = service.clone();
                match ports::hint(&event) {
                    Some((listener, begins)) => self.look_at_hint(&service, &event, listener, begins),
                    None => self.journal.tell(event.at, Event::Kernel { service, event }),
                }
            }
        }
        let count = batch.lost;
        if count > 0 {
            self.look_again(count);
            self.journal.tell(clock::now(), Event::Lost { source: self.source_name, count });
            self.look_at_ports();
        }
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

    /// Lets the core take inputs that belong together, and carries out what it wants.
    pub(super) fn turn(&mut self, inputs: impl IntoIterator<Item = Input>) -> Result<(), LinkError> {
        let rest = self.decide(inputs)?;
        self.tell_all(rest);
        Ok(())
    }

    /// Lets the core take inputs, and sends its orders to the keeper in one packet. Gives back what others are to know.
    pub(super) fn decide(
        &mut self,
        inputs: impl IntoIterator<Item = Input>,
    ) -> Result<Vec<Effect>, LinkError> {
        let rest = self.orders(inputs)?;
        self.link.send_turn()?;
        self.acted = clock::now();
        Ok(rest)
    }

    /// Lets the core take inputs, and adds its orders to the turn, which others may still add to.
    pub(super) fn orders(
        &mut self,
        inputs: impl IntoIterator<Item = Input>,
    ) -> Result<Vec<Effect>, LinkError> {
        let mut effects = Effects::new();
        for input in inputs {
            self.core.handle(clock::now(), input, &mut effects);
        }
        let mut wanted: Vec<Effect> = effects.drain().collect();
        // Before the first order goes out: the acknowledgement of an end is among them.
        wanted.retain(|effect| match effect {
            Effect::Record(record) => self.ends.take_in(record),
            _ => true,
        });
        let mut rest = Vec::new();
        for effect in wanted {
            if let Some(effect) = self.order(effect)? {
                rest.push(effect);
            }
        }
        Ok(rest)
    }

    pub(super) fn tell_all(&mut self, rest: Vec<Effect>) {
        // Views before replies: whoever gets an answer and looks must see what the answer says.
        let (views, others): (Vec<_>, Vec<_>) =
            rest.into_iter().partition(|effect| matches!(effect, Effect::Publish { .. }));
        for effect in views.into_iter().chain(others) {
            self.tell(effect);
        }
        self.memory.flush();
    }

    /// Turns an effect into an order to the keeper or a job for the planner; gives back what is neither.
    fn order(&mut self, effect: Effect) -> Result<Option<Effect>, LinkError> {
        let slot_of = |service: &ServiceName| self.slots.slot(service);
        let order =
            match effect {
                Effect::Prepare { service, draft } => {
                    if let (Some(slot), Some(spec)) = (slot_of(&service), self.slots.spec(&service)) {
                        let plumbing = self.capture.plumbing(Some(slot));
                        let held = self.sockets.of(slot);
                        let (spec, of) = (Arc::clone(spec), (slot, draft));
                        self.planner.ask(Job::Plan { spec, of, plumbing, held });
                    }
                    return Ok(None);
                }
                Effect::CloseSockets { service } => {
                    if let Some(slot) = slot_of(&service) {
                        let deserted = self.sockets.close(slot, &mut self.link)?;
                        self.remove_paths(deserted);
                        self.link.order(Order::ClosePorts { slot }, Vec::new())?;
                    }
                    return Ok(None);
                }
                Effect::Forget { ref service } => {
                    if let Some(slot) = slot_of(service) {
                        self.link.order(Order::Forget { slot }, Vec::new())?;
                    }
                    return Ok(Some(effect));
                }
                Effect::Spawn { service, incarnation } => {
                    slot_of(&service).map(|slot| Order::Spawn { slot, incarnation: incarnation.0 })
                }
                Effect::Signal { service, incarnation, signal } => slot_of(&service)
                    .map(|slot| Order::Signal { slot, incarnation: incarnation.0, signal: signal.0 }),
                Effect::KillTree { service, incarnation } => {
                    slot_of(&service).map(|slot| Order::KillTree { slot, incarnation: incarnation.0 })
                }
                Effect::Stand { service, incarnation, standing } => {
                    slot_of(&service).map(|slot| Order::Stand { slot, incarnation: incarnation.0, standing })
                }
                Effect::Withdraw { service, withdrawal } => {
                    slot_of(&service).map(|slot| Order::Withdraw { slot, withdrawal: withdrawal.0 })
                }
                Effect::Acknowledge { service, incarnation, followed } => slot_of(&service)
                    .map(|slot| Order::Acknowledge { slot, incarnation: incarnation.0, followed }),
                Effect::Remember { service, memo } => slot_of(&service).and_then(|slot| {
                    let bytes = kept::write(&service, &memo);
                    self.memory.note(service, slot, memo);
                    // A memo is made of numbers and text: it can always be written.
                    bytes.ok().map(|memo| Order::Remember { slot, memo })
                }),
                Effect::Record(_) | Effect::Publish { .. } | Effect::Reply { .. } | Effect::Leave => {
                    return Ok(Some(effect));
                }
            };
        if let Some(order) = order {
            self.link.order(order, Vec::new())?;
        }
        Ok(None)
    }

    /// Lets others know.
    pub(super) fn tell(&mut self, effect: Effect) {
        match effect {
            Effect::Record(record) => {
                // From here on it is known to have been told: whoever has not got so far gets it from the next daemon.
                let place = self.ends.tell(&record, self.journal.next());
                log(&record.service, &record.what);
                self.count(&record);
                self.memory.record(&record, place);
                self.journal.tell(record.at, Event::Service(record));
            }
            Effect::Publish { service } => {
                if let Some(view) = self.core.view(&service) {
                    if let Some(spec) = self.slots.spec(&service) {
                        self.pid_files.tell(spec, view.pid);
                    }
                    self.views.send_modify(|views| {
                        Arc::make_mut(views).insert(service, Arc::new(view));
                    });
                }
            }
            Effect::Reply { id, reply } => {
                // The client may have given up.
                if let Some(waiting) = self.replies.remove(&id) {
                    waiting.send(reply).ok();
                }
            }
            Effect::Forget { service } => self.forget(&service),
            Effect::Leave => self.done = true,
            Effect::Prepare { .. }
            | Effect::Spawn { .. }
            | Effect::Stand { .. }
            | Effect::Withdraw { .. }
            | Effect::Signal { .. }
            | Effect::KillTree { .. }
            | Effect::Acknowledge { .. }
            | Effect::CloseSockets { .. }
            | Effect::Remember { .. } => {}
        }
    }
}

/// The life that a slot's state is about.
fn life(slot: u32, state: &SlotState) -> Option<Life> {
    match state {
        SlotState::Living { pid, started, .. } => Some(Life { slot, pid: *pid, started: Tick(*started) }),
        SlotState::Ended { end, .. } => Some(ended_life(slot, end)),
        SlotState::Empty { .. } | SlotState::Starting { .. } | SlotState::Failed { .. } => None,
    }
}

fn ended_life(slot: u32, end: &LifeEnd) -> Life {
    Life { slot, pid: end.pid, started: Tick(end.started) }
}

/// For who looks where the time goes.
fn log_handling(slot: u32, died: Option<Tick>, end: &LifeEnd, heard: Tick) {
    let (died, seen) = (died.map(|died| died.0), end.at);
    tracing::debug!(slot, died, seen, heard = heard.0, ordered = clock::now().0, "a death was handled");
}

/// Sleeps until a tick, by tokio's clock: if that stands still during a suspend, the core only asks again.
async fn sleep_until(deadline: Option<Tick>) {
    match deadline {
        Some(at) => tokio::time::sleep_until(Instant::now() + at.since(clock::now())).await,
        None => std::future::pending().await,
    }
}

/// The daemon's own log of what happened to a service.
pub(super) fn log(service: &ServiceName, what: &What) {
    match what {
        What::State { from, to, why } => {
            tracing::info!(%service, %from, %to, why = why.as_str(), "state");
        }
        What::Exit { ending, .. } => {
            let end = &ending.end;
            let (cause, by) = (end.cause().map_or(UNWATCHED, Cause::as_str), ending.by.as_str());
            tracing::info!(%service, cause, by, code = end.code(),
                signal = end.signal().map(tracing::field::display), core = end.core(), "exit");
        }
        What::StartFailed { failure } => {
            // As a string, which the log escapes: the program may be called anything.
            tracing::warn!(%service, failure = failure.to_string(), "start failed");
        }
        What::PortTaken(taken) => tracing::warn!(%service, "{taken}"),
        What::Listen { port } => tracing::info!(%service, port, "listen"),
        What::Unlisten { port } => tracing::info!(%service, port, "unlisten"),
        What::Restart { reason, attempt, delay_ns } => {
            let delay = Duration::from_nanos(*delay_ns);
            tracing::info!(%service, reason = reason.as_str(), attempt, ?delay, "restart");
        }
    }
}
