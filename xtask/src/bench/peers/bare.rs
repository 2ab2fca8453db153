//! The bare C loop of `waitpid` and `posix_spawn`: a bound, not a rival. It writes no log, keeps no history, and puts
//! nothing in a cgroup.

use std::process::Command;

use super::Peer;
use crate::bench::stage::Setup;

pub(super) const LOOP: Peer = Peer {
    name: "loop",
    prepare: |_| Ok(String::new()),
    setup: |stage| {
        let mut bare = Command::new(&stage.programs.bare);
        let commands: Vec<Vec<String>> = stage.services.iter().map(|service| service.words()).collect();
        bare.args(commands.join(&"--".to_owned()));
        Ok(Setup::new(bare))
    },
};
