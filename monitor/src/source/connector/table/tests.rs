use super::*;

const KEEPER: u32 = 1;

/// A keeper's table, with a clock that ticks at every message.
struct World {
    table: Table,
    now: u64,
    batch: Batch,
}

impl World {
    fn new() -> Self {
        Self { table: Table::new(KEEPER), now: 1_000_000_000_000, batch: Batch::default() }
    }

    fn tick(&mut self) -> Tick {
        self.now += 10;
        Tick(self.now)
    }

    /// Forks, and returns the life as the keeper would report it.
    fn fork(&mut self, parent: u32, pid: u32, slot: u32) -> Life {
        let started = Tick(self.now);
        let at = self.tick();
        self.table.forked(parent, pid, pid, at, &mut self.batch);
        Life { slot, pid, started }
    }

    fn exec(&mut self, pid: u32, program: &str) {
        let at = self.tick();
        self.table.executed(pid, at.0, at, program.to_owned(), &mut self.batch);
    }

    fn exit(&mut self, tid: u32, pid: u32, code: i32) {
        let at = self.tick();
        self.table.exited((tid, pid), code, (at.0, at), &mut self.batch);
    }

    fn dump(&mut self, pid: u32) {
        let at = self.tick();
        self.table.dumped(pid, Signal(11), at, &mut self.batch);
    }

    fn claim(&mut self, life: &Life) -> bool {
        self.table.claim(life, &mut self.batch)
    }

    fn told(&mut self) -> Vec<KernelEvent> {
        std::mem::take(&mut self.batch.events)
    }
}

#[test]
fn a_child_waits_until_its_slot_is_known() {
    let mut world = World::new();
    let life = world.fork(KEEPER, 7, 3);
    world.exec(7, "/bin/a");
    assert_eq!(world.told(), [], "nobody knows whose it is");
    assert!(world.claim(&life));
    world.exec(7, "/bin/b");
    world.exit(7, 7, 0x700);
    let told = world.told();
    assert!(told.iter().all(|event| event.main && event.slot == Some(3) && event.pid == 7), "{told:?}");
    assert!(told.is_sorted_by_key(|event| event.at), "{told:?}");
    let facts: Vec<_> = told.into_iter().map(|event| event.fact).collect();
    let exec = |name: &str| KernelFact::Exec { filename: name.to_owned() };
    assert_eq!(facts[..3], [KernelFact::Fork { parent: KEEPER }, exec("/bin/a"), exec("/bin/b")]);
    assert!(world.claim(&life), "as often as the keeper reports");
    assert_eq!(world.told(), []);
    let end = world.table.take_end(&life).expect("it was heard");
    assert_eq!((end.status, end.at), (Some(WaitStatus(0x700)), Some(Tick(world.now))));
    assert_eq!(world.table.take_end(&life), None, "it was taken");
    assert!(world.table.processes.is_empty() && world.table.mains.is_empty());
}

#[test]
fn an_end_that_is_told_after_the_keeper_has_reported_it_is_nobodys() {
    let mut world = World::new();
    let life = world.fork(KEEPER, 7, 3);
    world.claim(&life);
    world.told();
    assert_eq!(world.table.take_end(&life), None, "not heard yet");
    world.exit(7, 7, 9);
    assert_eq!(world.told(), []);
    assert!(world.table.processes.is_empty());
}

#[test]
fn a_life_is_not_taken_for_another_with_its_number() {
    let mut world = World::new();
    let first = world.fork(KEEPER, 7, 3);
    world.claim(&first);
    world.exit(7, 7, 0);
    let later = Life { started: first.started + std::time::Duration::from_secs(1), ..first };
    assert_eq!(world.table.take_end(&later), None);
    assert!(!world.claim(&later));
    // The number comes back before the end was taken.
    world.now += 1_000_000_000;
    let second = world.fork(KEEPER, 7, 4);
    world.claim(&second);
    world.exit(7, 7, 9);
    assert_eq!(world.table.take_end(&second).and_then(|end| end.status), Some(WaitStatus(9)));
    assert!(world.table.processes.is_empty() && world.table.mains.is_empty());
}

