//! Where the time of a restart goes: the path from kill(2) to the first instruction of the replacement, step by step.
//!
//! The bare loop, the loop with a cgroup for each life, and defib are crashed in turn, as soon as the victim runs. The
//! moments are those of the kernel's static tracepoints ([`tracer`](super::tracer)), the first is the bench's own and the
//! last the victim's. Blocks of crashes that are traced take turns with blocks that are not, and both totals are shown: the
//! difference is what the tracing itself costs.
//!
//! The bare loop is the floor of any restart by a parent. The cgroup loop is the floor where each life has its own
//! cgroup and session: what defib takes beyond that is its own.

use anyhow::Result;
use rustix::process::Signal;
use serde_json::{Value, json};

use super::peers::{self, defib};
use super::section::{Row, Section, Table, micros};
use super::stats::Summary;
use super::tracer::{Event, Tracer, What};
use super::victims::{Patient, WARM_UP};
use super::{Bench, clock};

/// Who is crashed.
const SUBJECTS: [peers::Peer; 3] = [peers::LOOP, peers::CGROUP_LOOP, peers::DEFIB];

/// Crashes of each between two changes of the tracing: that patches the kernel, and interrupts every CPU.
const BLOCK: usize = 20;

/// The steps, each from the end of the one before it.
const STEPS: [&str; 6] = [
    "kill(2) to the victim's exit",
    "the supervisor is woken",
    "it has reaped the victim",
    "it has forked",
    "the child has executed",
    "its first instruction",
];

/// What was measured of one subject, in nanoseconds.
#[derive(Debug, Default)]
struct Found {
    steps: [Vec<u64>; STEPS.len()],
    traced: Vec<u64>,
    undisturbed: Vec<u64>,
    /// Crashes of which the trace did not tell the whole path.
    incomplete: usize,
}

pub(super) fn measure(bench: &Bench) -> Result<Section> {
    let launch = |peer: peers::Peer| {
        let subject = peer.launch(&bench.arena, &bench.programs, &[&bench.programs.victim])?;
        Patient::new(subject)
    };
    let prepared = Tracer::open().and_then(|tracer| {
        let patients: Result<Vec<Patient>> = SUBJECTS.into_iter().map(launch).collect();
        Ok((tracer, patients?))
    });
    let (tracer, mut patients) = match prepared {
        Ok(prepared) => prepared,
        Err(error) => return Ok(absent(&format!("{error:#}"))),
    };
    let source = defib::source(&patients[SUBJECTS.len() - 1].subject, &bench.programs);
    let supervisors: Vec<u32> = patients.iter().map(|patient| patient.subject.pid()).collect();
    let program = bench.programs.victim.file_name().unwrap_or_default().to_string_lossy();
    tracer.watch(&supervisors, &program)?;

    let mut found: Vec<Found> = SUBJECTS.iter().map(|_| Found::default()).collect();
    crash_in_turn(&mut patients, None, WARM_UP, &mut SUBJECTS.map(|_| Found::default()))?;
    for begin in (0..bench.options.crashes).step_by(BLOCK) {
        let block = BLOCK.min(bench.options.crashes - begin);
        crash_in_turn(&mut patients, None, block, &mut found)?;
        tracer.enable(true)?;
        // What the change itself has left in caches is gone after a crash or two.
        crash_in_turn(&mut patients, None, 2, &mut SUBJECTS.map(|_| Found::default()))?;
        crash_in_turn(&mut patients, Some(&tracer), block, &mut found)?;
        tracer.enable(false)?;
        crash_in_turn(&mut patients, None, 2, &mut SUBJECTS.map(|_| Found::default()))?;
    }
    Ok(section(&found, &source))
}

fn crash_in_turn(
    patients: &mut [Patient],
    tracer: Option<&Tracer>,
    rounds: usize,
    found: &mut [Found],
) -> Result<()> {
    for round in 0..rounds {
        for step in 0..patients.len() {
            let index = (step + round) % patients.len();
            let (patient, found) = (&mut patients[index], &mut found[index]);
            if let Some(tracer) = tracer {
                tracer.clear()?;
            }
            clock::sleep(super::restart::QUIET);
            let old = patient.pid(0);
            let crash = patient.end(0, Signal::KILL, clock::now)?;
            let Some(tracer) = tracer else {
                found.undisturbed.push(crash.latency()?);
                continue;
            };
            found.traced.push(crash.latency()?);
            let pids = Pids { supervisor: patient.subject.pid(), old, new: patient.pid(0) };
            match moments(&tracer.read()?, pids, crash.killed, crash.next.stamp) {
                Some(steps) => {
                    found.steps.iter_mut().zip(steps).for_each(|(samples, step)| samples.push(step));
                }
                None => found.incomplete += 1,
            }
        }
    }
    Ok(())
}

/// Whose path it is.
#[derive(Clone, Copy, Debug)]
struct Pids {
    supervisor: u32,
    old: u32,
    new: u32,
}

/// How long each step took; `None` if the events do not tell the whole path.
fn moments(events: &[Event], pids: Pids, killed: u64, first: u64) -> Option<[u64; STEPS.len()]> {
    let Pids { supervisor, old, new } = pids;
    let find =
        |from: u64, what: What| events.iter().find(|it| it.at >= from && it.what == what).map(|it| it.at);
    let exit = find(0, What::Exit(old))?;
    let reaped = find(exit, What::Reaped(old))?;
    // One that is awake already, because of something else, is not woken.
    let woken = find(exit, What::Waking(supervisor)).filter(|at| *at <= reaped).unwrap_or(exit);
    let fork = events.iter().find(|it| it.by == supervisor && it.what == What::Fork(new))?.at;
    let exec = find(fork, What::Exec(new))?;
    let ends = [exit, woken, reaped, fork, exec, first];
    // The tracepoints' stamps are cut off at a microsecond: a step of none may seem to go backwards.
    let begins = [killed].into_iter().chain(ends);
    let mut steps = [0; STEPS.len()];
    for (step, (begin, end)) in steps.iter_mut().zip(begins.zip(ends)) {
        *step = end.saturating_sub(begin);
    }
    Some(steps)
}

