//! Everything dies, and nothing is lost: see `tests/src/chaos`. Once for each source, side by side.
//!
//! `CHAOS_SECONDS` and `CHAOS_SEED` set how long, and what follows; `cargo xtask chaos` does both.
#![expect(
    clippy::disallowed_methods,
    clippy::print_stderr,
    reason = "a seed comes from the clock, and is printed"
)]

use std::thread;
use std::time::{Duration, SystemTime};

use defib_tests::chaos::{Abilities, Chaos, NOW};

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

/// `CHAOS_ABILITIES` may name what is not asked of this defib yet: `keeper`, `restart`, `pins`.
fn abilities() -> Abilities {
    let words = std::env::var("CHAOS_ABILITIES").unwrap_or_default();
    let has = |word| words.split(',').any(|it| it == word);
    Abilities {
        keeper_dies: NOW.keeper_dies || has("keeper"),
        daemon_restart: NOW.daemon_restart || has("restart"),
        ends_are_kept: NOW.ends_are_kept || has("pins"),
    }
}

#[test]
fn whatever_dies_nothing_is_lost() {
    let seed = number("CHAOS_SEED").unwrap_or_else(|| {
        let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        since.map_or(1, |since| since.as_micros() as u64 % 1_000_000_000)
    });
    let time = Duration::from_secs(number("CHAOS_SECONDS").unwrap_or(60));
    eprintln!("chaos: seed {seed}, {time:?}: CHAOS_SEED={seed} repeats it");
    let failures: Vec<String> = thread::scope(|scope| {
        let runs: Vec<_> = sources()
            .iter()
            .map(|source| {
                let chaos = Chaos { seed, time, source, abilities: abilities() };
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
