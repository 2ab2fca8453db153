//! How a random history chooses what happens.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::time::Duration;

use defib_core::Verb;
use defib_core::model::{
    Backoff, Delays, GiveUp, Launch, Leftovers, Policy, ReadySpec, RestartSpec, ServiceName, ServiceSpec,
    Signal, SocketAddress, SocketSpec, StopSpec, WhenDown,
};

use super::action::{Action, Setup};
use super::keeper::{Fate, Process, Slot};
use super::world::World;

/// A small random number generator (SplitMix64): the same seed, the same history.
#[derive(Clone, Debug)]
pub struct Chance(pub u64);

impl Chance {
    /// The next random number.
    pub fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, limit: u64) -> u64 {
        self.roll() % limit
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    fn of<T: Clone>(&mut self, choices: &[T]) -> T {
        choices[self.below(choices.len() as u64) as usize].clone()
    }
}

impl Setup {
    /// One to three services with random policies.
    pub fn random(chance: &mut Chance) -> Self {
        let names = ["api", "db", "web"];
        let services =
            names[..1 + chance.below(3) as usize].iter().map(|name| service(name, chance)).collect();
        Self { seed: chance.roll(), services }
    }
}

fn service(name: &str, chance: &mut Chance) -> ServiceSpec {
    let autostart = !chance.one_in(4);
    let ports = chance.of(&[BTreeSet::new(), BTreeSet::from([80]), BTreeSet::from([80, 443])]);
    // Those who have two ports hold one: that takes no chance, so a seed is the history that it was.
    let hold_ports = BTreeSet::from_iter(ports.get(&443).copied());
    ServiceSpec {
        autostart,
        ports,
        ready: chance.of(&[ReadySpec::Exec, ReadySpec::Exec, ReadySpec::Port(80)]),
        restart: restart(chance),
        stop: StopSpec { signal: Signal::TERM, timeout: millis(chance.of(&[0, 20, 1_000, 10_000])) },
        leftovers: chance.of(&[Leftovers::Kill, Leftovers::Kill, Leftovers::Keep]),
        hold_for: millis(chance.of(&[0, 100, 5_000])),
        when_down: chance.of(&[WhenDown::Refuse, WhenDown::Refuse, WhenDown::Hold]),
        launch: Launch {
            sockets: sockets(chance),
            hold_ports,
            ..Launch::new(vec![format!("/usr/bin/{name}")])
        },
        ..ServiceSpec::new(name.parse().expect("a valid name"), Vec::new())
    }
}

fn sockets(chance: &mut Chance) -> Vec<SocketSpec> {
    let of_port = |port: u16| SocketSpec::new(SocketAddress::Tcp((Ipv4Addr::LOCALHOST, port).into()));
    chance.of(&[vec![], vec![of_port(80)], vec![of_port(80), of_port(443)]])
}

fn restart(chance: &mut Chance) -> RestartSpec {
    let backoff = Backoff {
        initial: millis(chance.of(&[0, 1, 100, 2_000])),
        factor: chance.of(&[1.0, 2.0, 3.5]),
        max: millis(chance.of(&[100, 5_000, 60_000])),
        jitter: chance.of(&[0.0, 0.1, 1.0]),
    };
    let list = (0..=chance.below(3)).map(|_| millis(chance.of(&[0, 5, 400, 5_000]))).collect();
    RestartSpec {
        policy: chance.of(&[
            Policy::OnFailure,
            Policy::OnFailure,
            Policy::Always,
            Policy::Always,
            Policy::Never,
        ]),
        success_codes: chance.of(&[BTreeSet::from([0]), BTreeSet::from([0, 7]), BTreeSet::new()]),
        never_codes: chance.of(&[BTreeSet::new(), BTreeSet::from([3]), BTreeSet::from([0, 3])]),
        immediate: chance.below(4) as u32,
        delays: chance.of(&[Delays::Backoff(backoff), Delays::List(list)]),
        max_restarts: chance.of(&[None, Some(0), Some(1), Some(3), Some(10), Some(10)]),
        window: chance.of(&[None, Some(millis(50)), Some(millis(5_000)), Some(millis(300_000))]),
        give_up: chance.of(&[GiveUp::Fail, GiveUp::RetryEvery(millis(30_000))]),
        reset_after: millis(chance.of(&[0, 10, 1_000, 10_000])),
    }
}

