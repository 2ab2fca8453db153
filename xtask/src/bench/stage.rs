//! What a supervisor is given to work with, and what it says of how it is to be started.

use std::path::{Path, PathBuf};
use std::process::{Child, Command};

use anyhow::Result;

use super::cage::Cage;
use super::programs::Programs;

/// A victim as its supervisor is told of it.
#[derive(Clone, Debug)]
pub(super) struct Service {
    pub(super) name: String,
    pub(super) program: PathBuf,
    /// Where it appends its starts, and what else it is given.
    pub(super) arguments: Vec<String>,
}

impl Service {
    /// Program and arguments.
    pub(super) fn words(&self) -> Vec<String> {
        let program = self.program.display().to_string();
        std::iter::once(program).chain(self.arguments.iter().cloned()).collect()
    }
}

/// What a supervisor has to work with.
#[derive(Debug)]
pub(super) struct Stage<'a> {
    pub(super) folder: &'a Path,
    pub(super) services: &'a [Service],
    pub(super) programs: &'a Programs,
    pub(super) cage: &'a Cage,
}

/// How a supervisor is started, and what is special about it.
#[derive(Debug)]
pub(super) struct Setup {
    pub(super) command: Command,
    /// It ends its services itself when it gets SIGTERM. All others are killed with everything that they started.
    pub(super) polite: bool,
    /// What is to be done once it runs, before its services count as started.
    pub(super) then: Option<fn(&Stage<'_>, &Child) -> Result<Booted>>,
}

impl Setup {
    pub(super) fn new(command: Command) -> Self {
        Self { command, polite: false, then: None }
    }
}

/// A supervisor in a container has come up, and was told to start its services.
#[derive(Debug)]
pub(super) struct Booted {
    /// PID 1 of the container, as it is called here.
    pub(super) init: u32,
    /// When its services were asked for.
    pub(super) begun: u64,
}
