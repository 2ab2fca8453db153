//! How long the source files are. A file that has grown past its purpose is split while that is easy.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::workspace::root;

/// The point at which to think of splitting.
const LONG: usize = 500;
/// The limit, tests included.
const TOO_LONG: usize = 800;

const FOLDERS: [&str; 4] = ["monitor", "monitor-ebpf", "xtask", "tests"];

/// Names the long files, and fails if one is too long.
pub(crate) fn check() -> Result<()> {
    let root = root();
    let (mut files, mut lines, mut too_long) = (0, 0, 0);
    for folder in FOLDERS {
        for path in rust_files(&root.join(folder))? {
            let text =
                fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))?;
            let count = text.lines().count();
            (files, lines) = (files + 1, lines + count);
            if count > LONG {
                println!("{}: {count} lines", path.strip_prefix(&root).unwrap_or(&path).display());
                too_long += usize::from(count > TOO_LONG);
            }
        }
    }
    println!("{files} files, {lines} lines");
    if too_long > 0 {
        bail!("{too_long} files have more than {TOO_LONG} lines");
    }
    Ok(())
}

/// All `.rs` files below a folder, in order.
pub(crate) fn rust_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        let entries = fs::read_dir(&folder).with_context(|| format!("cannot read {}", folder.display()))?;
        for entry in entries {
            let path = entry.with_context(|| format!("cannot read {}", folder.display()))?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    files.sort();
    Ok(files)
}
