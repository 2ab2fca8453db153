//! A supervisor under test and the victims that it keeps alive. Dropping it ends all of them.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Error, Result, anyhow, bail};
use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use super::clock;
use super::programs::Programs;
use super::starts::{Start, Starts};

/// How long a start may take: far more than it does, so that only a supervisor that gave up is given up.
const START_LIMIT: Duration = Duration::from_secs(30);

/// How long a supervisor may take to end its services and itself before it is killed.
const STOP_LIMIT: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(super) struct Subject {
    name: &'static str,
    supervisor: Child,
    victims: Vec<Starts>,
    /// What it writes, read as it comes.
    log: File,
    /// Its path stands in the arguments of each process that was started. Removed after they are gone.
    folder: TempDir,
}

impl Subject {
    /// The bare loop with one victim.
    pub(super) fn bare(name: &'static str, programs: &Programs) -> Result<Self> {
        Self::launch(name, 1, "", |_, victims| {
            let mut bare = Command::new(&programs.bare);
            bare.arg(&programs.victim).args(victims.iter().map(Starts::path));
            Ok(bare)
        })
    }

    /// defib with `services` victims, configured by a file as anybody would.
    pub(super) fn defib(programs: &Programs, services: usize) -> Result<Self> {
        Self::defib_with(programs, services, "auto")
    }

    /// The same, on a source.
    pub(super) fn defib_with(programs: &Programs, services: usize, source: &str) -> Result<Self> {
        Self::defib_as(programs, services, source, "info", "")
    }

    /// defib with one victim, on a source, telling when it handles a death.
    pub(super) fn talkative(programs: &Programs, source: &str) -> Result<Self> {
        Self::defib_as(programs, 1, source, "info,defib::daemon=debug", "")
    }

    /// defib with `services` victims, which serves its metrics over TCP.
    pub(super) fn scraped(programs: &Programs, services: usize) -> Result<Self> {
        Self::defib_as(programs, services, "auto", "info", "127.0.0.1:0")
    }

    fn defib_as(
        programs: &Programs,
        services: usize,
        source: &str,
        log: &str,
        metrics: &str,
    ) -> Result<Self> {
        Self::launch("defib", services, log, |folder, victims| {
            let config = folder.join("defib.toml");
            let mut file = File::options().write(true).create_new(true).mode(0o600).open(&config)?;
            file.write_all(settings(&programs.victim, victims).as_bytes())?;
            let mut defib = Command::new(&programs.defib);
            defib.args(["daemon", "--source", source, "--listen-metrics", metrics, "--config"]).arg(config);
            for (option, name) in [("--runtime-dir", "run"), ("--state-dir", "state"), ("--log-dir", "log")] {
                defib.arg(option).arg(folder.join(name));
            }
            Ok(defib)
        })
    }

