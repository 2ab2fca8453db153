//! Histories: inventing one, and doing one again.

use super::action::{Action, Setup};
use super::chance::{Chance, Temper};
use super::event_log::EventLog;
use super::invariants::Violation;
use super::world::World;

/// Invents a history of `steps` random actions, lets the world come to rest, ends defib, and lets it rest again.
/// `log` has every action, the one that broke an invariant last, even if this panics.
pub fn run(seed: u64, steps: usize, log: &mut Option<EventLog>) -> Result<(), Violation> {
    let mut chance = Chance(seed);
    let setup = Setup::random(&mut chance);
    let temper = Temper::random(&mut chance);
    let log = log.insert(EventLog::new(setup.clone()));
    let mut world = World::new(setup);
    let mut happen = |world: &mut World, action: Action| {
        log.actions.push(action);
        log.actions.last().map_or(Ok(()), |action| world.apply(action))
    };

    for _ in 0..steps {
        if world.left {
            break;
        }
        let action = temper.choose(&mut chance, &world);
        happen(&mut world, action)?;
    }
    for end in [Action::Rest, Action::Shutdown { hurry: false }, Action::Rest] {
        happen(&mut world, end)?;
    }
    Ok(())
}

/// Does a history again.
pub fn replay(log: &EventLog) -> Result<(), Violation> {
    let mut world = World::new(log.setup.clone());
    log.actions.iter().try_for_each(|action| world.apply(action))
}
