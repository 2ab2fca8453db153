//! Holds what was told against what was gone through.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use serde_json::Value;

use super::clients::Calls;
use super::clock::since;
use super::crowd::{Crowd, Kind};
use super::hands::Deeds;
use super::ledger::{End, Ledger, Life};
use super::lines;
use super::tales::{self, Logged, Tale, Told};
use super::unit::Unit;

/// How long before its death a keeper may have seen an end, or not even that, without having come to write it down: that
/// takes microseconds, and on a machine that is busy it waits for its turn. In nanoseconds.
const UNWRITTEN: u64 = 1_000_000_000;

/// For how long daemons may be stopped, killed or on their way by turns, so that none of them reads, writes down what it was
/// asked for, or looks who lives. In nanoseconds.
const UNREAD: u64 = 5_000_000_000;

/// All that is known.
#[derive(Debug)]
pub(super) struct Case<'a> {
    pub(super) folder: &'a Path,
    /// Whether an end that nobody watched may be unknown.
    pub(super) may_forget: bool,
    pub(super) crowd: &'a Crowd,
    pub(super) deeds: &'a Deeds,
    pub(super) tales: &'a Told,
    pub(super) calls: &'a Calls,
    pub(super) unit: &'a Unit,
}

/// What is to be said of it.
#[derive(Debug, Default)]
pub(super) struct Verdict {
    pub(super) problems: Vec<String>,
    pub(super) summary: String,
    lives: usize,
    lines: u64,
    /// Ends that no client has heard of, but the log.
    logged_only: usize,
    /// Ends that only a keeper knew that was killed.
    unheard: usize,
}

/// One service, and all that is known of it.
struct Member<'a> {
    case: &'a Case<'a>,
    place: usize,
    name: &'a str,
    kind: Kind,
    lives: Vec<Life>,
    begun: u64,
}

impl Case<'_> {
    /// Judges. Times are told since `begun`.
    pub(super) fn judge(&self, begun: u64) -> Verdict {
        fs::write(self.folder.join("events"), self.tales.all.join("\n")).ok();
        let mut verdict = Verdict { problems: self.calls.strange.clone(), ..Verdict::default() };
        let log = self.unit.log();
        let mut logged = tales::logged(&log);
        for (place, member) in self.crowd.members.iter().enumerate() {
            let ledger = Ledger::read(&self.crowd.ledgers(), &member.name);
            let seconds = ledger.seconds.iter();
            verdict
                .problems
                .extend(seconds.map(|line| format!("{}: two lives at a time: {line}", member.name)));
            verdict.lives += ledger.lives.len();
            verdict.lines += ledger.lives.iter().map(|life| life.lines.1).sum::<u64>();
            let (name, kind) = (member.name.as_str(), member.kind);
            let it = Member { case: self, place, name, kind, lives: ledger.lives, begun };
            it.judge_ends(&logged.remove(name).unwrap_or_default(), &mut verdict);
            it.judge_refusals(&mut verdict.problems);
            let lines = lines::judge(&self.folder.join("log"), name, &it.lives, |life| it.left_unread(life));
            verdict.problems.extend(lines);
        }
        verdict.problems.extend(errors(&log, !self.unit.gaps.is_empty()));
        verdict.summary = self.summary(&verdict);
        verdict
    }

    fn summary(&self, verdict: &Verdict) -> String {
        let Verdict { lives, lines, logged_only, unheard, .. } = verdict;
        let Calls { served, unanswered, refused, .. } = self.calls;
        format!(
            "{} events; {} deaths of the daemon, {} of the keeper; {lives} lives; {} ends heard by a client, {logged_only} \
             in the log only, {unheard} gone with a keeper; {lines} lines; {served} connections served, {unanswered} \
             unanswered, {} refused; {} losses told",
            self.deeds.events,
            self.deeds.daemon_deaths,
            self.unit.gaps.len(),
            self.tales.ends.len(),
            refused.len(),
            self.tales.lost.len(),
        )
    }
}