fn millis(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// The temper of a world: how often each kind of thing happens in it, if ever.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Temper {
    asking: u64,
    dying: u64,
    failing: u64,
    crashing: u64,
    lateness: u64,
    defiance: u64,
    binding: u64,
    reloading: u64,
}

impl Temper {
    pub(crate) fn random(chance: &mut Chance) -> Self {
        Self {
            asking: chance.of(&[0, 1, 4, 12]),
            dying: chance.of(&[1, 4, 12]),
            failing: chance.of(&[0, 1, 6]),
            crashing: chance.of(&[0, 0, 1, 4]),
            lateness: chance.of(&[0, 1, 6]),
            defiance: chance.of(&[0, 1, 4]),
            binding: chance.of(&[0, 3, 12]),
            reloading: chance.of(&[0, 1, 4]),
        }
    }

    /// Chooses the next action.
    pub(crate) fn choose(&self, chance: &mut Chance, world: &World) -> Action {
        let mut choices: Vec<(u64, Action)> = Vec::with_capacity(24);
        for (service, seat) in world.keeper.seats().filter(|(_, seat)| !seat.forgotten) {
            let service = || service.clone();
            match &seat.slot {
                Slot::Empty { .. } | Slot::Failed { .. } => {}
                Slot::Starting(process) => {
                    let defies = chance.below(5) < self.defiance;
                    choices.push((12, Action::Exec { service: service(), defies }));
                    choices.push((self.failing, Action::Fail { service: service() }));
                    choices.push((1 + self.dying / 4, self.death(chance, service(), process.fate)));
                }
                Slot::Living(process) => {
                    let weight = match process.fate {
                        Fate::Obeys | Fate::Defies => self.dying,
                        Fate::Asked | Fate::Killed => 10,
                    };
                    choices.push((weight, self.death(chance, service(), process.fate)));
                    // 8080 is in no specification.
                    let (port, listens) = (chance.of(&[80, 80, 443, 8080]), !chance.one_in(3));
                    choices.push((self.binding, Action::Bind { service: service(), port, listens }));
                }
                Slot::Ended { cleared: false, .. } => choices.push((8, Action::Clear { service: service() })),
                Slot::Ended { .. } => {}
            }
            let weight = if seat.unreported { 12 } else { self.lateness };
            choices.push((weight, Action::Report { service: service() }));
            choices.push((self.asking, Action::Ask { service: service(), verb: verb(chance) }));
        }
        if !world.wire.is_empty() {
            choices.push((40, Action::Obey));
        }
        choices.push((8, Action::Wait { ns: self.wait(chance, world) }));
        match &world.daemon {
            None => choices.push((20, Action::Boot)),
            Some(daemon) => {
                if !daemon.mailbox.is_empty() {
                    let waiting = daemon.mailbox.len() as u64;
                    let overtakes = if self.lateness > 1 { chance.below(waiting) as usize } else { 0 };
                    choices.push((18, Action::Deliver { overtakes, whole: chance.one_in(2) }));
                }
                if !daemon.plans.is_empty() {
                    choices.push((12, Action::Plan { fails: chance.below(12) < self.failing }));
                }
                if !daemon.looks.is_empty() {
                    choices.push((10, Action::Look));
                }
                let due = daemon.core.next_deadline().is_some_and(|at| at <= world.now);
                choices.push((if due { 16 } else { 1 }, Action::Wake));
                choices.push((self.reloading, Action::Reload { services: edited(chance, world) }));
                if chance.one_in(30) || daemon.leaving {
                    choices.push((1, Action::Shutdown { hurry: chance.one_in(2) }));
                }
            }
        }
        if self.crashing > 0 && !world.shutting_down && chance.one_in(3) {
            choices.push((1, Action::Orphan));
        }
        if world.fuse.is_none() {
            let (turns, effects) = (chance.below(12) as u32, chance.below(10) as u32);
            choices.push((self.crashing, Action::Doom { turns, effects }));
        }
        let mut ticket = chance.below(choices.iter().map(|(weight, _)| weight).sum());
        for (weight, action) in choices {
            if ticket < weight {
                return action;
            }
            ticket -= weight;
        }
        Action::Wake
    }

    fn wait(&self, chance: &mut Chance, world: &World) -> u64 {
        let deadline = world.daemon.as_ref().and_then(|daemon| daemon.core.next_deadline());
        let late = if self.lateness > 0 && chance.one_in(3) { chance.below(3_000_000_000) } else { 0 };
        match deadline {
            Some(at) if chance.one_in(2) => at.0.saturating_sub(world.now.0) + late,
            _ => {
                let most = chance.of(&[1_000, 1_000_000, 50_000_000, 20_000_000_000]);
                chance.below(most)
            }
        }
    }

