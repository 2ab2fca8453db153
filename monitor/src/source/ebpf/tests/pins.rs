//! Probes that outlive the daemon, here the source: it is opened again over what the one before has pinned.

use std::fs;
use std::path::PathBuf;

use defib_core::model::{Blame, Tick, WaitStatus};
use defib_ebpf::ctrl;

use super::super::load::{ON_TASK, PROBES};
use super::super::open::{Past, open};
use super::super::pins::{pinned, remove_pins};
use super::super::shape::SHAPES;
use super::{Keeper, World, life};
use crate::source::any::Life;
use crate::source::clocks;

/// A name of one test's own, under which nothing is left.
struct Name(String);

impl Name {
    fn of(test: &str) -> Self {
        Self(format!("test-{}-{test}", std::process::id()))
    }

    fn open(&self, keeper: Keeper) -> Option<(World, Past, Vec<String>)> {
        let opened = open(keeper.shell.id(), Some(&self.0));
        let past = opened.as_ref().map_or(Past::New, |opened| opened.past);
        let (world, why) = World::over(keeper, opened)?;
        Some((world, past, why))
    }

    /// Where it is pinned; `None` with a word where it is not.
    fn place(&self, why: &[String]) -> Option<PathBuf> {
        if let Some(unpinned) = why.iter().find(|line| line.starts_with("not pinned")) {
            eprintln!("skipped: needs a bpffs that is root's ({unpinned})");
            return None;
        }
        let [set] = &pinned(&self.0).expect("the folder is root's")[..] else { panic!("{why:?}") };
        assert_eq!(
            (set.programs, set.maps, set.ends.is_some()),
            (PROBES.len(), SHAPES.len(), true),
            "{set:?}"
        );
        Some(set.path.clone())
    }
}

impl Drop for Name {
    fn drop(&mut self) {
        let begun = clocks::boottime().0;
        // A child that another test has just forked has a copy of the lock until it executes.
        while let Err(error) = remove_pins(&self.0) {
            assert!(clocks::boottime().0 - begun < 60_000_000_000, "no source has them any more: {error:?}");
            std::thread::yield_now();
        }
    }
}

impl World {
    /// As if the daemon were killed: what it holds is closed, and its shell goes on.
    fn die(self) -> Keeper {
        let Self { keeper, mut source, .. } = self;
        source.leave(true);
        keeper
    }

    fn begin(&mut self, slot: u32, command: &str) -> u32 {
        let pid = self.announced(slot, &format!("{command} >/dev/null & echo $!"));
        pid.parse().expect("a pid")
    }

    /// Until the main process of a slot has made a child.
    fn wait_for_child(&mut self, slot: u32) {
        while self.source.maps.all_tracked().filter(|(_, entry)| entry.slot == slot).count() < 2 {
            self.keeper.run("sleep 0.02");
        }
    }
}