impl Member<'_> {
    /// Each life has exactly one end, and the right one: as clients were told, or, where the daemon died before they could
    /// be, as its log has it.
    fn judge_ends(&self, logged: &[Logged], verdict: &mut Verdict) {
        let mut told: BTreeMap<(u64, u32), Vec<&Tale>> = BTreeMap::new();
        for tale in self.case.tales.ends.iter().filter(|tale| tale.service == self.name) {
            told.entry((tale.incarnation, tale.pid)).or_default().push(tale);
        }
        let mut strange = Vec::new();
        let in_log = self.in_log(logged, &mut strange);
        for (life, in_log) in self.lives.iter().zip(in_log) {
            let tales = told.remove(&(life.incarnation, life.pid)).unwrap_or_default();
            let problem = match (&tales[..], in_log) {
                ([tale], _) => self.wrong(life, tale.end, &tale.by, &tale.text),
                ([], true) => {
                    verdict.logged_only += 1;
                    None
                }
                ([], false) if self.went_with_a_keeper(life) => {
                    verdict.unheard += 1;
                    None
                }
                ([], false) => Some("no end was told".to_owned()),
                (_, _) => Some(format!("{} ends were told: {tales:?}", tales.len())),
            };
            verdict.problems.extend(problem.map(|problem| format!("{}: {problem}", self.who(life))));
        }
        verdict.problems.extend(strange);
        // A process that is ended by defib before it has written that it lives is no life; nobody else ends one so early.
        for tale in told.into_values().flatten().filter(|tale| tale.by == "self") {
            verdict.problems.push(format!("{}: an end of a life that never was: {}", self.name, tale.text));
        }
    }

    /// Whether the log has the end of each life. Lives follow each other, and so do the lines of the log.
    fn in_log(&self, logged: &[Logged], problems: &mut Vec<String>) -> Vec<bool> {
        let fits = |line: usize, life: usize| {
            let Logged { end, by, .. } = &logged[line];
            self.wrong(&self.lives[life], *end, by, "").is_none()
        };
        // One that was ended before it had written that it lives has a line and no life; of one that was told as its keeper
        // died, the next daemon only finds that it is over.
        let free = |line: usize| logged[line].by != "self" || logged[line].end.is_none();
        let pairs = pair(logged.len(), self.lives.len(), fits, free);
        for (line, _) in pairs.iter().enumerate().filter(|(line, life)| life.is_none() && !free(*line)) {
            problems
                .push(format!("{}: an end in the log that no life had: {}", self.name, logged[line].text));
        }
        let mut found = vec![false; self.lives.len()];
        pairs.into_iter().flatten().for_each(|life| found[life] = true);
        found
    }

    fn who(&self, life: &Life) -> String {
        let Life { number, incarnation, pid, at, .. } = life;
        let from = since(self.begun, *at);
        format!("{}: life {number} (incarnation {incarnation}, pid {pid}, from {})", self.name, from.trim())
    }

    /// What is wrong with an end of a life that was told.
    fn wrong(&self, life: &Life, end: Option<End>, by: &str, text: &str) -> Option<String> {
        let Some(end) = end else {
            // One that defib has ended itself, for its service had been removed while no keeper lived.
            let ended = by != "self";
            let excused =
                self.case.may_forget && (ended || self.died_unwatched(life) || self.unwritten(life));
            return (!excused).then(|| format!("its end is unknown: {text}"));
        };
        let mut possible: Vec<End> = self.signals(life).map(|(_, signal)| End::Signal(signal)).collect();
        possible.extend(life.end.map(|(end, _)| end));
        // Who asked for it may have been forgotten.
        if by != "self" || self.forgotten(life) {
            possible.extend([End::Signal(libc::SIGTERM), End::Signal(libc::SIGKILL)]);
        }
        (!possible.contains(&end)).then(|| format!("{end:?} was told, possible is {possible:?}: {text}"))
    }

    /// When which signal was sent to a life of which it could die.
    fn signals(&self, life: &Life) -> impl Iterator<Item = (u64, i32)> {
        let deaf = self.kind == Kind::Deaf;
        let (place, pid, start) = (self.place, life.pid, life.start);
        let to_it = self.case.deeds.signals.iter().filter(move |sent| {
            (sent.member, sent.pid, sent.start) == (place, pid, start)
                && sent.signal != libc::SIGSTOP
                && !(deaf && sent.signal == libc::SIGTERM)
        });
        to_it.map(|sent| (sent.at, sent.signal))
    }

    /// When the next life began.
    fn next(&self, life: &Life) -> u64 {
        self.lives.iter().find(|other| other.number == life.number + 1).map_or(u64::MAX, |next| next.at)
    }

    /// When it may have ended, but for an end that defib was asked for.
    fn ends(&self, life: &Life) -> Vec<u64> {
        self.signals(life).map(|(at, _)| at).chain(life.end.map(|(_, at)| at)).collect()
    }

    /// Whether a keeper was killed before it had written the end down. They are told in order: if a later end of the service
    /// is known, so is this one.
    fn went_with_a_keeper(&self, life: &Life) -> bool {
        let told = |it: &Life| {
            let tales = &self.case.tales.ends;
            tales.iter().any(|tale| tale.service == self.name && tale.pid == it.pid)
        };
        self.case.unit.gaps.iter().any(|(from, to)| {
            let mut later = self.lives.iter().filter(|it| it.number > life.number && self.next(it) <= *from);
            life.at < *to && self.next(life) > from.saturating_sub(UNWRITTEN) && !later.any(told)
        })
    }

    /// Whether a life may have ended while there was neither keeper nor daemon.
    fn died_unwatched(&self, life: &Life) -> bool {
        let gaps = &self.case.unit.gaps;
        let ends = self.ends(life);
        gaps.iter().any(|(from, to)| ends.iter().any(|end| end <= to && self.next(life) > *from))
    }

    /// Whether its last lines may have been in a pipe that nobody held: of keeper, daemon and the service itself all were
    /// dead, and no daemon had read them before.
    fn left_unread(&self, life: &Life) -> bool {
        let next = self.next(life);
        // When defib has ended one, nobody but defib knows.
        let ended = |it: &Life| {
            let tales = &self.case.tales.ends;
            tales.iter().any(|tale| tale.service == self.name && tale.pid == it.pid && tale.by != "self")
        };
        self.case.unit.gaps.iter().any(|(from, to)| {
            let lives = |it: &Life| !ended(it) && !self.ends(it).iter().any(|end| end < to);
            let held = |it: &Life| it.at < *from && self.next(it) > *to && lives(it);
            life.at < *to && next > from.saturating_sub(UNREAD) && !self.lives.iter().any(held)
        })
    }

    /// Whether it may have ended so soon before the death of a keeper that this had not come to write down how, or before
    /// the next one's daemon looked.
    fn unwritten(&self, life: &Life) -> bool {
        let ends = self.ends(life);
        self.case.unit.gaps.iter().any(|(from, to)| {
            let then = from.saturating_sub(UNWRITTEN)..to.saturating_add(UNREAD);
            // When it ended because defib was asked for it, nobody knows.
            life.at < *to
                && then.contains(&self.next(life))
                && (ends.is_empty() || ends.iter().any(|end| then.contains(end)))
        })
    }

    /// Whether a stop of it may have been asked for so soon before the death of a keeper that no daemon had come to write
    /// that down.
    fn forgotten(&self, life: &Life) -> bool {
        let next = self.next(life);
        self.case.unit.gaps.iter().any(|(from, to)| {
            life.at < *to && next > from.saturating_sub(UNREAD) && next < to.saturating_add(UNREAD)
        })
    }

    /// Nobody was refused, but while keeper, daemon and that service were all dead.
    fn judge_refusals(&self, problems: &mut Vec<String>) {
        let calls = self.case.calls.refused.iter();
        let refused = calls.filter(|(_, member)| *member == self.place).map(|(at, _)| *at);
        // One that was stopped is dead too: what was held for it died with the keeper.
        let stopped = |life: &Life| {
            let tales = &self.case.tales.ends;
            tales.iter().any(|tale| tale.service == self.name && tale.pid == life.pid && tale.by != "self")
        };
        let excused = |at: u64| {
            let gone = self.case.unit.gaps.iter().any(|(from, _)| *from <= at);
            self.lives
                .iter()
                .filter(|life| (life.at..self.next(life)).contains(&at))
                .any(|life| self.died_unwatched(life) || self.unwritten(life) || gone && stopped(life))
        };
        let wrong: Vec<String> =
            refused.filter(|at| !excused(*at)).map(|at| since(self.begun, at).trim().to_owned()).collect();
        if !wrong.is_empty() {
            problems.push(format!(
                "{}: {} clients were refused, at {}",
                self.name,
                wrong.len(),
                wrong.join(" ")
            ));
        }
    }
}

