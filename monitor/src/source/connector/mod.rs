//! The proc connector: the kernel's broadcast of every fork, exec and exit over a netlink socket.
//!
//! [`socket`] subscribes and reads, [`message`] decodes, [`losses`] counts what was missed, [`host`] how the host's
//! processes end. The source ([`live`]) keeps the keeper's children and what descends from them in a [`table`]; the feed
//! ([`feed`]) folds everybody ([`crowd`]).
//! What both have in common is in [`threads`]: the kernel tells of threads, and a process ends with its last.
//!
//! # What it tells, and what it leaves open
//!
//! - **Which slot** a child of the keeper belongs to is not in the message. Children are kept with their events until
//!   the keeper's report names them ([`Source::claim`](super::Source::claim)).
//! - **The end** of a thread is sent after `exit_notify` (kernel/exit.c), so the keeper can have reaped a process whose
//!   last message is still on its way. Then time and status stay open, which costs nothing: the keeper has both. The
//!   message that comes afterwards finds nobody.
//! - **The status of a process** is not in the message either, only the code of each thread. [`threads`] says when it
//!   follows from them; else it stays open.
//! - **A core dump** is announced before it is written, without the signal. While the process is dying, field 52 of
//!   `/proc/PID/stat` holds the wait status to come; where that names a signal that dumps cores, it is told, and else
//!   nothing is: the end that follows carries the signal anyway. Of processes that dump no core and are reaped at once
//!   half are caught (97 of 193).
//! - **The program** of an exec is what `/proc/PID/exe` shows when the message is read: the interpreter of a script, and
//!   nothing (an empty path) of a process that has gone on meanwhile. Of programs that end within a millisecond a third.
//! - **A loss** is exact: `cn_msg.seq` counts per CPU. The filter of Linux 6.6 (`struct proc_input`) would spare the
//!   messages about users, sessions and names, but what it keeps back makes gaps too, so it is not used.
//!
//! # Leaving
//!
//! The kernel counts listeners by their requests alone. Every socket says IGNORE when it is dropped; of a daemon that is
//! killed by SIGKILL the kernel goes on counting one, and makes messages for nobody until the next boot. Nobody can set
//! that right: since Linux 6.6 an IGNORE counts only on the socket that has listened.
//!
//! # What it costs
//!
//! Every process of the host wakes the reader: 29 % on a fork, exec and exit that take 80 µs, where the eBPF source costs
//! nothing that can be measured. So it is the second choice.
//!
//! # Why there is no taskstats
//!
//! Its exit message is sent before `exit_notify`, so that the end of a main process would always be known when the
//! keeper reports it. All that it adds is the time of the death, of which the keeper's own is some 100 µs later, in those
//! cases where the connector's message lost the race: none of 1,197 deaths of three services in a crash loop on a busy
//! machine. The status is the keeper's in any case. It would cost a second message of 596 bytes for every thread of the
//! host: over 10,000 × vfork, exec and exit on a machine with other work, the processes themselves were not measurably
//! slower (562–638 µs of CPU each alone, 572–721 with the connector, 598–722 with both), but reading cost 31 µs a process
//! on top of the 85 µs that a plain reader of the connector took.

mod crowd;
mod error;
mod feed;
mod host;
mod live;
mod losses;
mod message;
mod socket;
mod table;
#[cfg(test)]
mod tests;
mod threads;

pub use error::ConnectorError;
pub(super) use feed::ConnectorFeed;
pub(super) use live::ConnectorSource;
