//! From a crash to the first instruction of the replacement, for defib and its peers.
//!
//! A victim is ended by SIGKILL, or by SIGSEGV as its own fault would. The time runs from just before the signal is
//! sent to the first thing that the replacement does, which is to read the same clock. So it holds the end of the old
//! process in the kernel, the news of it, the supervisor's decision, and the start of the new process up to its entry
//! point; for the linked victim also what the dynamic loader does before main().
//!
//! It is a ratio that counts, to a bare C loop of `waitpid` and `posix_spawn`. All subjects run at the same time and
//! are crashed one by one, in turn, in an order that changes from round to round: a change of the machine meets all of
//! them, and none always comes after the same other one. The loop takes part twice: the ratio of the second to the
//! first is what chance makes of two equals. Each run starts all subjects anew, since where their memory lies is
//! chance as well.
//!
//! Steady means that a victim has run for more than a second, as most peers want it before they restart at once; in a
//! crash loop it is crashed as soon as it runs. Each program runs four times under each subject, and the rounds take
//! these in turn: so a second is over for one while the others are crashed, and nobody waits for it.
//!
//! Whoever takes longer than 250 ms is crashed less often, and at random moments, so that its own ticks are met at every
//! phase. All who are that slow are crashed at the same time, when nobody else is: what they do to each other is small
//! against what they take. Who has failed in one run does not take part in the next, since its row has a reason then.
//!
//! What the figures do not say: what a large process costs, whose memory the kernel frees first. The loop writes no
//! log, keeps no history and puts nothing in a cgroup: it is a bound, not a rival. What gives each life a cgroup of its
//! own is bound by the other loop, which does that.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::thread;
use std::time::Duration;

use anyhow::{Result, anyhow, bail};

use super::Bench;
use super::outcome::{CELLS, Mode, Outcome, Program};
use super::peers::{self, Peer};
use super::stats::Summary;
use super::victims::Patient;
use super::{clock, peers::defib};

/// For how long a victim has run before a steady crash.
const STEADY: Duration = Duration::from_millis(1100);

/// The quiet before each crash.
pub(super) const QUIET: Duration = Duration::from_millis(10);

/// Crashes in a row that count, in a crash loop.
const BURST: usize = 10;

/// Whoever takes longer is slow.
const SLOW: u64 = 250_000_000;

/// Rounds of a run in which slow ones take part, when steady, and in crash loops.
const SLOW_ROUNDS: [usize; 2] = [3, 2];

/// Victims of each kind: while one grows old enough to be crashed, the others are.
const COPIES: usize = 4;

/// Without these there is nothing to compare.
const NEEDED: [&str; 3] = [peers::LOOP.name, peers::CONTROL.name, peers::DEFIB.name];

/// How a part of a run goes.
#[derive(Clone, Copy, Debug)]
struct Pace {
    mode: Mode,
    rounds: usize,
    /// Rounds in which slow ones take part.
    slow: usize,
    /// Crashes of a victim in a round, if it is quick.
    burst: usize,
}

/// What the earlier runs of a mode have shown.
#[derive(Debug, Default)]
struct Known {
    slow: BTreeSet<&'static str>,
    failed: BTreeMap<&'static str, String>,
}

/// One subject of a run.
struct Participant {
    name: &'static str,
    /// It, or why it does not take part any more.
    patient: Result<Patient, String>,
    slow: bool,
    latencies: Vec<Vec<u64>>,
}

