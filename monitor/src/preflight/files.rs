//! The files and folders that a service needs, and those that defib writes for it.

use std::path::{Path, PathBuf};

use defib_core::model::{LogLayout, ServiceSpec};
use rustix::fs::Access;

use super::access::User;
use super::row::{self, Row};
use crate::config::DaemonSettings;
use crate::effect::needs;

pub(super) fn cwd(path: &Path, user: &User) -> Row {
    if path.is_file() {
        return row::error("cwd", format!("{} is a file", path.display()), "correct `cwd`");
    }
    match user.reach(path, Access::EXEC_OK, "enter") {
        Ok(()) => row::ok("cwd", path.display().to_string()),
        Err(obstacle) => row::error("cwd", obstacle.to_string(), obstacle.remedy("cwd")),
    }
}

/// A row for each of `needs_files`, as the planner finds them.
pub(super) fn needed(files: &[PathBuf]) -> Vec<Row> {
    let row = |file: &PathBuf| match needs::check(std::slice::from_ref(file)) {
        Ok(()) => row::ok("needs_files", file.display().to_string()),
        Err(failure) => {
            row::error("needs_files", format!("{}: {}", file.display(), failure.error), failure.remedy)
        }
    };
    files.iter().map(row).collect()
}

/// Where its output and its number go.
pub(super) fn kept(spec: &ServiceSpec, daemon: &DaemonSettings) -> Vec<Row> {
    let mut rows = Vec::new();
    if spec.log.capture {
        let folder = match (&spec.log.path, spec.log.layout) {
            (None, _) => Some(daemon.log_dir.as_path()),
            (Some(path), LogLayout::PerStart) => Some(path.as_path()),
            (Some(path), LogLayout::Single) => path.parent(),
        };
        // The daemon makes them.
        rows.extend(folder.map(|folder| writable("log", folder, "log.path", true)));
    }
    if let Some(folder) = &daemon.pid_dir {
        rows.push(writable("pid_dir", folder, "daemon.pid_dir", true));
    }
    if let Some(folder) = spec.pid_file.as_deref().and_then(Path::parent) {
        rows.push(writable("pid_file", folder, "pid_file", false));
    }
    rows
}

/// Whether defib, being whoever runs this, can write into a folder, or make it if it makes it itself.
fn writable(name: &str, folder: &Path, key: &str, made: bool) -> Row {
    let there = folder.ancestors().find(|ancestor| ancestor.exists()).unwrap_or(Path::new("/"));
    let target = if made { there } else { folder };
    match User::current().reach(target, Access::WRITE_OK | Access::EXEC_OK, "write") {
        Ok(()) if there == folder => row::ok(name, folder.display().to_string()),
        Ok(()) => row::ok(name, format!("{}: made when it is needed", folder.display())),
        Err(obstacle) => row::error(name, obstacle.to_string(), obstacle.remedy(key)),
    }
}
