//! Everything dies, and nothing is lost: see `tests/src/chaos`. Once for each source, side by side.
//!
//! `CHAOS_SECONDS` and `CHAOS_SEED` set how long, and what follows; `cargo xtask chaos` does both.
#![expect(clippy::print_stderr, reason = "the seed is printed")]

use std::thread;
use std::time::Duration;

use defib_tests::chaos::{Chaos, NOW};

/// What happens in the test of every change.
const SEED: u64 = 5;

/// Sources that the user of the tests can have.
fn sources() -> &'static [&'static str] {
    if nix::unistd::geteuid().is_root() {
        return &["ebpf", "proc-connector", "pidfd"];
    }
    eprintln!("skipped: ebpf and proc-connector, which take root");
    &["pidfd"]
}

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} is a whole number, not {text:?}")))
}

#[test]
fn whatever_dies_nothing_is_lost() {
    // The same each time: a gate is no lottery. `cargo xtask chaos` takes others.
    let seed = number("CHAOS_SEED").unwrap_or(SEED);
    let time = Duration::from_secs(number("CHAOS_SECONDS").unwrap_or(60));
    eprintln!("chaos: seed {seed}, {time:?}: CHAOS_SEED={seed} repeats it");
    let failures: Vec<String> = thread::scope(|scope| {
        let runs: Vec<_> = sources()
            .iter()
            .map(|source| {
                let chaos = Chaos { seed, time, source, abilities: NOW };
                (source, scope.spawn(move || chaos.run()))
            })
            .collect();
        let mut failures = Vec::new();
        for (source, run) in runs {
            match run.join().expect("the harness does not panic") {
                Ok(outcome) => eprintln!("chaos: {source}: {}", outcome.summary),
                Err(text) => failures.push(text),
            }
        }
        failures
    });
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
