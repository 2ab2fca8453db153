//! Does what the schedule says, and writes down what was done to whom.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use serde_json::Value;

use super::clock::{now, since};
use super::crowd::{Crowd, Kind};
use super::ledger;
use super::schedule::{Event, RECOVERY, Schedule, Verb};
use super::unit::Unit;

/// How long a verb may take before it is said to hang. A daemon that is stopped answers when it goes on.
const VERB: Duration = Duration::from_secs(60);

/// How many daemons are killed in a row that have not supervised yet.
const SHORT_LIVED: u32 = 3;

/// What was done.
#[derive(Debug, Default)]
pub(super) struct Deeds {
    pub(super) signals: Vec<Sent>,
    /// How often a daemon was killed.
    pub(super) daemon_deaths: usize,
    /// Every event, and what came of it.
    pub(super) diary: Vec<String>,
    pub(super) events: usize,
}

/// A signal that was sent to the main process of a life.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sent {
    pub(super) at: u64,
    pub(super) member: usize,
    pub(super) pid: u32,
    pub(super) start: u64,
    pub(super) signal: i32,
}

/// What is to be done later.
#[derive(Debug)]
enum Later {
    Thaw(OwnedFd),
    StartUnit,
}

#[derive(Debug)]
pub(super) struct Hands<'a> {
    unit: &'a mut Unit,
    crowd: &'a mut Crowd,
    begun: u64,
    later: BTreeMap<(u64, usize), Later>,
    /// Verbs under way, what they are, and since when.
    verbs: Vec<(Child, String, Instant)>,
    /// How often a daemon had said that it supervises when the latest one was killed, and how many in a row were killed
    /// before they had.
    supervised: (usize, u32),
    /// Members that somebody has asked to be down.
    asked_down: Vec<bool>,
    deeds: &'a mut Deeds,
}

impl<'a> Hands<'a> {
    pub(super) fn new(unit: &'a mut Unit, crowd: &'a mut Crowd, deeds: &'a mut Deeds, begun: u64) -> Self {
        let asked_down = vec![false; crowd.members.len()];
        let (later, verbs) = (BTreeMap::new(), Vec::new());
        Self { unit, crowd, begun, later, verbs, supervised: (0, 0), asked_down, deeds }
    }

    /// Does everything at its time.
    pub(super) fn act(&mut self, schedule: &Schedule) -> Result<(), String> {
        let begun = now();
        for (millis, event) in &schedule.0 {
            let at = begun + millis * 1_000_000;
            while let Some(entry) = self.later.first_entry()
                && entry.key().0 <= at
            {
                let ((due, _), later) = entry.remove_entry();
                sleep_until(due);
                self.do_later(later);
            }
            sleep_until(at);
            self.check()?;
            let outcome = self.act_out(*event)?;
            self.deeds.events += 1;
            let told = event.told(self.crowd);
            self.deeds.diary.push(format!("{} {told}: {outcome}", since(self.begun, now())));
        }
        while let Some(((due, _), later)) = self.later.pop_first() {
            sleep_until(due);
            self.do_later(later);
        }
        Ok(())
    }

    fn check(&mut self) -> Result<(), String> {
        self.unit.look()?;
        let mut problem = None;
        let diary = &mut self.deeds.diary;
        let begun = self.begun;
        self.verbs.retain_mut(|(child, told, since_when)| match child.try_wait() {
            Ok(None) if since_when.elapsed() > VERB => {
                problem = Some(format!("`defib {told}` has not come back in {VERB:?}"));
                child.kill().ok();
                child.wait().ok();
                false
            }
            Ok(None) => true,
            Ok(Some(status)) => {
                diary.push(format!("{} `defib {told}`: {status}", since(begun, now())));
                false
            }
            Err(_) => false,
        });
        problem.map_or(Ok(()), Err)
    }

    fn do_later(&mut self, later: Later) {
        match later {
            // It may have been killed meanwhile.
            Later::Thaw(process) => drop(pidfd_send_signal(process, Signal::CONT)),
            Later::StartUnit => self.unit.start_again(),
        }
    }

    fn after(&mut self, millis: u64, later: Later) {
        let number = self.deeds.events;
        self.later.insert((now() + millis * 1_000_000, number), later);
    }

    /// What came of it, in words.
    fn act_out(&mut self, event: Event) -> Result<String, String> {
        let done = "done".to_owned();
        match event {
            Event::Kill { member, signal } => Ok(self.signal(member, signal).map_or_else(
                || "nobody there".to_owned(),
                |(life, _)| format!("life {} pid {}", life.number, life.pid),
            )),
            Event::Freeze { member, millis } => {
                let Some((life, process)) = self.signal(member, libc::SIGSTOP) else {
                    return Ok("nobody there".to_owned());
                };
                self.after(millis, Later::Thaw(process));
                Ok(format!("life {} pid {}", life.number, life.pid))
            }
            Event::FreezeDaemon { .. } | Event::KillDaemon | Event::RestartDaemon if self.exhausted() => {
                Ok("left alone until it supervises".to_owned())
            }
            Event::FreezeDaemon { millis } => {
                let Some((pid, process)) = self.unit.daemon().and_then(|pid| Some((pid, open(pid)?))) else {
                    return Ok("no daemon there".to_owned());
                };
                // It may have ended by now.
                pidfd_send_signal(&process, Signal::STOP).ok();
                self.after(millis, Later::Thaw(process));
                Ok(format!("pid {pid}"))
            }
            Event::KillDaemon => {
                let Some(pid) = self.unit.kill_daemon() else { return Ok("no daemon there".to_owned()) };
                self.note_death();
                Ok(format!("pid {pid}"))
            }
            Event::KillKeeper { millis } | Event::KillBoth { millis } => {
                if self.unit.keeper().is_none() {
                    return Ok("it is dead".to_owned());
                }
                self.note_death();
                self.unit.kill_keeper(matches!(event, Event::KillBoth { .. }))?;
                self.after(millis, Later::StartUnit);
                Ok(done)
            }
            Event::RestartDaemon => self.ask(&["daemon", "restart"]),
            Event::Vary { member } => {
                self.crowd.vary(member);
                self.reload()
            }
            Event::Remove { member } => {
                self.asked_down[member] = true;
                self.crowd.removed.insert(member);
                self.reload()
            }
            Event::Add { member } => {
                self.crowd.removed.remove(&member);
                self.reload()
            }
            Event::Verb { member, verb } => {
                if matches!(verb, Verb::Stop | Verb::Disable) {
                    self.asked_down[member] = true;
                }
                let name = self.crowd.members[member].name.clone();
                self.ask(&[verb.word(), &name])
            }
        }
    }

