//! What systemd is told: sd_notify(3), and its watchdog.
//!
//! Only where the environment asks for it. Without a watchdog no timer ticks.

use std::env;
use std::fmt::Write;
use std::io;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use defib_core::model::Tick;

/// Variables by which systemd talks to its main process, which is the keeper. Neither the daemon nor a service may
/// speak for it, so they get none of them.
pub(super) const VARIABLES: [&str; 7] = [
    "NOTIFY_SOCKET",
    "WATCHDOG_USEC",
    "WATCHDOG_PID",
    "LISTEN_FDS",
    "LISTEN_PID",
    "LISTEN_FDNAMES",
    "LISTEN_PIDFDID",
];

/// How long to wait before what the socket did not take is sent again.
const AGAIN: Duration = Duration::from_millis(100);

/// How long a daemon may take until it supervises, before it counts as one that hangs.
const STARTING: Duration = Duration::from_secs(60);

/// systemd's ear, if there is one.
#[derive(Debug)]
pub(super) struct Notify {
    ear: Option<(UnixDatagram, SocketAddr)>,
    /// What has not been sent yet: the newest value of each variable counts, so it stays short.
    unsent: Vec<(&'static str, String)>,
    retry: Option<Tick>,
    /// WATCHDOG_USEC: without a sign for so long, systemd ends the unit.
    systemd: Option<Duration>,
    /// For how long the daemon may be silent by its own configuration.
    own: Option<Duration>,
    watchdog: Option<Watchdog>,
}

/// The watchdog's clock.
#[derive(Debug)]
struct Watchdog {
    /// For how long the daemon may be silent: the shorter of the two.
    limit: Duration,
    next: Tick,
    /// Whether a daemon supervises: only such a one is asked.
    ready: bool,
    /// At which turn from now the daemon must have answered, or be ready. Turns and not times: a suspend would pass for
    /// a daemon that hangs, if its answer and this clock's turn came together.
    turns: Option<u128>,
    aborted: bool,
}

/// What the watchdog wants done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Alarm {
    /// Nothing.
    None,
    /// The daemon is to be asked.
    Ask,
    /// The daemon hangs: it is to end by SIGABRT, which tells a debugger where.
    Abort,
    /// It hangs so that it cannot even do that: SIGKILL.
    Kill,
}

impl Notify {
    /// Reads the environment.
    pub(super) fn from_env(now: Tick) -> Self {
        let ear = env::var_os("NOTIFY_SOCKET").and_then(|name| match ear(name.as_encoded_bytes()) {
            Ok(ear) => Some(ear),
            Err(error) => {
                super::say(&format!("$NOTIFY_SOCKET cannot be used, so systemd is told nothing: {error}"));
                None
            }
        });
        let number = |name| env::var(name).ok()?.parse::<u64>().ok();
        let ours = number("WATCHDOG_PID").is_none_or(|pid| pid == u64::from(std::process::id()));
        let limit = number("WATCHDOG_USEC").filter(|usec| ear.is_some() && ours && *usec > 0);
        let systemd = limit.map(Duration::from_micros);
        let watchdog = systemd.map(|limit| Watchdog::new(limit, now));
        Self { ear, unsent: Vec::new(), retry: None, systemd, own: None, watchdog }
    }

    /// The daemon wants to be watched by the keeper itself, or not.
    pub(super) fn watch(&mut self, now: Tick, limit: Option<Duration>) {
        self.own = limit;
        let limit = self.own.into_iter().chain(self.systemd).min();
        match (&mut self.watchdog, limit) {
            (Some(watchdog), Some(limit)) if watchdog.limit == limit => {}
            (Some(watchdog), Some(limit)) => {
                watchdog.limit = limit;
                watchdog.next = watchdog.next.min(now + limit / 2);
            }
            (watchdog @ None, Some(limit)) => *watchdog = Some(Watchdog::new(limit, now)),
            (watchdog, None) => *watchdog = None,
        }
    }

    /// What the daemon has wanted last.
    pub(super) fn own(&self) -> Option<Duration> {
        self.own
    }

    /// The daemon supervises, for the first time or again.
    pub(super) fn ready(&mut self, now: Tick) {
        if let Some(watchdog) = &mut self.watchdog {
            watchdog.ready = true;
            watchdog.alive();
        }
        self.tell(now, &[("READY", "1"), ("STATUS", "supervises")]);
    }

    /// The configuration is being read anew.
    pub(super) fn reloading(&mut self, now: Tick) {
        let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        let micros = time.tv_sec.saturating_mul(1_000_000).saturating_add(time.tv_nsec / 1000);
        // Type=notify-reload (systemd 253) wants to know when, by this clock.
        let state = [("RELOADING", "1"), ("MONOTONIC_USEC", &micros.to_string()), ("STATUS", "reloads")];
        self.tell(now, &state);
    }

