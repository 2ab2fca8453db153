//! Loading the probes once, to see whether this kernel takes them.

use std::path::Path;
use std::process::Command;

use anyhow::Result;

use crate::step;

/// Lets the built `defib` load and attach its probes and say what came of it; the verifier's log, if it refused.
pub(crate) fn run(defib: &Path) -> Result<()> {
    step::loud(Command::new(defib).arg("load-probes"))
}