/// Both modes, all runs.
pub(super) fn measure(bench: &Bench) -> Result<Outcome> {
    let mut outcome = Outcome::new(&bench.peers, &bench.programs.libraries);
    let runs = bench.options.runs;
    for mode in [Mode::Steady, Mode::Loop] {
        let mut known = Known::default();
        for run in 1..=runs {
            println!("{} run {run} of {runs}", mode.word());
            let mut participants = assemble(bench, &known)?;
            let warm_up = Pace { mode, rounds: 1, slow: 0, burst: 1 };
            crash_all(&mut participants, warm_up, run)?;
            participants.iter_mut().for_each(Participant::judge);
            crash_all(&mut participants, Pace { rounds: COPIES, ..warm_up }, run)?;
            participants.iter_mut().for_each(Participant::begin);
            let burst = if mode == Mode::Steady { 1 } else { BURST };
            let slow = if bench.options.quick { 1 } else { SLOW_ROUNDS[mode as usize] };
            let rounds = bench.options.crashes.div_ceil(burst);
            crash_all(&mut participants, Pace { mode, rounds, slow, burst }, run)?;
            known.learn(&participants);
            if let Some(Ok(patient)) =
                participants.iter().find(|it| it.name == peers::DEFIB.name).map(|it| &it.patient)
            {
                outcome.source = defib::source(&patient.subject, &bench.programs);
            }
            outcome.add(mode, participants.into_iter().map(Participant::finish).collect());
        }
    }
    Ok(outcome)
}

/// Starts everybody; who cannot be started stays with the reason.
fn assemble(bench: &Bench, known: &Known) -> Result<Vec<Participant>> {
    let ours = peers::OURS.map(|peer| (peer, Ok(String::new())));
    let all = ours.into_iter().chain(bench.peers.iter().cloned());
    all.map(|(peer, version)| {
        let failed = known.failed.get(peer.name).map_or(version, |reason| Err(reason.clone()));
        let mut participant = Participant::new(bench, peer, failed)?;
        participant.slow = known.slow.contains(peer.name);
        Ok(participant)
    })
    .collect()
}

impl Known {
    fn learn(&mut self, participants: &[Participant]) {
        for participant in participants {
            if participant.slow {
                self.slow.insert(participant.name);
            }
            if let Err(reason) = &participant.patient {
                self.failed.insert(participant.name, reason.clone());
            }
        }
    }
}

impl Participant {
    fn new(bench: &Bench, peer: Peer, version: Result<String, String>) -> Result<Self> {
        let copies = CELLS.repeat(COPIES);
        let programs: Vec<&Path> = copies
            .iter()
            .map(|cell| match cell.program {
                Program::Static => bench.programs.victim.as_path(),
                Program::Linked => bench.programs.linked.as_path(),
            })
            .collect();
        let patient = version.and_then(|_version| {
            let subject = peer.launch(&bench.arena, &bench.programs, &programs).and_then(Patient::new);
            subject.map_err(|error| format!("{error:#}"))
        });
        match patient {
            Err(reason) if NEEDED.contains(&peer.name) => bail!(reason),
            patient => {
                Ok(Self { name: peer.name, patient, slow: false, latencies: vec![Vec::new(); CELLS.len()] })
            }
        }
    }

    /// After the first round: whether it is slow.
    fn judge(&mut self) {
        self.slow |= self.latencies.iter().flatten().min().is_some_and(|best| *best > SLOW);
    }

    /// What came before does not count: it has filled caches.
    fn begin(&mut self) {
        self.latencies.iter_mut().for_each(Vec::clear);
    }

    /// Crashes a victim of each kind, that of this round.
    fn crash(&mut self, pace: Pace, round: usize, dice: &mut Dice) -> Result<()> {
        let outcome = self.crash_each(pace, round, dice);
        match outcome {
            Err(error) if !NEEDED.contains(&self.name) => {
                println!("{}: left out from here on: {error:#}", self.name);
                self.patient = Err(format!("{error:#}"));
                Ok(())
            }
            outcome => outcome,
        }
    }

