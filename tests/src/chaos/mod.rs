//! Sixty seconds in which everything dies: services, the daemon, the keeper, in every order that a seed brings.
//!
//! - `crowd`: the services, and the configuration that has them;
//! - `schedule`: what happens when, by the seed;
//! - `unit`: starts `defib daemon` as systemd would, and again when it has died;
//! - `hands`: does what the schedule says;
//! - `clients`: connect to the held sockets all the time;
//! - `tales`: hears all that the daemons tell, one after the other;
//! - `ledger`: what the services themselves have gone through (`martyr` writes it), and what was done to them;
//! - `verdict`: holds the one against the other; `lines` does so with the output.
//!
//! What must hold afterwards: each life has one record of its end, with the right status; no service had two lives at a
//! time; nobody who connected to a held socket was refused; every line is in the log, in order; who is to run does run.

mod clients;
mod clock;
mod crowd;
mod hands;
mod ledger;
mod lines;
mod schedule;
mod tales;
mod unit;
mod verdict;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clients::Clients;
use crowd::Crowd;
use hands::{Deeds, Hands};
use schedule::Schedule;
pub use schedule::{Abilities, NOW};
use tales::Tales;
use unit::Unit;

/// What to do.
#[derive(Clone, Copy, Debug)]
pub struct Chaos {
    /// What it all follows from.
    pub seed: u64,
    /// How long things happen.
    pub time: Duration,
    /// The source of events.
    pub source: &'static str,
    /// What may happen.
    pub abilities: Abilities,
}

/// What came of it, if nothing was wrong.
#[derive(Debug)]
pub struct Outcome {
    /// In one line.
    pub summary: String,
}

impl Chaos {
    /// Goes through it. What is wrong is told in full: the seed, what happened when, and to whom.
    ///
    /// # Errors
    /// If anything did not hold. What everybody wrote is kept in `target/chaos-failures` then.
    pub fn run(&self) -> Result<Outcome, String> {
        let folder = tempfile::Builder::new().prefix("defib-chaos-").tempdir().map_err(|e| e.to_string())?;
        let mut diary = Vec::new();
        let problems = match self.go_through(folder.path(), &mut diary) {
            Ok(summary) => return Ok(Outcome { summary }),
            Err(problems) => problems,
        };
        let kept = keep(folder.path(), &format!("{}-{}", self.seed, self.source), &diary, &problems);
        let mut text = format!(
            "chaos with seed {} for {:?} on {}: {} things are wrong\n",
            self.seed,
            self.time,
            self.source,
            problems.len()
        );
        for line in diary.iter().chain(&problems) {
            text += &format!("{line}\n");
        }
        Err(text + &format!("what everybody wrote is in {}\n", kept.display()))
    }

    fn go_through(&self, folder: &Path, diary: &mut Vec<String>) -> Result<String, Vec<String>> {
        let mut crowd = Crowd::new(folder, self.seed);
        crowd.write().map_err(|error| vec![format!("the configuration: {error}")])?;
        let schedule = Schedule::new(self, &crowd);
        let begun = clock::now();
        // The order matters: what is dropped last has the cgroup in which everything lives, and kills it.
        let mut unit = Unit::new(folder, self.source);
        unit.start();
        let tales = Tales::new(unit.client());
        let mut clients = None;
        let mut deeds = Deeds::default();
        let done = (|| {
            unit.wait_ready()?;
            crowd.wait_begun()?;
            clients = Some(Clients::new(&crowd));
            let mut hands = Hands::new(&mut unit, &mut crowd, &mut deeds, begun);
            hands.act(&schedule)?;
            hands.settle()
        })();
        let calls = clients.map(Clients::end).unwrap_or_default();
        let stopped = if done.is_ok() { unit.stop() } else { Ok(()) };
        let tales = tales.end(Duration::from_secs(if done.is_ok() { 20 } else { 1 }));
        diary.extend(unit.diary(begun));
        diary.append(&mut deeds.diary);
        diary.sort();
        done.and(stopped).map_err(|problem| vec![problem])?;
        let case = verdict::Case {
            folder,
            may_forget: !self.abilities.ends_are_kept || self.source != "ebpf",
            crowd: &crowd,
            deeds: &deeds,
            tales: &tales,
            calls: &calls,
            unit: &unit,
        };
        let found = case.judge(begun);
        if found.problems.is_empty() { Ok(found.summary) } else { Err(found.problems) }
    }
}

/// Keeps what everybody wrote.
fn keep(folder: &Path, name: &str, diary: &[String], problems: &[String]) -> PathBuf {
    let target = std::env::current_exe().ok();
    let target = target.as_deref().and_then(|own| own.ancestors().find(|path| path.ends_with("target")));
    let place = target.unwrap_or(Path::new("/tmp")).join("chaos-failures").join(name);
    fs::remove_dir_all(&place).ok();
    copy(folder, &place);
    fs::write(place.join("diary"), diary.join("\n")).ok();
    fs::write(place.join("problems"), problems.join("\n")).ok();
    place
}

/// Copies plain files and folders, as far as they can be read.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).ok();
    for entry in fs::read_dir(from).into_iter().flatten().flatten() {
        let (path, target) = (entry.path(), to.join(entry.file_name()));
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => copy(&path, &target),
            Ok(kind) if kind.is_file() => drop(fs::copy(&path, &target)),
            Ok(_) | Err(_) => {}
        }
    }
}
