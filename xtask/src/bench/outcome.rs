//! What the bench of restarts found, and how it is told.

use rustix::process::Signal;
use serde_json::{Value, json};

use super::peers::{self, Prepared};
use super::section::{self, Row, Section, Table, micros, show};
use super::stats::{Spread, Summary};
use super::svg::{Bar, Panel};

/// How old a victim is when it is crashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    Steady,
    Loop,
}

impl Mode {
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Steady => "steady",
            Self::Loop => "crash loop",
        }
    }
}

/// What the victim is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Program {
    Static,
    Linked,
}

impl Program {
    fn word(self) -> &'static str {
        match self {
            Self::Static => "static",
            Self::Linked => "linked",
        }
    }
}

/// What is crashed, and how.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cell {
    pub(super) program: Program,
    pub(super) signal: Signal,
}

pub(super) const CELLS: [Cell; 4] = [
    Cell { program: Program::Static, signal: Signal::KILL },
    Cell { program: Program::Static, signal: Signal::SEGV },
    Cell { program: Program::Linked, signal: Signal::KILL },
    Cell { program: Program::Linked, signal: Signal::SEGV },
];

impl Cell {
    fn word(self) -> String {
        let signal = if self.signal == Signal::KILL { "SIGKILL" } else { "SIGSEGV" };
        format!("{} victim, {signal}", self.program.word())
    }
}

/// A summary for each cell of one participant, or why there is none.
type Run = Result<Vec<Option<Summary>>, String>;

/// All runs of both modes.
#[derive(Debug)]
pub(super) struct Outcome {
    names: Vec<&'static str>,
    versions: Vec<String>,
    libraries: Vec<&'static str>,
    /// From where defib heard of the ends.
    pub(super) source: String,
    /// For each mode and run, what each participant did.
    runs: [Vec<Vec<Run>>; 2],
}

/// The figures of one participant in a cell, over all runs.
struct Figures {
    p50_us: Spread,
    p50_ratio: Spread,
    /// p50 against the loop with cgroups, if that can be had here.
    p50_to_cgroup: Option<Spread>,
    /// p99 and its ratio, of a hundred crashes and more in a run.
    p99: Option<[Spread; 2]>,
    crashes: usize,
}

