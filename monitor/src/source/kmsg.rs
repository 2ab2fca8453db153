//! Whether the out-of-memory killer ended a process, from the kernel's log: for the sources that do not hear of it.
//!
//! For each victim the kernel logs one line, which no rate limit holds back:
//! `Memory cgroup out of memory: Killed process 77 (eater) total-vm:1028kB, anon-rss:…`. It is always there before the end
//! of the victim can be seen: `__oom_kill_process` (mm/oom_kill.c) sends the signal and logs while it holds the victim's
//! `alloc_lock`, which the victim needs in `exit_mm` to give its memory back, long before it becomes a zombie. So a
//! process that was killed and is not named was killed by somebody else.
//!
//! What stays open: a look at which the log had already been overwritten since the last, or that found more than
//! [`LOOK`] records. What is told differently from what one may expect: who only shares the memory of the victim
//! (`vfork`) is killed without a line, and a victim whose leading thread had left is named by another thread's number;
//! neither is taken for the killer's work. A kill by a daemon (systemd-oomd, earlyoom) is not the kernel's.
//!
//! The log is read when a main process has ended by SIGKILL, and once at the beginning, for those that ended while there
//! was no daemon. In between nobody is woken for it.

use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::OpenOptionsExt;

use defib_core::model::{Signal, WaitStatus};

use super::any::Life;
use super::clocks::{Ahead, monotonic};
use super::namespace::{self, Foreign};

/// The log.
const LOG: &str = "/dev/kmsg";

/// The largest record: `CONSOLE_EXT_LOG_MAX` of kernels before 6.x, more than later ones have.
const RECORD: usize = 8192;

/// Records read in one look. Unoptimised, on a busy machine, 2,433 took 6 to 14 ms. A log of the usual size holds fewer
/// than this, and those since the last look are few.
const LOOK: usize = 4096;

/// Records read at the beginning: nobody waits for a restart then.
const FIRST_LOOK: usize = 65_536;

/// Victims that are remembered until their end is reported. Descendants and strangers are among them; the oldest makes
/// room.
const VICTIMS: usize = 256;

/// The log's stamps are of the scheduler's clock, which is not slewed by NTP as `CLOCK_MONOTONIC` is (500 ppm at most):
/// they may be off by a second and by this part of the time since the boot.
const DRIFT: u64 = 1000;

/// A line of the log that names a victim.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Kill {
    pid: u32,
    /// In nanoseconds since the boot, by the scheduler's clock.
    stamp: u64,
    /// Whether it was a cgroup that had no memory left; else the host had none.
    pub(super) of_cgroup: bool,
}

/// What comes next in the log.
#[derive(Debug)]
pub(super) enum Next {
    /// A victim.
    Kill(Kill),
    /// Something else.
    Other,
    /// Nothing yet.
    End,
    /// Some of it was overwritten; what is left follows.
    Overwritten,
}

/// Opens the log, where its oldest record is. It never waits.
pub(super) fn open() -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC).open(LOG)
}

/// Reads one record.
pub(super) fn next(log: &mut File) -> io::Result<Next> {
    let mut buffer = [0; RECORD];
    match log.read(&mut buffer) {
        Ok(0) => Ok(Next::End),
        Ok(length) => Ok(buffer.get(..length).and_then(parse).map_or(Next::Other, Next::Kill)),
        Err(error) => match error.raw_os_error() {
            Some(libc::EAGAIN) => Ok(Next::End),
            Some(libc::EINTR) => Ok(Next::Other),
            // The next read goes on with the oldest that is left.
            Some(libc::EPIPE) => Ok(Next::Overwritten),
            _ => Err(error),
        },
    }
}

/// The kernel's log; by default one that cannot be read.
#[derive(Debug, Default)]
pub(super) struct Kmsg {
    log: Option<File>,
    victims: VecDeque<Kill>,
}

impl Kmsg {
    /// Opens the log. If that is in vain, also returns what will not be known and why.
    pub(super) fn open() -> (Self, Option<String>) {
        match Self::open_log() {
            Ok(log) => {
                let mut kmsg = Self { log: Some(log), victims: VecDeque::new() };
                // What was overwritten before is of ends that nobody will ask about.
                let _complete = kmsg.read(FIRST_LOOK);
                (kmsg, None)
            }
            Err(why) => {
                (Self::default(), Some(format!("out-of-memory kills are not told from others: {why}")))
            }
        }
    }

