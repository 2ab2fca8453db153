//! A supervisor under test and the victims that it keeps alive. Dropping it ends all of them.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::net::SocketAddr;
use std::os::linux::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Error, Result, anyhow, bail};
use rustix::process::{Pid, Signal, kill_process};

use super::arena::Arena;
use super::cage::Cage;
use super::programs::Programs;
use super::stage::{Service, Setup, Stage};
use super::starts::{Start, Starts};
use super::{clock, tree};

/// How long a start may take: far more than it does, so that only a supervisor that gave up is given up.
pub(super) const START_LIMIT: Duration = Duration::from_secs(30);

/// How long a supervisor may take to end its services and itself before it is killed.
const STOP_LIMIT: Duration = Duration::from_secs(10);

#[derive(Debug)]
pub(super) struct Subject {
    name: &'static str,
    supervisor: Child,
    /// What it was started by.
    command: Command,
    polite: bool,
    victims: Vec<Starts>,
    /// Device and inode of the victims' programs, by which they are told from their supervisor.
    victim_files: Vec<(u64, u64)>,
    init: Option<u32>,
    begun: u64,
    /// What it writes, read as it comes.
    log: File,
    folder: PathBuf,
    cage: Cage,
}

impl Subject {
    /// Starts a supervisor with a victim for each of `victims`, which are their programs and what these are given
    /// beside the file of their starts.
    pub(super) fn launch(
        name: &'static str,
        arena: &Arena,
        programs: &Programs,
        victims: &[(&Path, Vec<String>)],
        setup: impl FnOnce(&Stage<'_>) -> Result<Setup>,
    ) -> Result<Self> {
        let (folder, cage) = arena.stall()?;
        let mut starts = Vec::with_capacity(victims.len());
        let mut services = Vec::with_capacity(victims.len());
        for (number, (program, more)) in victims.iter().enumerate() {
            let file = Starts::create(folder.join(format!("starts-{number}")))?;
            let mut arguments = vec![file.path().display().to_string()];
            arguments.extend(more.iter().cloned());
            services.push(Service {
                name: format!("victim-{number}"),
                program: program.to_path_buf(),
                arguments,
            });
            starts.push(file);
        }
        let identity = |(program, _): &(&Path, Vec<String>)| {
            let found =
                fs::metadata(program).with_context(|| format!("cannot find {}", program.display()))?;
            Ok((found.st_dev(), found.st_ino()))
        };
        let victim_files = victims.iter().map(identity).collect::<Result<_>>()?;
        let path = folder.join("output");
        let (output, log) = (File::create(&path)?, File::open(&path)?);
        let stage = Stage { folder: &folder, services: &services, programs, cage: &cage };
        let Setup { command, polite, then } = setup(&stage)?;
        let mut command = cage.wrap(&command);
        // A Ctrl-C is for the bench alone: the janitor ends the others.
        command.stdin(Stdio::null()).stdout(output.try_clone()?).stderr(output).process_group(0);
        let begun = clock::now();
        let supervisor = command.spawn().with_context(|| format!("cannot start {name}"))?;
        let mut subject = Self {
            name,
            supervisor,
            command,
            polite,
            victims: starts,
            victim_files,
            init: None,
            begun,
            log,
            folder: folder.clone(),
            cage,
        };
        if let Some(then) = then {
            let stage = Stage { folder: &folder, services: &services, programs, cage: &subject.cage };
            let booted = then(&stage, &subject.supervisor).map_err(|error| subject.failed(&error))?;
            (subject.init, subject.begun) = (Some(booted.init), booted.begun);
        }
        Ok(subject)
    }

    pub(super) fn name(&self) -> &'static str {
        self.name
    }

    /// The process that the bench started.
    pub(super) fn pid(&self) -> u32 {
        self.supervisor.id()
    }

    /// When its services were asked for.
    pub(super) fn begun(&self) -> u64 {
        self.begun
    }

    pub(super) fn cage(&self) -> &Cage {
        &self.cage
    }

