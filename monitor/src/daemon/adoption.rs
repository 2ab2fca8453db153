//! The first daemon of a keeper takes over what an earlier keeper's services have become: those that live, and the ends of
//! those that do not.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use defib_core::model::{By, End, Ending, Leftovers, Record, ServiceName, ServiceSpec, Tick, What};
use defib_core::{Effect, Input, KnownLife, Lost};

use super::ends::Ends;
use super::keeper_ends::Lives;
use super::link::LinkError;
use super::run::{Daemon, log};
use crate::effect::census::{self, Census, Expected, Resident};
use crate::effect::cgroup::CgroupTree;
use crate::effect::{clock, held};
use crate::keeper::protocol::Order;
use crate::source::Life;
use crate::state::{Remembered, RememberedService};

/// How long processes that belong to no life may take to end.
const STRAYS: Duration = Duration::from_secs(5);

/// Who lives, by service.
pub(super) type Residents = BTreeMap<ServiceName, Resident>;

/// Finds out who lives, and ends what is nobody's. `ends` are those that were told: the database may know less.
pub(super) fn census(
    tree: Option<&CgroupTree>,
    remembered: &Remembered,
    unheard: &BTreeMap<ServiceName, Lives>,
    services: &[Arc<ServiceSpec>],
    ends: &Ends,
) -> Residents {
    let known: BTreeMap<&ServiceName, &RememberedService> =
        remembered.services.iter().filter(|it| it.same_boot).map(|it| (&it.service, it)).collect();
    let expected = services.iter().map(|spec| {
        let keeps = spec.leftovers == Leftovers::Keep;
        let expected = known.get(&spec.name).map_or(Expected { keeps, ..Expected::default() }, |it| {
            Expected { life: latest(it), over: it.memo.over(), may_live: it.memo.may_live(), keeps }
        });
        let expected = unheard.get(&spec.name).map_or(expected, |lives| expect_later(expected, lives));
        (spec.name.clone(), expected)
    });
    let expected = expected.collect();
    let told = |service: &ServiceName, life| ends.known(service, life).is_some();
    let Census { residents, rest, others } = match tree {
        Some(tree) => census::of_cgroups(tree, &expected, told),
        None => census::of_processes(&expected, told),
    };
    if !rest.is_empty() || !others.is_empty() {
        let gone = census::end(&rest, &others, STRAYS);
        let (groups, processes) = (rest.len(), others.len());
        tracing::warn!(
            gone,
            groups,
            processes,
            "an earlier keeper had left processes of no service that lives: they were ended"
        );
    }
    if !residents.is_empty() {
        let count = residents.len();
        tracing::warn!(count, "services of an earlier keeper live: they are taken over");
    }
    residents
}

/// Counts in what the keeper knew of the lives of a service.
fn expect_later(mut expected: Expected, lives: &Lives) -> Expected {
    for (life, end) in lives.values() {
        if end.is_some() {
            expected.over = expected.over.max(life.incarnation);
        } else if expected.life.is_none_or(|known| known.incarnation < life.incarnation) {
            expected.life = Some(*life);
            expected.may_live = true;
        }
    }
    expected
}

/// The latest life of a service that is remembered and not known to have ended.
fn latest(it: &RememberedService) -> Option<KnownLife> {
    let told = it.life.map(|life| KnownLife {
        incarnation: defib_core::model::Incarnation(life.incarnation),
        pid: life.pid,
        started: Tick(life.started),
    });
    let lives = [it.memo.life(), told].into_iter().flatten();
    lives.filter(|life| life.incarnation > it.memo.over()).max_by_key(|life| life.incarnation)
}

