//! Every process of the host.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use defib_core::model::{Blame, KernelEvent, KernelFact, WaitStatus};
use tokio::time::timeout;

use super::super::feed::{EbpfFeed, FeedCounts};
use super::super::load::{load_for, resolve_here};
use super::World;
use crate::source::any::Batch;

/// How many processes live and die in a test; more with `DEFIB_TEST_LIVES`.
fn lives() -> usize {
    std::env::var("DEFIB_TEST_LIVES").map_or(1000, |text| text.parse().expect("a number"))
}

/// Reads until nothing has come for a while. Also returns how many were lost.
async fn read_all(feed: &mut EbpfFeed) -> (Vec<KernelEvent>, u64) {
    let mut batch = Batch::default();
    while timeout(Duration::from_millis(100), feed.read(&mut batch)).await.is_ok() {}
    (batch.events, batch.lost)
}

/// The ends of processes of that name or path, by how many ends each process had.
fn lives_of<'a>(events: &'a [KernelEvent], path: &str) -> BTreeMap<(u32, u64), Vec<&'a KernelEvent>> {
    let mut lives: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for event in events {
        lives.entry((event.pid, event.start)).or_default().push(event);
    }
    let executed =
        |event: &&KernelEvent| matches!(&event.fact, KernelFact::Exec { filename } if filename == path);
    lives.retain(|_, events| events.iter().any(executed));
    lives
}

#[tokio::test(flavor = "current_thread")]
async fn a_stranger_is_told_from_its_fork_to_its_end_and_a_main_process_is_not() {
    let Some(mut world) = World::new() else { return };
    world.keeper.run("/bin/true");
    world.feed.start().expect("it can be polled");
    let main = world.run_main(8, "/bin/sh -c '/bin/sh -c \"exit 3\"; kill -TERM $$'")[0].pid;
    world.keeper.run("/bin/sh -c 'kill -KILL $$'");
    let (events, lost) = read_all(&mut world.feed).await;
    assert_eq!(lost, 0);
    assert!(events.iter().all(|event| event.pid != main && !event.main));
    let keeper = world.keeper.shell.id();
    let lives = lives_of(&events, "/bin/sh");
    let of = |slot| lives.values().filter(move |events| events[0].slot == slot).collect::<Vec<_>>();
    for (slot, parent, wait_status, blame) in
        [(Some(8), main, 0x300, Blame::Nobody), (None, keeper, 9, Blame::Unknown)]
    {
        let life = of(slot).into_iter().find(|life| life[0].fact == KernelFact::Fork { parent });
        let life = life.unwrap_or_else(|| panic!("{lives:?}"));
        assert!(life.iter().all(|event| event.slot == slot && event.name.is_some()), "{life:?}");
        assert_eq!(life[1].fact, KernelFact::Exec { filename: "/bin/sh".into() });
        assert_eq!(life[1].name.as_deref(), Some("sh"));
        let KernelFact::Exit(end) = &life[2].fact else { panic!("{life:?}") };
        assert_eq!((end.status, end.oom, &end.blame), (Some(WaitStatus(wait_status)), Some(false), &blame));
        assert_eq!(life.len(), 3, "{life:?}");
    }
}

#[tokio::test(flavor = "current_thread")]
async fn the_counts_add_up_whether_it_is_read_or_not() {
    let Some(mut world) = World::new() else { return };
    let line = format!("i=0; while [ $i -lt {} ]; do /bin/true; i=$((i+1)); done", lives());
    world.keeper.run(&line);
    assert_eq!(world.feed.counts(), FeedCounts::default(), "nobody listens");

    world.feed.start().expect("it can be polled");
    world.keeper.run(&line);
    // Nobody reads while they come, so what has no room in the ring is lost, and counted.
    let (events, lost) = read_all(&mut world.feed).await;
    // What others do on this host meanwhile is thrown away with the last of it.
    world.feed.stop();
    let counts = world.feed.counts();
    assert_eq!(counts.emitted, counts.received + counts.lost, "{counts:?}");
    assert!(counts.lost >= lost && counts.received >= events.len() as u64, "{counts:?}");
    assert!(counts.emitted >= 3 * lives() as u64, "{counts:?}");
    assert_eq!(counts.malformed, 0);

    let before = world.feed.counts().emitted;
    world.keeper.run("/bin/true");
    assert_eq!(world.feed.counts().emitted, before);
    assert_eq!(world.heard(), [], "the other ring is silent");
    world.feed.start().expect("it can be polled again");
    world.keeper.run("/bin/true");
    let (events, _) = read_all(&mut world.feed).await;
    assert!(!lives_of(&events, "/bin/true").is_empty());
    world.feed.stop();
    let counts = world.feed.counts();
    assert_eq!(counts.emitted, counts.received + counts.lost, "{counts:?}");
}

/// On a thread and a runtime of its own, as the surfaces have it.
#[tokio::test(flavor = "current_thread")]
async fn a_reader_that_keeps_up_loses_nothing() {
    let Some(world) = World::new() else { return };
    let World { mut keeper, mut feed, source, .. } = world;
    let (started, done) = (AtomicBool::new(false), AtomicBool::new(false));
    let (events, lost) = std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("it can be built").block_on(async {
                feed.start().expect("it can be polled");
                started.store(true, Ordering::Release);
                let mut heard = Batch::default();
                loop {
                    let last = done.load(Ordering::Acquire);
                    let read = timeout(Duration::from_millis(100), feed.read(&mut heard)).await;
                    if read.is_err() && last {
                        return (heard.events, heard.lost);
                    }
                }
            })
        });
        while !started.load(Ordering::Acquire) {
            keeper.run("sleep 0.02");
        }
        keeper.run(&format!("i=0; while [ $i -lt {} ]; do /bin/true; i=$((i+1)); done", lives()));
        done.store(true, Ordering::Release);
        reader.join().expect("it reads")
    });
    assert_eq!(lost, 0);
    let mut found = lives_of(&events, "/bin/true");
    let parent = keeper.shell.id();
    found.retain(|_, life| life[0].fact == KernelFact::Fork { parent });
    assert_eq!(found.len(), lives());
    assert!(found.values().all(|life| life.len() == 3), "{found:?}");
    assert_eq!(source.stats().lost(), 0);
}

#[tokio::test(flavor = "current_thread")]
async fn where_two_threads_see_the_end_it_is_told_once() {
    // As on kernels until 6.12, whose tracepoint does not say which thread is the last.
    let old = |keeper| {
        let mut resolved = resolve_here()?;
        resolved.facts.exit_has_group_dead = 0;
        load_for(&resolved, keeper)
    };
    let Some(mut world) = World::with(old) else { return };
    world.feed.start().expect("it can be polled");
    let line = super::victim::command("exit-with-threads");
    for _ in 0..20 {
        world.keeper.run(&line);
        assert_eq!(super::the_end(&world.run_main(1, &line)).status, Some(WaitStatus(0x700)));
    }
    let (events, _) = read_all(&mut world.feed).await;
    let program = std::env::current_exe().expect("the test has a program").display().to_string();
    let program = &program[..program.len().min(63)];
    let mut lives = lives_of(&events, program);
    let parent = world.keeper.shell.id();
    lives.retain(|_, life| life[0].fact == KernelFact::Fork { parent });
    assert_eq!(lives.len(), 20);
    for life in lives.values() {
        let ends = life.iter().filter(|event| matches!(event.fact, KernelFact::Exit(_))).count();
        assert_eq!(ends, 1, "{life:?}");
    }
}

#[test]
fn the_feed_may_move_to_another_thread() {
    fn is_send<T: Send>() {}
    is_send::<EbpfFeed>();
}
