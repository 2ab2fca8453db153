//! What happens when, by a seed.

use std::fmt;
use std::time::Duration;

use super::Chaos;
use super::crowd::{Crowd, Member};
use crate::sim::Chance;

/// What may happen beside what always may.
#[derive(Clone, Copy, Debug, Default)]
pub struct Abilities {
    /// The keeper is killed, and started again: services are adopted.
    pub keeper_dies: bool,
    /// `defib daemon restart`: the keeper executes itself.
    pub daemon_restart: bool,
    /// The kernel keeps the ends that nobody watched, where the source is `ebpf`: none may be unknown.
    pub ends_are_kept: bool,
}

/// What this defib can bear.
pub const NOW: Abilities = Abilities { keeper_dies: true, daemon_restart: true, ends_are_kept: true };

/// Something that happens. Services are named by their place in the crowd.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Event {
    Kill {
        member: usize,
        signal: i32,
    },
    /// SIGSTOP, and SIGCONT after so many milliseconds.
    Freeze {
        member: usize,
        millis: u64,
    },
    FreezeDaemon {
        millis: u64,
    },
    KillDaemon,
    /// And it is started again after so many milliseconds.
    KillKeeper {
        millis: u64,
    },
    KillBoth {
        millis: u64,
    },
    RestartDaemon,
    /// The configuration is changed, and read again.
    Vary {
        member: usize,
    },
    Remove {
        member: usize,
    },
    Add {
        member: usize,
    },
    Verb {
        member: usize,
        verb: Verb,
    },
}

/// What an operator asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verb {
    Start,
    Stop,
    Restart,
    Disable,
    Enable,
}

impl Verb {
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Stop => "stop",
            Self::Restart => "restart",
            Self::Disable => "disable",
            Self::Enable => "enable",
        }
    }
}

/// Everything that happens, by the milliseconds since the beginning.
#[derive(Debug)]
pub(super) struct Schedule(pub(super) Vec<(u64, Event)>);

/// What may be chosen, and how often.
#[derive(Clone, Copy)]
enum Sort {
    Kill,
    Freeze,
    FreezeDaemon,
    KillDaemon,
    KillKeeper,
    KillBoth,
    RestartDaemon,
    Reload,
    Verb,
}

/// What ends a service, SIGKILL more often than the others.
const DEADLY: [i32; 5] = [libc::SIGKILL, libc::SIGKILL, libc::SIGKILL, libc::SIGTERM, libc::SIGSEGV];

impl Schedule {
    /// That of a seed.
    pub(super) fn new(chaos: &Chaos, crowd: &Crowd) -> Self {
        let mut chance = Chance(chaos.seed);
        let mut events = Vec::new();
        let (mut at, end) = (300, chaos.time.as_millis() as u64);
        let sorts = sorts(chaos.abilities);
        let mut bouts = Bouts::default();
        while at < end {
            let sort = sorts[below(&mut chance, sorts.len())];
            if bouts.forbid(sort, at) {
                at += 1;
                continue;
            }
            choose(sort, at, crowd, &mut chance, &mut events);
            // What dies alone is the rule; now and then something dies with it.
            at += if chance.roll().is_multiple_of(5) { chance.roll() % 5 } else { 50 + chance.roll() % 350 };
        }
        // What is to be undone is undone, however late.
        events.sort_by_key(|(at, _)| *at);
        Self(events)
    }
}

/// A keeper waits longer and longer for daemons that do not last (10 s, `keeper/nurse.rs`). So daemons are killed a few
/// times in a row, and then left alone for so long: otherwise there would be none most of the time. Keepers get the time
/// to come back.
#[derive(Default)]
struct Bouts {
    deaths: u32,
    latest: u64,
    /// Before this the keeper is left alone.
    keeper: u64,
}

impl Bouts {
    const DEATHS: u32 = 3;
    const LASTING: u64 = 11_000;
    const KEEPER: u64 = 3_000;

    /// Whether something may not happen now, as too much of it has.
    fn forbid(&mut self, sort: Sort, at: u64) -> bool {
        match sort {
            Sort::KillDaemon => {
                if at >= self.latest + Self::LASTING {
                    self.deaths = 0;
                }
                if self.deaths >= Self::DEATHS {
                    return true;
                }
                self.deaths += 1;
                self.latest = at;
            }
            Sort::KillKeeper | Sort::KillBoth | Sort::RestartDaemon => {
                if at < self.keeper {
                    return true;
                }
                self.keeper = at + Self::KEEPER;
            }
            Sort::Kill | Sort::Freeze | Sort::FreezeDaemon | Sort::Reload | Sort::Verb => {}
        }
        false
    }
}

fn sorts(abilities: Abilities) -> Vec<Sort> {
    let mut sorts = Vec::new();
    let mut add = |sort, times| sorts.extend(std::iter::repeat_n(sort, times));
    add(Sort::Kill, 40);
    add(Sort::Freeze, 8);
    add(Sort::FreezeDaemon, 7);
    add(Sort::KillDaemon, 16);
    add(Sort::Reload, 9);
    add(Sort::Verb, 16);
    if abilities.keeper_dies {
        add(Sort::KillKeeper, 8);
        add(Sort::KillBoth, 6);
    }
    if abilities.daemon_restart {
        add(Sort::RestartDaemon, 8);
    }
    sorts
}