impl Daemon {
    /// Tells the core of the services that live, and of those that were to live and have ended. Gives back what is
    /// remembered of the others.
    pub(super) fn take_up(
        &mut self,
        remembered: Remembered,
        mut residents: Residents,
        mut unheard: BTreeMap<ServiceName, Lives>,
    ) -> Result<Remembered, LinkError> {
        let Remembered { services, left } = remembered;
        // One turn for all: a thousand packets with their wake-ups would take longer than everything else.
        let (mut others, mut rest) = (Vec::new(), Vec::new());
        for it in services {
            let (lived, configured) = (it.same_boot && !left, self.slots.spec(&it.service).is_some());
            let mut lives = unheard.remove(&it.service).filter(|_| lived).unwrap_or_default();
            if let Some(life) = latest(&it).filter(|_| lived) {
                lives.entry(life.incarnation).or_insert((life, None));
            }
            lives.retain(|incarnation, _| *incarnation > it.memo.over());
            if lived && !configured && !lives.is_empty() {
                self.tell_of_removed(it.service, lives);
                continue;
            }
            let torn = lived && configured;
            let ended = torn && !lives.is_empty();
            match (residents.remove(&it.service), ended) {
                (Some(resident), _) if torn => {
                    // Before the core asks for a plan, which would find the addresses taken by the service itself.
                    self.take_sockets_back(&it.service, &resident)?;
                    rest.extend(self.orders([Input::Resume { service: it.service.clone(), memo: it.memo }])?);
                    rest.extend(self.adopt(it.service, resident, lives)?);
                }
                (None, true) => {
                    let lost = self.all_lost(&it.service, lives);
                    let pid = lost.last().map(|lost| lost.pid);
                    tracing::warn!(service = %it.service, pid, "ended while nobody watched");
                    let resumed = Input::Resume { service: it.service.clone(), memo: it.memo };
                    rest.extend(self.orders([resumed, Input::Deserted { service: it.service, lost }])?);
                }
                (resident, _) => {
                    residents.extend(resident.map(|resident| (it.service.clone(), resident)));
                    others.push(it);
                }
            }
        }
        // Nothing usable is remembered of these.
        for (service, resident) in residents {
            others.retain(|it| it.service != service);
            self.take_sockets_back(&service, &resident)?;
            let lives = unheard.remove(&service).unwrap_or_default();
            rest.extend(self.adopt(service, resident, lives)?);
        }
        for (service, lives) in unheard {
            if left || lives.is_empty() {
                continue;
            }
            others.retain(|it| it.service != service);
            if self.slots.spec(&service).is_none() {
                self.tell_of_removed(service, lives);
                continue;
            }
            let lost = self.all_lost(&service, lives);
            rest.extend(self.orders([Input::Deserted { service, lost }])?);
        }
        self.link.send_turn()?;
        self.tell_all(rest);
        Ok(Remembered { services: others, left })
    }

    /// Takes the sockets of a service back from its main process.
    fn take_sockets_back(&mut self, service: &ServiceName, resident: &Resident) -> Result<(), LinkError> {
        let (Some(slot), Some(spec)) = (self.slots.slot(service), self.slots.spec(service)) else {
            return Ok(());
        };
        let wanted = &spec.launch.sockets;
        let sockets = held::take_back(resident.pidfd.as_fd(), resident.life.pid, wanted);
        if sockets.len() < wanted.len() {
            let (found, wanted) = (sockets.len(), wanted.len());
            tracing::warn!(%service, found, wanted, "not all of its sockets could be taken back from it");
        }
        match held::duplicated(sockets) {
            Ok(opened) => drop(self.sockets.give(slot, opened, &mut self.link)?),
            Err(error) => tracing::error!(%service, %error, "its sockets are not held"),
        }
        Ok(())
    }

