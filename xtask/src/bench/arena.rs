//! The place where a bench keeps all that it makes: a folder, and a cgroup in each hierarchy that is of use.
//!
//! Whatever ends the bench, Ctrl-C and SIGKILL among it, nothing stays: the janitor, a shell in a process group of its
//! own, waits for the end of a pipe that only the bench holds, and then ends and removes everything (`janitor.sh`).

use std::cell::Cell;
use std::fs::{self, DirBuilder};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tempfile::TempDir;

use super::cage::{Cage, Hierarchy};
use crate::workspace::is_root;

/// Files that the bench and its supervisors may have open.
const FILES: u64 = 16384;

const JANITOR: &str = include_str!("janitor.sh");

#[derive(Debug)]
pub(super) struct Arena {
    folder: PathBuf,
    hierarchies: Vec<Hierarchy>,
    janitor: Child,
    stalls: Cell<usize>,
}

impl Arena {
    pub(super) fn open() -> Result<Self> {
        // A core file would cost some what others do not pay: systemd, for one, lifts the limit that it was given.
        setrlimit(Resource::Core, Rlimit { current: Some(0), maximum: Some(0) })?;
        // Each of a thousand victims has its file, and a usual limit is 1024.
        let files = getrlimit(Resource::Nofile);
        if files.current.is_some_and(|limit| limit < FILES) {
            let current = Some(files.maximum.map_or(FILES, |most| most.min(FILES)));
            setrlimit(Resource::Nofile, Rlimit { current, ..files })?;
        }
        let folder = TempDir::with_prefix("defib-bench-").context("cannot make a folder")?.keep();
        let name = folder.file_name().context("a folder without a name")?;
        let hierarchies = if is_root() { Hierarchy::all(Path::new(name)) } else { Vec::new() };
        let mut janitor = Command::new("/bin/sh");
        janitor.args(["-c", JANITOR, "janitor"]).arg(&folder).current_dir("/");
        janitor.args(hierarchies.iter().map(|it| &it.group)).stdin(Stdio::piped()).process_group(0);
        let janitor = janitor.spawn().context("cannot start a shell")?;
        let arena = Self { folder, hierarchies, janitor, stalls: Cell::new(0) };
        // Only now, that somebody removes them.
        for hierarchy in &arena.hierarchies {
            hierarchy.make()?;
        }
        Ok(arena)
    }

    /// A folder and cgroups for one subject.
    pub(super) fn stall(&self) -> Result<(PathBuf, Cage)> {
        let number = self.stalls.replace(self.stalls.get() + 1).to_string();
        let folder = self.folder.join(&number);
        DirBuilder::new()
            .mode(0o755)
            .create(&folder)
            .with_context(|| format!("cannot make {}", folder.display()))?;
        Ok((folder, Cage::make(&self.hierarchies, &number)?))
    }
}

impl Drop for Arena {
    fn drop(&mut self) {
        drop(self.janitor.stdin.take());
        if let Err(error) = self.janitor.wait() {
            println!("cannot wait for the janitor: {error}");
        }
        let groups = self.hierarchies.iter().map(|it| &it.group);
        for left in groups.chain([&self.folder]).filter(|path| fs::exists(path).unwrap_or(true)) {
            println!("cannot clean up: {} is left", left.display());
        }
    }
}