    fn open_log() -> Result<File, String> {
        namespace::check().map_err(|foreign| match foreign {
            Foreign::Namespace(name) => format!(
                "the kernel's log speaks of the host's pids, and defib is in a {name} namespace of its own"
            ),
            Foreign::Unreadable(path, cause) => format!("{path}: {cause}"),
        })?;
        let refused = |cause: io::Error| match cause.kind() {
            io::ErrorKind::PermissionDenied => {
                format!("{LOG} needs CAP_SYSLOG; run defib as root or grant it")
            }
            _ => format!("{LOG}: {cause}"),
        };
        open().map_err(refused)
    }

    /// Whether the out-of-memory killer ended the process of that life, which was reaped with `status`.
    pub(super) fn judge(&mut self, life: &Life, status: WaitStatus) -> Option<bool> {
        if status.signal() != Some(Signal::KILL) {
            // It has only the one signal.
            return Some(false);
        }
        let complete = self.read(LOOK);
        let began = Ahead::measure().stamp(life.started);
        let tolerance = 1_000_000_000 + monotonic() / DRIFT;
        let named = |kill: &Kill| kill.pid == life.pid && kill.stamp.saturating_add(tolerance) >= began;
        match self.victims.iter().position(named) {
            Some(index) => {
                self.victims.remove(index);
                Some(true)
            }
            None => complete.then_some(false),
        }
    }

    /// Reads what is new; false if some of it cannot be had, or not all in one look.
    fn read(&mut self, records: usize) -> bool {
        let Some(log) = &mut self.log else { return false };
        let mut complete = true;
        for _ in 0..records {
            match next(log) {
                Ok(Next::Kill(kill)) => {
                    if self.victims.len() == VICTIMS {
                        self.victims.pop_front();
                    }
                    self.victims.push_back(kill);
                }
                Ok(Next::Other) => {}
                Ok(Next::End) => return complete,
                Ok(Next::Overwritten) => complete = false,
                Err(error) => {
                    tracing::warn!(%error, "the kernel's log cannot be read any more");
                    self.log = None;
                    return false;
                }
            }
        }
        false
    }
}

/// The victim that a record of the log names: `4,8439,9865091003,-;Out of memory: Killed process 77 (name) total-vm:…`.
/// The form is Documentation/ABI/testing/dev-kmsg's.
///
/// Nobody but the kernel can write a record of facility 0. What a process can choose is its name, at most 15 bytes, in
/// which the kernel escapes what is not printable; it stands behind the number here, and in other lines is too short for
/// the words that are asked for.
fn parse(record: &[u8]) -> Option<Kill> {
    let line = record.split(|&byte| byte == b'\n').next()?;
    let (head, text) = line.split_at(line.iter().position(|&byte| byte == b';')?);
    let mut head = std::str::from_utf8(head).ok()?.split(',');
    let priority: u32 = head.next()?.parse().ok()?;
    let _number = head.next()?;
    let stamp: u64 = head.next()?.parse().ok()?;
    // Facility and level; the kernel's facility is 0.
    if priority > 7 {
        return None;
    }
    let text = std::str::from_utf8(&text[1..]).ok()?;
    let (reason, rest) = text.split_once(": Killed process ")?;
    let of_cgroup = match reason {
        "Out of memory" | "Out of memory (oom_kill_allocating_task)" => false,
        "Memory cgroup out of memory" => true,
        _ => return None,
    };
    let (pid, rest) = rest.split_once(" (")?;
    let (_, figures) = rest.rsplit_once(") total-vm:")?;
    let (size, _) = figures.split_once("kB")?;
    size.parse::<u64>().ok()?;
    Some(Kill { pid: pid.parse().ok()?, stamp: stamp.checked_mul(1000)?, of_cgroup })
}

#[cfg(test)]
mod tests {
    use defib_core::model::Tick;

    use super::*;
    use crate::source::clocks::boottime;

    const LINE: &str = "total-vm:67668kB, anon-rss:64740kB, file-rss:1028kB, shmem-rss:0kB, UID:0 pgtables:172kB \
                        oom_score_adj:1000";