fn below(chance: &mut Chance, limit: usize) -> usize {
    (chance.roll() % limit as u64) as usize
}

fn choose(sort: Sort, at: u64, crowd: &Crowd, chance: &mut Chance, events: &mut Vec<(u64, Event)>) {
    let anybody = below(chance, crowd.members.len());
    let expendable = |chance: &mut Chance| loop {
        let member = below(chance, crowd.members.len());
        if crowd.members[member].expendable() {
            return member;
        }
    };
    let mut add = |later: u64, event| events.push((at + later, event));
    match sort {
        Sort::Kill => add(0, Event::Kill { member: anybody, signal: DEADLY[below(chance, DEADLY.len())] }),
        Sort::Freeze => add(0, Event::Freeze { member: anybody, millis: 100 + chance.roll() % 1400 }),
        Sort::FreezeDaemon => add(0, Event::FreezeDaemon { millis: 100 + chance.roll() % 1400 }),
        Sort::KillDaemon => add(0, Event::KillDaemon),
        Sort::KillKeeper => add(0, Event::KillKeeper { millis: chance.roll() % 300 }),
        Sort::KillBoth => add(0, Event::KillBoth { millis: chance.roll() % 300 }),
        Sort::RestartDaemon => add(0, Event::RestartDaemon),
        Sort::Reload if chance.roll().is_multiple_of(2) => {
            add(0, Event::Vary { member: anybody });
        }
        Sort::Reload => {
            let member = expendable(chance);
            add(0, Event::Remove { member });
            add(200 + chance.roll() % 1500, Event::Add { member });
        }
        Sort::Verb => match chance.roll() % 4 {
            0 | 1 => add(0, Event::Verb { member: anybody, verb: Verb::Restart }),
            2 => {
                add(0, Event::Verb { member: anybody, verb: Verb::Stop });
                add(200 + chance.roll() % 1500, Event::Verb { member: anybody, verb: Verb::Start });
            }
            _ => {
                let member = expendable(chance);
                add(0, Event::Verb { member, verb: Verb::Disable });
                let later = 200 + chance.roll() % 1500;
                add(later, Event::Verb { member, verb: Verb::Enable });
                add(later + chance.roll() % 300, Event::Verb { member, verb: Verb::Start });
            }
        },
    }
}

impl Event {
    /// As a diary tells it.
    pub(super) fn told(self, crowd: &Crowd) -> String {
        let name = |member: usize| crowd.members.get(member).map_or("?", |member: &Member| &member.name);
        match self {
            Self::Kill { member, signal } => format!("kill -{signal} {}", name(member)),
            Self::Freeze { member, millis } => format!("stop {} for {millis} ms", name(member)),
            Self::FreezeDaemon { millis } => format!("stop the daemon for {millis} ms"),
            Self::KillDaemon => "kill the daemon".to_owned(),
            Self::KillKeeper { millis } => format!("kill the keeper, start it after {millis} ms"),
            Self::KillBoth { millis } => format!("kill keeper and daemon, start them after {millis} ms"),
            Self::RestartDaemon => "defib daemon restart".to_owned(),
            Self::Vary { member } => format!("another command line for {}", name(member)),
            Self::Remove { member } => format!("{} is configured no longer", name(member)),
            Self::Add { member } => format!("{} is configured again", name(member)),
            Self::Verb { member, verb } => format!("defib {verb} {}", name(member)),
        }
    }
}

impl fmt::Display for Verb {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// How long after the last event and its answer everybody is to be well again, on a machine that others use too.
pub(super) const RECOVERY: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::crowd::Kind;
    use super::*;

    #[test]
    fn a_seed_brings_the_same_and_only_what_is_allowed() {
        let crowd = Crowd::new(Path::new("/nowhere"), 1);
        let all = Abilities { keeper_dies: true, daemon_restart: true, ends_are_kept: true };
        let of = |seed, abilities| {
            let chaos = Chaos { seed, time: Duration::from_secs(60), source: "pidfd", abilities };
            Schedule::new(&chaos, &crowd).0
        };
        assert_eq!(of(7, all), of(7, all));
        assert_ne!(of(7, all), of(8, all));
        let keeper = |event: &Event| matches!(event, Event::KillKeeper { .. } | Event::KillBoth { .. });
        assert!(of(7, all).iter().any(|(_, event)| keeper(event)));
        assert!(!of(7, Abilities::default()).iter().any(|(_, event)| keeper(event)));
        let away = |event: &Event| match event {
            Event::Remove { member } | Event::Verb { member, verb: Verb::Disable } => {
                crowd.members[*member].kind == Kind::Server
            }
            _ => false,
        };
        assert!(!of(7, all).iter().any(|(_, event)| away(event)), "clients would be refused");
    }
}
