//! Building defib, and finding what was built.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::{setup, workspace};

/// Builds `defib` after making sure that its eBPF programs can be built, and returns its path.
pub(crate) fn with_ebpf() -> Result<PathBuf> {
    setup::ensure()?;
    defib()
}

/// Builds `defib` with what is there.
pub(crate) fn defib() -> Result<PathBuf> {
    let built = executables(&["build", "--package", "defib", "--bin", "defib"])?;
    built.into_iter().next_back().context("cargo built no `defib`")
}

/// Builds `defib` as it is shipped.
pub(crate) fn release() -> Result<PathBuf> {
    let built = executables(&["build", "--release", "--package", "defib", "--bin", "defib"])?;
    built.into_iter().next_back().context("cargo built no `defib`")
}

/// The `defib` that was built last.
pub(crate) fn existing() -> Result<PathBuf> {
    let own = std::env::current_exe().context("cannot find the folder of built programs")?;
    let path = own.with_file_name("defib");
    if !path.is_file() {
        bail!("{} has not been built; `cargo xtask build-and-load` does both", path.display());
    }
    Ok(path)
}

/// Runs a cargo build and returns the programs that it made.
pub(crate) fn executables(args: &[&str]) -> Result<Vec<PathBuf>> {
    let mut command = workspace::cargo(args);
    command.arg("--message-format=json-render-diagnostics").stdin(Stdio::null()).stderr(Stdio::inherit());
    let output = command.output().context("cannot start cargo")?;
    if !output.status.success() {
        bail!("`cargo {}` failed", args.join(" "));
    }
    let messages =
        output.stdout.split(|&byte| byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok());
    let executable = |message: Value| Some(Path::new(message.get("executable")?.as_str()?).to_owned());
    Ok(messages.filter_map(executable).collect())
}
