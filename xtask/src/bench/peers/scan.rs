//! What daemontools, runit and s6 share: a folder of services, each a folder with a program `run`.

use std::fs::{self, OpenOptions};
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use anyhow::{Context, Result};

use crate::bench::stage::Stage;

/// Makes the folder of services. `run` is no shell script: its first line makes the victim its interpreter, and what
/// a shell takes to start is not in the figures.
pub(super) fn folder(stage: &Stage<'_>, more: &[(&str, &str)]) -> Result<PathBuf> {
    let services = stage.folder.join("services");
    for service in stage.services {
        let folder = services.join(&service.name);
        fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let run = format!("#!{}\n", service.words().join(" "));
        // The kernel cuts a longer line off (256 bytes since Linux 5.1).
        anyhow::ensure!(run.len() < 256, "the path {} is too long", service.program.display());
        let mut file =
            OpenOptions::new().write(true).create_new(true).mode(0o755).open(folder.join("run"))?;
        file.write_all(run.as_bytes())?;
        for (name, text) in more {
            fs::write(folder.join(name), text)?;
        }
    }
    Ok(services)
}
