//! Starts `defib daemon` as a unit of systemd does, in a cgroup of its own, and again when it has died.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};

use super::clock::{now, since};
use crate::{Said, children, lives, program, said};

/// How long a start or an end may take on a machine that others use too.
const PATIENCE: Duration = Duration::from_secs(60);

/// How to ask the daemon.
#[derive(Clone, Debug)]
pub(super) struct Client {
    runtime: PathBuf,
}

impl Client {
    /// A verb, to be run.
    pub(super) fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(program());
        command.arg("--runtime-dir").arg(&self.runtime).args(args).stdin(Stdio::null());
        command
    }

    pub(super) fn ask(&self, args: &[&str]) -> Said {
        said(&mut self.command(args))
    }
}

/// The unit.
#[derive(Debug)]
pub(super) struct Unit {
    folder: PathBuf,
    source: &'static str,
    cage: Cage,
    keeper: Option<Child>,
    /// What it did and saw, and when.
    notes: Vec<(u64, String)>,
    /// When a keeper was killed, and when the next one's daemon was seen to supervise.
    pub(super) gaps: Vec<(u64, u64)>,
    /// How often a daemon had supervised when the present keeper was started.
    supervised_before: usize,
}

impl Unit {
    pub(super) fn new(folder: &Path, source: &'static str) -> Self {
        let cage = Cage::new(folder, source);
        Self {
            folder: folder.to_owned(),
            source,
            cage,
            keeper: None,
            notes: Vec::new(),
            gaps: Vec::new(),
            supervised_before: 0,
        }
    }

    pub(super) fn client(&self) -> Client {
        Client { runtime: self.folder.join("run") }
    }

    /// Starts the keeper. What it needs is there, so that cannot fail but for want of processes.
    pub(super) fn start(&mut self) {
        let path = |name: &str| self.folder.join(name);
        let log = File::options().create(true).append(true).open(path("daemon.log")).expect("a log");
        let mut command = self.cage.command();
        command.arg(program()).arg("daemon").arg("--config").arg(path("defib.toml"));
        for (flag, name) in [("--state-dir", "state"), ("--runtime-dir", "run"), ("--log-dir", "log")] {
            command.arg(flag).arg(path(name));
        }
        command.args(["--listen-metrics", "", "--log-format", "json", "--source", self.source]);
        let keeper = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn();
        let keeper = keeper.expect("the program starts");
        self.notes.push((now(), format!("the keeper is pid {}", keeper.id())));
        self.keeper = Some(keeper);
        self.supervised_before = self.supervised();
    }

    pub(super) fn keeper(&self) -> Option<u32> {
        self.keeper.as_ref().map(Child::id)
    }

    /// The daemon under the keeper, if there is one just now.
    pub(super) fn daemon(&self) -> Option<u32> {
        children(self.keeper()?).into_iter().find(|pid| {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            line.windows(14).any(|word| word == b"--under-keeper") && lives(*pid)
        })
    }

