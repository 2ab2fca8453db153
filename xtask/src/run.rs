//! Running the sample configuration.

use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::{env, io};

use anyhow::{Context, Result, bail};

use crate::workspace::{is_root, root, shown};
use crate::{build, setup};

/// Builds defib and becomes its daemon, with the sample configuration in a folder that is made anew.
///
/// The daemon takes this process's place, so that Ctrl-C, SIGTERM and the exit status are its own.
pub(crate) fn run() -> Result<()> {
    setup::attempt();
    let defib = build::defib()?;
    let folder = folder()?;
    let config = folder.join("config.toml");
    let sample = root().join("config/sample.toml");
    fs::copy(&sample, &config)
        .with_context(|| format!("cannot copy {} to {}", sample.display(), config.display()))?;
    let state = folder.join("state");
    DirBuilder::new()
        .mode(0o700)
        .create(&state)
        .with_context(|| format!("cannot make {}", state.display()))?;

    let client = format!("{} --runtime-dir {}", shown(&defib), folder.display());
    println!("\ndefib runs until Ctrl-C, with {}. In a second terminal:", config.display());
    for verb in ["status", "events --follow", "--help"] {
        println!("  {client} {verb}");
    }
    println!();
    let mut daemon = Command::new(&defib);
    daemon
        .arg("daemon")
        .arg("--config")
        .arg(&config)
        .arg("--runtime-dir")
        .arg(&folder)
        .arg("--state-dir")
        .arg(&state)
        .arg("--log-dir")
        .arg(folder.join("log"));
    Err(daemon.exec()).with_context(|| format!("cannot execute {}", defib.display()))
}

/// A new folder that nobody else can write: as root defib refuses a configuration from any other, and a checkout in a
/// user's home is one.
fn folder() -> Result<PathBuf> {
    let folder = match env::var_os("XDG_RUNTIME_DIR") {
        _ if is_root() => PathBuf::from("/run/defib-sample"),
        Some(runtime) if !runtime.is_empty() => Path::new(&runtime).join("defib-sample"),
        // Shared by all users, so the name is not to be guessed from, and creating it fails if it exists.
        _ => env::temp_dir().join(format!("defib-sample-{}", std::process::id())),
    };
    if UnixStream::connect(folder.join("defib.sock")).is_ok() {
        bail!("the sample is running already, in {}", folder.display());
    }
    match fs::remove_dir_all(&folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(error)
                .with_context(|| format!("cannot remove what an earlier run left in {}", folder.display()));
        }
        _ => {}
    }
    DirBuilder::new()
        .mode(0o700)
        .create(&folder)
        .with_context(|| format!("cannot make {}", folder.display()))?;
    Ok(folder)
}
