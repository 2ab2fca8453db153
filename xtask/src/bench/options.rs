//! The command line of the benchmarks.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::peers;

pub(super) const USAGE: &str = "\
usage: cargo xtask bench [WHAT…] [options]

  restart        from the crash to the first instruction of the replacement: defib and its peers against a bare C loop
  path           where the time of a restart goes, step by step: the bare loops and defib (needs root)
  loaded         the same for defib alone: with 1000 services and requests, beside busy loops, with its daemon stopped
  connections    connections refused and reset while a server is crashed, by who holds its socket
  counting       what it costs to count connections, and whether the counts are right (needs root, nginx, wrk, ss)
  crash-loop     what keeper and daemon hold before and after very many crashes
  idle           context switches with 100 quiet services, of defib and its peers
  footprint      memory, and the time to start, with 1, 100 and 1000 services, of defib and its peers
  strangers      what hearing of processes costs those that are none of defib's, for each source
  handling       from a kill to its handling by the daemon, for each source
  scrape         a scrape of the metrics of 1000 services, and restarts while scraped and not
  logs           how much output comes into files without a loss
  survive        what the death of daemon and keeper costs, and a disk that hangs
  all            all of them (the default)

  --quick          a look: one run, few crashes, short waits; for figures worth telling leave it out
  --crashes N      crashes of each subject in a run (200)
  --runs N         runs, or rounds of strangers (5)
  --loops N        crashes of crash-loop (100000)
  --seconds N      for how long idle counts, and counting compares (60)
  --peers A,B      only these of systemd s6 runit daemontools supervisor monit; `none` for none
  --json FILE      where the figures go (target/bench/WHAT.json)
  --markdown FILE  the tables, for a page
  --svg FILE       a picture
  --defib FILE     measure this program instead of building one

All of it takes some 50 minutes on two cores that have nothing else to do, `restart` with all peers almost half of that.

Peers are Debian's packages, unpacked into target/bench and not installed. As root everything runs in cgroups of its
own, which are removed with all that was started, however the bench ends.
";

/// What to measure, and how much of it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Options {
    /// Empty: everything.
    pub(super) what: Vec<What>,
    pub(super) quick: bool,
    pub(super) crashes: usize,
    pub(super) runs: usize,
    pub(super) loops: usize,
    pub(super) window: Duration,
    /// Those that take part; `None`: all.
    pub(super) peers: Option<Vec<String>>,
    pub(super) json: Option<PathBuf>,
    pub(super) markdown: Option<PathBuf>,
    pub(super) svg: Option<PathBuf>,
    pub(super) defib: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    Restart,
    Path,
    Loaded,
    Connections,
    Counting,
    CrashLoop,
    Idle,
    Footprint,
    Strangers,
    Handling,
    Scrape,
    Logs,
    Survive,
}

