//! The daemon that runs already, if one does: what it uses, against what is found here.

use std::time::Duration;

use defib_core::model::{SourceName, Tick};
use nix::unistd::{SysconfVar, sysconf};

use super::facts::{Facts, text};
use super::row::{Group, Row};
use crate::config::SourceChoice;
use crate::duration;
use crate::effect::clock;

const GROUP: Group = Group::Sources;

/// What a client has learned of a daemon.
#[derive(Debug)]
pub enum Running {
    /// None answers; where it was looked for.
    Nowhere(String),
    /// There is one, and it does not tell; why not.
    Silent(String),
    /// One answers.
    Here {
        /// Its socket.
        socket: String,
        /// Its process, if it is in our pid namespace.
        pid: Option<u32>,
        /// Where it hears of processes.
        source: SourceName,
        /// Why it cannot write its state database now.
        state_trouble: Option<String>,
    },
}

pub(super) fn row(facts: &Facts, running: &Running, best: SourceName) -> Row {
    let (socket, pid, source) = match running {
        Running::Nowhere(places) => return GROUP.ok("daemon", format!("none answers at {places}")),
        Running::Silent(why) => {
            return GROUP.limited("daemon", format!("one is there, but does not tell: {why}"), "try as root");
        }
        Running::Here { socket, pid, source, .. } => (socket, pid, *source),
    };
    let since = pid.and_then(age).map(|age| format!(" for {}", duration::show(age))).unwrap_or_default();
    let pid = pid.map(|pid| format!("pid {pid}, ")).unwrap_or_default();
    let found = format!("{pid}at {socket}, has used {}{since}", source.as_str());
    if source == best || facts.settings.source != SourceChoice::Auto {
        return GROUP.ok("daemon", found);
    }
    let differs = format!("{found}; this check finds {}", best.as_str());
    GROUP.limited("daemon", differs, "its rights or settings are others, or were: its log says why")
}

/// How long a process has run, in whole seconds.
fn age(pid: u32) -> Option<Duration> {
    let stat = text(format!("/proc/{pid}/stat")).ok()?;
    let hertz = sysconf(SysconfVar::CLK_TCK).ok().flatten().and_then(|hertz| u64::try_from(hertz).ok())?;
    let began = Duration::from_secs(began(&stat)?.checked_div(hertz)?);
    let now = clock::now().since(Tick(0));
    Some(Duration::from_secs(now.checked_sub(began)?.as_secs()))
}

/// The start time in clock ticks: field 22 of proc_pid_stat(5). The name in brackets may hold anything.
fn began(stat: &str) -> Option<u64> {
    stat.rsplit_once(") ")?.1.split(' ').nth(22 - 3)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_start_time_is_read_whatever_the_name_is() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 4711 0 0";
        assert_eq!(began(stat), Some(4711));
        assert_eq!(began("7 (a) S 1"), None);
        assert_eq!(began(""), None);
    }
}
