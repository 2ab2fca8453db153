//! Programs that a test puts somewhere to have them executed.
//!
//! No thread of the test may have such a file open for writing: another thread that forks at that moment has a copy of the
//! descriptor until its child executes, and whoever executes the file meanwhile is refused with ETXTBSY, "Text file busy".
//! So install(1) writes it, in a process of its own.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::said;

/// Puts a copy of a program at a place, as a package manager does it: the file that was there is gone from its place, and
/// still executed.
#[track_caller]
pub fn install(program: &Path, place: &Path) {
    install_as(program, place, 0o755);
}

/// Puts a file with this text there, whoever may execute it.
#[track_caller]
pub fn install_text(text: &str, mode: u32, place: &Path) {
    let source = with_suffix(place, "text");
    fs::write(&source, text).expect("a file");
    install_as(&source, place, mode);
    fs::remove_file(&source).expect("the file");
}

#[track_caller]
fn install_as(file: &Path, place: &Path, mode: u32) {
    let half = with_suffix(place, "new");
    let copied = said(Command::new("install").arg(format!("--mode={mode:o}")).arg(file).arg(&half));
    assert_eq!(copied.code, 0, "install {}: {}", file.display(), copied.err);
    fs::rename(&half, place).expect("a file in its place");
}

/// Beside it, whatever dots its own name has.
fn with_suffix(place: &Path, suffix: &str) -> PathBuf {
    let mut name = place.as_os_str().to_owned();
    name.push(".");
    name.push(suffix);
    name.into()
}