fn section(found: &[Found], source: &str) -> Section {
    let p50 = |samples: &[u64]| Summary::of(samples.to_vec()).map(|it| micros(it.p50));
    let cell = |value: Option<f64>| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.0}"));
    let mut rows = Vec::new();
    let mut push = |name: &str, of: &dyn Fn(&Found) -> Option<f64>| {
        let values: Vec<Option<f64>> = found.iter().map(of).collect();
        let mut cells: Vec<String> = values.iter().map(|value| cell(*value)).collect();
        let beyond =
            values[2].zip(values[1]).map(|(defib, floor)| format!("{:+}", (defib - floor).round() as i64));
        cells.push(beyond.unwrap_or_else(|| "-".to_owned()));
        rows.push(Row::new(name, cells));
    };
    for (index, step) in STEPS.into_iter().enumerate() {
        push(step, &|found| p50(&found.steps[index]));
    }
    push("in all, traced", &|found| p50(&found.traced));
    push("in all, not traced", &|found| p50(&found.undisturbed));
    let summary = |samples: &[u64]| Summary::of(samples.to_vec()).map(|it| it.json());
    let subject = |(peer, found): (&peers::Peer, &Found)| -> Value {
        let steps = found
            .steps
            .iter()
            .zip(STEPS)
            .map(|(samples, name)| json!({ "to": name, "p50_us": p50(samples) }));
        json!({
            "name": peer.name, "steps": steps.collect::<Vec<_>>(), "traced": summary(&found.traced),
            "not_traced": summary(&found.undisturbed), "incomplete": found.incomplete,
        })
    };
    let incomplete: usize = found.iter().map(|it| it.incomplete).sum();
    let crashes = found.first().map_or(0, |it| it.traced.len());
    Section {
        key: KEY,
        title: TITLE.to_owned(),
        notes: vec![
            format!(
                "Medians in µs of {crashes} traced crashes of each and as many that were not; each step from the end of \
                 the one before it, so the medians do not add up to that of the whole"
            ),
            format!(
                "Of {incomplete} crashes the trace did not tell the whole path; defib's source: {source}"
            ),
            "The cgroup loop is the floor where each life has a cgroup of its own".to_owned(),
        ],
        tables: vec![table(rows)],
        panels: Vec::new(),
        json: json!({
            "source": source, "subjects": SUBJECTS.iter().zip(found).map(subject).collect::<Vec<_>>(),
        }),
    }
}

const KEY: &str = "path";
const TITLE: &str = "where the time of a restart goes (static victim, SIGKILL, crash loop)";

fn table(rows: Vec<Row>) -> Table {
    let columns = vec!["loop", "cgroup loop", "defib", "defib - cgroup loop"];
    Table { caption: String::new(), columns, rows }
}

/// What is said where nothing can be traced.
fn absent(reason: &str) -> Section {
    let rows = vec![Row::absent("path", reason)];
    let json = json!({ "reason": reason });
    Section {
        key: KEY,
        title: TITLE.to_owned(),
        notes: Vec::new(),
        tables: vec![table(rows)],
        panels: Vec::new(),
        json,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(at: u64, by: u32, what: What) -> Event {
        Event { at: at * 1000, by, what }
    }

    const PIDS: Pids = Pids { supervisor: 7, old: 20, new: 21 };

    fn whole() -> Vec<Event> {
        vec![
            event(90, 0, What::Waking(7)),
            event(110, 20, What::Exit(20)),
            event(130, 20, What::Waking(7)),
            event(165, 7, What::Reaped(20)),
            event(200, 7, What::Fork(21)),
            event(250, 21, What::Exec(21)),
        ]
    }

    fn steps(events: &[Event]) -> Option<[u64; STEPS.len()]> {
        Some(moments(events, PIDS, 100_000, 260_000)?.map(|step| step / 1000))
    }

    #[test]
    fn steps_are_from_one_moment_to_the_next() {
        assert_eq!(steps(&whole()), Some([10, 20, 35, 35, 50, 10]));
    }

    #[test]
    fn a_supervisor_that_is_awake_need_not_be_woken() {
        let mut events = whole();
        events.retain(|it| it.what != What::Waking(7));
        assert_eq!(steps(&events), Some([10, 0, 55, 35, 50, 10]));
    }

    #[test]
    fn a_path_with_a_gap_is_none() {
        for gap in [1, 3, 4, 5] {
            let mut events = whole();
            events.remove(gap);
            assert_eq!(steps(&events), None, "{gap}");
        }
    }

    #[test]
    fn what_defib_takes_beyond_the_floor_has_a_column() {
        let found = |us: u64| Found {
            steps: std::array::from_fn(|_| vec![us * 1000]),
            traced: vec![us * 8000],
            undisturbed: vec![us * 7000],
            incomplete: 0,
        };
        let section = section(&[found(10), found(20), found(30)], "ebpf");
        let rows = &section.tables[0].rows;
        assert_eq!(rows[0].cells, Ok(["10", "20", "30", "+10"].map(str::to_owned).into()));
        assert_eq!(rows[7].cells, Ok(["70", "140", "210", "+70"].map(str::to_owned).into()));
    }
}
