use defib_core::model::{
    Blame, By, End, Ending, GAVE_UP, Incarnation, Reason, StartFailure, StartFailureKind, State, Usage,
    WaitStatus,
};

use super::super::counted::Status;
use super::*;

const MS: u64 = 1_000_000;

/// A tally, and what happens to one service in it.
struct Life {
    tally: Tally,
    name: ServiceName,
    incarnation: u64,
}

impl Life {
    fn new() -> Self {
        Self { tally: Tally::new(Tick(1)), name: "it".parse().unwrap(), incarnation: 1 }
    }

    fn tell(&self, at: u64, what: What, ready: bool) {
        let incarnation = Incarnation(self.incarnation);
        let record = Record { at: Tick(at), service: self.name.clone(), incarnation, pid: None, what };
        self.tally.tell(&record, ready, Tick(at + MS));
    }

    fn state(&self, at: u64, to: State, why: &str) {
        self.tell(at, What::State { from: State::Stopped, to, why: why.to_owned() }, to == State::Running);
    }

    fn exit(&self, at: u64, status: i32, by: By, oom: bool) {
        let (status, blame) = (Some(WaitStatus(status)), Blame::Unknown);
        let end = End { status, at: Tick(at), usage: Usage::default(), oom: Some(oom), blame };
        self.tell(at, What::Exit { ending: Ending { end, by }, started: Some(Tick(at - 1)) }, false);
    }

    fn restart(&self, at: u64, reason: Reason, delay_ns: u64) {
        self.tell(at, What::Restart { reason, attempt: 1, delay_ns }, false);
    }

    fn counted(&self) -> Counted {
        self.tally.copy(Tick(0)).remove(&self.name).unwrap_or_default()
    }
}

#[test]
fn a_crash_and_its_restart_are_counted_and_measured_without_the_delay() {
    let mut life = Life::new();
    life.state(10, State::Running, "");
    life.exit(20 * MS, 9, By::Itself, false);
    life.restart(21 * MS, Reason::Signal, 100 * MS);
    life.state(21 * MS, State::Crashed, "");
    life.incarnation = 2;
    life.state(123 * MS, State::Running, "");
    let counted = life.counted();
    assert_eq!((counted.starts, counted.oom_kills), (2, 0));
    assert_eq!(counted.exits, [(("signal", Status::Signal(9)), 1)].into());
    assert_eq!(counted.restarts, [("signal", 1)].into());
    assert_eq!(counted.delay, Some(Duration::from_millis(100)));
    let spans = &life.tally.spans;
    assert_eq!((spans.restart.read().count, spans.restart.read().sum), (1, 0.003));
    assert_eq!((spans.detection.read().count, spans.detection.read().sum), (1, 0.001));
    assert_eq!((spans.ready.read().count, spans.stop.read().count), (2, 0));
}

#[test]
fn a_stop_is_measured_from_the_request_and_is_no_restart() {
    let life = Life::new();
    life.state(10, State::Running, "");
    life.state(10 * MS, State::Stopping, "");
    life.exit(510 * MS, 15, By::Stop, false);
    life.state(511 * MS, State::Stopped, "");
    life.state(900 * MS, State::Running, "");
    let spans = &life.tally.spans;
    assert_eq!((spans.stop.read().count, spans.stop.read().sum), (1, 0.5));
    assert_eq!(spans.restart.read().count, 0);
    // Its end comes to be known while the rest of its tree is being ended: nobody asked for that one.
    life.exit(950 * MS, 0, By::Itself, false);
    life.state(951 * MS, State::Stopping, "");
    assert_eq!(life.tally.spans.stop.read().count, 1);
}

#[test]
fn readiness_is_measured_once_a_life() {
    let life = Life::new();
    life.tell(0, What::State { from: State::Starting, to: State::Running, why: String::new() }, false);
    life.tell(300 * MS, What::Listen { port: 1 }, true);
    life.tell(400 * MS, What::Listen { port: 2 }, true);
    let ready = life.tally.spans.ready.read();
    assert_eq!((ready.count, ready.sum), (1, 0.3));
}

#[test]
fn failures_limits_and_kills_have_their_counters() {
    let life = Life::new();
    let failure = StartFailure {
        kind: StartFailureKind::Exec,
        call: String::new(),
        errno: None,
        error: String::new(),
        remedy: String::new(),
    };
    life.tell(5, What::StartFailed { failure }, false);
    life.state(6, State::Failed, &format!("{GAVE_UP}10 restarts"));
    life.state(7, State::Failed, "exit code 1; policy = \"never\"");
    life.exit(8, 9, By::Itself, true);
    life.tally.descendant_killed(&life.name);
    let counted = life.counted();
    assert_eq!(counted.start_failures, [("exec", 1)].into());
    assert_eq!((counted.start_limit_reached, counted.oom_kills), (1, 2));
    assert_eq!(counted.exits, [(("oom", Status::Signal(9)), 1)].into());
    assert_eq!(counted.starts, 1, "who ends has begun");
}

/// A life that an earlier daemon began is not counted as one that began now.
#[test]
fn ends_of_older_lives_are_no_starts() {
    let life = Life { tally: Tally::new(Tick(100)), ..Life::new() };
    life.exit(50, 0, By::Itself, false);
    assert_eq!(life.counted().starts, 0);
}

#[test]
fn a_service_that_ends_in_every_way_is_bounded_and_loses_no_end() {
    let life = Life::new();
    for code in 0..256 {
        life.exit(10, code << 8, By::Itself, false);
    }
    let counted = life.counted();
    assert_eq!(counted.exits.len(), 33);
    assert_eq!(counted.exits.values().sum::<u64>(), 256);
    assert_eq!(counted.exits[&("exit", Status::Other)], 224);
    assert_eq!(life.tally.refused(), 224);
}

#[test]
fn a_removed_service_is_counted_for_five_minutes() {
    let life = Life::new();
    life.state(10, State::Running, "");
    let at = |seconds| Tick(0) + Duration::from_secs(seconds);
    life.tally.remove(&life.name, at(1000));
    life.tally.remove(&"nobody".parse().unwrap(), at(1000));
    assert_eq!(life.tally.copy(at(1299)).len(), 1);
    assert_eq!(life.tally.copy(at(1300)).len(), 0);
    assert_eq!(life.counted().starts, 0, "what comes again begins anew");
    life.state(20, State::Running, "");
    life.tally.remove(&life.name, at(2000));
    life.state(21, State::Running, "");
    assert_eq!(life.tally.copy(at(9000)).len(), 1, "it has come back in time");
}

#[test]
fn events_are_measured_and_the_last_one_is_known() {
    let life = Life::new();
    assert_eq!(life.tally.last_event(), None);
    life.tally.heard([Tick(1), Tick(2)], Tick(2 + MS));
    assert_eq!(life.tally.last_event(), Some(Tick(2 + MS)));
    assert_eq!(life.tally.spans.event.read().count, 2);
}