    /// Waits until the daemon answers.
    pub(super) fn wait_ready(&mut self) -> Result<(), String> {
        let begun = Instant::now();
        loop {
            self.look()?;
            if self.client().ask(&["status"]).code == 0 {
                return Ok(());
            }
            if begun.elapsed() > PATIENCE {
                return Err(format!("no daemon answers in {PATIENCE:?}"));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// The keeper never ends unless it is killed, but when its first daemon dies before it has supervised: then it leaves,
    /// and is started again here, as a unit does.
    pub(super) fn look(&mut self) -> Result<(), String> {
        if self.keeper.is_none() {
            return Ok(());
        }
        let supervises = self.supervised() > self.supervised_before;
        if let Some((_, end)) = self.gaps.last_mut().filter(|(_, end)| supervises && *end == u64::MAX) {
            *end = now();
        }
        let Some(keeper) = &mut self.keeper else { return Ok(()) };
        match keeper.try_wait() {
            Ok(None) => Ok(()),
            Ok(Some(status)) if !supervises && !self.gaps.is_empty() => {
                self.notes.push((now(), format!("the keeper left before it had a daemon: {status}")));
                self.start();
                Ok(())
            }
            ended => Err(format!("the keeper has ended by itself: {ended:?}")),
        }
    }

    /// Kills the daemon. `None`: there is none just now.
    pub(super) fn kill_daemon(&mut self) -> Option<u32> {
        let daemon = self.daemon()?;
        send(daemon, Signal::KILL);
        Some(daemon)
    }

    /// Kills the keeper and waits until the daemon has left; with `both` that is killed too. Both run no more when this
    /// comes back.
    pub(super) fn kill_keeper(&mut self, both: bool) -> Result<(), String> {
        let daemon = self.daemon();
        let Some(mut keeper) = self.keeper.take() else { return Ok(()) };
        // If the one before was not seen to supervise, it is still the same time in which nobody watches.
        if self.gaps.last().is_none_or(|(_, end)| *end != u64::MAX) {
            self.gaps.push((now(), u64::MAX));
        }
        // Its number is nobody else's while this is open.
        let held = daemon.and_then(pid_of).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok());
        if both && let Some(daemon) = daemon {
            send(daemon, Signal::KILL);
        }
        keeper.kill().and_then(|()| keeper.wait()).map_err(|error| format!("kill the keeper: {error}"))?;
        let begun = Instant::now();
        while daemon.is_some_and(lives) {
            if begun.elapsed() > PATIENCE {
                return Err(format!("the daemon has not left {PATIENCE:?} after its keeper was killed"));
            }
            // One that is stopped does not see that its keeper is gone.
            daemon.inspect(|daemon| send(*daemon, Signal::CONT));
            std::thread::sleep(Duration::from_millis(2));
        }
        drop(held);
        Ok(())
    }

    /// Starts the keeper again, if it is not there.
    pub(super) fn start_again(&mut self) {
        if self.keeper.is_none() {
            self.start();
        }
    }

    /// Has everything end in order, and looks that nothing is left.
    pub(super) fn stop(&mut self) -> Result<(), String> {
        let said = self.client().ask(&["daemon", "stop"]);
        let begun = Instant::now();
        let Some(keeper) = &mut self.keeper else { return Err("no keeper to be stopped".to_owned()) };
        loop {
            match keeper.try_wait() {
                Ok(None) if begun.elapsed() > PATIENCE => {
                    return Err(format!(
                        "`defib daemon stop` has not come to an end in {PATIENCE:?}: {said:?}"
                    ));
                }
                Ok(None) => std::thread::sleep(Duration::from_millis(10)),
                Ok(Some(status)) if status.success() && said.code == 0 => break,
                ended => return Err(format!("`defib daemon stop`: {said:?}; the keeper: {ended:?}")),
            }
        }
        let left = self.cage.members();
        if left.is_empty() {
            Ok(())
        } else {
            Err(format!("processes are left after `daemon stop`: {left:?}"))
        }
    }

    /// What the daemons and keepers have logged.
    pub(super) fn log(&self) -> String {
        fs::read_to_string(self.folder.join("daemon.log")).unwrap_or_default()
    }

    /// How often a daemon has said that it supervises.
    pub(super) fn supervised(&self) -> usize {
        self.log().matches("\"defib supervises\"").count()
    }

    pub(super) fn diary(&self, begun: u64) -> Vec<String> {
        self.notes.iter().map(|(at, note)| format!("{} {note}", since(begun, *at))).collect()
    }
}

impl Drop for Unit {
    fn drop(&mut self) {
        self.cage.kill(&self.folder);
        if let Some(keeper) = &mut self.keeper {
            keeper.kill().ok();
            keeper.wait().ok();
        }
        self.cage.remove(&self.folder);
    }
}

fn pid_of(pid: u32) -> Option<Pid> {
    Pid::from_raw(i32::try_from(pid).ok()?)
}

fn send(pid: u32, signal: Signal) {
    if let Some(pid) = pid_of(pid) {
        // It may have ended by itself.
        kill_process(pid, signal).ok();
    }
}

/// A cgroup for all of it, where cgroups can be made: what is in it can be ended, whatever has become of its parents.
#[derive(Debug)]
struct Cage(Option<PathBuf>);

impl Cage {
    fn new(folder: &Path, source: &str) -> Self {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let mount = mounts.lines().find(|line| line.contains(" - cgroup2 "));
        let mount = mount.and_then(|line| line.split(' ').nth(4));
        let name = folder.file_name().and_then(|name| name.to_str()).unwrap_or("defib-chaos");
        let path = mount.map(|mount| Path::new(mount).join(format!("{name}-{source}")));
        Self(path.filter(|path| fs::create_dir(path).is_ok()))
    }

    /// What begins a program in it.
    fn command(&self) -> Command {
        let Some(folder) = &self.0 else {
            let mut command = Command::new("env");
            command.arg("--");
            return command;
        };
        let mut command = Command::new("sh");
        command.args(["-c", "echo $$ > \"$0\"/cgroup.procs && exec \"$@\""]).arg(folder);
        command
    }

    /// The processes in it, those in groups below included.
    fn members(&self) -> Vec<String> {
        let mut found = Vec::new();
        let mut folders: Vec<PathBuf> = self.0.iter().cloned().collect();
        while let Some(folder) = folders.pop() {
            let members = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
            found.extend(members.lines().map(str::to_owned));
            folders.extend(below(&folder));
        }
        found
    }

    /// Kills everything in it, or what names the folder in its arguments.
    fn kill(&self, folder: &Path) {
        if let Some(group) = &self.0 {
            fs::write(group.join("cgroup.kill"), "1").ok();
        }
        let name = folder.display().to_string().into_bytes();
        for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
            let pid = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok());
            let Some(pid) = pid.filter(|pid| *pid != std::process::id()) else { continue };
            let line = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            if line.windows(name.len()).any(|window| window == name) {
                send(pid, Signal::KILL);
            }
        }
    }

    /// Removes it, once what was in it has gone.
    fn remove(&self, folder: &Path) {
        let Some(group) = &self.0 else { return };
        for _ in 0..500 {
            remove(group);
            if !group.exists() {
                return;
            }
            self.kill(folder);
            std::thread::sleep(Duration::from_millis(20));
        }
        eprintln!("{} cannot be removed: processes are left in it", group.display());
    }
}

fn below(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect()
}

fn remove(group: &Path) {
    for folder in below(group) {
        remove(&folder);
    }
    fs::remove_dir(group).ok();
}