    /// defib ends, with every service or without.
    pub(super) fn stopping(&mut self, now: Tick, services_too: bool) {
        let status = if services_too { "ends every service" } else { "leaves, and its services alone" };
        self.tell(now, &[("STOPPING", "1"), ("STATUS", status)]);
    }

    /// A daemon has been started.
    pub(super) fn daemon_started(&mut self) {
        if let Some(watchdog) = &mut self.watchdog {
            watchdog.wait_for_daemon();
        }
    }

    /// The daemon has ended, and another is due.
    pub(super) fn daemon_ended(&mut self, now: Tick, how: &str) {
        if let Some(watchdog) = &mut self.watchdog {
            watchdog.ready = false;
            watchdog.alive();
        }
        self.tell(
            now,
            &[("STATUS", &format!("the daemon ended by {how} and is started again; services run on"))],
        );
    }

    /// The daemon has answered.
    pub(super) fn daemon_answered(&mut self) {
        if let Some(watchdog) = &mut self.watchdog {
            watchdog.alive();
        }
    }

    /// When [`Notify::tick`] is due.
    pub(super) fn due(&self) -> Option<Tick> {
        self.retry.into_iter().chain(self.watchdog.as_ref().map(|watchdog| watchdog.next)).min()
    }

    /// Does what is due.
    pub(super) fn tick(&mut self, now: Tick) -> Alarm {
        if self.retry.is_some_and(|at| at <= now) {
            self.send(now);
        }
        let Some(watchdog) = &mut self.watchdog else { return Alarm::None };
        if watchdog.next > now {
            return Alarm::None;
        }
        let alarm = watchdog.turn(now);
        // Also while the daemon is replaced: that is the keeper's work, and it is at it.
        if self.systemd.is_some() {
            self.tell(now, &[("WATCHDOG", "1")]);
        }
        alarm
    }

