//! The programs that take part, built before anything is measured.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::workspace::{root, target};
use crate::{build, step};

/// What a real program is linked with, as far as it is here: a TLS library, a C++ runtime, a compression.
const LIBRARIES: [&str; 4] = ["libssl.so.3", "libcrypto.so.3", "libstdc++.so.6", "libz.so.1"];

/// The tiny ones are static, so that the dynamic loader's time, the same for all, does not hide the differences.
const STATIC: &[&str] = &["-static"];

#[derive(Debug)]
pub(super) struct Programs {
    folder: PathBuf,
    /// What every supervisor runs.
    pub(super) victim: PathBuf,
    /// What every supervisor runs besides: with shared libraries to load, whose names follow.
    pub(super) linked: PathBuf,
    pub(super) libraries: Vec<&'static str>,
    /// What accepts connections.
    pub(super) server: PathBuf,
    /// The bare loop, and that with a cgroup for each life.
    pub(super) bare: PathBuf,
    pub(super) cgroup_loop: PathBuf,
    /// What strangers do.
    pub(super) churn: PathBuf,
    /// Writes numbered lines.
    pub(super) chatter: PathBuf,
    /// Writes without an end once it is told to.
    pub(super) filler: PathBuf,
    /// Keeps a CPU busy.
    pub(super) spin: PathBuf,
    pub(super) defib: PathBuf,
}

impl Programs {
    /// Compiles the C programs, and defib's release build unless one is given.
    pub(super) fn build(defib: Option<&Path>) -> Result<Self> {
        let folder = target()?.join("bench");
        fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
        let libraries: Vec<&str> = LIBRARIES.into_iter().filter(|library| links(&folder, library)).collect();
        let victim = ["-static", "-nostdlib", "-fno-stack-protector"];
        Ok(Self {
            victim: compile(&folder, "victim", &victim, &[])?,
            linked: compile(&folder, "linked", &["-Wl,--no-as-needed"], &libraries)?,
            libraries,
            server: compile(&folder, "server", STATIC, &[])?,
            bare: compile(&folder, "loop", STATIC, &[])?,
            cgroup_loop: compile(&folder, "cgroup-loop", STATIC, &[])?,
            churn: compile(&folder, "churn", STATIC, &[])?,
            chatter: compile(&folder, "chatter", STATIC, &[])?,
            filler: compile(&folder, "filler", STATIC, &[])?,
            spin: compile(&folder, "spin", STATIC, &[])?,
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

    /// Where results go, and what is made once.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }
}

/// Whether a program can be linked with a shared library. Its name is enough: no header is needed.
fn links(folder: &Path, library: &str) -> bool {
    let mut cc = Command::new("cc");
    cc.args(["-x", "c", "-shared", "-o"]).arg(folder.join("trial")).arg("/dev/null");
    step::succeeds(cc.arg(format!("-l:{library}")))
}

fn compile(folder: &Path, name: &str, flags: &[&str], libraries: &[&str]) -> Result<PathBuf> {
    let source = root().join("xtask/src/bench/programs").join(name).with_extension("c");
    let program = folder.join(name);
    let mut cc = Command::new("cc");
    cc.args(["-O2", "-Wall"]).args(flags).arg("-o").arg(&program).arg(source);
    step::loud(cc.args(libraries.iter().map(|library| format!("-l:{library}"))))?;
    Ok(program)
}
