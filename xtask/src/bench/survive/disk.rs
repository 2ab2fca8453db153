//! A disk that can be made to hang: a file system in a file, frozen as for a snapshot. Whoever writes to it waits.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::step;

/// Its size in bytes. A small one is made in no time.
const SIZE: u64 = 64 << 20;

/// The mounted file system. The janitor thaws and unmounts it too, should the bench be killed.
#[derive(Debug)]
pub(super) struct Disk(PathBuf);

/// While this lives, it hangs.
#[derive(Debug)]
pub(super) struct Frozen<'a>(&'a Disk);

impl Disk {
    /// Makes one in a folder. Takes root, loop devices and `mkfs.ext4`.
    pub(super) fn make(folder: &Path) -> Result<Self> {
        let (image, place) = (folder.join("disk"), folder.join("mounted"));
        File::create(&image)?.set_len(SIZE)?;
        fs::create_dir(&place)?;
        run(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(&image))?;
        run(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(&place))?;
        Ok(Self(place))
    }

    /// Where it is mounted.
    pub(super) fn place(&self) -> &Path {
        &self.0
    }

    /// Makes it hang.
    pub(super) fn freeze(&self) -> Result<Frozen<'_>> {
        run(Command::new("fsfreeze").arg("--freeze").arg(&self.0))?;
        Ok(Frozen(self))
    }
}

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        tell(run(Command::new("fsfreeze").arg("--unfreeze").arg(&self.0.0)));
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        tell(run(Command::new("umount").arg(&self.0)));
    }
}

fn run(command: &mut Command) -> Result<()> {
    let line = step::command_line(command);
    let output = command.output().with_context(|| format!("cannot run {line}"))?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr).into_owned();
        bail!("{line}: {}", text.lines().next().unwrap_or("failed without a word"));
    }
    Ok(())
}

fn tell(result: Result<()>) {
    if let Err(error) = result {
        println!("{error:#}");
    }
}
