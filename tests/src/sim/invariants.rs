//! What must hold after every turn of the core, whatever the world does.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use defib_core::model::{
    GiveUp, Incarnation, ReadySpec, Record, ServiceName, ServiceSpec, ServiceView, State, Tick, What,
    WhenDown,
};
use defib_core::{Effect, Effects, Input, Memo, Reply, Supervisor, Verb};

use super::keeper::{Seat, Slot};
use super::orders;
use super::past::Restart;
use super::world::{Order, Turn, World};

/// An invariant that does not hold.
#[derive(Debug)]
pub struct Violation {
    /// Which one.
    pub invariant: &'static str,
    /// What was seen instead.
    pub found: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.invariant, self.found)
    }
}

type Invariant = fn(&World, &Turn) -> Result<(), String>;

macro_rules! named {
    ($($invariant:ident),* $(,)?) => { [$((stringify!($invariant), $invariant as Invariant)),*] };
}

const INVARIANTS: [(&str, Invariant); 21] = named![
    invariant_nobody_waits_in_vain,
    invariant_a_reload_closes_what_it_changes,
    invariant_one_end,
    invariant_one_budget,
    invariant_an_answered_stop_has_left_nothing,
    invariant_no_start_after_an_answered_stop,
    invariant_no_start_after_shutdown,
    invariant_disabled_until_enabled,
    invariant_paused_until_resumed,
    invariant_paused_means_no_restart,
    invariant_a_date_for_every_wait,
    invariant_deadlines_are_met,
    invariant_deaths_count_from_the_death,
    invariant_restarts_stay_within_the_window,
    invariant_operators_begin_a_new_series,
    invariant_ready_is_what_was_seen,
    invariant_up_means_ready,
    invariant_one_answer_for_every_request,
    invariant_answers_come_last,
    invariant_the_memo_is_the_view,
    invariant_leave_only_when_nothing_is_left,
];

/// Checks everything about a turn that has just been taken.
pub(crate) fn check(world: &World, turn: &Turn) -> Result<(), Violation> {
    let broken =
        INVARIANTS.iter().find_map(|(name, holds)| holds(world, turn).err().map(|found| (*name, found)));
    match broken {
        None => Ok(()),
        Some((invariant, found)) => {
            let found =
                format!("{found}\n  turn at {:?}: {:?}\n  effects: {:#?}", turn.at, turn.input, turn.effects);
            Err(Violation { invariant, found })
        }
    }
}

/// Checks everything about an order as it arrives at the keeper; `told` is what was recorded in its turn.
pub(crate) fn check_order(world: &World, order: &Order, told: &[Record]) -> Result<(), Violation> {
    orders::check(world, order, told)
        .map_err(|(invariant, found)| Violation { invariant, found: format!("{found}\n  order: {order:#?}") })
}

/// Checks that the keeper was right to begin a life by itself.
pub(crate) fn check_followed(world: &World, service: &ServiceName) -> Result<(), Violation> {
    orders::check_followed(world, service).map_err(|(invariant, found)| Violation { invariant, found })
}

/// Checks that nothing is pending when all faults have stopped and enough time has passed.
pub(crate) fn check_at_rest(world: &World) -> Result<(), Violation> {
    invariant_rest(world).map_err(|found| Violation { invariant: "invariant_rest", found })
}

/// Nothing is held for a service that is disabled, nor, with `refuse`, for one that is down or will be for longer than
/// `hold_for`. What runs or is being started has its sockets, and what is shown of them is so.
fn invariant_nobody_waits_in_vain(world: &World, turn: &Turn) -> Result<(), String> {
    if !turn.sent || !world.daemon.as_ref().is_some_and(|daemon| daemon.begun) {
        return Ok(());
    }
    for view in &turn.views {
        let holds = world.will_hold(&view.name);
        let spec = world.spec(&view.name);
        let hold = spec.when_down == WhenDown::Hold;
        let decided_now = turn.restarts().iter().any(|restart| {
            *restart.service == view.name && restart.died + restart.delay > turn.at + spec.hold_for
        });
        let vain = match view.state {
            State::Disabled => true,
            State::Stopped | State::Failed => !hold,
            State::Crashed | State::Retrying => !hold && decided_now,
            State::Starting | State::Running | State::Stopping => false,
        };
        if vain && holds {
            return Err(format!("{} is {}, and its sockets are held", view.name, view.state));
        }
        let runs = view.state == State::Running && !spec.launch.sockets.is_empty();
        if runs && view.sockets.iter().any(|socket| socket.held) && !holds {
            return Err(format!("{} is shown with sockets that are not held", view.name));
        }
    }
    Ok(())
}

