//! monit, which is the parent of nobody: it looks for its services in the list of processes, here once a second, the
//! shortest cycle that it has. Its start command must come to an end, so a shell puts the victim into the background. A
//! victim that dies before monit has seen it start is missed until the time limit of that start is over, by default 30 s
//! and here one, the shortest: so a crash loop costs it that second, and then its cycle.

use std::fmt::Write as _;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt;

use super::{Peer, debian};
use crate::bench::stage::Setup;

pub(super) const PEER: Peer = Peer {
    name: "monit",
    prepare: |programs| debian::unpack(programs, "monit"),
    setup: |stage| {
        let folder = stage.folder.display();
        let mut settings = format!(
            "set daemon 1\nset log {folder}/monit.log\nset pidfile {folder}/monit.pid\nset idfile {folder}/monit.id\n\
             set statefile {folder}/monit.state\n"
        );
        for service in stage.services {
            // Writing to a string cannot fail.
            write!(
                settings,
                "check process {} matching \"{}$\"\n  start program = \"/bin/sh -c '{} &'\" with timeout 1 seconds\n",
                service.name,
                service.arguments.join(" "),
                service.words().join(" ")
            )
            .ok();
        }
        let path = stage.folder.join("monitrc");
        // It refuses what others may read.
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
        file.write_all(settings.as_bytes())?;
        let mut monit = debian::program(stage.programs, "usr/bin/monit");
        monit.arg("-I").arg("-c").arg(path);
        Ok(Setup::new(monit))
    },
};
