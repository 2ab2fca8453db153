//! Debian's packages of the peers, unpacked into a folder of the bench. Nothing is installed: a package of a
//! supervisor would start it, and leave it running on somebody's machine.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};

use crate::bench::programs::Programs;
use crate::packages::apt_get;
use crate::step;
use crate::workspace::is_root;

/// Where the packages' files are.
pub(super) fn root(programs: &Programs) -> PathBuf {
    programs.folder().join("peers")
}

/// A program of a package, and the folders in which it finds others of its own.
pub(in crate::bench) fn program(programs: &Programs, path: &str) -> Command {
    let root = root(programs);
    let mut command = Command::new(root.join(path));
    command.env("PATH", format!("{}:/usr/bin:/bin", root.join("usr/bin").display()));
    command
}

/// Unpacks a package, and what it needs beyond what is installed; its version. Later calls find it there.
pub(in crate::bench) fn unpack(programs: &Programs, package: &str) -> Result<String> {
    let note = programs.folder().join(format!("{package}.version"));
    if let Ok(version) = fs::read_to_string(&note) {
        return Ok(version);
    }
    let debs = programs.folder().join("debs").join(package);
    fs::create_dir_all(&debs).with_context(|| format!("cannot make {}", debs.display()))?;
    let names = match needed(package) {
        Err(_) if is_root() => {
            step::quiet("package lists", &mut apt_get(&["--quiet", "update"]))?;
            needed(package)?
        }
        names => names?,
    };
    let mut download = apt_get(&["--quiet", "download"]);
    step::quiet(&format!("packages of {package}"), download.args(&names).current_dir(&debs))?;
    let mut version = None;
    for entry in fs::read_dir(&debs).with_context(|| format!("cannot read {}", debs.display()))? {
        let deb = entry?.path();
        step::loud(Command::new("dpkg-deb").arg("--extract").arg(&deb).arg(root(programs)))?;
        let field = |name: &str| step::stdout(Command::new("dpkg-deb").arg("--field").arg(&deb).arg(name));
        if field("Package")?.trim() == package {
            version = Some(field("Version")?.trim().to_owned());
        }
    }
    let version = version.with_context(|| format!("apt-get has downloaded no {package}"))?;
    fs::write(&note, &version).with_context(|| format!("cannot write {}", note.display()))?;
    Ok(version)
}

/// What apt would install for a package that is not there. One that is installed is downloaded all the same.
fn needed(package: &str) -> Result<Vec<String>> {
    let mut simulate = apt_get(&["install", "--simulate", "--no-install-recommends", package]);
    let output = simulate
        .env("LC_ALL", "C")
        .output()
        .context("only Debian's packages are known, and there is no apt-get")?;
    if !output.status.success() {
        bail!("apt-get knows no package {package}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    let mut names = named(&String::from_utf8_lossy(&output.stdout));
    if !names.iter().any(|name| name == package) {
        names.push(package.to_owned());
    }
    ensure!(names.len() < 20, "{package} would need {} packages more", names.len());
    Ok(names)
}

/// The packages in what `apt-get install --simulate` says.
fn named(text: &str) -> Vec<String> {
    let lines = text.lines().filter_map(|line| line.strip_prefix("Inst "));
    lines.filter_map(|line| line.split(' ').next()).map(str::to_owned).collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn packages_are_read_from_a_simulation() {
        let text = "NOTE: This is only a simulation!\nInst libs6-2.11 (2.11.3.2-1 Debian:12.15/oldstable [amd64])\n\
                    Inst s6 (2.11.3.2-1 Debian:12.15/oldstable [amd64])\nConf s6 (2.11.3.2-1 Debian)\n";
        assert_eq!(super::named(text), ["libs6-2.11", "s6"]);
    }
}
