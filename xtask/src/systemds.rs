//! `cargo xtask systemds`: defib as a unit of systemds that this machine does not run.
//!
//! The container's test of `tests/systemd.rs` takes the root of a Debian release for that of this machine. debootstrap
//! makes each once and keeps it below `target/`; the test only reads it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::packages::{self, Advice};
use crate::workspace::{self, cargo};
use crate::{build, setup, step};

/// The releases, and the systemd of each.
const RELEASES: [(&str, &str); 2] = [("bookworm", "252"), ("trixie", "257")];

/// What makes them.
const PACKAGES: [&str; 2] = ["debootstrap", "debian-archive-keyring"];

/// What the test uses in the container, besides what every Debian has.
const INSIDE: &str = "--include=systemd,systemd-sysv,dbus,procps";

/// Tests under the systemd of these releases, or of all.
pub(crate) fn run(names: &[String]) -> Result<()> {
    let known = || RELEASES.map(|(name, _)| name).join(", ");
    if let Some(unknown) = names.iter().find(|name| RELEASES.iter().all(|(release, _)| release != name)) {
        bail!("no release `{unknown}`; there are {}", known());
    }
    ensure!(workspace::is_root(), "a container needs root");
    setup::ensure_container()?;
    let missing = packages::missing(PACKAGES);
    if !missing.is_empty() {
        packages::install(&missing, Advice::default())?;
    }
    let folder = workspace::target()?.join("systemds");
    fs::create_dir_all(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    setup::attempt();
    let defib = build::defib()?;
    for (release, version) in RELEASES {
        if names.is_empty() || names.iter().any(|name| name == release) {
            let root = root_of(release, &folder)?;
            println!("\nsystemd {version}, of Debian's {release}");
            let mut command = cargo(&["test", "--package", "defib-tests", "--test", "systemd", "good_unit"]);
            command.args(["--", "--nocapture"]).env("DEFIB_BIN", &defib).env("DEFIB_SYSTEMD_ROOT", root);
            // systemd 256 and later refuse the mixed hierarchy that nspawn would take over from such a host.
            command.env("SYSTEMD_NSPAWN_UNIFIED_HIERARCHY", "1");
            step::loud(&mut command)?;
        }
    }
    Ok(())
}

/// The root of a release, made if it is not there.
fn root_of(release: &str, folder: &Path) -> Result<PathBuf> {
    let root = folder.join(release);
    if root.is_dir() {
        return Ok(root);
    }
    let unfinished = folder.join(format!("{release}.unfinished"));
    if unfinished.exists() {
        fs::remove_dir_all(&unfinished).with_context(|| format!("cannot remove {}", unfinished.display()))?;
    }
    // What debootstrap mounts in it goes with the namespace, whatever ends it.
    let mut make = Command::new("unshare");
    make.args(["--mount", "--propagation=private", "debootstrap", "--variant=minbase", INSIDE, release]);
    step::quiet(&format!("Debian's {release} (a minute or two)"), make.arg(&unfinished))?;
    fs::rename(&unfinished, &root).with_context(|| format!("cannot make {}", root.display()))?;
    Ok(root)
}