#[test]
fn children_that_nobody_claims_do_not_pile_up() {
    let mut world = World::new();
    let living = world.fork(KEEPER, 5, 1);
    for pid in 1000..3000 {
        world.fork(KEEPER, pid, 0);
        world.exit(pid, pid, 0x7f00);
    }
    assert_eq!(world.table.processes.len(), UNCLAIMED);
    assert_eq!(world.table.unclaimed.len(), UNCLAIMED);
    assert!(world.claim(&living), "those that have ended make room first");
    for _ in 0..1000 {
        world.exec(2999, "/bin/x");
    }
    world.told();
    let late = Life { slot: 2, pid: 2999, started: Tick(0) };
    assert!(world.claim(&late));
    assert_eq!(world.told().len(), WAITING);
}

#[test]
fn descendants_belong_to_their_main_process_and_are_counted() {
    let mut world = World::new();
    let life = world.fork(KEEPER, 7, 3);
    world.fork(7, 8, 0);
    world.fork(8, 9, 0);
    world.fork(500, 501, 0);
    world.claim(&life);
    world.told();
    world.exec(9, "/bin/x");
    world.exit(8, 8, 0);
    assert_eq!(world.told(), [], "a descendant is not told of");
    world.dump(9);
    world.dump(501);
    let told = world.told();
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!((told[0].pid, told[0].slot, told[0].main), (9, Some(3), false));
    world.exit(7, 7, 0);
    world.exit(9, 9, 0);
    assert_eq!(world.table.counted.descendant_exits, 2);
    assert_eq!((world.table.descendants, world.table.processes.len()), (0, 1));
}

#[test]
fn what_does_not_fit_is_counted() {
    let mut world = World::new();
    let life = world.fork(KEEPER, 7, 3);
    world.claim(&life);
    for pid in 0..20_000 {
        world.fork(7, 10_000 + pid, 0);
    }
    assert_eq!(world.table.descendants, DESCENDANTS);
    assert_eq!(world.table.counted.untracked, 20_000 - DESCENDANTS as u64);
    world.told();
    for pid in 0..u64::from(CORES) + 10 {
        world.dump(10_000 + pid as u32);
    }
    assert_eq!(world.told().len(), CORES as usize);
    assert_eq!(world.table.counted.suppressed, 10);
    world.now += 1_000_000_000;
    world.dump(11_000);
    assert_eq!(world.told().len(), 1, "another second");
}

#[test]
fn after_a_loss_what_has_gone_is_forgotten() {
    let mut world = World::new();
    let life = world.fork(KEEPER, 7, 3);
    world.claim(&life);
    world.fork(7, 8, 0);
    world.fork(7, 9, 0);
    let start = world.table.start_of(7).expect("it lives");
    for (pid, seen) in [(7, None), (8, None), (9, Some((start + 5_000_000_000, Threads::default())))] {
        world.table.refresh(pid, seen);
    }
    assert_eq!(world.table.living().collect::<Vec<_>>(), [7], "the keeper tells of a main process");
    assert_eq!(world.table.descendants, 0);
}

#[test]
fn a_fork_that_is_read_after_the_claim_is_told() {
    let mut world = World::new();
    let life = Life { slot: 3, pid: 7, started: Tick(world.now) };
    assert!(!world.claim(&life));
    world.table.adopt(&life, world.now - 9_000_000, Threads::default());
    world.fork(KEEPER, 7, 3);
    world.exec(7, "/bin/a");
    let told = world.told();
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(told.iter().all(|event| event.slot == Some(3) && event.start == told[0].at.0), "{told:?}");
}

#[test]
fn a_slot_holds_one_life() {
    let mut world = World::new();
    let first = world.fork(KEEPER, 7, 3);
    world.claim(&first);
    world.exit(7, 7, 0);
    let second = world.fork(KEEPER, 8, 3);
    world.claim(&second);
    assert_eq!(world.table.take_end(&first), None);
    world.exit(8, 8, 0);
    assert!(world.table.take_end(&second).is_some());
    assert!(world.table.processes.is_empty());
}