/// A reload that leaves the sockets of a service as they are, and how long they are held, closes none of them.
fn invariant_a_reload_closes_what_it_changes(_: &World, turn: &Turn) -> Result<(), String> {
    let Input::Reload(specs) = &turn.input else { return Ok(()) };
    for effect in &turn.effects {
        let Effect::CloseSockets { service } = effect else { continue };
        let (Some(before), Some(after)) =
            (turn.changed.get(service), specs.iter().find(|spec| spec.name == *service))
        else {
            continue;
        };
        let held = |spec: &ServiceSpec| {
            (spec.launch.sockets.clone(), spec.launch.hold_ports.clone(), spec.when_down, spec.hold_for)
        };
        if held(before) == held(after) {
            return Err(format!("the sockets of {service} are closed, and its specification has the same"));
        }
    }
    Ok(())
}

/// A life ends once. Only a turn that was lost with its daemon may be told again.
fn invariant_one_end(world: &World, turn: &Turn) -> Result<(), String> {
    let mut now = BTreeSet::new();
    for record in turn.records() {
        if matches!(record.what, What::Exit { .. } | What::StartFailed { .. }) {
            let life = (record.service.clone(), record.incarnation);
            let before = world.past.ended.contains(&life) || world.past.unborn.contains(&life);
            if before || !now.insert(life) {
                return Err(format!("the end of {} {} is told again", record.service, record.incarnation));
            }
        }
    }
    Ok(())
}

/// The keeper follows an end only where the core would have: it gives up or waits only by rules that have come since.
fn invariant_one_budget(world: &World, turn: &Turn) -> Result<(), String> {
    if !turn.is_followed() {
        return Ok(());
    }
    let late =
        |restart: &Restart<'_>| !restart.delay.is_zero() && !world.past.reloaded.contains(restart.service);
    match turn.restarts().into_iter().find(late) {
        Some(restart) => Err(format!("{restart:?} has happened at once")),
        None => Ok(()),
    }
}

/// Who is told that a service is down finds nothing of it.
fn invariant_an_answered_stop_has_left_nothing(world: &World, turn: &Turn) -> Result<(), String> {
    for service in turn.told_down() {
        let Some(Seat { slot, .. }) = world.keeper.seat(service) else { continue };
        if !slot.is_over() {
            return Err(format!("{service} is said to be down, and there is {slot:?}"));
        }
    }
    Ok(())
}

/// Once `stop` or `disable` has been answered, nothing is started until somebody asks, not even by a later daemon.
fn invariant_no_start_after_an_answered_stop(world: &World, turn: &Turn) -> Result<(), String> {
    let told_now: BTreeSet<_> = turn.told_down().collect();
    for service in turn.begun() {
        if told_now.contains(service) || (world.past.down.contains(service) && !turn.asks_for(service)) {
            return Err(format!("{service} starts although it was stopped"));
        }
    }
    Ok(())
}

/// A service may be started unless `disable` was the last word, even over the death of a daemon.
fn invariant_disabled_until_enabled(world: &World, turn: &Turn) -> Result<(), String> {
    for view in &turn.views {
        let last_word = turn.asked().filter(|(service, _)| **service == view.name).map(|(_, verb)| verb);
        let enabled = match last_word {
            Some(Verb::Enable) => true,
            Some(Verb::Disable) => false,
            _ => !world.past.disabled.contains(&view.name),
        };
        if world.daemon.as_ref().is_some_and(|daemon| daemon.begun) && view.enabled != enabled {
            return Err(format!("{} is {}enabled", view.name, if enabled { "not " } else { "" }));
        }
    }
    Ok(())
}

/// Restarts are paused from `pause` to `resume` or to the date that was given, even over the death of a daemon.
fn invariant_paused_until_resumed(world: &World, turn: &Turn) -> Result<(), String> {
    if !world.daemon.as_ref().is_some_and(|daemon| daemon.begun) {
        return Ok(());
    }
    let paused = world.past.paused_after(turn);
    for view in &turn.views {
        let (shown, expected) = (view.paused.map(|paused| paused.until), paused.get(&view.name).copied());
        if shown != expected {
            return Err(format!("{} is paused: {shown:?}, and should be: {expected:?}", view.name));
        }
    }
    Ok(())
}

