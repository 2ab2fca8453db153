//! pidfds on this kernel, of processes that are no children of ours.
#![expect(clippy::disallowed_methods, reason = "a test starts its own processes")]

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use defib_core::model::{KernelFact, Tick, WaitStatus, Witness};

use super::*;

/// A shell whose child runs `script`, with the child's pid.
fn grandchild(script: &str) -> (Child, u32) {
    let line = format!("sh -c 'echo $$; {script}' & wait $!; exit 0");
    let mut shell =
        Command::new("sh").args(["-c", &line]).stdout(Stdio::piped()).spawn().expect("there is a sh");
    let mut said = String::new();
    BufReader::new(shell.stdout.take().expect("it is piped")).read_line(&mut said).expect("text");
    (shell, said.trim().parse().expect("a pid"))
}

fn kill(pid: u32, signal: &str) {
    let done =
        Command::new("sh").args(["-c", &format!("kill -{signal} {pid}")]).status().expect("there is a sh");
    assert!(done.success());
}

#[tokio::test(flavor = "current_thread")]
async fn the_end_of_a_process_that_is_no_child_is_told_once() {
    let (mut source, why) = PidfdSource::open();
    let exact = why[0].ends_with("exact");
    assert!(source.watched.is_some(), "{why:?}");
    for (slot, (signal, status)) in (0..).zip([("KILL", 9), ("TERM", 15), ("ABRT", 6)]) {
        let (mut shell, pid) = grandchild("ulimit -c 0; exec sleep 1000");
        let life = Life { slot, pid, started: Tick(0) };
        let start = source.track(&life).expect("it runs");
        let mut batch = Batch::default();
        source.drain(&mut batch);
        assert_eq!(batch.events, []);
        kill(pid, signal);
        source.wait(&mut batch).await;
        source.drain(&mut batch);
        let [event] = &batch.events[..] else { panic!("{:?}", batch.events) };
        assert_eq!((event.pid, event.start, event.slot, event.main), (pid, start, Some(slot), true));
        let KernelFact::Exit(witness) = &event.fact else { panic!("{event:?}") };
        assert_eq!(witness.status, exact.then_some(WaitStatus(status)));
        let taken = source.take_end(&life, WaitStatus(status)).expect("it always knows something");
        assert_eq!((taken.status, taken.at), (witness.status, None));
        assert_ne!(taken.oom, Some(true));
        let again = source.take_end(&life, WaitStatus(15));
        assert_eq!(again, Some(Witness { oom: Some(false), ..Witness::default() }), "it was taken");
        assert_eq!(source.track(&life), None, "it has ended");
        shell.wait().expect("it is our child");
    }
}

#[tokio::test(flavor = "current_thread")]
async fn what_the_keeper_reports_first_is_not_told_again() {
    let (mut source, why) = PidfdSource::open();
    let (mut shell, pid) = grandchild("read x; exec sleep 1000");
    // It has no input, and ends by itself in a moment or runs on.
    let life = Life { slot: 3, pid, started: Tick(0) };
    let Some(_) = source.track(&life) else { return };
    Command::new("sh").args(["-c", &format!("kill -KILL {pid}")]).status().expect("there is a sh");
    shell.wait().expect("it is our child");
    let taken = source.take_end(&life, WaitStatus(9)).expect("it always knows something");
    assert!(taken.status == Some(WaitStatus(9)) || !why[0].ends_with("exact"), "{taken:?} {why:?}");
    let mut batch = Batch::default();
    source.drain(&mut batch);
    assert_eq!(batch.events, []);
}

#[tokio::test(flavor = "current_thread")]
async fn a_slot_holds_one_life() {
    let (mut source, _) = PidfdSource::open();
    let (mut first, pid) = grandchild("exec sleep 1000");
    let (mut second, other) = grandchild("exec sleep 1000");
    for pid in [pid, other] {
        source.track(&Life { slot: 1, pid, started: Tick(0) }).expect("it runs");
    }
    assert_eq!(source.watched.as_ref().map(|watched| watched.len()), Some(1));
    for pid in [pid, other] {
        kill(pid, "KILL");
    }
    let mut batch = Batch::default();
    source.wait(&mut batch).await;
    assert_eq!(batch.events.iter().map(|event| event.pid).collect::<Vec<_>>(), [other]);
    first.wait().expect("it is our child");
    second.wait().expect("it is our child");
}
