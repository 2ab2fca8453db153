//! The programs that take part, built before anything is measured.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::workspace::{root, target};
use crate::{build, step};

#[derive(Debug)]
pub(super) struct Programs {
    folder: PathBuf,
    /// What every supervisor runs.
    pub(super) victim: PathBuf,
    /// The bare loop.
    pub(super) bare: PathBuf,
    /// What strangers do.
    pub(super) churn: PathBuf,
    /// Writes numbered lines.
    pub(super) chatter: PathBuf,
    pub(super) defib: PathBuf,
}

impl Programs {
    /// Compiles the C programs, and defib's release build unless one is given.
    pub(super) fn build(defib: Option<&Path>) -> Result<Self> {
        let folder = target()?.join("bench");
        fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
        Ok(Self {
            victim: compile(&folder, "victim", &["-nostdlib", "-fno-stack-protector"])?,
            bare: compile(&folder, "loop", &[])?,
            churn: compile(&folder, "churn", &[])?,
            chatter: compile(&folder, "chatter", &[])?,
            defib: match defib {
                // The supervisors are not started from the present folder.
                Some(given) => {
                    fs::canonicalize(given).with_context(|| format!("cannot find {}", given.display()))?
                }
                None => build::release()?,
            },
            folder,
        })
    }

    /// Where results go.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }
}

/// Static, so that the dynamic loader's time, the same for all, does not hide the differences.
fn compile(folder: &Path, name: &str, flags: &[&str]) -> Result<PathBuf> {
    let source = root().join("xtask/src/bench").join(name).with_extension("c");
    let program = folder.join(name);
    let mut cc = Command::new("cc");
    step::loud(cc.args(["-O2", "-static", "-Wall"]).args(flags).arg("-o").arg(&program).arg(source))?;
    Ok(program)
}
