//! Who listens: the feed, and a socket that is closed.

use std::os::fd::OwnedFd;

use defib_core::model::{KernelEvent, KernelFact, WaitStatus};
use rustix::net::{RecvFlags, recv};

use super::{alone, die, execute, exit_group, exit_of, fork, reap};
use crate::source::any::Batch;
use crate::source::connector::feed::ConnectorFeed;
use crate::source::connector::socket::{ROOM, Socket};

#[tokio::test(flavor = "current_thread")]
async fn the_feed_tells_of_everybody() {
    let _alone = alone();
    let mut feed = ConnectorFeed::default();
    if let Err(error) = feed.start() {
        eprintln!("skipped: needs the proc connector ({error})");
        return;
    }
    let old = fork(|| execute("exec sleep 1000"));
    for _ in 0..2 {
        let pid = fork(|| {
            execute("exit 3");
        });
        assert_eq!(reap(pid), WaitStatus(0x300));
        let mut batch = Batch::default();
        while exit_of(&of(&batch, pid)).is_none() {
            feed.read(&mut batch).await;
        }
        let events = of(&batch, pid);
        let [fork, exec, exit] = &events[..] else { panic!("{events:?}") };
        assert!(events.iter().all(|event| !event.main && event.slot.is_none() && event.start == fork.start));
        assert_eq!(fork.fact, KernelFact::Fork { parent: std::process::id() });
        assert!(matches!(&exec.fact, KernelFact::Exec { .. }) && exec.at < exit.at, "{events:?}");
        let KernelFact::Exit(witness) = &exit.fact else { panic!("{events:?}") };
        assert_eq!((witness.status, witness.at), (Some(WaitStatus(0x300)), Some(exit.at)));
    }
    feed.stop();
    feed.start().expect("it could before");
    // Now it is one that ran before.
    let mut batch = Batch::default();
    for _ in 0..200 {
        reap(fork(|| exit_group(0)));
        feed.read(&mut batch).await;
    }
    die(old);
    reap(old);
    while exit_of(&of(&batch, old)).is_none() {
        feed.read(&mut batch).await;
    }
    let events = of(&batch, old);
    assert_eq!(events.len(), 1, "{events:?}");
    assert!(events[0].start > 0 && events[0].name.is_some(), "{events:?}");
    assert_eq!(exit_of(&events).and_then(|witness| witness.status), Some(WaitStatus(9)));
}

fn of(batch: &Batch, pid: u32) -> Vec<KernelEvent> {
    batch.events.iter().filter(|event| event.pid == pid).cloned().collect()
}

/// Whether the kernel tells a socket of what happens next.
fn hears(socket: &OwnedFd) -> bool {
    let mut buffer = [0; 512];
    while recv(socket, &mut buffer, RecvFlags::DONTWAIT).is_ok() {}
    reap(fork(|| exit_group(0)));
    recv(socket, &mut buffer, RecvFlags::DONTWAIT).is_ok()
}

/// Before Linux 6.6 this hears as long as anybody listens, or has left without a word.
#[tokio::test(flavor = "current_thread")]
async fn leaving_is_told_to_the_kernel() {
    let _alone = alone();
    let Ok(socket) = Socket::open(ROOM) else {
        eprintln!("skipped: needs the proc connector");
        return;
    };
    let open_still = socket.fd().try_clone_to_owned().expect("a descriptor");
    assert!(hears(&open_still));
    drop(socket);
    assert!(!hears(&open_still));
}
