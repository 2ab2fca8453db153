//! The keeper goes on as another program: `defib daemon restart`.
//!
//! ```text
//! asked ─→ checking ─exit code 0→ leaving ─the daemon has left→ due ─→ execve ─→ trial ─the next daemon supervises→ done
//!             └─anything else→ refused                           └──fails──→ as before  └─three daemons die→ execve back
//! ```
//!
//! Services notice nothing of it: their ends wait in the kernel for the moment that an execve takes, and the standing
//! orders go over.

use std::ffi::{CString, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::FileExt;
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::time::Duration;

use defib_core::model::{Tick, WaitStatus};
use nix::fcntl::AtFlags;
use rustix::fs::{MemfdFlags, SealFlags};
use rustix::process::{Pid, Signal};

use super::Keeper;
use crate::effect::clock;
use crate::keeper::handover::{self, READABLE_BY, Text, VERSION};
use crate::keeper::notify::VARIABLES;
use crate::keeper::say;

/// How long a new binary may take to say whether it understands the hand-over.
const CHECK: Duration = Duration::from_secs(5);

/// How long the daemon may take to leave: longer than its logs wait for a disk.
const LEAVE: Duration = Duration::from_secs(15);

/// How long children may take until they have descriptor tables of their own. They need none for the execve to go well;
/// this is for a failure to start to be told as one.
const YOUNG: Duration = Duration::from_secs(1);

/// How long a new daemon may take until it supervises.
const TRIAL: Duration = Duration::from_secs(60);

/// How many daemons of a new binary may die before one supervises.
const FAILURES: u32 = 3;

/// How much of what a new binary says about the hand-over is read.
const WORDS: u64 = 2048;

/// What there is about other binaries.
#[derive(Debug, Default)]
pub(super) struct Renewal {
    wish: Option<Wish>,
    trial: Option<Trial>,
    /// What came of the last one: why it failed.
    pub(super) last: Option<Option<String>>,
}

/// A binary that is to take over.
#[derive(Debug)]
struct Wish {
    binary: OwnedFd,
    stage: Stage,
    /// When that has taken too long.
    until: Tick,
}

#[derive(Debug)]
enum Stage {
    /// A child finds out whether it understands the hand-over. What it says is in the file.
    Checking(i32, File),
    /// The daemon has been told to leave.
    Leaving,
    /// There is no daemon.
    Due,
}

/// This is a new binary, of which no daemon has supervised yet.
#[derive(Debug)]
struct Trial {
    previous: OwnedFd,
    failures: u32,
    /// When the present daemon must supervise; while there is one.
    until: Option<Tick>,
}

impl Renewal {
    /// When something has taken too long.
    pub(super) fn due(&self) -> Option<Tick> {
        let wish = self.wish.as_ref().map(|wish| wish.until);
        wish.into_iter().chain(self.trial.as_ref().and_then(|trial| trial.until)).min()
    }

    /// This is the successor of a binary that is kept until a daemon supervises.
    pub(super) fn begin(&mut self, previous: Option<OwnedFd>, failure: Option<String>) {
        self.trial = previous.map(|previous| Trial { previous, failures: 0, until: None });
        self.last = Some(failure);
    }

    /// A daemon has been started.
    pub(super) fn daemon_started(&mut self, now: Tick) {
        if let Some(trial) = &mut self.trial {
            trial.until = Some(now + TRIAL);
        }
    }

    /// A daemon supervises: there is no way back any more.
    pub(super) fn ready(&mut self) {
        self.trial = None;
    }

    /// The child that checks the hand-over.
    pub(super) fn child(&self) -> Option<i32> {
        match self.wish.as_ref()?.stage {
            Stage::Checking(pid, _) => Some(pid),
            Stage::Leaving | Stage::Due => None,
        }
    }
}

impl Keeper {
    /// The daemon wants the keeper to go on as another binary.
    pub(super) fn restart_asked(&mut self, binary: Option<OwnedFd>) {
        let Some(binary) = binary else { return };
        let begun = if self.ending || self.quitting {
            Err("defib is shutting down".to_owned())
        } else if self.renewal.wish.is_some() {
            Err("defib is being restarted already".to_owned())
        } else {
            self.begin_check(&binary).map_err(|error| format!("the binary cannot be started: {error}"))
        };
        match begun {
            Ok(stage) => self.renewal.wish = Some(Wish { binary, stage, until: clock::now() + CHECK }),
            Err(why) => self.link.tell_restart(Some(why)),
        }
    }

    /// Lets the new binary read the hand-over as it would be now.
    #[expect(clippy::disallowed_methods, reason = "no service, and nothing is waited for but its execve")]
    fn begin_check(&self, binary: &OwnedFd) -> io::Result<Stage> {
        let text = handover::pack(&self.hand_over(None, None))?;
        // What it says goes into a file that cannot grow.
        let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
        let words = File::from(rustix::fs::memfd_create("defib-words", flags)?);
        words.set_len(WORDS)?;
        rustix::fs::fcntl_add_seals(&words, SealFlags::GROW | SealFlags::SHRINK)?;
        // Its page cache is warm: the daemon has read it.
        let mut command = Command::new(format!("/proc/self/fd/{}", binary.as_raw_fd()));
        for name in VARIABLES {
            command.env_remove(name);
        }
        let child = command
            .arg0("defib")
            .args(self.nurse.args().iter().filter(|word| *word != UNDER_KEEPER))
            .arg(handover::CHECK)
            .stdin(Stdio::from(File::from(text)))
            .stdout(Stdio::null())
            .stderr(words.try_clone()?)
            .spawn()?;
        Ok(Stage::Checking(i32::try_from(child.id()).map_err(io::Error::other)?, words))
    }

    /// The child that checks the hand-over has ended.
    pub(super) fn checked(&mut self, status: WaitStatus) {
        let Some(Wish { stage: Stage::Checking(_, words), binary, .. }) = self.renewal.wish.take() else {
            return;
        };
        let said = said(&words);
        if status.code() == Some(0) && said == handover::UNDERSTOOD {
            let until = clock::now() + LEAVE;
            self.renewal.wish = Some(Wish { binary, stage: Stage::Leaving, until });
            self.link.tell_restart(None);
            return;
        }
        let how = match (status.signal(), status.code()) {
            (Some(signal), _) => format!("ended by {signal}"),
            (None, code) => format!("exit code {}", code.unwrap_or(0)),
        };
        let colon = if said.is_empty() { "" } else { ": " };
        let why = format!("the new binary does not take the hand-over ({how}){colon}{said}");
        say(&why);
        self.link.tell_restart(Some(why));
    }

    /// Something has taken too long, or is to be tried again.
    pub(super) fn renewal_due(&mut self, now: Tick) {
        if self.renewal.trial.as_ref().and_then(|trial| trial.until).is_some_and(|until| until <= now) {
            say(&format!("the new daemon does not supervise after {TRIAL:?}: it is ended"));
            self.kill_daemon();
            if let Some(trial) = &mut self.renewal.trial {
                trial.until = None;
            }
        }
        let Some(wish) = &mut self.renewal.wish else { return };
        if wish.until > now {
            return;
        }
        match wish.stage {
            Stage::Checking(pid, _) => {
                wish.until = now + CHECK;
                if let Some(pid) = Pid::from_raw(pid) {
                    // A child that has not been reaped: nobody else has its pid.
                    rustix::process::kill_process(pid, Signal::KILL).ok();
                }
            }
            Stage::Leaving => {
                say(&format!("the daemon has not left after {LEAVE:?}: it is ended"));
                wish.until = now + LEAVE;
                self.kill_daemon();
            }
            Stage::Due => {}
        }
    }

    fn kill_daemon(&self) {
        if let Some(pid) = self.nurse.pid().and_then(Pid::from_raw) {
            rustix::process::kill_process(pid, Signal::KILL).ok();
        }
    }

    /// The daemon has ended. Returns whether another program is to start the next one.
    pub(super) fn daemon_left(&mut self) -> bool {
        let now = clock::now();
        match &mut self.renewal.wish {
            Some(wish @ Wish { stage: Stage::Leaving, .. }) => {
                (wish.stage, wish.until) = (Stage::Due, now + YOUNG);
                true
            }
            // Whoever has asked waits no longer.
            Some(Wish { stage: Stage::Checking(..), .. }) => {
                self.renewal_off();
                false
            }
            Some(Wish { stage: Stage::Due, .. }) | None => false,
        }
    }

    fn renewal_off(&mut self) {
        if let Some(Wish { stage: Stage::Checking(pid, _), .. }) = self.renewal.wish.take()
            && let Some(pid) = Pid::from_raw(pid)
        {
            rustix::process::kill_process(pid, Signal::KILL).ok();
        }
    }

    /// Another daemon of a new binary has died before it supervised. Goes back to the binary before, if that was the last.
    pub(super) fn daemon_failed(&mut self, how: &str) {
        let Some(trial) = &mut self.renewal.trial else { return };
        trial.failures += 1;
        trial.until = None;
        if trial.failures < FAILURES {
            return;
        }
        let Some(Trial { previous, .. }) = self.renewal.trial.take() else { return };
        let why = format!(
            "the new daemon ended {FAILURES} times before it supervised, at last by {how}: the binary before is back"
        );
        say(&why);
        self.execute(&previous, None, Some(why));
    }

    /// Executes the new binary if it is time to.
    pub(super) fn renew(&mut self) {
        let due = self.renewal.wish.as_ref().is_some_and(|wish| {
            matches!(wish.stage, Stage::Due) && (self.young.is_empty() || wish.until <= clock::now())
        });
        if due && let Some(Wish { binary, .. }) = self.renewal.wish.take() {
            let back = File::open("/proc/self/exe").map(OwnedFd::from);
            let back = back.inspect_err(|error| say(&format!("there will be no way back: {error}"))).ok();
            self.execute(&binary, back, None);
        }
    }

    /// Goes on as another binary. Returns only if that fails.
    fn execute(&mut self, binary: &OwnedFd, back: Option<OwnedFd>, failure: Option<String>) {
        let text = self.hand_over(back.as_ref().map(AsRawFd::as_raw_fd), failure);
        let mut open = text.numbers();
        let Err(error) = handover::pack(&text).and_then(|memfd| {
            open.push(memfd.as_raw_fd());
            handover::leave_open(&open, true);
            let executed = execute(binary, memfd.as_raw_fd());
            handover::leave_open(&open, false);
            executed
        });
        let why = format!("the binary could not be executed: {error}");
        say(&format!("{why}; everything is as before"));
        self.renewal.last = Some(Some(why));
        self.nurse.wake(clock::now());
    }

    /// All that the successor must know.
    fn hand_over(&self, previous: Option<RawFd>, failure: Option<String>) -> Text {
        Text {
            version: VERSION,
            readable_by: READABLE_BY,
            ending: self.ending,
            nofile: Some(self.nursery.nofile()),
            daemon: self.nurse.hand_over(),
            watchdog_ms: self.notify.own().map_or(0, |own| own.as_millis().try_into().unwrap_or(u64::MAX)),
            previous,
            failure,
            held: self.held.iter().map(|(name, fd)| (name.clone(), fd.as_raw_fd())).collect(),
            queue: self.queue.iter().copied().collect(),
            slots: self.slots.iter().map(|(slot, it)| it.hand_over(*slot)).collect(),
            ends: self.ends.hand_over(),
        }
    }
}

/// The word by which the daemon knows that it is one; the keeper has the same command line without it.
const UNDER_KEEPER: &str = "--under-keeper";

/// execveat(2) with the command line and the environment that this process has, and the number of the hand-over.
fn execute(binary: &OwnedFd, handover: RawFd) -> io::Result<std::convert::Infallible> {
    let mut words: Vec<OsString> = std::env::args_os().collect();
    handover::forget(&mut words);
    words.extend([handover::OPTION.into(), handover.to_string().into()]);
    let text = |word: OsString| CString::new(word.into_vec());
    let args: Vec<_> = words.into_iter().map(text).collect::<Result<_, _>>()?;
    let variables = std::env::vars_os().map(|(mut name, value)| {
        name.push("=");
        name.push(value);
        text(name)
    });
    let variables: Vec<_> = variables.collect::<Result<_, _>>()?;
    Ok(nix::unistd::execveat(binary, c"", &args, &variables, AtFlags::AT_EMPTY_PATH)?)
}

/// The last line of what a program has said.
fn said(words: &File) -> String {
    let mut bytes = vec![0; WORDS as usize];
    let length = words.read_at(&mut bytes, 0).unwrap_or(0);
    let end = bytes[..length].iter().position(|byte| *byte == 0).unwrap_or(length);
    let text = String::from_utf8_lossy(&bytes[..end]).into_owned();
    match text.lines().rfind(|line| !line.trim().is_empty()) {
        Some(line) => line.trim().escape_debug().to_string(),
        None => String::new(),
    }
}

/// Executes the binary that this one was to replace: it has not understood the hand-over.
pub(super) fn return_to(previous: RawFd, handover: RawFd) -> io::Error {
    let binary = match crate::keeper::raw::duplicate(previous, 0) {
        Ok(binary) => binary,
        Err(error) => return error,
    };
    let Err(error) = execute(&binary, handover);
    error
}
