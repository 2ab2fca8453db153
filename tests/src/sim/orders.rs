//! What must hold when an order arrives at the keeper, and when the keeper acts by a standing one.

use defib_core::Effect;
use defib_core::model::{Ending, Incarnation, Record, ServiceName, What};

use super::keeper::Slot;
use super::world::{Order, World};

/// The name of an invariant, and what was seen instead.
type Broken = (&'static str, String);

pub(super) fn check(world: &World, order: &Order, told: &[Record]) -> Result<(), Broken> {
    one_life(order).map_err(|found| ("one_life", found))?;
    a_plan_for_every_life(world, order).map_err(|found| ("a_plan_for_every_life", found))?;
    sockets_before_a_life(order).map_err(|found| ("sockets_before_a_life", found))?;
    an_end_for_every_life(world, order, told).map_err(|found| ("an_end_for_every_life", found))?;
    no_order_for_a_future_life(order).map_err(|found| ("no_order_for_a_future_life", found))
}

/// A life is started only when the one before has ended and nothing is left of its tree.
fn one_life(order: &Order) -> Result<(), String> {
    match (&order.effect, &order.slot) {
        (Effect::Spawn { incarnation, .. }, Slot::Empty { last }) if last < incarnation => Ok(()),
        (Effect::Spawn { service, incarnation }, slot) => {
            Err(format!("{service}: life {incarnation} is to start on {slot:?}"))
        }
        _ => Ok(()),
    }
}

/// A life has a plan of its own, and of the present specification. Only an immediate restart after a life may use the one
/// that the keeper holds.
fn a_plan_for_every_life(world: &World, order: &Order) -> Result<(), String> {
    let Effect::Spawn { service, incarnation } = &order.effect else { return Ok(()) };
    let last = (service.clone(), Incarnation(incarnation.0 - 1));
    let immediate = world.past.ended.contains(&last) && !world.past.due.contains_key(service);
    let Some((draft, spec)) = &order.plan else {
        return Err(format!("{service}: life {incarnation} without a plan"));
    };
    if world.past.begun_by.get(service) == Some(draft) && !immediate {
        return Err(format!("{service}: life {incarnation} by the plan of another life"));
    }
    // A reload may have overtaken the order on its way to the keeper.
    if world.wire.is_empty() && !spec.same_process(world.spec(service)) {
        return Err(format!("{service}: life {incarnation} by the plan of an earlier specification"));
    }
    Ok(())
}

/// A life of a service with sockets begins only while they are held.
fn sockets_before_a_life(order: &Order) -> Result<(), String> {
    match (&order.effect, &order.plan) {
        (Effect::Spawn { service, incarnation }, Some((_, spec)))
            if !spec.launch.sockets.is_empty() && !order.holds =>
        {
            Err(format!("{service}: life {incarnation} without its sockets"))
        }
        _ => Ok(()),
    }
}

/// The keeper is told to forget an end only when it has been told, and as it was.
fn an_end_for_every_life(world: &World, order: &Order, told: &[Record]) -> Result<(), String> {
    let Effect::Acknowledge { service, incarnation, followed } = &order.effect else { return Ok(()) };
    // Whatever was told of it has been forgotten with it.
    if world.keeper.seat(service).is_some_and(|seat| seat.forgotten) {
        return Ok(());
    }
    let life = (service.clone(), *incarnation);
    let mut told = told.iter().filter(|it| it.service == *service && it.incarnation == *incarnation);
    let (process, held) = match (&order.past, &order.slot) {
        (Some((process, end)), _) => (process, end),
        (None, slot) if *followed || slot.incarnation() != Some(*incarnation) => return Ok(()),
        (None, Slot::Ended { process, end, .. }) => (process, end),
        (None, Slot::Failed { failure: held, .. }) => {
            let known = world.past.unborn.contains(&life)
                || told
                    .any(|record| matches!(&record.what, What::StartFailed { failure } if failure == held));
            return if known { Ok(()) } else { Err(format!("{service}: nobody was told that {held:?}")) };
        }
        (None, Slot::Empty { .. } | Slot::Starting(_) | Slot::Living(_)) => {
            return Err(format!("{service}: the end of {incarnation} is acknowledged before it comes"));
        }
    };
    let exact = |record: &Record| match &record.what {
        What::Exit { ending: Ending { end, .. }, started } => {
            (record.at, record.pid, *started) == (held.at, Some(process.pid), Some(process.started))
                && end == held
        }
        _ => false,
    };
    // Told twice, it is acknowledged twice.
    if told.any(exact) || world.past.ended.contains(&life) {
        Ok(())
    } else {
        Err(format!("{service}: nobody was told of the end of {process:?}"))
    }
}

/// Signals and standing orders are about the life that there is, or about one that has ended meanwhile.
fn no_order_for_a_future_life(order: &Order) -> Result<(), String> {
    let (Effect::Signal { service, incarnation, .. }
    | Effect::KillTree { service, incarnation }
    | Effect::Stand { service, incarnation, .. }) = &order.effect
    else {
        return Ok(());
    };
    let latest = match &order.slot {
        Slot::Empty { last } => *last,
        slot => slot.incarnation().unwrap_or_default(),
    };
    if *incarnation > latest {
        return Err(format!("{service}: an order for life {incarnation} meets {:?}", order.slot));
    }
    Ok(())
}

/// The keeper has begun a life by itself.
pub(super) fn check_followed(world: &World, service: &ServiceName) -> Result<(), Broken> {
    let broken = |name, text: &str| Err((name, format!("{service} {text}")));
    if world.past.down.contains(service) {
        return broken("no_start_after_an_answered_stop", "is followed although it was stopped");
    }
    if world.past.held_back.contains(service) {
        return broken("paused_means_no_restart", "is followed although it is paused");
    }
    if world.left {
        return broken("no_start_after_shutdown", "is followed although the daemon has left");
    }
    let Some(seat) = world.keeper.seat(service) else { return Ok(()) };
    if seat.forgotten {
        return broken("no_start_after_an_answered_stop", "is followed although it was forgotten");
    }
    let Some((_, spec)) = &seat.plan else {
        return broken("a_plan_for_every_life", "is followed without a plan");
    };
    if !spec.launch.sockets.is_empty() && !seat.holds {
        return broken("sockets_before_a_life", "is followed without its sockets");
    }
    if world.wire.is_empty() && !spec.same_process(world.spec(service)) {
        return broken("the_present_specification", "is followed by the plan of an earlier specification");
    }
    Ok(())
}
