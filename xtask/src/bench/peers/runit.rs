//! runit: `runsvdir` and one `runsv` for each service, which waits for a second if it has lived for less than one.

use super::{Peer, debian, scan};
use crate::bench::stage::Setup;

pub(super) const PEER: Peer = Peer {
    name: "runit",
    prepare: |programs| debian::unpack(programs, "runit"),
    setup: |stage| {
        let mut runsvdir = debian::program(stage.programs, "usr/bin/runsvdir");
        runsvdir.arg(scan::folder(stage, &[])?);
        Ok(Setup::new(runsvdir))
    },
};
