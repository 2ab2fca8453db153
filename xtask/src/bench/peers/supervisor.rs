//! supervisord, with `startsecs = 0`: a start that counts as failed would be tried three times only, and ever later.

use std::fmt::Write;
use std::fs;

use super::{Peer, debian};
use crate::bench::stage::Setup;

pub(super) const PEER: Peer = Peer {
    name: "supervisor",
    prepare: |programs| debian::unpack(programs, "supervisor"),
    setup: |stage| {
        let folder = stage.folder.display();
        // It closes as many at every start.
        let files = (5 * stage.services.len()).max(1024);
        let mut settings = format!(
            "[supervisord]\nnodaemon=true\nuser=root\nminfds={files}\nlogfile={folder}/supervisord.log\n\
             pidfile={folder}/supervisord.pid\nchildlogdir={folder}\n"
        );
        for service in stage.services {
            // Writing to a string cannot fail.
            write!(
                settings,
                "[program:{}]\ncommand={}\nautorestart=true\nstartsecs=0\n",
                service.name,
                service.words().join(" ")
            )
            .ok();
        }
        if !crate::workspace::is_root() {
            settings = settings.replace("user=root\n", "");
        }
        let file = stage.folder.join("supervisord.conf");
        fs::write(&file, settings)?;
        let mut supervisord = debian::program(stage.programs, "usr/bin/supervisord");
        let modules = debian::root(stage.programs).join("usr/lib/python3/dist-packages");
        supervisord.env("PYTHONPATH", modules).arg("--configuration").arg(file);
        Ok(Setup { polite: true, ..Setup::new(supervisord) })
    },
};
