//! Where things are, and who we are.

use std::env;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

/// The root of the checkout.
pub(crate) fn root() -> PathBuf {
    // Cargo tells where the package is now; the built-in value is for a binary that is started by hand.
    let package = env::var_os("CARGO_MANIFEST_DIR").unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    Path::new(&package).parent().map(Path::to_owned).unwrap_or_default()
}

/// The target folder that the running program lies in.
pub(crate) fn target() -> Result<PathBuf> {
    let own = env::current_exe().context("cannot find the folder of built programs")?;
    let target = own.ancestors().nth(2).context("this program does not lie in a target folder")?;
    Ok(target.to_owned())
}

/// The cargo that runs us, with its arguments, in the checkout.
pub(crate) fn cargo(args: &[&str]) -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root()).args(args);
    command
}

/// Whether we may do what root may.
pub(crate) fn is_root() -> bool {
    std::fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0)
}

/// A path as it is typed in the current folder.
pub(crate) fn shown(path: &Path) -> String {
    let here = env::current_dir().unwrap_or_default();
    path.strip_prefix(here).unwrap_or(path).display().to_string()
}