/// Gives each line its life, in order, so that as few as can be are without; `free` says which lines may be.
fn pair(
    lines: usize,
    lives: usize,
    fits: impl Fn(usize, usize) -> bool,
    free: impl Fn(usize) -> bool,
) -> Vec<Option<usize>> {
    // What it costs to go on from a line and a life.
    let mut costs = vec![vec![0_usize; lives + 1]; lines + 1];
    let alone = |line: usize| if free(line) { 0 } else { 2 };
    for line in (0..=lines).rev() {
        for life in (0..=lives).rev() {
            costs[line][life] = match (line < lines, life < lives) {
                (false, false) => 0,
                (true, false) => costs[line + 1][life] + alone(line),
                (false, true) => costs[line][life + 1] + 1,
                (true, true) => {
                    let skipped = (costs[line + 1][life] + alone(line)).min(costs[line][life + 1] + 1);
                    if fits(line, life) { skipped.min(costs[line + 1][life + 1]) } else { skipped }
                }
            };
        }
    }
    let (mut pairs, mut life) = (vec![None; lines], 0);
    let mut line = 0;
    while line < lines {
        let cost = costs[line][life];
        if life < lives && fits(line, life) && cost == costs[line + 1][life + 1] {
            pairs[line] = Some(life);
            (line, life) = (line + 1, life + 1);
        } else if life < lives && cost == costs[line][life + 1] + 1 {
            life += 1;
        } else {
            line += 1;
        }
    }
    pairs
}

