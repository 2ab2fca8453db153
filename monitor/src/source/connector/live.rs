//! The source: what the socket says, about the processes in the table.

use std::collections::VecDeque;

use defib_core::model::{Signal, WaitStatus, Witness};

use super::super::any::{Batch, Life};
use super::super::clocks::Ahead;
use super::super::kmsg::Kmsg;
use super::super::procfs;
use super::super::stats::{KindStats, SourceStats};
use super::error::ConnectorError;
use super::feed::ConnectorFeed;
use super::host::Ends;
use super::message::{Fact, Message};
use super::socket::{MESSAGE, ROOM, Socket};
use super::table::{Counted, Table};
use super::threads::Threads;

/// Processes that are looked up in `/proc` in one turn after a loss, at some 20 µs each.
const RECHECKS: usize = 64;

/// How much later than the keeper's look at the clock a process may have started to be the one that it made.
const CLONE: u64 = 5_000_000_000;

/// Signals that dump a core: `SIG_KERNEL_COREDUMP_MASK` in include/linux/signal.h.
const CORE_SIGNALS: [i32; 10] = [
    libc::SIGQUIT,
    libc::SIGILL,
    libc::SIGTRAP,
    libc::SIGABRT,
    libc::SIGFPE,
    libc::SIGSEGV,
    libc::SIGBUS,
    libc::SIGSYS,
    libc::SIGXCPU,
    libc::SIGXFSZ,
];

/// The source.
#[derive(Debug)]
pub struct ConnectorSource {
    socket: Socket,
    table: Table,
    ahead: Ahead,
    keeper: u32,
    /// Messages of this turn; empty between turns.
    inbox: Vec<Message>,
    /// Processes of which something may have been missed.
    stale: VecDeque<u32>,
    kmsg: Kmsg,
    heard: Heard,
    /// Losses that a [`Batch`] has told, but for the socket's.
    told: u64,
}

/// What has been heard of the whole host.
#[derive(Clone, Copy, Debug, Default)]
struct Heard {
    forks: u64,
    execs: u64,
    ends: Ends,
}

impl ConnectorSource {
    /// Subscribes. Also returns the feed, which is silent still, and what the source cannot tell here.
    pub(in crate::source) fn open(keeper: u32) -> Result<(Self, ConnectorFeed, Vec<String>), ConnectorError> {
        let mut source = Self::with_room(keeper, ROOM)?;
        let (kmsg, limit) = Kmsg::open();
        source.kmsg = kmsg;
        let room = source.socket.room / MESSAGE;
        let mut why = vec![format!("subscribed to the proc connector, with room for {room} messages")];
        why.extend(limit);
        Ok((source, ConnectorFeed::default(), why))
    }

    pub(super) fn with_room(keeper: u32, room: usize) -> Result<Self, ConnectorError> {
        Ok(Self {
            socket: Socket::open(room)?,
            table: Table::new(keeper),
            ahead: Ahead::measure(),
            keeper,
            inbox: Vec::new(),
            stale: VecDeque::new(),
            kmsg: Kmsg::default(),
            heard: Heard::default(),
            told: 0,
        })
    }

    pub(in crate::source) async fn wait(&mut self, batch: &mut Batch) {
        if self.stale.is_empty() {
            self.socket.wait(&mut self.inbox).await;
        } else {
            // Others on this thread have their turn, too.
            tokio::task::yield_now().await;
            self.socket.drain(&mut self.inbox);
        }
        self.take_in(batch);
        self.recheck();
    }

    pub(in crate::source) fn drain(&mut self, batch: &mut Batch) {
        self.socket.drain(&mut self.inbox);
        self.take_in(batch);
    }

    pub(in crate::source) fn claim(&mut self, life: &Life, batch: &mut Batch) {
        if !self.table.claim(life, batch) {
            // Its fork was lost, or it had to make room. If it has ended too there is nothing to follow.
            self.adopt(life, |start| (life.started.0..life.started.0 + CLONE).contains(&start));
        }
    }

    pub(in crate::source) fn settle(&mut self, batch: &mut Batch) {
        self.tell_losses(batch);
    }

    pub(in crate::source) fn take_end(&mut self, life: &Life, status: WaitStatus) -> Option<Witness> {
        let witness = self.table.take_end(life).unwrap_or_default();
        Some(Witness { oom: self.kmsg.judge(life, status), ..witness })
    }

    pub(in crate::source) fn track(&mut self, life: &Life) -> Option<u64> {
        self.table.start_of(life.pid).or_else(|| self.adopt(life, |_| true))
    }

