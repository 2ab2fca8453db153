//! Debian's archive, asked through an apt of our own.
//!
//! The kernels come from suites that the system's apt does not know, and must not be told of. So apt gets a folder of
//! its own for sources, lists and cache; which mirror it asks is read from the system's sources.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::catalog::{Choice, Kernel};
use crate::packages::apt_get;
use crate::step;

/// The keys of all of Debian's suites; package `debian-archive-keyring`.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// What the system's sources are asked for.
const MIRROR_FORMAT: &str = "$(LABEL) $(REPO_URI)";

/// An apt with sources of its own.
#[derive(Debug)]
pub(super) struct Archive {
    folder: PathBuf,
}

impl Archive {
    /// Reads the lists of the suites in which these kernels are. Everything goes to `folder`.
    pub(super) fn open(folder: &Path, kernels: &[Kernel]) -> Result<Self> {
        for part in ["lists/partial", "cache/archives/partial"] {
            let part = folder.join(part);
            fs::create_dir_all(&part).with_context(|| format!("cannot make {}", part.display()))?;
        }
        let archive = Self { folder: folder.to_owned() };
        let sources = archive.sources();
        fs::write(&sources, source_lines(kernels, &mirrors()?)?)
            .with_context(|| format!("cannot write {}", sources.display()))?;
        let mut update = archive.apt(apt_get(&["--quiet", "update"]));
        // Descriptions of packages are a third of what would be read.
        step::quiet("package lists of the kernels' suites", update.args(["-o", "Acquire::Languages=none"]))?;
        Ok(archive)
    }

    /// The newest packages that hold a kernel.
    pub(super) fn choose(&self, kernel: &Kernel) -> Result<Choice> {
        let mut command = self.apt(Command::new("apt-cache"));
        let names = step::stdout(command.arg("pkgnames").arg(kernel.prefix()))?;
        kernel.choose(names.lines()).with_context(|| {
            format!("Debian's suite {} has no package for the kernel {} any more", kernel.suite, kernel.name)
        })
    }

    /// Downloads packages and unpacks them into `folder`.
    pub(super) fn unpack(&self, choice: &Choice, folder: &Path) -> Result<()> {
        let debs = folder.join("debs");
        fs::create_dir_all(&debs).with_context(|| format!("cannot make {}", debs.display()))?;
        let mut download = self.apt(apt_get(&["--quiet", "download"]));
        download.args(&choice.packages).current_dir(&debs);
        step::quiet(&format!("kernel {}", choice.version), &mut download)?;
        for entry in fs::read_dir(&debs).with_context(|| format!("cannot read {}", debs.display()))? {
            let deb = entry.with_context(|| format!("cannot read {}", debs.display()))?.path();
            step::loud(Command::new("dpkg-deb").arg("--extract").arg(&deb).arg(folder))?;
        }
        Ok(())
    }

    fn sources(&self) -> PathBuf {
        self.folder.join("sources.list")
    }

    /// Turns a command of apt's to our folder.
    fn apt(&self, mut command: Command) -> Command {
        let mut set = |name: &str, value: &Path| {
            command.arg("-o").arg(format!("{name}={}", value.display()));
        };
        set("Dir::Etc::sourcelist", &self.sources());
        set("Dir::Etc::sourceparts", Path::new("-"));
        set("Dir::State::lists", &self.folder.join("lists"));
        set("Dir::Cache", &self.folder.join("cache"));
        // apt's own user cannot write in somebody's checkout.
        set("APT::Sandbox::User", Path::new("root"));
        command
    }
}

/// The mirrors that the system's apt uses, by Debian's label.
fn mirrors() -> Result<BTreeMap<String, String>> {
    let mut command = apt_get(&["indextargets", "--format", MIRROR_FORMAT]);
    let listed = step::stdout(command.args(["Created-By: Packages", "Origin: Debian"]))?;
    Ok(by_label(&listed))
}

fn by_label(listed: &str) -> BTreeMap<String, String> {
    let pairs = listed.lines().filter_map(|line| line.trim().split_once(' '));
    pairs.map(|(label, mirror)| (label.to_owned(), mirror.to_owned())).collect()
}

/// One line of apt's sources for each suite that is needed.
fn source_lines(kernels: &[Kernel], mirrors: &BTreeMap<String, String>) -> Result<String> {
    let mut lines = BTreeSet::new();
    for Kernel { label, suite, .. } in kernels {
        let Some(mirror) = mirrors.get(*label) else {
            bail!(
                "the kernels come from Debian's archive `{label}`, and this system's apt sources do not name it: \
                 `apt-get indextargets` lists those they do"
            );
        };
        lines.insert(format!("deb [arch=amd64 signed-by={KEYRING}] {mirror} {suite} main\n"));
    }
    Ok(lines.into_iter().collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::catalog::KERNELS;

    #[test]
    fn each_suite_is_asked_once_at_the_systems_mirror() {
        let listed = "Debian https://mirror.example/debian/\nDebian https://mirror.example/debian/\n\
                      Debian-Security https://mirror.example/security/\n";
        let lines = source_lines(&KERNELS, &by_label(listed)).unwrap();
        assert_eq!(lines.lines().count(), 3, "{lines}");
        assert!(lines.contains("] https://mirror.example/security/ bookworm-security main\n"), "{lines}");
        assert!(lines.contains("] https://mirror.example/debian/ sid main\n"), "{lines}");
    }

    #[test]
    fn a_system_without_debians_archive_is_told_so() {
        let error = source_lines(&KERNELS, &by_label("Ubuntu https://mirror.example/ubuntu/\n")).unwrap_err();
        assert!(error.to_string().contains("indextargets"), "{error}");
    }
}
