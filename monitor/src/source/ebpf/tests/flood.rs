//! A service with thousands of descendants fills nothing.

use defib_core::model::KernelFact;
use defib_ebpf::{DESCENDANT_EVENTS, Slot};

use super::super::maps::Abi;
use super::World;

impl World {
    /// What is counted of a slot.
    pub(super) fn slot(&self, slot: u32) -> Slot {
        let map = self
            .source
            .probes
            .object
            .as_ref()
            .and_then(|object| object.map("SLOTS"))
            .expect("the source has left it there");
        let slots: aya::maps::Array<_, Abi<Slot>> = map.try_into().expect("its types are right");
        slots.get(&slot, 0).expect("the keeper has as many").0
    }

    fn emitted(&self) -> u64 {
        self.source.stats().kinds.iter().map(|kind| kind.emitted).sum()
    }
}

#[tokio::test(flavor = "current_thread")]
async fn ends_of_descendants_are_only_counted() {
    let Some(mut world) = World::new() else { return };
    let line = "/bin/sh -c 'i=0; while [ $i -lt 3000 ]; do (exit 1); i=$((i+1)); done'";
    let events = world.run_main(11, line);
    assert!(events.iter().all(|event| event.main), "{events:?}");
    assert_eq!(world.emitted(), 3, "fork, exec and exit of the main process");
    assert_eq!(world.slot(11), Slot { descendant_exits: 3000, ..Slot::default() });
    let stats = world.source.stats();
    assert_eq!((stats.descendant_exits, stats.suppressed, stats.lost()), (3000, 0, 0));
}

#[tokio::test(flavor = "current_thread")]
async fn signals_of_descendants_are_cut_short() {
    let Some(mut world) = World::new() else { return };
    let line =
        "/bin/sh -c 'i=0; while [ $i -lt 1000 ]; do /bin/sh -c \"kill -KILL \\$\\$\"; i=$((i+1)); done'";
    let events = world.run_main(12, line);
    let (first, last) = (events.first().expect("its fork"), events.last().expect("its end"));
    let seconds = (last.at.0 - first.at.0) / 1_000_000_000;
    let told = events.iter().filter(|event| matches!(event.fact, KernelFact::Signal { .. })).count() as u64;
    let budget = u64::from(DESCENDANT_EVENTS);
    assert!(told >= budget && told <= budget * (seconds + 2), "{told} in {seconds} s");
    let slot = world.slot(12);
    assert_eq!((slot.told, slot.told + slot.suppressed, slot.descendant_exits), (told, 1000, 1000));
    let stats = world.source.stats();
    assert_eq!((stats.suppressed, stats.lost()), (slot.suppressed, 0), "what is suppressed is not lost");
    assert_eq!(world.source.maps.blows(), 0);
    // Another slot has a budget of its own.
    let events = world.run_main(13, "/bin/sh -c '/bin/sh -c \"kill -KILL \\$\\$\"; exit 1'");
    assert!(events.iter().any(|event| matches!(event.fact, KernelFact::Signal { .. })));
}
