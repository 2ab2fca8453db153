//! Where and of what the figures were taken.

use std::env::consts::ARCH;
use std::fmt;
use std::fs;
use std::process::Command;
use std::thread;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::workspace::root;

#[derive(Debug)]
pub(super) struct Host {
    kernel: String,
    /// Those that the bench may use.
    cores: usize,
    /// The load average of the minute before: far above zero, the figures are of a busy machine.
    load: String,
    date: String,
    revision: String,
}

impl Host {
    pub(super) fn look() -> Result<Self> {
        Ok(Self {
            kernel: line("/proc/sys/kernel/osrelease")?,
            cores: thread::available_parallelism()?.get(),
            load: line("/proc/loadavg")?.split(' ').take(1).collect(),
            date: said("date", &["-u", "+%Y-%m-%d"]),
            revision: said("git", &["describe", "--always", "--dirty"]),
        })
    }

    pub(super) fn json(&self) -> Value {
        let Self { kernel, cores, load, date, revision } = self;
        json!({ "kernel": kernel, "arch": ARCH, "cores": cores, "load": load, "date": date, "revision": revision })
    }
}

impl fmt::Display for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { kernel, cores, load, date, revision } = self;
        write!(f, "Linux {kernel} {ARCH}, {cores} cores, load {load}, {date}, revision {revision}")
    }
}

fn line(file: &str) -> Result<String> {
    let text = fs::read_to_string(file).with_context(|| format!("cannot read {file}"))?;
    Ok(text.trim().to_owned())
}

/// The line that a program answers; `unknown` outside of a checkout, for one.
fn said(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).current_dir(root()).output();
    match output {
        Ok(output) if output.status.success() => String::from_utf8_lossy(&output.stdout).trim().to_owned(),
        _ => "unknown".to_owned(),
    }
}