    fn launch(
        name: &'static str,
        services: usize,
        log: &str,
        command: impl FnOnce(&Path, &[Starts]) -> Result<Command>,
    ) -> Result<Self> {
        let folder = TempDir::with_prefix("defib-bench-").context("cannot make a folder")?;
        let victims = (0..services).map(|n| Starts::create(folder.path().join(format!("starts-{n}"))));
        let victims: Vec<Starts> = victims.collect::<Result<_>>()?;
        let path = folder.path().join("output");
        let (output, log_reader) = (File::create(&path)?, File::open(&path)?);
        let mut command = command(folder.path(), &victims)?;
        // A bare loop hands its environment on: the caller's must not make its victims dearer.
        command
            .env_clear()
            .env("DEFIB_LOG", log)
            .current_dir("/")
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output);
        let supervisor = command.spawn().with_context(|| format!("cannot start {name}"))?;
        Ok(Self { name, supervisor, victims, log: log_reader, folder })
    }

    pub(super) fn name(&self) -> &'static str {
        self.name
    }

    /// The process that the bench started.
    pub(super) fn pid(&self) -> u32 {
        self.supervisor.id()
    }

    /// Waits for the next start of a victim.
    pub(super) fn next_start(&mut self, victim: usize) -> Result<Start> {
        let (supervisor, starts) = (&mut self.supervisor, &mut self.victims[victim]);
        let start = clock::wait(START_LIMIT, || match (starts.next()?, supervisor.try_wait()?) {
            (None, Some(status)) => bail!("ended with {status}"),
            (start, _) => Ok(start),
        });
        match start {
            Ok(Some(start)) => Ok(start),
            Ok(None) => Err(self.failed(&format!("no start of victim {victim} in {START_LIMIT:?}"))),
            Err(error) => Err(self.failed(&format!("{error:#}"))),
        }
    }

    /// Waits for the first start of each victim.
    pub(super) fn first_starts(&mut self) -> Result<Vec<Start>> {
        (0..self.victims.len()).map(|victim| self.next_start(victim)).collect()
    }

    /// Fails if a victim has started without having been crashed: then the figures are of something else.
    pub(super) fn expect_no_start(&mut self) -> Result<()> {
        for (victim, starts) in self.victims.iter_mut().enumerate() {
            if starts.next()?.is_some() {
                return Err(self.failed(&format!("victim {victim} was started again without a crash")));
            }
        }
        Ok(())
    }

    /// Passes over all that it has written so far.
    pub(super) fn skip_log(&mut self) -> Result<()> {
        self.log.seek(SeekFrom::End(0)).map(drop).context("the output cannot be read")
    }

    /// The number behind `field` in what it writes next.
    pub(super) fn stamp(&mut self, field: &str) -> Result<u64> {
        let (mut text, log) = (String::new(), &mut self.log);
        let found = clock::wait(START_LIMIT, || {
            log.read_to_string(&mut text)?;
            let whole = text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n'));
            let mut numbers =
                whole.filter_map(|line| line.split_once(field)?.1.split(' ').next()?.parse().ok());
            Ok(numbers.next())
        })?;
        found.ok_or_else(|| self.failed(&format!("no {field} in its output")))
    }

    /// Where it serves its metrics over TCP.
    pub(super) fn metrics(&mut self) -> Result<SocketAddr> {
        let (mut text, log) = (String::new(), &mut self.log);
        let found = clock::wait(START_LIMIT, || {
            log.read_to_string(&mut text)?;
            let rest = text.split_once("metrics are served at http://").map(|(_, rest)| rest);
            Ok(rest.and_then(|rest| rest.split_once('/')?.0.parse().ok()))
        })?;
        found.ok_or_else(|| self.failed("no address of metrics in its output"))
    }

    /// A command that follows the events of all processes.
    pub(super) fn all_events(&self, programs: &Programs) -> Command {
        let mut events = Command::new(&programs.defib);
        events
            .args(["events", "--all", "--follow", "--json", "--runtime-dir"])
            .arg(self.folder.path().join("run"));
        events
    }

    /// From where defib hears of ends, in its own word; `unknown` if it does not say.
    pub(super) fn source(&self, programs: &Programs) -> String {
        let mut status = Command::new(&programs.defib);
        let output =
            status.args(["status", "--json", "--runtime-dir"]).arg(self.folder.path().join("run")).output();
        let answer = output.ok().and_then(|output| serde_json::from_slice::<Value>(&output.stdout).ok());
        answer.and_then(|answer| Some(answer["source"].as_str()?.to_owned())).unwrap_or("unknown".to_owned())
    }

    /// An error with all that the supervisor wrote.
    fn failed(&self, what: &str) -> Error {
        let output = fs::read_to_string(self.folder.path().join("output")).unwrap_or_default();
        anyhow!("{}: {what}; it wrote:\n{output}", self.name)
    }

    /// Ends the supervisor: by a request at first, so that it can put away what it made outside of its folder.
    fn stop(&mut self) -> Result<()> {
        let child = &mut self.supervisor;
        if child.try_wait()?.is_none() {
            kill_process(Pid::from_child(child), Signal::TERM)?;
            if clock::wait(STOP_LIMIT, || Ok(child.try_wait()?))?.is_none() {
                child.kill()?;
                child.wait()?;
            }
        }
        Ok(())
    }
}

impl Drop for Subject {
    fn drop(&mut self) {
        let stopped = self.stop();
        // The loop leaves its victim behind; and of a supervisor that had to be killed, anything may be left.
        let swept = clock::wait(STOP_LIMIT, || Ok(sweep(self.folder.path())?.then_some(())));
        let swept = swept.and_then(|clean| clean.context("processes that cannot be killed"));
        for error in [stopped.err(), swept.err()].into_iter().flatten() {
            println!("cannot clean up after {}: {error:#}", self.name);
        }
    }
}

/// Kills every process that names the folder in its arguments, and says whether there was none.
///
/// The name is random: no stranger has it, not even one that got the pid of a process that ended meanwhile.
fn sweep(folder: &Path) -> Result<bool> {
    let name = folder.as_os_str().as_encoded_bytes();
    let mut clean = true;
    for entry in fs::read_dir("/proc")? {
        let entry = entry?;
        let pid = entry.file_name().to_str().and_then(|name| Pid::from_raw(name.parse().ok()?));
        // What is no process has no arguments either, nor has one that ends just now.
        let (Some(pid), Ok(arguments)) = (pid, fs::read(entry.path().join("cmdline"))) else { continue };
        if arguments.windows(name.len()).any(|window| window == name) {
            clean = false;
            match kill_process(pid, Signal::KILL) {
                Ok(()) | Err(Errno::SRCH) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
    Ok(clean)
}

/// A victim is restarted at once, always, and as often as it is crashed; all else is left as it comes.
fn settings(victim: &Path, victims: &[Starts]) -> String {
    let service = |(n, starts): (usize, &Starts)| {
        format!(
            "[service.victim-{n}]\n\
             command = ['{}', '{}']\n\
             restart = {{ policy = \"always\", immediate = 1000000, max_restarts = \"none\", reset_after = \"1ms\" }}\n",
            victim.display(),
            starts.path().display(),
        )
    };
    victims.iter().enumerate().map(service).collect()
}