    /// Takes a life over. `lives`: those that are not known to have ended, and those that the keeper had begun after them.
    /// Its sockets have been taken back.
    fn adopt(
        &mut self,
        service: ServiceName,
        resident: Resident,
        mut lives: Lives,
    ) -> Result<Vec<Effect>, LinkError> {
        let Resident { life: KnownLife { incarnation, pid, started }, pidfd } = resident;
        let (Some(slot), Some(spec)) = (self.slots.slot(&service), self.slots.spec(&service)) else {
            return Ok(Vec::new());
        };
        tracing::info!(%service, pid, %incarnation, "taken over from an earlier keeper");
        let end_leftovers = spec.leftovers == Leftovers::Kill;
        let wanted = spec.launch.sockets.len();
        let holds = wanted > 0 && self.sockets.of(slot).len() == wanted;
        let cgroup = self.household_cgroup(&service);
        let order = Order::Adopt {
            slot,
            incarnation: incarnation.0,
            pid,
            started: started.0,
            end_leftovers,
            cgroup: cgroup.is_some(),
        };
        let fds = std::iter::once(pidfd).chain(cgroup).collect();
        self.link.order(order, fds)?;
        self.follow(&Life { slot, pid, started });
        lives.retain(|earlier, _| *earlier < incarnation);
        let lost = self.all_lost(&service, lives);
        self.orders([Input::Adopted { service, incarnation, pid, at: started, lost, holds }])
    }

    /// A service that lived is configured no longer: the census has ended what was left of it.
    fn tell_of_removed(&mut self, service: ServiceName, lives: Lives) {
        let mut lost = self.all_lost(&service, lives).into_iter().peekable();
        self.memory.forget(&service);
        while let Some(Lost { incarnation, pid, started, end }) = lost.next() {
            let by = if lost.peek().is_some() { By::Itself } else { By::Stop };
            let what = What::Exit { ending: Ending { end, by }, started: Some(started) };
            let record =
                Record { at: clock::now(), service: service.clone(), incarnation, pid: Some(pid), what };
            if self.ends.take_in(&record) {
                self.tell(Effect::Record(record));
            }
        }
    }

    /// How lives have ended, as far as their keeper, whoever has told it or the source can tell.
    fn all_lost(&mut self, service: &ServiceName, lives: Lives) -> Vec<Lost> {
        let lost = lives.into_values().map(|(life, end)| match end {
            Some(end) if self.ends.known(service, life).is_none() => self.heard(life, end),
            Some(_) | None => self.lost(service, life),
        });
        lost.collect()
    }

    /// An end of which the keeper had told nobody. The source may know more of it.
    fn heard(&mut self, life: KnownLife, mut end: End) -> Lost {
        let KnownLife { incarnation, pid, started } = life;
        if let Some(witness) = self.source.recorded_end(pid, started.0)
            && (end.status.is_none() || witness.status.is_none() || witness.status == end.status)
        {
            end.status = end.status.or(witness.status);
            (end.oom, end.blame) = (witness.oom, witness.blame);
        }
        Lost { incarnation, pid, started, end }
    }

    /// How a life ended while nobody watched, as far as the source can tell, or whoever has watched it after all and told
    /// it.
    fn lost(&mut self, service: &ServiceName, life: KnownLife) -> Lost {
        let KnownLife { incarnation, pid, started } = life;
        if let Some(end) = self.ends.known(service, life) {
            return Lost { incarnation, pid, started, end: end.clone() };
        }
        let witness = self.source.recorded_end(pid, started.0).unwrap_or_default();
        let now = clock::now();
        let at = witness.at.map_or(now, |at| at.max(started).min(now));
        let (status, oom, blame) = (witness.status, witness.oom, witness.blame);
        let end = End { status, at, usage: defib_core::model::Usage::default(), oom, blame };
        Lost { incarnation, pid, started, end }
    }

    /// Tells of ends that died with an earlier daemon before anybody had heard of them. They are among the events already.
    pub(super) fn tell_untold(&self, untold: Vec<Record>) {
        for record in untold {
            log(&record.service, &record.what);
            self.count(&record);
        }
    }

    fn household_cgroup(&self, service: &ServiceName) -> Option<OwnedFd> {
        let tree = self.cgroups.as_ref()?;
        tree.service(service)
            .inspect_err(|error| tracing::error!(%service, %error, "its cgroup cannot be opened"))
            .ok()
    }
}