    /// Its folder: sockets and settings are in there.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// The processes that supervise: all that it started but the victims. Of a container, those inside.
    pub(super) fn supervising(&self) -> Vec<u32> {
        let mut pids = match self.init {
            Some(init) => tree::family(init),
            None => self.cage.processes().unwrap_or_else(|| tree::family(self.pid())),
        };
        pids.retain(|pid| {
            let file = fs::metadata(format!("/proc/{pid}/exe"));
            file.is_ok_and(|file| !self.victim_files.contains(&(file.st_dev(), file.st_ino())))
        });
        pids.sort_unstable();
        pids
    }

    /// The next start of a victim, if it comes within `limit`.
    pub(super) fn start_within(&mut self, victim: usize, limit: Duration) -> Result<Option<Start>> {
        let (supervisor, starts) = (&mut self.supervisor, &mut self.victims[victim]);
        let start = clock::wait(limit, || match (starts.next()?, supervisor.try_wait()?) {
            (None, Some(status)) => bail!("ended with {status}"),
            (start, _) => Ok(start),
        });
        let start = start.map_err(|error| self.failed(&error))?;
        start.map(|start| self.as_called_here(start)).transpose()
    }

    /// Waits for the next start of a victim.
    pub(super) fn next_start(&mut self, victim: usize) -> Result<Start> {
        let start = self.start_within(victim, START_LIMIT)?;
        start.ok_or_else(|| self.failed(&anyhow!("no start of victim {victim} in {START_LIMIT:?}")))
    }

    /// Waits for the first start of each victim.
    pub(super) fn first_starts(&mut self) -> Result<Vec<Start>> {
        (0..self.victims.len()).map(|victim| self.next_start(victim)).collect()
    }

    /// The first starts that come until all are there or `limit` is over.
    pub(super) fn starts_until(&mut self, limit: Duration) -> Result<Vec<Start>> {
        let end = self.begun + limit.as_nanos() as u64;
        let mut starts = Vec::with_capacity(self.victims.len());
        let mut missing: Vec<usize> = (0..self.victims.len()).collect();
        while !missing.is_empty() && clock::now() < end {
            let victims = &mut self.victims;
            let mut failure = None;
            missing.retain(|victim| match victims[*victim].next() {
                Ok(None) => true,
                Ok(Some(start)) => {
                    starts.push(start);
                    false
                }
                Err(error) => {
                    failure = Some(error);
                    true
                }
            });
            if let Some(error) = failure {
                return Err(self.failed(&error));
            }
            if let Some(status) = self.supervisor.try_wait()? {
                return Err(self.failed(&anyhow!("ended with {status}")));
            }
            clock::sleep(Duration::from_millis(5));
        }
        Ok(starts)
    }

    /// A victim in a container tells the pid that it has there.
    fn as_called_here(&self, start: Start) -> Result<Start> {
        let Some(init) = self.init else { return Ok(start) };
        let pid = tree::called(start.pid.as_raw_nonzero().get() as u32, &tree::children(init)?);
        let pid = pid.and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
        Ok(Start { pid: pid.context("a victim that is no child of the container's PID 1")?, ..start })
    }

    /// Fails if a victim has started without having been crashed: then the figures are of something else.
    pub(super) fn expect_no_start(&mut self) -> Result<()> {
        for victim in 0..self.victims.len() {
            if self.victims[victim].next()?.is_some() {
                let what = anyhow!("victim {victim} was started again without a crash");
                return Err(self.failed(&what));
            }
        }
        Ok(())
    }

    /// Kills the process that the bench started, and starts another one in its place; returns when that was.
    pub(super) fn kill_and_start_again(&mut self) -> Result<u64> {
        self.supervisor.kill()?;
        self.supervisor.wait()?;
        let begun = clock::now();
        self.supervisor = self.command.spawn().with_context(|| format!("cannot start {}", self.name))?;
        Ok(begun)
    }

    /// Waits until it writes a line with these words.
    pub(super) fn await_line(&mut self, words: &str) -> Result<()> {
        self.told(|line| line.contains(words).then_some(()), &format!("no {words:?} in its output"))
    }

    /// Passes over all that it has written so far.
    pub(super) fn skip_log(&mut self) -> Result<()> {
        self.log.seek(SeekFrom::End(0)).map(drop).context("the output cannot be read")
    }

