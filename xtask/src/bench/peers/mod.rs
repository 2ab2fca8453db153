//! The supervisors that are compared, one file each: how it is had, and how it is told to keep the victims alive.
//!
//! Each is configured as its users would, with the one aim that counts here: every victim is always started again, as
//! soon as the supervisor does that at all. What that took is said in its file.

mod bare;
mod daemontools;
pub(super) mod debian;
pub(super) mod defib;
mod monit;
mod runit;
mod s6;
mod scan;
mod supervisor;
mod systemd;

use std::path::Path;

use anyhow::Result;

use super::arena::Arena;
use super::programs::Programs;
use super::stage::{Setup, Stage};
use super::subject::Subject;

/// One kind of supervisor.
#[derive(Clone, Copy, Debug)]
pub(super) struct Peer {
    pub(super) name: &'static str,
    /// Makes it available; its version.
    prepare: fn(&Programs) -> Result<String>,
    setup: fn(&Stage<'_>) -> Result<Setup>,
}

/// A peer that can be started, and the version of it; or the reason why it cannot.
pub(super) type Prepared = (Peer, Result<String, String>);

/// The bare loop: the reference.
pub(super) const LOOP: Peer = bare::LOOP;

/// The bare loop with a cgroup for each life: the floor of what does that.
pub(super) const CGROUP_LOOP: Peer = bare::CGROUP_LOOP;

/// defib.
pub(super) const DEFIB: Peer = defib::PEER;

/// The same loop again: what chance makes of two equals.
pub(super) const CONTROL: Peer = Peer { name: "control", ..bare::LOOP };

/// What takes part in every comparison of restarts, the reference first.
pub(super) const OURS: [Peer; 4] = [LOOP, CONTROL, CGROUP_LOOP, DEFIB];

/// In the order of their tables.
const OTHERS: [Peer; 6] =
    [systemd::PEER, s6::PEER, runit::PEER, daemontools::PEER, supervisor::PEER, monit::PEER];

/// The names by which they are chosen.
pub(super) fn names() -> Vec<&'static str> {
    OTHERS.iter().map(|peer| peer.name).collect()
}

/// All but ourselves and the loop, or those that are `wanted`.
pub(super) fn prepare(programs: &Programs, wanted: Option<&[String]>) -> Vec<Prepared> {
    let chosen =
        OTHERS.iter().filter(|peer| wanted.is_none_or(|names| names.iter().any(|it| it == peer.name)));
    let prepare = |peer: &Peer| {
        let version = (peer.prepare)(programs).map_err(|error| format!("{error:#}"));
        match &version {
            Ok(version) => println!("{} {version}", peer.name),
            Err(reason) => println!("{}: left out: {reason}", peer.name),
        }
        (*peer, version)
    };
    chosen.map(prepare).collect()
}

impl Peer {
    /// Starts it with a victim for each of the programs.
    pub(super) fn launch(self, arena: &Arena, programs: &Programs, victims: &[&Path]) -> Result<Subject> {
        let victims: Vec<_> = victims.iter().map(|program| (*program, Vec::new())).collect();
        Subject::launch(self.name, arena, programs, &victims, self.setup)
    }

    /// How it is started.
    pub(super) fn setup(self, stage: &Stage<'_>) -> Result<Setup> {
        (self.setup)(stage)
    }
}