/// What is paused is neither restarted by itself nor about to be. What an operator asks for has number 0.
fn invariant_paused_means_no_restart(world: &World, turn: &Turn) -> Result<(), String> {
    let both = |service: &ServiceName| {
        world.past.paused.contains_key(service) && world.past.paused_after(turn).contains_key(service)
    };
    if let Some(restart) = turn.restarts().into_iter().find(|restart| both(restart.service)) {
        return Err(format!("{restart:?} while it is paused"));
    }
    let dated = |view: &&ServiceView| view.paused.is_some() && view.next_start.is_some();
    match turn.views.iter().find(dated) {
        Some(view) => Err(format!("{} is paused, and due at {:?}", view.name, view.next_start)),
        None => Ok(()),
    }
}

/// A daemon that is to leave starts nothing.
fn invariant_no_start_after_shutdown(world: &World, turn: &Turn) -> Result<(), String> {
    match (&world.daemon, turn.begun().next()) {
        (Some(daemon), Some(service)) if daemon.leaving => Err(format!("{service} starts")),
        _ => Ok(()),
    }
}

/// The core wants to be woken for the first restart that is due, the first stop that takes too long and the first pause
/// that ends, and for nothing else.
fn invariant_a_date_for_every_wait(world: &World, turn: &Turn) -> Result<(), String> {
    let mut first: Option<Tick> = None;
    for view in &turn.views {
        let date = match view.state {
            State::Retrying => {
                Some(view.next_start.ok_or(format!("{} is retrying without a date", view.name))?)
            }
            State::Stopping => kill_date(world, turn, view),
            State::Stopped
            | State::Starting
            | State::Running
            | State::Crashed
            | State::Failed
            | State::Disabled => None,
        };
        first = [first, date, view.paused.and_then(|paused| paused.until)].into_iter().flatten().min();
    }
    if first == turn.deadline || turn.views.is_empty() {
        return Ok(());
    }
    Err(format!("the next deadline is {:?}, the first date {first:?}", turn.deadline))
}

/// When the tree of a service that is asked to end gets SIGKILL, if it has not had it and its end is not known.
fn kill_date(world: &World, turn: &Turn, view: &ServiceView) -> Option<Tick> {
    let life = (view.name.clone(), view.incarnation);
    let of_life =
        |service: &ServiceName, incarnation: Incarnation| *service == life.0 && incarnation == life.1;
    let ends = |what: &What| matches!(what, What::Exit { .. });
    let ended = turn.records().any(|it| of_life(&it.service, it.incarnation) && ends(&it.what));
    let killed = turn.effects.iter().any(|effect| {
        matches!(effect, Effect::KillTree { service, incarnation } if of_life(service, *incarnation))
    });
    let asked_again = matches!(&turn.input, Input::Adopted { service, .. } if *service == life.0);
    let before = world.past.killed.contains(&life) && !asked_again;
    if ended || killed || world.past.ended.contains(&life) || before {
        return None;
    }
    let since = turn.records().find_map(|record| match record.what {
        What::State { to: State::Stopping, .. } if record.service == life.0 => Some(record.at),
        _ => None,
    });
    let signalled = |effect: &Effect| matches!(effect, Effect::Signal { service, .. } if *service == life.0);
    let since = since.or((turn.asks_again() && turn.effects.iter().any(signalled)).then_some(turn.at));
    let date = since.map(|since| since + world.spec(&life.0).stop.timeout);
    date.or_else(|| world.past.kill_at.get(&life.0).copied())
}

/// Whoever is late, a passed deadline is dealt with in one turn.
fn invariant_deadlines_are_met(_: &World, turn: &Turn) -> Result<(), String> {
    match turn.deadline {
        Some(next) if turn.input == Input::Deadline && next <= turn.at => Err(format!("{next:?} has passed")),
        _ => Ok(()),
    }
}