#[tokio::test(flavor = "current_thread")]
async fn ends_while_there_is_no_daemon_are_recorded_for_the_next() {
    let name = Name::of("ends");
    let Some((mut world, past, why)) = name.open(Keeper::start()) else { return };
    let Some(_) = name.place(&why) else { return };
    assert_eq!(past, Past::New);
    let waits = |then: &str| format!("sh -c 'read it; {then}' <$FIFO");
    world.keeper.run("FIFO=$(mktemp -u); mkfifo $FIFO; exec 9<>$FIFO");
    let exits = world.begin(3, &waits("exit 7"));
    let crashes = world.begin(4, "sleep 1000");
    let lives = world.begin(5, "sh -c 'sleep 1000 & wait'");
    world.wait_for_child(5);
    let heard = world.heard();
    let start_of = |pid| heard.iter().find(|event| event.pid == pid).expect("its fork was heard").start;
    let lives_start = start_of(lives);
    // A keeper knows it by the time at which it asked for it, a little before.
    let [exits_made, crashes_made] = [exits, crashes].map(|pid| start_of(pid) - 1_000_000);

    let mut keeper = world.die();
    keeper.run(&format!("echo go >&9; wait {exits}; kill -SEGV {crashes}; wait {crashes}; rm $FIFO"));
    let killer = keeper.shell.id();

    // The next daemon of the same keeper, then that of another, which is told of other slots.
    let (mut world, past, why) = name.open(keeper).expect("it could be opened before");
    assert_eq!(past, Past::Daemon, "{why:?}");
    let end = world.source.recorded_end(exits, exits_made).expect("it was recorded");
    assert_eq!((end.status, end.oom), (Some(WaitStatus(0x700)), Some(false)));
    assert_eq!(world.source.recorded_end(exits, exits_made), None, "it was taken");
    assert_eq!(world.source.recorded_end(crashes, crashes_made + 60_000_000), None, "another life");
    // Its events are there as if this source had been open all the time.
    let heard = world.heard();
    assert!(heard.iter().any(|event| event.pid == crashes && event.slot == Some(4)), "{heard:?}");
    let stats = world.source.stats();
    assert!(stats.kinds.iter().all(|kind| kind.emitted == kind.received), "{stats:?}");

    let shell = world.die();
    let (mut world, past, why) = name.open(Keeper::start()).expect("it could be opened before");
    assert_eq!(past, Past::Keeper, "{why:?}");
    assert_eq!(world.heard(), [], "its slots are not ours");
    let end = world.source.recorded_end(crashes, crashes_made).expect("it was recorded");
    assert_eq!(end.status.map(|WaitStatus(status)| status & 0x7f), Some(11));
    assert!(matches!(&end.blame, Blame::Process(sender) if sender.pid == killer), "{end:?}");
    assert_eq!(
        world.source.track(&life(lives, 9)).expect("it can be read"),
        Some(lives_start),
        "not as /proc rounds it"
    );
    let slots: Vec<_> = world.source.maps.all_tracked().map(|(_, entry)| entry.slot).collect();
    assert_eq!(slots, [9; 2], "and its child");
    let told = Life { started: Tick(lives_start - 1_000_000), ..life(lives, 9) };
    assert_eq!(
        world.source.track(&told).expect("it can be read"),
        Some(lives_start),
        "by the keeper's clock"
    );
    let pid = world.begin(9, "sh -c 'exit 3'");
    let heard = world.reap(pid);
    let made = heard.iter().find(|event| event.pid == pid).expect("its fork was heard").start;
    assert!(world.source.recorded_end(pid, made).is_some(), "the children of the new keeper are followed");
    drop(shell);
    world.source.leave(false);
    assert!(pinned(&name.0).expect("the folder is root's").is_empty());
    world.keeper.run(&format!("kill -KILL {lives}"));
}

#[tokio::test(flavor = "current_thread")]
async fn what_does_not_fit_is_replaced_and_asked_before() {
    let name = Name::of("misfit");
    let Some((mut world, _, why)) = name.open(Keeper::start()) else { return };
    let Some(place) = name.place(&why) else { return };
    let dies = world.begin(3, "sleep 1000");
    let lives = world.begin(4, "sh -c 'sleep 1000 & wait'");
    world.wait_for_child(4);
    let heard = world.heard();
    let made = heard.iter().find(|event| event.pid == dies).expect("its fork was heard").start;

    // As if another program had been pinned in the place of one; then as if it had all been another version's.
    for round in 0..2 {
        let mut keeper = if round == 0 {
            world.source.control.set(ctrl::TAGS, 1).expect("it can be written");
            world.die()
        } else {
            let keeper = world.die();
            let version = place.parent().expect("the version");
            let other =
                version.with_file_name(format!("v{}-{:016x}", defib_ebpf::VERSION, std::process::id()));
            fs::create_dir(&other).expect("a folder");
            fs::set_permissions(&other, std::os::unix::fs::PermissionsExt::from_mode(0o700))
                .expect("it is ours");
            fs::rename(&place, other.join(&name.0)).expect("it can be renamed");
            keeper
        };
        if round == 1 {
            keeper.run(&format!("kill -KILL {dies}; wait {dies}"));
        }
        let (next, past, why) = name.open(keeper).expect("it could be opened before");
        assert_eq!(past, Past::New, "{why:?}");
        assert_eq!(
            why.iter().any(|line| line.contains("not the program that was pinned")),
            round == 0,
            "{why:?}"
        );
        world = next;
        name.place(&why).expect("it was pinned before");
        assert!(!place.join("old").exists() && !place.join("new").exists());
        let followed: Vec<_> = world.source.maps.all_tracked().filter(|(_, entry)| entry.slot == 4).collect();
        assert_eq!(followed.len(), 2, "{followed:?}");
    }
    let end = world.source.recorded_end(dies, made).expect("the older probes recorded it");
    assert_eq!(end.status, Some(WaitStatus(9)));
    world.source.settle(&mut Default::default());
    assert_eq!(world.source.recorded_end(dies, made), None);
    world.keeper.run(&format!("kill -KILL {lives}"));
    drop(world.die());
}

