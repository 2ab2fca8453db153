//! systemd as PID 1 of a container that is made of this very system: an overlay of `/`, of which nothing stays.
//!
//! Units have `RestartSec=0` and no limit of starts. What the container's own start takes does not count: the time of
//! starting services runs from `systemctl start` on.

use std::fmt::Write;
use std::fs;
use std::process::{Child, Command};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::Peer;
use crate::bench::clock;
use crate::bench::programs::Programs;
use crate::bench::stage::{Booted, Setup, Stage};
use crate::bench::tree::children;
use crate::step;
use crate::{setup as installing, workspace};

/// Becomes the container's keeper.
const BOOT: &str = concat!(
    "folder=$1 programs=$2 disk=$1/disk lower=/ size=256m\n",
    include_str!("../../../../tests/src/container.sh"),
    r#"
cp "$folder"/units/* "$root/etc/systemd/system/"
exec systemd-nspawn --quiet --directory="$root" --boot --register=no --keep-unit --private-network \
    --machine="$3" --console=pipe --bind="$folder" --bind-ro="$programs"
"#
);

/// How long the container may take to come up, and to take the order to start.
const BOOT_LIMIT: Duration = Duration::from_secs(60);

pub(super) const PEER: Peer = Peer {
    name: "systemd",
    prepare: |_: &Programs| {
        ensure!(workspace::is_root(), "it runs in a container, which needs root");
        installing::ensure_container()?;
        let version = step::stdout(Command::new("systemctl").arg("--version"))?;
        Ok(version.split(' ').nth(1).unwrap_or("unknown").to_owned())
    },
    setup: |stage| {
        ensure!(stage.cage.holds_systemd(), "its container needs a unified hierarchy of cgroups");
        write_units(stage)?;
        let mut unshare = Command::new("unshare");
        let shell =
            ["--mount", "--propagation=private", "setpriv", "--pdeathsig=KILL", "sh", "-c", BOOT, "sh"];
        unshare.args(shell).arg(stage.folder).arg(stage.programs.folder());
        let number = stage.folder.file_name().unwrap_or_default().display();
        unshare.arg(format!("defib-bench-{}-{number}", std::process::id()));
        unshare.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        Ok(Setup { then: Some(boot), ..Setup::new(unshare) })
    },
};

fn write_units(stage: &Stage<'_>) -> Result<()> {
    let folder = stage.folder.join("units");
    fs::create_dir(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let mut wants = String::from("[Unit]\n");
    for service in stage.services {
        let unit = format!(
            "[Unit]\nStartLimitIntervalSec=0\n[Service]\nExecStart={}\nRestart=always\nRestartSec=0\nLimitCORE=0\n",
            service.words().join(" ")
        );
        fs::write(folder.join(format!("{}.service", service.name)), unit)?;
        // Writing to a string cannot fail.
        writeln!(wants, "Wants={}.service", service.name).ok();
    }
    Ok(fs::write(folder.join("victims.target"), wants)?)
}

/// Waits until the container's systemd is up, and lets it start the services.
fn boot(_: &Stage<'_>, nspawn: &Child) -> Result<Booted> {
    let systemd = || {
        let named =
            |pid: &u32| fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name == "systemd\n");
        // It may have ended: then nobody comes, and its output says why.
        Ok(children(nspawn.id()).unwrap_or_default().into_iter().find(named))
    };
    let init = clock::wait(BOOT_LIMIT, systemd)?.context("no systemd has come up")?;
    let inside = |words: &[&str]| {
        let mut enter = Command::new("nsenter");
        enter.args(["--all", "--target", &init.to_string(), "systemctl"]).args(words);
        enter.output().context("cannot enter the container")
    };
    let up = clock::wait(BOOT_LIMIT, || {
        let answer = inside(&["is-system-running"])?;
        Ok(matches!(answer.stdout.as_slice(), b"running\n" | b"degraded\n").then_some(()))
    })?;
    up.context("the container's systemd does not come to an end of its start")?;
    let begun = clock::now();
    let answer = inside(&["start", "--no-block", "victims.target"])?;
    ensure!(answer.status.success(), "{}", String::from_utf8_lossy(&answer.stderr));
    Ok(Booted { init, begun })
}