    pub(in crate::source) fn follows(&self, pid: u32) -> bool {
        self.table.start_of(pid).is_some()
    }

    pub(in crate::source) fn stats(&self) -> SourceStats {
        let Heard { forks, execs, ends } = self.heard;
        let exits = ends.told.total();
        let kind = |kind, count| KindStats { kind, emitted: count, received: count, lost: 0, host: count };
        // What a lost message was about nobody knows.
        let lost = self.socket.losses.total();
        let unknown = KindStats { kind: "unknown", emitted: lost, lost, ..KindStats::default() };
        let Counted { descendant_exits, untracked, cores, suppressed } = self.table.counted;
        let signal = KindStats { host: 0, ..kind("signal", cores) };
        SourceStats {
            kinds: vec![kind("fork", forks), kind("exec", execs), kind("exit", exits), signal, unknown],
            ends: Some(ends.told),
            descendant_exits,
            suppressed,
            untracked,
            malformed: self.socket.malformed,
            ..SourceStats::default()
        }
    }

    /// Follows a keeper's child that runs, if its start time is that of the life.
    fn adopt(&mut self, life: &Life, fits: impl Fn(u64) -> bool) -> Option<u64> {
        let stat = procfs::stat(life.pid)?;
        // `/proc` rounds down.
        let fits = fits(stat.start) || fits(stat.start + defib_ebpf::COARSE_NS);
        if stat.parent != self.keeper || !fits {
            return None;
        }
        let threads = Threads::of(life.pid, &stat);
        if threads.all_left() {
            return None;
        }
        self.table.adopt(life, stat.start, threads);
        Some(stat.start)
    }

    /// What the messages of this turn mean.
    fn take_in(&mut self, batch: &mut Batch) {
        self.ahead.refresh();
        let inbox = std::mem::take(&mut self.inbox);
        for (index, message) in inbox.iter().enumerate() {
            let at = self.ahead.tick(message.stamp);
            match message.fact {
                Fact::Fork { parent, tid, tgid } => {
                    self.heard.forks += u64::from(tid == tgid);
                    self.table.forked(parent, tid, tgid, at, batch);
                }
                Fact::Exec { tgid } => {
                    self.heard.execs += 1;
                    let program = if self.table.tells_execs(tgid) {
                        program(tgid, &inbox[index + 1..])
                    } else {
                        String::new()
                    };
                    self.table.executed(tgid, message.stamp, at, program, batch);
                }
                Fact::Core { tgid } => {
                    if self.table.tells_core(tgid)
                        && let Some(signal) = fatal_signal(tgid)
                    {
                        self.table.dumped(tgid, signal, at, batch);
                    }
                }
                Fact::Exit { tid, tgid, code } => {
                    self.heard.ends.heard(tid == tgid, code);
                    self.table.exited((tid, tgid), code, (message.stamp, at), batch);
                }
                Fact::Answer { .. } | Fact::Name { .. } | Fact::Other => {}
            }
        }
        self.inbox = inbox;
        self.inbox.clear();
        self.tell_losses(batch);
    }

    fn tell_losses(&mut self, batch: &mut Batch) {
        let missed = self.socket.losses.news();
        if missed > 0 {
            self.stale = self.table.living().collect();
        }
        let counted = self.table.counted.untracked + self.socket.malformed;
        batch.lost += missed + (counted - self.told);
        self.told = counted;
    }

    /// Looks some of those up of which something may have been missed.
    fn recheck(&mut self) {
        for _ in 0..RECHECKS {
            let Some(pid) = self.stale.pop_front() else { return };
            let seen = procfs::stat(pid).map(|stat| (stat.start, Threads::of(pid, &stat)));
            self.table.refresh(pid, seen);
        }
    }
}

/// The program that a process has executed, empty if that cannot be known any more: it has gone, or executes another one
/// in what was read `later` in this turn.
pub(super) fn program(pid: u32, later: &[Message]) -> String {
    if later.iter().any(|message| message.fact == Fact::Exec { tgid: pid }) {
        return String::new();
    }
    procfs::program(pid).unwrap_or_default()
}

/// The signal of which a process dies while it dumps its core, if `/proc` tells already or still.
fn fatal_signal(pid: u32) -> Option<Signal> {
    let signal = procfs::stat(pid)?.status & 0x7f;
    CORE_SIGNALS.contains(&signal).then_some(Signal(signal))
}