impl What {
    /// In the order in which they are measured.
    pub(super) const ALL: [Self; 13] = [
        Self::Restart,
        Self::Path,
        Self::Loaded,
        Self::Connections,
        Self::Counting,
        Self::CrashLoop,
        Self::Idle,
        Self::Footprint,
        Self::Strangers,
        Self::Handling,
        Self::Scrape,
        Self::Logs,
        Self::Survive,
    ];

    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Restart => "restart",
            Self::Path => "path",
            Self::Loaded => "loaded",
            Self::Connections => "connections",
            Self::Counting => "counting",
            Self::CrashLoop => "crash-loop",
            Self::Idle => "idle",
            Self::Footprint => "footprint",
            Self::Strangers => "strangers",
            Self::Handling => "handling",
            Self::Scrape => "scrape",
            Self::Logs => "logs",
            Self::Survive => "survive",
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Parsed {
    Run(Options),
    Help,
}

impl Options {
    pub(super) fn parse(args: &[String]) -> Result<Parsed> {
        let quick = args.iter().any(|arg| arg == "--quick");
        let full = |full, look| if quick { look } else { full };
        let mut options = Self {
            what: Vec::new(),
            quick,
            crashes: full(200, 20),
            runs: full(5, 1),
            loops: full(100_000, 1000),
            window: Duration::from_secs(full(60, 5) as u64),
            peers: None,
            json: None,
            markdown: None,
            svg: None,
            defib: None,
        };
        let mut all = false;
        let mut rest = args.iter();
        while let Some(arg) = rest.next() {
            let mut value = || rest.next().with_context(|| format!("{arg} needs a value"));
            match arg.as_str() {
                "all" => all = true,
                "--quick" => {}
                "--crashes" => options.crashes = positive(arg, value()?)?,
                "--runs" => options.runs = positive(arg, value()?)?,
                "--loops" => options.loops = positive(arg, value()?)?,
                "--seconds" => options.window = Duration::from_secs(positive(arg, value()?)?),
                "--peers" => options.peers = Some(chosen(value()?)?),
                "--json" => options.json = Some(value()?.into()),
                "--markdown" => options.markdown = Some(value()?.into()),
                "--svg" => options.svg = Some(value()?.into()),
                "--defib" => options.defib = Some(value()?.into()),
                "-h" | "--help" => return Ok(Parsed::Help),
                word => match What::ALL.into_iter().find(|what| what.word() == word) {
                    Some(what) => options.what.push(what),
                    None => bail!("unknown argument {arg:?}\n\n{USAGE}"),
                },
            }
        }
        if all {
            options.what.clear();
        }
        Ok(Parsed::Run(options))
    }

    /// What is to be measured, in order.
    pub(super) fn chosen(&self) -> impl Iterator<Item = What> {
        What::ALL.into_iter().filter(|what| self.what.is_empty() || self.what.contains(what))
    }

    /// The file of the figures, where none is given.
    pub(super) fn file_name(&self) -> String {
        match self.what.as_slice() {
            [] => "all.json".to_owned(),
            some => some.iter().map(|what| what.word()).collect::<Vec<_>>().join("-") + ".json",
        }
    }
}

fn chosen(list: &str) -> Result<Vec<String>> {
    let names: Vec<String> = list.split(',').filter(|name| *name != "none").map(str::to_owned).collect();
    if let Some(unknown) = names.iter().find(|name| !peers::names().contains(&name.as_str())) {
        bail!("no peer {unknown:?}; there are {}, or `none`", peers::names().join(" "));
    }
    Ok(names)
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

    fn options(line: &str) -> Options {
        let Parsed::Run(options) = parse(line).unwrap() else { panic!("no run") };
        options
    }

    #[test]
    fn everything_has_a_default() {
        let defaults = options("");
        assert_eq!((defaults.crashes, defaults.runs, defaults.loops), (200, 5, 100_000));
        assert!(defaults.chosen().eq(What::ALL));
        assert_eq!(options("restart all"), defaults);
    }

    #[test]
    fn options_stand_before_or_after_the_names() {
        assert_eq!(options("restart idle --runs 3"), options("--runs 3 restart idle"));
        assert!(options("idle restart").chosen().eq([What::Restart, What::Idle]));
        assert_eq!(options("idle restart").file_name(), "idle-restart.json");
    }

    #[test]
    fn a_quick_look_is_still_told_how_much() {
        let quick = options("--crashes 50 --quick");
        assert_eq!((quick.crashes, quick.runs, quick.loops), (50, 1, 1000));
    }

    #[test]
    fn peers_are_chosen_by_name() {
        assert_eq!(options("--peers s6,monit").peers, Some(vec!["s6".to_owned(), "monit".to_owned()]));
        assert_eq!(options("--peers none").peers, Some(Vec::new()));
    }

    #[test]
    fn what_cannot_be_measured_is_refused() {
        for line in ["--runs 0", "--crashes -1", "--seconds x", "--json", "memory", "--peers pm2"] {
            assert!(parse(line).is_err(), "{line}");
        }
    }
}