    #[test]
    fn only_the_kernels_own_line_names_a_victim() {
        let kill = |pid| Some(Kill { pid, stamp: 9_865_091_003_000, of_cgroup: false });
        for (head, text, expected) in [
            ("3,8439,9865091003,-", format!("Out of memory: Killed process 77 (tail) {LINE}"), kill(77)),
            (
                "3,8439,9865091003,-",
                format!("Memory cgroup out of memory: Killed process 1 (a) {LINE}"),
                kill(1).map(|kill| Kill { of_cgroup: true, ..kill }),
            ),
            (
                "3,8439,9865091003,-,caller=T7",
                format!("Out of memory: Killed process 77 (x) {LINE}"),
                kill(77),
            ),
            (
                "3,8439,9865091003,-",
                format!("Out of memory (oom_kill_allocating_task): Killed process 8 (x) {LINE}"),
                kill(8),
            ),
            // What a process may call itself.
            (
                "3,1,9865091003,-",
                format!("Out of memory: Killed process 77 (9 (x) total-vm) {LINE}"),
                kill(77),
            ),
            (
                "3,1,9865091003,-",
                format!("Out of memory: Killed process 77 (: Killed process) {LINE}"),
                kill(77),
            ),
            (
                "3,1,9865091003,-",
                format!("Out of memory: Killed process 77 (\\x0a3,1,1,-;Out o) {LINE}"),
                kill(77),
            ),
            (
                "3,1,9865091003,-",
                format!("Out of memory: Killed process 77 () {LINE}\n SUBSYSTEM=x\n"),
                kill(77),
            ),
            // Written by a process into /dev/kmsg: facility user.
            ("11,1,9865091003,-", format!("Out of memory: Killed process 77 (tail) {LINE}"), None),
            ("12,1,9865091003,-", format!("Out of memory: Killed process 77 (tail) {LINE}"), None),
            // Other lines of the kernel that quote a name.
            ("4,1,9865091003,-", format!("x: Killed process [9]: segfault at 0 (x) {LINE}"), None),
            ("4,1,9865091003,-", format!("oom_reaper: Killed process 77 (tail) {LINE}"), None),
            ("3,1,9865091003,-", format!("Out of memory: Killed process 77x (tail) {LINE}"), None),
            ("3,1,9865091003,-", format!("Out of memory: Killed process -1 (tail) {LINE}"), None),
            ("3,1,9865091003,-", format!("Out of memory: Killed process 99999999999 (tail) {LINE}"), None),
            ("3,1,9865091003,-", "Out of memory: Killed process 77 (tail)".to_owned(), None),
            ("3,1,9865091003,-", "Out of memory: Killed process 77 (tail) total-vm:kB".to_owned(), None),
            ("3,1,9865091003,-", "Out of memory: OOM victim 77 (tail) is already exiting.".to_owned(), None),
            ("3,1", format!("Out of memory: Killed process 77 (tail) {LINE}"), None),
            ("3,1,99999999999999999999,-", format!("Out of memory: Killed process 77 (tail) {LINE}"), None),
            ("3,1,18446744073709551615,-", format!("Out of memory: Killed process 77 (tail) {LINE}"), None),
            ("", String::new(), None),
        ] {
            assert_eq!(parse(format!("{head};{text}\n").as_bytes()), expected, "{head};{text}");
        }
        let behind = format!("6,1,1,-;innocent\n K=v\n3,1,1,-;Out of memory: Killed process 7 (x) {LINE}");
        assert_eq!(parse(behind.as_bytes()), None, "only the first line is the kernel's text");
        assert_eq!(parse(&[0xff; 64]), None);
        assert_eq!(parse(b"3,1,1,-"), None);
    }

    #[test]
    fn a_victim_is_known_by_pid_and_time() {
        let hour = 3_600_000_000_000;
        let life = |pid, started| Life { slot: 0, pid, started: Tick(started) };
        let mut kmsg = Kmsg::default();
        let now = boottime().0;
        kmsg.victims.push_back(Kill { pid: 7, stamp: monotonic(), of_cgroup: true });
        for (pid, started, status, expected) in [
            (7, now, 15, Some(false)),
            (7, now, 0x900, Some(false)),
            (8, now, 9, None),
            (7, now + hour, 9, None),
            (7, now.saturating_sub(hour), 9, Some(true)),
            (7, now, 9, None),
        ] {
            let judged = kmsg.judge(&life(pid, started), WaitStatus(status));
            assert_eq!(judged, expected, "{pid} {started} {status}");
        }
    }

    #[test]
    fn the_log_is_read_to_its_end() {
        let began = boottime();
        let (mut kmsg, limit) = Kmsg::open();
        eprintln!("the first look took {:?}", boottime().since(began));
        let Some(limit) = limit else {
            let life = Life { slot: 0, pid: std::process::id(), started: boottime() };
            assert_eq!(kmsg.judge(&life, WaitStatus(9)), Some(false), "nobody has killed this process");
            return;
        };
        eprintln!("skipped: needs CAP_SYSLOG ({limit})");
    }
}