/// Errors in defib's own log. A daemon whose keeper was killed says so.
fn errors(log: &str, orphaned: bool) -> Vec<String> {
    let error = |line: &&str| match serde_json::from_str::<Value>(line) {
        Ok(told) => told["level"] == "error" && !(orphaned && line.contains("the keeper is gone")),
        // A daemon that is killed may leave half a line.
        Err(_) => line.contains("panicked"),
    };
    log.lines().filter(error).map(|line| format!("in defib's log: {line}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_and_lives_are_paired_in_order() {
        let pairs = |lines: &str, lives: &str| {
            let (lines, lives) = (lines.as_bytes(), lives.as_bytes());
            // A line `S` is a stop, which any life may have had, or one that never wrote.
            let fits = |line: usize, life: usize| lines[line] == b'S' || lines[line] == lives[life];
            pair(lines.len(), lives.len(), fits, |line| lines[line] == b'S')
        };
        assert_eq!(pairs("abc", "abc"), [Some(0), Some(1), Some(2)]);
        assert_eq!(pairs("ac", "abc"), [Some(0), Some(2)]);
        assert_eq!(pairs("aSb", "ab"), [Some(0), None, Some(1)], "ended before it had begun");
        assert_eq!(pairs("aSb", "axb"), [Some(0), Some(1), Some(2)]);
        assert_eq!(pairs("aab", "ab").iter().flatten().count(), 2, "a line too many");
    }
}