    /// Whether so many daemons were killed before they supervised that the next one must come to it: on a machine that
    /// others use too there would never be one.
    fn exhausted(&self) -> bool {
        self.supervised.1 >= SHORT_LIVED && self.unit.supervised() == self.supervised.0
    }

    fn note_death(&mut self) {
        let (before, in_a_row) = self.supervised;
        let times = self.unit.supervised();
        let supervised = times > before;
        self.supervised = (times, if supervised { 1 } else { in_a_row + 1 });
        self.deeds.daemon_deaths += 1;
    }

    /// Sends a signal to the present life of a member, and to none that has got its number since.
    fn signal(&mut self, member: usize, number: i32) -> Option<(ledger::Life, OwnedFd)> {
        let life = ledger::latest(&self.crowd.ledgers(), &self.crowd.members[member].name)?;
        let process = open(life.pid)?;
        (start_of(life.pid) == Some(life.start)).then_some(())?;
        let signal = Signal::from_named_raw(number)?;
        // Written down before it is sent: it may be the end.
        self.deeds.signals.push(Sent { at: now(), member, pid: life.pid, start: life.start, signal: number });
        pidfd_send_signal(&process, signal).ok()?;
        Some((life, process))
    }

    fn reload(&mut self) -> Result<String, String> {
        self.crowd.write().map_err(|error| format!("the configuration: {error}"))?;
        self.ask(&["reload"])
    }

    /// Asks, and does not wait for the answer.
    fn ask(&mut self, args: &[&str]) -> Result<String, String> {
        let mut command = self.unit.client().command(args);
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        let child = child.map_err(|error| format!("defib {args:?}: {error}"))?;
        self.verbs.push((child, args.join(" "), Instant::now()));
        Ok("asked".to_owned())
    }

    /// Waits until everybody is well again. Who was asked to be down is asked to be up, for requests may have overtaken
    /// each other; nobody else may need that.
    pub(super) fn settle(&mut self) -> Result<(), String> {
        while !self.verbs.is_empty() {
            self.check()?;
            std::thread::sleep(Duration::from_millis(20));
        }
        self.unit.wait_ready()?;
        self.reload()?;
        let begun = Instant::now();
        loop {
            self.check()?;
            let ill = self.ill();
            if ill.is_empty() && self.verbs.is_empty() {
                return Ok(());
            }
            if begun.elapsed() > RECOVERY {
                return Err(format!("not well {RECOVERY:?} after all was over: {}", ill.join("; ")));
            }
            std::thread::sleep(Duration::from_millis(200));
        }
    }

    /// Who does not run as it should, and how it is.
    fn ill(&mut self) -> Vec<String> {
        let said = self.unit.client().ask(&["status", "--json"]);
        let Ok(status) = serde_json::from_str::<Value>(&said.out) else {
            return vec![format!("the status is {said:?}")];
        };
        let services = status["services"].as_array().cloned().unwrap_or_default();
        let mut ill = Vec::new();
        for place in 0..self.crowd.members.len() {
            let member = self.crowd.members[place].clone();
            let Some(service) = services.iter().find(|service| service["name"] == member.name.as_str())
            else {
                ill.push(format!("{} is not known", member.name));
                continue;
            };
            let state = service["state"].as_str().unwrap_or_default();
            let latest = ledger::latest(&self.crowd.ledgers(), &member.name);
            let same = latest.is_some_and(|life| service["pid"] == life.pid);
            match state {
                "running" if same => {}
                "running" | "starting" | "crashed" | "retrying" if member.kind == Kind::Mayfly => {}
                "stopped" | "disabled" if self.asked_down[place] => {
                    let verb = if state == "disabled" { "enable" } else { "start" };
                    self.ask(&[verb, &member.name]).ok();
                    ill.push(format!("{} is {state}, as somebody had asked", member.name));
                }
                _ => ill.push(format!("{} is {service}", member.name)),
            }
        }
        ill
    }
}

fn open(pid: u32) -> Option<OwnedFd> {
    pidfd_open(Pid::from_raw(i32::try_from(pid).ok()?)?, PidfdFlags::empty()).ok()
}

/// The start time of a process that has not ended, in clock ticks.
fn start_of(pid: u32) -> Option<u64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, rest) = stat.rsplit_once(") ")?;
    (!rest.starts_with('Z')).then_some(())?;
    rest.split(' ').nth(19)?.parse().ok()
}

fn sleep_until(at: u64) {
    std::thread::sleep(Duration::from_nanos(at.saturating_sub(now())));
}