    fn death(&self, chance: &mut Chance, service: ServiceName, fate: Fate) -> Action {
        let status = match fate {
            Fate::Killed => Signal::KILL.0,
            Fate::Asked => chance.of(&[Signal::TERM.0, Signal::TERM.0, 0, 7 << 8]),
            Fate::Obeys | Fate::Defies => {
                chance.of(&[0, 1 << 8, 7 << 8, 3 << 8, Signal::KILL.0, 11 | 0x80, 6, 0xff << 8])
            }
        };
        let oom = chance.of(&[None, Some(false), Some(true)]).filter(|_| status == Signal::KILL.0);
        Action::Die { service, status, oom, clean: !chance.one_in(3) }
    }
}

/// The configuration after an edit: a service less, more, or another one, or only other rules for one.
fn edited(chance: &mut Chance, world: &World) -> Vec<ServiceSpec> {
    let mut services = world.setup.services.clone();
    let name = chance.of(&["api", "db", "web"]);
    let at = services.iter().position(|spec| spec.name.as_str() == name);
    let other = service(name, chance);
    match at {
        None => services.push(other),
        Some(at) => match chance.below(4) {
            0 => drop(services.remove(at)),
            1 => services[at] = ServiceSpec { launch: services[at].launch.clone(), ..other },
            2 => services[at].launch.command.push("--again".to_owned()),
            _ => services[at] = other,
        },
    }
    services.sort_by(|a, b| a.name.cmp(&b.name));
    services
}

fn verb(chance: &mut Chance) -> Verb {
    let signal = chance.of(&[Signal::TERM, Signal::KILL, Signal(1)]);
    let span = chance.of(&[0, 1_000_000, 3_000_000_000, 60_000_000_000]);
    chance.of(&[
        Verb::Start,
        Verb::Start,
        Verb::Stop,
        Verb::Stop,
        Verb::Restart,
        Verb::Restart,
        Verb::Reset,
        Verb::Enable,
        Verb::Enable,
        Verb::Disable,
        Verb::Pause(None),
        Verb::Pause(Some(span)),
        Verb::Resume,
        Verb::Kill(signal),
    ])
}

/// What happens next when nothing goes wrong any more; `None` when nothing is left to happen.
pub(crate) fn calm(world: &World) -> Option<Action> {
    if world.left {
        return (!world.wire.is_empty()).then_some(Action::Obey);
    }
    let Some(daemon) = &world.daemon else { return Some(Action::Boot) };
    if !world.wire.is_empty() {
        return Some(Action::Obey);
    }
    if !daemon.mailbox.is_empty() {
        return Some(Action::Deliver { overtakes: 0, whole: false });
    }
    if !daemon.plans.is_empty() {
        return Some(Action::Plan { fails: false });
    }
    if !daemon.looks.is_empty() {
        return Some(Action::Look);
    }
    for (service, seat) in world.keeper.seats() {
        let missing = |process: &Process| {
            world
                .specs
                .get(service)?
                .wanted_ports()
                .into_iter()
                .find(|port| !process.listening.contains(port))
        };
        let service = || service.clone();
        let die = |status| Action::Die { service: service(), status, oom: None, clean: false };
        let action = match &seat.slot {
            _ if seat.unreported => Some(Action::Report { service: service() }),
            Slot::Starting(process) | Slot::Living(process) if process.fate == Fate::Killed => {
                Some(die(Signal::KILL.0))
            }
            Slot::Starting(process) | Slot::Living(process) if process.fate == Fate::Asked => {
                Some(die(Signal::TERM.0))
            }
            Slot::Starting(_) => Some(Action::Exec { service: service(), defies: false }),
            Slot::Ended { cleared: false, .. } => Some(Action::Clear { service: service() }),
            Slot::Living(process) => {
                missing(process).map(|port| Action::Bind { service: service(), port, listens: true })
            }
            Slot::Empty { .. } | Slot::Failed { .. } | Slot::Ended { .. } => None,
        };
        if action.is_some() {
            return action;
        }
    }
    let deadline = daemon.core.next_deadline()?;
    match deadline.0.saturating_sub(world.now.0) {
        0 => Some(Action::Wake),
        ns => Some(Action::Wait { ns }),
    }
}