/// A delayed start is due at the death plus its delay, however late the report, and never before.
fn invariant_deaths_count_from_the_death(world: &World, turn: &Turn) -> Result<(), String> {
    let mut due = world.past.due.clone();
    let failed = |record: &&Record| matches!(record.what, What::Exit { .. } | What::StartFailed { .. });
    for record in turn.records().filter(failed) {
        due.remove(&record.service);
    }
    due.retain(|service, _| !turn.concerns(service));
    due.extend(
        turn.restarts()
            .iter()
            .filter(|it| !it.delay.is_zero())
            .map(|it| (it.service.clone(), it.died + it.delay)),
    );
    for (service, due) in &due {
        if turn.begun().any(|begun| begun == service) && turn.at < *due {
            return Err(format!("{service} starts at {:?}, before {due:?}", turn.at));
        }
        let view = turn.views.iter().find(|view| view.name == *service);
        if let Some(view) = view
            && matches!(view.state, State::Crashed | State::Retrying)
            && view.next_start != Some(*due)
        {
            return Err(format!("{service} is to start at {:?} instead of {due:?}", view.next_start));
        }
    }
    Ok(())
}

/// There are never more restarts than `max_restarts` within the window, but for the tries of `retry_every`.
fn invariant_restarts_stay_within_the_window(world: &World, turn: &Turn) -> Result<(), String> {
    for restart in turn.restarts() {
        let spec = &world.spec(restart.service).restart;
        let Some(max) = spec.max_restarts else { continue };
        let earlier = match spec.window {
            None => restart.attempt as usize - 1,
            Some(window) => world
                .past
                .restarts
                .get(restart.service)
                .map_or(0, |all| all.iter().filter(|at| restart.died.since(**at) < window).count()),
        };
        let spared = matches!(spec.give_up, GiveUp::RetryEvery(every) if every == restart.delay);
        if earlier >= max as usize && !spared {
            return Err(format!("{}: {restart:?} after {earlier} of {max}", restart.service));
        }
    }
    Ok(())
}

/// What an operator starts, restarts or resets has all its restarts before it again.
fn invariant_operators_begin_a_new_series(world: &World, turn: &Turn) -> Result<(), String> {
    if matches!(turn.input, Input::Adopted { .. } | Input::Deserted { .. }) {
        // Several at once, of which a keeper has decided all but the last.
        return Ok(());
    }
    let late = |restart: &Restart<'_>| world.past.new_series.contains(restart.service) && restart.attempt > 1;
    match turn.restarts().into_iter().find(late) {
        Some(restart) => Err(format!("{restart:?} is not the first of its series")),
        None => Ok(()),
    }
}

/// A service is ready when its program runs and was last seen to listen on the port that makes it ready, if it has one.
fn invariant_ready_is_what_was_seen(world: &World, turn: &Turn) -> Result<(), String> {
    for view in &turn.views {
        let life = (view.name.clone(), view.incarnation);
        let seen = |port| match turn.looked() {
            Some((of, at, listens)) if (&of, at) == (&life, port) => listens,
            // What was seen of a port before anybody wanted it is not known.
            _ if turn.changed.get(&life.0).is_some_and(|old| !old.wanted_ports().contains(&port)) => false,
            _ => world.past.listening.get(&life).is_some_and(|ports| ports.contains(&port)),
        };
        let ready = view.state == State::Running
            && match world.spec(&view.name).ready {
                ReadySpec::Exec => true,
                ReadySpec::Port(port) => seen(port),
            };
        if view.ready != ready {
            return Err(format!("{} is ready: {}, and should be: {ready}", view.name, view.ready));
        }
    }
    Ok(())
}

/// Who is told that a service is up finds it ready, unless it was so and ended within the turn.
fn invariant_up_means_ready(_: &World, turn: &Turn) -> Result<(), String> {
    for answer in turn.answers.iter().flatten() {
        if let (Verb::Start | Verb::Restart, Reply::Done(_)) = (answer.verb, &answer.reply)
            && let Some(view) = turn.views.iter().find(|view| view.name == answer.service)
            && !view.ready
            && !matches!(turn.input, Input::Ended { .. })
        {
            return Err(format!("{} is said to be up: {view:#?}", answer.service));
        }
    }
    Ok(())
}

/// No request is answered that is not open.
fn invariant_one_answer_for_every_request(_: &World, turn: &Turn) -> Result<(), String> {
    if turn.answers.iter().any(Option::is_none) { Err("an answer to nobody".to_owned()) } else { Ok(()) }
}

