//! The bare C loops: bounds, not rivals. They write no log and keep no history.

use std::process::Command;

use anyhow::Context;

use super::Peer;
use crate::bench::stage::{Setup, Stage};

/// `waitpid` and `posix_spawn`, and nothing in a cgroup.
pub(super) const LOOP: Peer = Peer {
    name: "loop",
    prepare: |_| Ok(String::new()),
    setup: |stage| {
        let mut bare = Command::new(&stage.programs.bare);
        bare.args(commands(stage));
        Ok(Setup::new(bare))
    },
};

/// The same with what a supervisor cannot leave out that gives each life a cgroup of its own, a session, and streams.
pub(super) const CGROUP_LOOP: Peer = Peer {
    name: "cgroup loop",
    prepare: |_| Ok(String::new()),
    setup: |stage| {
        let cgroup = stage.cage.unified().context("its cgroups need root and cgroup v2")?;
        let mut bare = Command::new(&stage.programs.cgroup_loop);
        bare.arg(cgroup).args(commands(stage));
        Ok(Setup::new(bare))
    },
};

/// The words of each service, with `--` in between.
fn commands(stage: &Stage<'_>) -> Vec<String> {
    let commands: Vec<Vec<String>> = stage.services.iter().map(|service| service.words()).collect();
    commands.join(&"--".to_owned())
}
