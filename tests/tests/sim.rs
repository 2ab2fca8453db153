//! The core in random worlds, and the kept histories. See `defib_tests::sim` for what a world is.
//!
//! `DEFIB_SIM_SEED` and `DEFIB_SIM_RUNS` choose other worlds than the fixed ones; `DEFIB_SIM_REPLAY=FILE` does one
//! history again.

use std::any::Any;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use defib_tests::sim::{EventLog, replay as do_again, run};

const RUNS: u64 = 2_000;
const STEPS: usize = 200;

#[test]
fn random_histories_keep_every_invariant() {
    let first = number("DEFIB_SIM_SEED").unwrap_or(1);
    let runs = number("DEFIB_SIM_RUNS").unwrap_or(RUNS);
    for seed in first..first + runs {
        let mut log = None;
        let outcome = catch_unwind(AssertUnwindSafe(|| run(seed, STEPS, &mut log)));
        let Some(failure) = failure(outcome) else { continue };
        let log = log.expect("a world has a log from its beginning");
        let path = failures().join(format!("{seed}.jsonl"));
        log.write(&path).expect("the log can be written");
        panic!(
            "seed {seed}, action {}: {failure}\n\nreplay: DEFIB_SIM_REPLAY={} cargo test -p defib-tests --test sim replay",
            log.actions.len(),
            path.display()
        );
    }
}

#[test]
fn kept_histories_keep_every_invariant() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("replays");
    let mut found = 0;
    for entry in folder.read_dir().expect("the folder of kept histories") {
        let path = entry.expect("its entry").path();
        if path.extension().is_some_and(|it| it == "jsonl") {
            found += 1;
            check(&path);
        }
    }
    assert!(found > 0, "there are none in {}", folder.display());
}

#[test]
fn replay() {
    if let Some(path) = std::env::var_os("DEFIB_SIM_REPLAY") {
        check(Path::new(&path));
    }
}

#[test]
fn a_history_is_the_same_from_its_seed_and_from_its_log() {
    for seed in 1..50 {
        let (mut first, mut second) = (None, None);
        let outcomes = [run(seed, STEPS, &mut first), run(seed, STEPS, &mut second)];
        assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
        assert_eq!(first, second);
        let log = first.expect("a log");
        let lines = log.to_lines().expect("it can be written");
        assert_eq!(EventLog::from_lines(&lines).expect("it can be read"), log);
    }
}

#[track_caller]
fn check(path: &Path) {
    let log = EventLog::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let outcome = catch_unwind(AssertUnwindSafe(|| do_again(&log)));
    if let Some(failure) = failure(outcome) {
        panic!("{}: {failure}", path.display());
    }
}

/// What went wrong, be it a broken invariant or a panic of the core.
fn failure<E: std::fmt::Display>(outcome: Result<Result<(), E>, Box<dyn Any + Send>>) -> Option<String> {
    match outcome {
        Ok(Ok(())) => None,
        Ok(Err(violation)) => Some(violation.to_string()),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|it| (*it).to_owned()));
            Some(format!("panic: {}", text.unwrap_or_default()))
        }
    }
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable}={text} is not a number")))
}

fn failures() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("sim-failures")
}
