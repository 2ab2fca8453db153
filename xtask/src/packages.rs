//! Debian packages: which are missing, and installing them where that is allowed.

use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail};

use crate::step;
use crate::workspace::is_root;

/// What to tell somebody for whom the packages cannot be installed from here.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Advice<'a> {
    /// A command that has to follow the installation.
    pub(crate) then: Option<&'a str>,
    /// What to do where these packages do not exist.
    pub(crate) otherwise: &'a str,
}

/// Those of the packages that are not installed.
pub(crate) fn missing<'a>(packages: impl IntoIterator<Item = &'a str>) -> Vec<&'a str> {
    packages.into_iter().filter(|package| !installed(package)).collect()
}

/// Installs packages as root, saying with which commands; anyone else is told to type them.
pub(crate) fn install(packages: &[&str], advice: Advice<'_>) -> Result<()> {
    let otherwise = advice.otherwise;
    let mut update = apt_get(&["update"]);
    let mut install = apt_get(&["install", "--yes", "--no-install-recommends"]);
    install.args(packages);
    if !Path::new("/usr/bin/apt-get").is_file() {
        bail!(
            "only Debian's packages can be installed from here, and this system has no apt-get\n{otherwise}"
        );
    }
    if !is_root() {
        let then = advice.then.map(|command| format!("\n  {command}")).unwrap_or_default();
        bail!(
            "installing packages needs root; run\n  sudo {}\n  sudo {}{then}\nand then this again",
            plain(&update),
            plain(&install),
        );
    }
    println!("Installing with\n  {}\n  {}", plain(&update), plain(&install));
    step::quiet("package lists", &mut update)?;
    if let Some(unknown) = packages.iter().find(|package| !available(package)) {
        bail!(
            "this system's package sources have no {unknown}; Debian has it in its stable and security suites \
             from release 12 on\n{otherwise}"
        );
    }
    step::quiet(&format!("{} packages", packages.len()), &mut install)
}

/// `apt-get`, which asks nothing.
pub(crate) fn apt_get(args: &[&str]) -> Command {
    let mut command = Command::new("apt-get");
    command.env("DEBIAN_FRONTEND", "noninteractive").args(args);
    command
}

fn installed(package: &str) -> bool {
    let query = Command::new("dpkg-query").args(["--show", "--showformat=${Status}", package]).output();
    query.is_ok_and(|answer| answer.stdout.ends_with(b" installed"))
}

fn available(package: &str) -> bool {
    let policy = Command::new("apt-cache").args(["policy", package]).env("LC_ALL", "C").output();
    policy.is_ok_and(|answer| {
        let text = String::from_utf8_lossy(&answer.stdout).into_owned();
        text.contains("Candidate:") && !text.contains("Candidate: (none)")
    })
}

/// The command without its environment, which sudo would not take in front.
fn plain(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}