/// Nobody is answered before the orders of the turn have been sent: an answer cannot be lost with the daemon.
fn invariant_answers_come_last(_: &World, turn: &Turn) -> Result<(), String> {
    let answer = |effect: &&Effect| matches!(effect, Effect::Reply { .. } | Effect::Leave);
    match turn.effects.iter().skip_while(|effect| !answer(effect)).find(|effect| !answer(effect)) {
        Some(effect) => Err(format!("after an answer comes {effect:?}")),
        None => Ok(()),
    }
}

/// Nothing is shown that the next daemon would not show: a view changes together with its memo, and a memo resumes
/// to the same view.
fn invariant_the_memo_is_the_view(world: &World, turn: &Turn) -> Result<(), String> {
    for view in &turn.views {
        let memo = turn.effects.iter().rev().filter(|_| turn.sent).find_map(|effect| match effect {
            Effect::Remember { service, memo } if *service == view.name => Some(memo),
            _ => None,
        });
        let expected = match memo {
            Some(memo) => Some(resumed(world, turn.at, &view.name, memo)),
            None => world.past.views.iter().find(|it| it.name == view.name).cloned(),
        };
        // Of a service that is configured no longer the next daemon knows only how to end it.
        let configured = world.setup.services.iter().any(|spec| spec.name == view.name);
        if let Some(expected) = expected.filter(|_| configured)
            && expected != *view
        {
            return Err(format!("it shows {view:#?}, the next daemon would show {expected:#?}"));
        }
    }
    Ok(())
}

fn resumed(world: &World, at: Tick, service: &ServiceName, memo: &Memo) -> ServiceView {
    let (mut core, mut fx) = (Supervisor::new(0), Effects::new());
    core.handle(at, Input::Configure(vec![Arc::new(world.spec(service).clone())]), &mut fx);
    core.handle(at, Input::Resume { service: service.clone(), memo: Box::new(memo.clone()) }, &mut fx);
    core.view(service).expect("it is configured")
}

/// The daemon leaves when it has been asked to and the keeper holds nothing any more.
fn invariant_leave_only_when_nothing_is_left(world: &World, turn: &Turn) -> Result<(), String> {
    if !turn.effects.contains(&Effect::Leave) || !turn.sent {
        return Ok(());
    }
    let held = world.keeper.seats().find(|(_, seat)| !seat.slot.is_over());
    match (world.shutting_down, held) {
        (false, _) => Err("nobody asked".to_owned()),
        (true, Some((service, seat))) => Err(format!("of {service} there is {:?}", seat.slot)),
        (true, None) => Ok(()),
    }
}

/// When all faults have stopped and time has passed, everything has come to an end that stays.
fn invariant_rest(world: &World) -> Result<(), String> {
    if world.shutting_down {
        return if world.left { Ok(()) } else { Err("the daemon does not leave".to_owned()) };
    }
    let daemon = world.daemon.as_ref().ok_or("there is no daemon")?;
    if let Some((id, (service, verb))) = daemon.open.first_key_value() {
        return Err(format!("{service}: {id:?} ({verb:?}) is never answered"));
    }
    if let Some(deadline) = daemon.core.next_deadline() {
        return Err(format!("something is due at {deadline:?}"));
    }
    for view in daemon.core.views() {
        let Some(Seat { slot, .. }) = world.keeper.seat(&view.name) else {
            return Err(format!("{} has no slot", view.name));
        };
        if !world.setup.services.iter().any(|spec| spec.name == view.name) {
            return Err(format!("{} is configured no longer", view.name));
        }
        let matches = match view.state {
            State::Running => matches!(slot, Slot::Living(process)
                if Some(process.pid) == view.pid && process.incarnation == view.incarnation),
            State::Stopped | State::Failed | State::Disabled => slot.is_empty(),
            State::Starting | State::Stopping | State::Crashed | State::Retrying => false,
        };
        if !matches {
            return Err(format!("{} is {} for ever, the keeper holds {slot:?}", view.name, view.state));
        }
        let untouched = world.spec(&view.name).autostart && !world.past.asked.contains(&view.name);
        if untouched && view.incarnation == Incarnation::default() {
            return Err(format!("{} has never been started", view.name));
        }
    }
    Ok(())
}
