//! The command line of the benchmarks.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, Result, bail};

pub(super) const USAGE: &str = "\
usage: cargo xtask bench [WHAT] [options]

  restart        from the crash to the first instruction of the replacement, against a bare C loop
  idle           context switches and memory of defib with 100 quiet services
  footprint      memory of defib, and the time to start, with 1, 100 and 1000 services
  strangers      what hearing of processes costs those that are none of defib's, for each source
  handling       from a kill to its handling by the daemon, for each source
  scrape         a scrape of the metrics of 1000 services, and restarts while scraped and not
  logs           how much output comes into files without a loss
  all            all of them (the default)

  --crashes N    crashes of each subject in a run of restart and handling, and of scrape (2000)
  --runs N       runs of restart and handling, rounds of strangers (5)
  --seconds N    for how long idle counts (60)
  --json FILE    where the figures go (target/bench/WHAT.json)
  --defib FILE   measure this program instead of building one
";

/// What to measure, and how much of it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Options {
    pub(super) what: What,
    pub(super) crashes: usize,
    pub(super) runs: usize,
    pub(super) window: Duration,
    pub(super) json: Option<PathBuf>,
    pub(super) defib: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    Restart,
    Idle,
    Footprint,
    Strangers,
    Handling,
    Scrape,
    Logs,
    All,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Parsed {
    Run(Options),
    Help,
}

impl What {
    /// Whether `part` is to be measured.
    pub(super) fn includes(self, part: Self) -> bool {
        self == part || self == Self::All
    }

    pub(super) fn file_name(self) -> &'static str {
        match self {
            Self::Restart => "restart.json",
            Self::Idle => "idle.json",
            Self::Footprint => "footprint.json",
            Self::Strangers => "strangers.json",
            Self::Handling => "handling.json",
            Self::Scrape => "scrape.json",
            Self::Logs => "logs.json",
            Self::All => "all.json",
        }
    }
}

impl Options {
    pub(super) fn parse(args: &[String]) -> Result<Parsed> {
        let mut options = Self {
            what: What::All,
            crashes: 2000,
            runs: 5,
            window: Duration::from_secs(60),
            json: None,
            defib: None,
        };
        let mut rest = args.iter();
        while let Some(arg) = rest.next() {
            let mut value = || rest.next().with_context(|| format!("{arg} needs a value"));
            match arg.as_str() {
                "restart" => options.what = What::Restart,
                "idle" => options.what = What::Idle,
                "footprint" => options.what = What::Footprint,
                "strangers" => options.what = What::Strangers,
                "handling" => options.what = What::Handling,
                "scrape" => options.what = What::Scrape,
                "logs" => options.what = What::Logs,
                "all" => options.what = What::All,
                "--crashes" => options.crashes = positive(arg, value()?)?,
                "--runs" => options.runs = positive(arg, value()?)?,
                "--seconds" => options.window = Duration::from_secs(positive(arg, value()?)?),
                "--json" => options.json = Some(value()?.into()),
                "--defib" => options.defib = Some(value()?.into()),
                "-h" | "--help" => return Ok(Parsed::Help),
                _ => bail!("unknown argument {arg:?}\n\n{USAGE}"),
            }
        }
        Ok(Parsed::Run(options))
    }
}

fn positive<T: FromStr + Default + PartialEq>(option: &str, text: &str) -> Result<T> {
    match text.parse() {
        Ok(number) if number != T::default() => Ok(number),
        _ => bail!("{option} takes a whole number above zero, not {text:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Parsed> {
        let args: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        Options::parse(&args)
    }

    #[test]
    fn everything_has_a_default() {
        let Parsed::Run(options) = parse("").unwrap() else { panic!("no run") };
        assert_eq!((options.what, options.crashes, options.runs), (What::All, 2000, 5));
    }

    #[test]
    fn options_stand_before_or_after_the_name() {
        assert_eq!(parse("restart --runs 3").unwrap(), parse("--runs 3 restart").unwrap());
    }

    #[test]
    fn what_cannot_be_measured_is_refused() {
        for line in ["--runs 0", "--crashes -1", "--seconds x", "--json", "memory"] {
            assert!(parse(line).is_err(), "{line}");
        }
    }
}
