//! daemontools: `svscan` and one `supervise` for each service, which starts it at most once a second.

use super::{Peer, debian, scan};
use crate::bench::stage::Setup;

pub(super) const PEER: Peer = Peer {
    name: "daemontools",
    prepare: |programs| debian::unpack(programs, "daemontools"),
    setup: |stage| {
        let mut svscan = debian::program(stage.programs, "usr/bin/svscan");
        svscan.arg(scan::folder(stage, &[])?);
        Ok(Setup::new(svscan))
    },
};
