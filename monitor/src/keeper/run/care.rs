//! The keeper's care for the daemon: starts, ends, and a watch over it where there is a watchdog.

use defib_core::model::WaitStatus;
use rustix::event::epoll;
use rustix::process::{Pid, Signal};

use super::Keeper;
use crate::effect::clock;
use crate::keeper::events::Token;
use crate::keeper::notify::Alarm;
use crate::keeper::nurse::Next;
use crate::keeper::raw;
use crate::keeper::say;

/// How many services get larger pipes before the keeper looks for something else to do: some 5 µs each.
const AT_ONCE: usize = 16;

impl Keeper {
    pub(super) fn start_daemon(&mut self) {
        let started = self.nurse.start(clock::now()).and_then(|socket| {
            epoll::add(&self.epoll, &socket, Token::Daemon.data(), epoll::EventFlags::IN)?;
            self.link_full = false;
            self.link.connect(socket);
            self.notify.daemon_started();
            self.renewal.daemon_started(clock::now());
            Ok(())
        });
        if let Err(error) = started {
            say(&format!("the daemon cannot be started: {error}"));
        }
    }

    /// Does what systemd's watchdog makes due. A daemon that hangs is replaced here: systemd could only end the keeper.
    pub(super) fn watch_daemon(&mut self) {
        let alarm = self.notify.tick(clock::now());
        let pid = self.nurse.pid().and_then(Pid::from_raw);
        match (alarm, pid) {
            (Alarm::Ask, _) => {
                self.link.ping();
                self.flush();
            }
            (Alarm::Abort, Some(pid)) => {
                say("the daemon does not answer: it is ended, and started again");
                self.nobody_reads();
                // A child that has not been reaped: nobody else has its pid. One that is stopped must go on to end.
                rustix::process::kill_process(pid, Signal::ABORT).ok();
                rustix::process::kill_process(pid, Signal::CONT).ok();
            }
            (Alarm::Kill, Some(pid)) => {
                rustix::process::kill_process(pid, Signal::KILL).ok();
            }
            (Alarm::None, _) | (Alarm::Abort | Alarm::Kill, None) => {}
        }
    }

    /// What services write from here on stays in their pipes for a while.
    pub(super) fn nobody_reads(&mut self) {
        let written = self.slots.iter().filter(|(_, it)| it.pipes.is_some() && it.process().is_some());
        self.unread = written.map(|(slot, _)| *slot).collect();
    }

    /// Makes the pipes of a few services larger.
    pub(super) fn grow_pipes(&mut self) {
        let rest = self.unread.len().saturating_sub(AT_ONCE);
        for slot in self.unread.split_off(rest) {
            if let Some(pipes) = self.slots.get(&slot).and_then(|it| it.pipes.as_ref()) {
                pipes.grow();
            }
        }
    }

    /// Says when the daemon has been stopped, and when it goes on. Somebody has sent it a signal: SIGCHLD tells.
    pub(super) fn look_at_daemon(&self) {
        let Some(pid) = self.nurse.pid() else { return };
        match raw::stopped_child(pid) {
            Some(Some(signal)) => say(&format!(
                "the daemon, process {pid}, has been stopped by signal {signal}; restarts that were decided before go on, \
                 and nothing else: `kill -CONT {pid}` lets it go on"
            )),
            Some(None) => say(&format!("the daemon, process {pid}, goes on")),
            None => {}
        }
    }

    /// defib was asked to end.
    pub(super) fn end(&mut self) {
        if !std::mem::replace(&mut self.ending, true) {
            self.notify.stopping(clock::now(), true);
        }
    }

    /// defib leaves, and its services alone. systemd is told once, whoever has asked for it.
    pub(super) fn quit(&mut self) {
        if !std::mem::replace(&mut self.quitting, true) {
            self.notify.stopping(clock::now(), false);
        }
    }

    pub(super) fn daemon_ended(&mut self, status: WaitStatus) -> Option<u8> {
        // What it had ordered before it ended counts.
        self.hear_daemon();
        self.drop_link();
        if self.daemon_left() {
            self.nurse.left();
            return None;
        }
        match self.nurse.ended(clock::now(), status) {
            Next::Leave(code) => Some(code),
            Next::Another(delay) => {
                let how = match status.signal() {
                    Some(signal) => signal.to_string(),
                    None => format!("exit code {}", status.code().unwrap_or(0)),
                };
                self.notify.daemon_ended(clock::now(), &how);
                self.nobody_reads();
                say(&format!("the daemon ended by {how}; the next one starts in {delay:?}; services run on"));
                self.daemon_failed(&how);
                None
            }
        }
    }
}