#[tokio::test(flavor = "current_thread")]
async fn what_a_crash_left_half_pinned_is_removed() {
    let name = Name::of("half");
    let Some((world, _, why)) = name.open(Keeper::start()) else { return };
    let Some(place) = name.place(&why) else { return };
    let keeper = world.die();
    // It died between the two renames.
    fs::rename(place.join("set"), place.join("old")).expect("it can be renamed");
    fs::create_dir(place.join("new")).expect("a folder");
    let (world, past, why) = name.open(keeper).expect("it could be opened before");
    assert_eq!(past, Past::New, "{why:?}");
    name.place(&why).expect("it was pinned before");
    assert!(!place.join("old").exists() && !place.join("new").exists());

    // While it lives nobody else gets it, and one that never began leaves nothing.
    let (second, past, why) = name.open(Keeper::start()).expect("unpinned");
    assert_eq!(past, Past::New);
    assert!(why.iter().any(|line| line.contains("belongs to another daemon")), "{why:?}");
    assert_eq!(second.source.stats().lost(), 0);
    remove_pins(&name.0).expect_err("they are in use");
    drop(second);
    drop(world);
    assert!(pinned(&name.0).expect("the folder is root's").is_empty());
}

/// Not every kernel takes every probe: those that it takes are used again all the same.
#[tokio::test(flavor = "current_thread")]
async fn a_probe_that_was_left_out_is_not_missed() {
    let name = Name::of("left-out");
    let Some((mut world, _, why)) = name.open(Keeper::start()) else { return };
    let Some(place) = name.place(&why) else { return };
    let at = PROBES.iter().position(|probe| probe.name == ON_TASK).expect("it is one of them");
    world.source.control.set(ctrl::TAGS + at as u32, 0).expect("it can be written");
    let keeper = world.die();
    fs::remove_file(place.join(format!("set/prog_{ON_TASK}"))).expect("it is pinned");
    let (mut world, past, why) = name.open(keeper).expect("it could be opened before");
    assert_eq!(past, Past::Daemon, "{why:?}");
    assert!(world.source.take_tasks().is_none() && world.source.hears_ports());
    let report = &world.source.probes.reports[at];
    let said = "on_task on iter/task, left out: the probe `on_task` is not among those that are pinned";
    assert!(report.to_string().starts_with(said), "{report}");
}

/// Of no use to a reader that is gone: the host would pay for it.
#[tokio::test(flavor = "current_thread")]
async fn the_feed_of_a_dead_daemon_is_off() {
    let name = Name::of("feed");
    let Some((mut world, _, why)) = name.open(Keeper::start()) else { return };
    let Some(_) = name.place(&why) else { return };
    world.feed.start().expect("it can be polled");
    world.keeper.run("/bin/true");
    let before = world.feed.counts();
    assert!(before.emitted > 0);
    // Killed, not ended.
    let World { keeper, mut source, feed, .. } = world;
    source.leave(true);
    std::mem::forget(feed);
    assert_ne!(source.control.get(ctrl::FEED).expect("it can be read"), 0);
    source.control.set(ctrl::FEED, clocks::monotonic()).expect("it can be written");
    drop(source);
    let (mut world, _, _) = name.open(keeper).expect("it could be opened before");
    assert_eq!(world.source.control.get(ctrl::FEED).expect("it can be read"), 0);
    let between = world.feed.counts();
    world.keeper.run("/bin/true");
    assert_eq!(world.feed.counts(), between, "it has run out");
    assert_eq!(between.emitted, between.received + between.lost);
    world.source.leave(false);
}