    /// The number behind `field` in what it writes next.
    pub(super) fn stamp(&mut self, field: &str) -> Result<u64> {
        let number = |line: &str| line.split_once(field)?.1.split(' ').next()?.parse().ok();
        self.told(number, &format!("no {field} in its output"))
    }

    /// Where defib serves its metrics over TCP.
    pub(super) fn metrics(&mut self) -> Result<SocketAddr> {
        let address =
            |line: &str| line.split_once("metrics are served at http://")?.1.split_once('/')?.0.parse().ok();
        self.told(address, "no address of metrics in its output")
    }

    /// What `find` finds in a line that it writes next.
    fn told<T>(&mut self, find: impl Fn(&str) -> Option<T>, missing: &str) -> Result<T> {
        let (mut text, log) = (String::new(), &mut self.log);
        let found = clock::wait(START_LIMIT, || {
            log.read_to_string(&mut text)?;
            let mut whole = text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n'));
            Ok(whole.find_map(&find))
        })?;
        found.ok_or_else(|| self.failed(&anyhow!("{missing}")))
    }

    /// An error with the end of what the supervisor wrote.
    fn failed(&self, what: &Error) -> Error {
        let output = fs::read(self.folder.join("output")).unwrap_or_default();
        let output = String::from_utf8_lossy(&output);
        let tail = crate::step::last_lines(&output, 20).join("\n");
        anyhow!("{}: {what:#}; it wrote:\n{tail}", self.name)
    }

    /// Ends the supervisor: by a request at first, so that it can put away what it made outside of its folder.
    fn stop(&mut self) -> Result<()> {
        let child = &mut self.supervisor;
        if self.polite && child.try_wait()?.is_none() {
            kill_process(Pid::from_child(child), Signal::TERM)?;
            clock::wait(STOP_LIMIT, || Ok(child.try_wait()?))?;
        }
        if child.try_wait()?.is_none() {
            if let Some(init) = self.init.and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?)) {
                // PID 1 of a namespace takes all others with it; who started it tidies up, and leaves.
                kill_process(init, Signal::KILL).ok();
                clock::wait(STOP_LIMIT, || Ok(child.try_wait()?))?;
            }
            child.kill()?;
            child.wait()?;
        }
        Ok(())
    }
}

impl Drop for Subject {
    fn drop(&mut self) {
        let stopped = self.stop();
        // Most leave their victims behind; and of a supervisor that had to be killed, anything may be left.
        let emptied = self.cage.remove();
        let swept = clock::wait(STOP_LIMIT, || Ok(sweep(&self.folder)?.then_some(())));
        let swept = swept.and_then(|clean| clean.context("processes that cannot be killed"));
        let removed = fs::remove_dir_all(&self.folder).context("its folder cannot be removed");
        for error in [stopped.err(), emptied.err(), swept.err(), removed.err()].into_iter().flatten() {
            println!("cannot clean up after {}: {error:#}", self.name);
        }
    }
}

/// Kills every process that names the folder in its arguments, or is in it, and says whether there was none. Finds
/// those that no cgroup holds.
///
/// The name is random: no stranger has it, not even one that got the pid of a process that ended meanwhile.
fn sweep(folder: &Path) -> Result<bool> {
    let prefix = format!("{}/", folder.display()).into_bytes();
    let mut clean = true;
    for entry in fs::read_dir("/proc")? {
        let entry = entry?;
        let pid = entry.file_name().to_str().and_then(|name| Pid::from_raw(name.parse().ok()?));
        // What is no process has no arguments either, nor has one that ends just now.
        let (Some(pid), Ok(arguments)) = (pid, fs::read(entry.path().join("cmdline"))) else { continue };
        let within = fs::read_link(entry.path().join("cwd")).is_ok_and(|cwd| cwd.starts_with(folder));
        if within || arguments.windows(prefix.len()).any(|window| window == prefix) {
            clean = false;
            // It may have ended by itself.
            kill_process(pid, Signal::KILL).ok();
        }
    }
    Ok(clean)
}