impl Outcome {
    pub(super) fn new(others: &[Prepared], libraries: &[&'static str]) -> Self {
        let ours = peers::OURS.map(|peer| peer.name);
        let version = |version: &Result<String, String>| version.clone().unwrap_or_default();
        Self {
            names: ours.into_iter().chain(others.iter().map(|(peer, _)| peer.name)).collect(),
            versions: vec![String::new(); ours.len()]
                .into_iter()
                .chain(others.iter().map(|(_, it)| version(it)))
                .collect(),
            libraries: libraries.to_vec(),
            source: String::new(),
            runs: [Vec::new(), Vec::new()],
        }
    }

    /// Takes in a run: every participant in the order of their names.
    pub(super) fn add(&mut self, mode: Mode, run: Vec<Run>) {
        self.runs[mode as usize].push(run);
    }

    /// `None` where there are no crashes; the reason where there is one.
    fn figures(&self, mode: Mode, index: usize, cell: usize) -> Result<Figures, String> {
        let runs = &self.runs[mode as usize];
        let floor = self.names.iter().position(|name| *name == peers::CGROUP_LOOP.name);
        let (mut pairs, mut to_floor) = (Vec::new(), Vec::new());
        for run in runs {
            let of = |index: usize| run.get(index).and_then(|it| it.as_ref().ok()?[cell]);
            let own = run[index].as_ref().map_err(Clone::clone)?[cell];
            if let (Some(own), Some(reference)) = (own, of(0)) {
                pairs.push((own, reference));
            }
            if let (Some(own), Some(floor)) = (own, floor.and_then(of)) {
                to_floor.push(own.p50 as f64 / floor.p50 as f64);
            }
        }
        let over_runs = |of: &dyn Fn(&Summary, &Summary) -> f64| {
            Spread::of(pairs.iter().map(|(own, reference)| of(own, reference))).ok_or("was not crashed")
        };
        // Of fewer samples it would be the highest of them.
        let has_tail = pairs.iter().all(|(own, _)| own.count >= 100);
        let p99 = [
            over_runs(&|own, _| micros(own.p99))?,
            over_runs(&|own, reference| own.p99 as f64 / reference.p99 as f64)?,
        ];
        Ok(Figures {
            p50_us: over_runs(&|own, _| micros(own.p50))?,
            p50_ratio: over_runs(&|own, reference| own.p50 as f64 / reference.p50 as f64)?,
            p50_to_cgroup: Spread::of(to_floor),
            p99: has_tail.then_some(p99),
            crashes: pairs.iter().map(|(own, _)| own.count).sum(),
        })
    }

    pub(super) fn section(&self) -> Section {
        let runs = self.runs[0].len();
        let versions: Vec<String> = self
            .names
            .iter()
            .zip(&self.versions)
            .skip(peers::OURS.len())
            .map(|(name, version)| format!("{name} {version}"))
            .collect();
        let mut section = Section {
            key: "restart",
            title: "from the signal to the first instruction of the replacement".to_owned(),
            notes: vec![
                format!("Figures are {}; a p99 needs 100 crashes in a run", section::runs(runs)),
                format!("The linked victim has {} to load", self.libraries.join(", ")),
                format!("defib's source: {}; {}", self.source, versions.join(", ")),
            ],
            tables: Vec::new(),
            panels: Vec::new(),
            json: json!({ "source": self.source, "libraries": self.libraries, "versions": self.versions_json() }),
        };
        let mut cells = Vec::new();
        for mode in [Mode::Steady, Mode::Loop] {
            for (number, cell) in CELLS.into_iter().enumerate() {
                let caption = format!("{}, {}", mode.word(), cell.word());
                section.tables.push(self.table(mode, number, caption.clone()));
                if cell.signal == Signal::KILL {
                    section.panels.push(self.panel(mode, number, caption));
                }
                cells.push(self.cell_json(mode, number));
            }
        }
        section.json["cells"] = Value::Array(cells);
        section
    }

    fn table(&self, mode: Mode, cell: usize, caption: String) -> Table {
        let row = |(index, name): (usize, &&'static str)| match self.figures(mode, index, cell) {
            Err(reason) => Row::absent(*name, &reason),
            Ok(figures) => {
                let tail = |which: usize, decimals| {
                    figures.p99.map_or_else(|| "-".to_owned(), |p99| show(p99[which], decimals))
                };
                let crashes = figures.crashes.to_string();
                let floor = figures.p50_to_cgroup.map_or_else(|| "-".to_owned(), |it| show(it, 2));
                let p50 = show(figures.p50_ratio, 2);
                let cells = [show(figures.p50_us, 0), tail(0, 0), p50, tail(1, 2), floor, crashes];
                Row::new(*name, cells.into())
            }
        };
        Table {
            caption,
            columns: vec!["p50 µs", "p99 µs", "p50 / loop", "p99 / loop", "p50 / cgroup loop", "crashes"],
            rows: self.names.iter().enumerate().map(row).collect(),
        }
    }

    fn panel(&self, mode: Mode, cell: usize, title: String) -> Panel {
        let bar = |(index, name): (usize, &&'static str)| {
            let figures = self.figures(mode, index, cell).ok();
            Bar {
                label: (*name).to_owned(),
                value: figures.as_ref().map(|it| it.p50_us.median / 1000.0),
                tail: figures.and_then(|it| Some(it.p99?[0].median / 1000.0)),
                ours: *name == peers::DEFIB.name,
            }
        };
        let title = format!("restart, {title}: p50, and p99 as a line");
        Panel { title, unit: "ms", bars: self.names.iter().enumerate().map(bar).collect() }
    }

    fn versions_json(&self) -> Value {
        self.names
            .iter()
            .zip(&self.versions)
            .map(|(name, version)| ((*name).to_owned(), json!(version)))
            .collect()
    }

    fn cell_json(&self, mode: Mode, cell: usize) -> Value {
        let subject = |(index, name): (usize, &&'static str)| match self.figures(mode, index, cell) {
            Err(reason) => json!({ "name": name, "reason": reason }),
            Ok(it) => json!({
                "name": name,
                "crashes": it.crashes,
                "p50_us": it.p50_us.json(),
                "p50_ratio": it.p50_ratio.json(),
                "p50_to_cgroup_loop": it.p50_to_cgroup.map(Spread::json),
                "p99_us": it.p99.map(|p99| p99[0].json()),
                "p99_ratio": it.p99.map(|p99| p99[1].json()),
            }),
        };
        json!({
            "mode": mode.word(),
            "victim": CELLS[cell].program.word(),
            "signal": if CELLS[cell].signal == Signal::KILL { "KILL" } else { "SEGV" },
            "subjects": self.names.iter().enumerate().map(subject).collect::<Vec<_>>(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(p50s: &[[u64; 4]], count: usize) -> Outcome {
        let mut outcome = Outcome::new(&[], &["libz.so.1"]);
        for run in p50s {
            let summary = |p50: u64| Some(Summary { count, p50, p99: 2 * p50, max: 3 * p50 });
            outcome.add(Mode::Steady, run.iter().map(|p50| Ok(vec![summary(*p50); CELLS.len()])).collect());
        }
        outcome
    }

    #[test]
    fn a_ratio_is_taken_within_its_run() {
        let runs = [[100_000, 1, 5, 50_000], [400_000, 1, 40, 400_000], [100_000, 1, 20, 200_000]];
        let json = outcome(&runs, 100).section().json;
        let defib = &json["cells"][0]["subjects"][3];
        assert_eq!(defib["p50_us"], json!({ "median": 200.0, "min": 50.0, "max": 400.0 }));
        assert_eq!(defib["p99_ratio"], json!({ "median": 1.0, "min": 0.5, "max": 2.0 }));
        assert_eq!(defib["p50_to_cgroup_loop"]["median"], 10_000.0);
        assert_eq!(defib["crashes"], 300);
    }

    #[test]
    fn a_p99_needs_a_hundred_crashes() {
        let table = outcome(&[[100_000, 1, 25_000, 50_000]], 99).table(Mode::Steady, 0, String::new());
        assert_eq!(table.rows[3].cells, Ok(["50", "-", "0.50", "-", "2.00", "99"].map(str::to_owned).into()));
    }

    #[test]
    fn who_fails_in_one_run_has_a_reason_and_no_figures() {
        let mut outcome = outcome(&[[100_000, 1, 2, 50_000]], 100);
        outcome.runs[0][0][1] = Err("ended".to_owned());
        let table = outcome.table(Mode::Steady, 0, String::new());
        assert_eq!(table.rows[1].cells, Err("ended".to_owned()));
        assert_eq!(
            outcome.table(Mode::Loop, 0, String::new()).rows[2].cells,
            Err("was not crashed".to_owned())
        );
    }
}