    fn tell(&mut self, now: Tick, state: &[(&'static str, &str)]) {
        if self.ear.is_none() {
            return;
        }
        for (name, value) in state {
            self.unsent.retain(|(older, _)| older != name);
            self.unsent.push((name, (*value).to_owned()));
        }
        self.send(now);
    }

    fn send(&mut self, now: Tick) {
        self.retry = None;
        let Some((socket, address)) = &self.ear else { return };
        let mut text = String::new();
        for (name, value) in &self.unsent {
            writeln!(text, "{name}={value}").ok();
        }
        match socket.send_to_addr(text.as_bytes(), address) {
            // Its queue is full: it is busy, and will hear of it.
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => self.retry = Some(now + AGAIN),
            Err(error) => {
                super::say(&format!("systemd cannot be told: {error}"));
                self.unsent.clear();
            }
            Ok(_) => self.unsent.clear(),
        }
    }
}

impl Watchdog {
    fn new(limit: Duration, now: Tick) -> Self {
        Self { limit, next: now, ready: false, turns: None, aborted: false }
    }

    fn alive(&mut self) {
        self.turns = None;
        self.aborted = false;
    }

    fn wait_for_daemon(&mut self) {
        self.ready = false;
        self.aborted = false;
        let half = (self.limit / 2).as_nanos().max(1);
        self.turns = Some((STARTING.as_nanos() / half).max(2));
    }

    /// Half the limit has passed. The daemon has a whole one to answer.
    fn turn(&mut self, now: Tick) -> Alarm {
        self.next = now + self.limit / 2;
        match &mut self.turns {
            Some(turns @ 2..) => {
                *turns -= 1;
                Alarm::None
            }
            Some(_) if self.aborted => Alarm::Kill,
            Some(_) => {
                self.aborted = true;
                Alarm::Abort
            }
            None if self.ready => {
                self.turns = Some(2);
                Alarm::Ask
            }
            None => Alarm::None,
        }
    }
}

/// The socket that systemd names: a path, or `@` and a name in the abstract namespace.
fn ear(name: &[u8]) -> io::Result<(UnixDatagram, SocketAddr)> {
    let address = match name {
        [b'@', name @ ..] => SocketAddr::from_abstract_name(name)?,
        [b'/', ..] => {
            use std::os::unix::ffi::OsStrExt;
            SocketAddr::from_pathname(std::ffi::OsStr::from_bytes(name))?
        }
        _ => return Err(io::Error::new(io::ErrorKind::InvalidInput, "neither a path nor an abstract name")),
    };
    let socket = UnixDatagram::unbound()?;
    socket.set_nonblocking(true)?;
    Ok((socket, address))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(30);

    fn at(seconds: u64) -> Tick {
        Tick(seconds * 1_000_000_000)
    }

    #[test]
    fn a_daemon_that_answers_is_asked_at_every_half_and_left_alone() {
        let mut watchdog = Watchdog::new(LIMIT, at(0));
        assert_eq!(watchdog.turn(at(0)), Alarm::None, "it does not supervise yet");
        watchdog.ready = true;
        for half in 1..10 {
            assert_eq!(watchdog.turn(at(half * 15)), Alarm::Ask);
            assert_eq!(watchdog.next, at((half + 1) * 15));
            watchdog.alive();
        }
    }

    #[test]
    fn a_daemon_that_hangs_is_aborted_after_the_limit_and_killed_after_that() {
        let mut watchdog = Watchdog::new(LIMIT, at(0));
        watchdog.ready = true;
        let alarms: Vec<_> = (1..6).map(|half| watchdog.turn(at(half * 15))).collect();
        assert_eq!(alarms, [Alarm::Ask, Alarm::None, Alarm::Abort, Alarm::Kill, Alarm::Kill]);
        // Another one, which has its time to start.
        watchdog.wait_for_daemon();
        let alarms: Vec<_> = (6..10).map(|half| watchdog.turn(at(half * 15))).collect();
        assert_eq!(alarms, [Alarm::None, Alarm::None, Alarm::None, Alarm::Abort]);
    }

    #[test]
    fn a_suspend_is_not_taken_for_a_daemon_that_hangs() {
        let mut watchdog = Watchdog::new(LIMIT, at(0));
        watchdog.ready = true;
        assert_eq!(watchdog.turn(at(15)), Alarm::Ask);
        assert_eq!(watchdog.turn(at(9000)), Alarm::None, "it has had no time to answer");
        watchdog.alive();
        assert_eq!(watchdog.turn(at(9015)), Alarm::Ask);
    }

    #[test]
    fn what_systemd_has_no_room_for_is_told_later_and_only_as_it_is_then() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let systemd = UnixDatagram::bind(&path).unwrap();
        let (socket, address) = ear(path.as_os_str().as_encoded_bytes()).unwrap();
        // Until nothing more goes into it.
        let full = (0..100_000).find_map(|_| socket.send_to_addr(b"X=1", &address).err());
        assert_eq!(full.map(|error| error.kind()), Some(io::ErrorKind::WouldBlock));
        let mut notify = Notify {
            ear: Some((socket, address)),
            unsent: vec![],
            retry: None,
            systemd: None,
            own: None,
            watchdog: None,
        };
        notify.ready(at(1));
        notify.stopping(at(2), true);
        assert_eq!(notify.due(), Some(at(2) + AGAIN));
        systemd.set_nonblocking(true).unwrap();
        let mut bytes = [0; 256];
        while systemd.recv(&mut bytes).is_ok() {}
        assert_eq!(notify.tick(at(3)), Alarm::None);
        let length = systemd.recv(&mut bytes).unwrap();
        assert_eq!(&bytes[..length], b"READY=1\nSTOPPING=1\nSTATUS=ends every service\n");
        notify.stopping(at(4), false);
        let length = systemd.recv(&mut bytes).unwrap();
        assert_eq!(&bytes[..length], b"STOPPING=1\nSTATUS=leaves, and its services alone\n");
        assert_eq!(notify.due(), None, "nothing ticks without a watchdog");
    }

    #[test]
    fn the_shorter_of_two_limits_counts() {
        let mut notify =
            Notify { ear: None, unsent: vec![], retry: None, systemd: None, own: None, watchdog: None };
        notify.watch(at(0), Some(LIMIT));
        assert_eq!(notify.due(), Some(at(0)));
        assert_eq!(notify.tick(at(0)), Alarm::None, "it does not supervise yet");
        notify.ready(at(1));
        assert_eq!(notify.tick(at(15)), Alarm::Ask);
        notify.watch(at(16), Some(LIMIT / 3));
        assert_eq!(notify.due(), Some(at(21)));
        notify.systemd = Some(LIMIT / 15);
        notify.watch(at(16), Some(LIMIT / 3));
        assert_eq!(notify.due(), Some(at(17)));
        notify.watch(at(16), None);
        assert_eq!(notify.due(), Some(at(17)), "systemd's stays");
        notify.systemd = None;
        notify.watch(at(17), None);
        assert_eq!(notify.due(), None, "nothing ticks");
    }

    #[test]
    fn names_of_sockets_are_paths_or_abstract() {
        assert!(ear(b"@abstract").is_ok() && ear(b"/run/systemd/notify").is_ok());
        assert!(ear(b"relative").is_err() && ear(b"").is_err());
    }
}