    fn crash_each(&mut self, pace: Pace, round: usize, dice: &mut Dice) -> Result<()> {
        let Ok(patient) = &mut self.patient else { return Ok(()) };
        let burst = if self.slow { 1 } else { pace.burst };
        for step in 0..CELLS.len() {
            let cell = (step + round) % CELLS.len();
            let victim = cell + CELLS.len() * (round % COPIES);
            if pace.mode == Mode::Steady {
                clock::sleep(STEADY.saturating_sub(patient.age(victim)));
            }
            if pace.mode == Mode::Loop {
                // The life that this ends was long.
                clock::sleep(QUIET);
                patient.end(victim, CELLS[cell].signal, clock::now)?;
            }
            for _ in 0..burst {
                clock::sleep(QUIET);
                if pace.mode == Mode::Steady && self.slow {
                    clock::sleep(dice.throw());
                }
                let crash = patient.end(victim, CELLS[cell].signal, clock::now)?;
                self.latencies[cell].push(crash.latency()?);
            }
        }
        Ok(())
    }

    fn finish(self) -> Result<Vec<Option<Summary>>, String> {
        self.patient.map(|_| self.latencies.into_iter().map(Summary::of).collect())
    }
}

fn crash_all(participants: &mut [Participant], pace: Pace, run: usize) -> Result<()> {
    for round in 0..pace.rounds {
        for index in order(participants.len(), round) {
            if !participants[index].slow {
                participants[index].crash(pace, round, &mut Dice(0))?;
            }
        }
        if is_due(round, pace.rounds, pace.slow) {
            crash_slow(participants, pace, round, run)?;
        }
    }
    Ok(())
}

/// All who are slow, at the same time.
fn crash_slow(participants: &mut [Participant], pace: Pace, round: usize, run: usize) -> Result<()> {
    thread::scope(|scope| {
        let slow = participants.iter_mut().filter(|it| it.slow).enumerate();
        let crash = |(number, participant): (usize, _)| {
            let participant: &mut Participant = participant;
            let mut dice = Dice((run << 32 | round << 8 | number) as u64);
            scope.spawn(move || participant.crash(pace, round, &mut dice))
        };
        let all: Vec<_> = slow.map(crash).collect();
        all.into_iter().try_for_each(|it| it.join().unwrap_or_else(|_| Err(anyhow!("a crash has panicked"))))
    })
}

/// Every rotation, forwards and backwards: of three subjects these are all six orders.
fn order(count: usize, round: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..count).collect();
    order.rotate_left(round / 2 % count);
    if round % 2 == 1 {
        order.reverse();
    }
    order
}

/// Whether a round is one of `wanted` that are spread evenly over `rounds`.
fn is_due(round: usize, rounds: usize, wanted: usize) -> bool {
    wanted >= rounds || round * wanted / rounds != (round + 1) * wanted / rounds
}

/// Moments within a second: xorshift, the same in each run of that number.
struct Dice(u64);

impl Dice {
    fn throw(&mut self) -> Duration {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        Duration::from_millis((mixed ^ (mixed >> 31)) % 1000)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn three_subjects_take_every_order_once_in_six_rounds() {
        let orders: BTreeSet<Vec<usize>> = (0..6).map(|round| order(3, round)).collect();
        assert_eq!(orders.len(), 6);
        assert_eq!(order(3, 0), [0, 1, 2]);
        assert_eq!(order(3, 1), [2, 1, 0]);
    }

    #[test]
    fn slow_ones_take_part_in_as_many_rounds_as_wanted() {
        for (rounds, wanted) in [(400, 10), (40, 4), (20, 1), (3, 3)] {
            assert_eq!((0..rounds).filter(|round| is_due(*round, rounds, wanted)).count(), wanted);
        }
        assert!((0..2).all(|round| is_due(round, 2, 10)));
        assert!(!is_due(0, 1, 0));
    }

    #[test]
    fn dice_show_all_of_a_second() {
        let mut dice = Dice(1);
        let throws: Vec<Duration> = (0..200).map(|_| dice.throw()).collect();
        assert!(throws.iter().any(|it| it.as_millis() < 100) && throws.iter().any(|it| it.as_millis() > 900));
        assert!(throws.iter().all(|it| it.as_millis() < 1000));
    }
}
