//! The chaos test alone: longer, or with many seeds.

use anyhow::{Context, Result, bail};

use crate::workspace::cargo;
use crate::{build, step};

const USAGE: &str = "\
usage: cargo xtask chaos [options]

Twenty services, on each source of events at the same time, while services, the daemon and the keeper are killed and
stopped, and the configuration changes, by a seed. Afterwards every end, line and connection must be accounted for.

  --seconds N   for how long things happen (60)
  --seed N      the first seed (1)
  --seeds N     how many seeds, one after the other (1)

`cargo xtask test` does it once, for a minute, with a seed of its own. What a failure leaves is in target/chaos-failures.
";

/// What is asked for.
#[derive(Debug, PartialEq, Eq)]
struct Options {
    seconds: u64,
    seed: u64,
    seeds: u64,
}

/// Builds what is needed and runs the test for each seed; stops at the first that fails.
pub(crate) fn run(args: &[String]) -> Result<()> {
    if args.iter().any(|arg| arg == "--help" || arg == "-h") {
        print!("{USAGE}");
        return Ok(());
    }
    let options = Options::parse(args)?;
    let defib = build::defib()?;
    build::executables(&["build", "--package", "defib-tests", "--bins"])?;
    for seed in options.seed..options.seed.saturating_add(options.seeds) {
        let mut command =
            cargo(&["test", "--package", "defib-tests", "--test", "chaos", "--", "--nocapture"]);
        command.env("DEFIB_BIN", &defib);
        command.env("CHAOS_SEED", seed.to_string()).env("CHAOS_SECONDS", options.seconds.to_string());
        step::loud(&mut command).with_context(|| format!("chaos with seed {seed}"))?;
    }
    Ok(())
}

impl Options {
    fn parse(args: &[String]) -> Result<Self> {
        let mut options = Self { seconds: 60, seed: 1, seeds: 1 };
        let mut rest = args.iter();
        while let Some(arg) = rest.next() {
            let place = match arg.as_str() {
                "--seconds" => &mut options.seconds,
                "--seed" => &mut options.seed,
                "--seeds" => &mut options.seeds,
                unknown => bail!("unknown argument {unknown:?}\n\n{USAGE}"),
            };
            let value = rest.next().with_context(|| format!("{arg} needs a value"))?;
            *place = value.parse().with_context(|| format!("{arg} takes a whole number, not {value:?}"))?;
        }
        Ok(options)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_and_times_are_numbers() {
        let parse = |line: &str| {
            let args: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
            Options::parse(&args)
        };
        assert_eq!(parse("").unwrap(), Options { seconds: 60, seed: 1, seeds: 1 });
        assert_eq!(parse("--seeds 5 --seconds 600").unwrap(), Options { seconds: 600, seed: 1, seeds: 5 });
        for line in ["--seed", "--seed x", "--minutes 1"] {
            assert!(parse(line).is_err(), "{line}");
        }
    }
}
