//! Running the tests.

use anyhow::Result;

use crate::workspace::{cargo, is_root};
use crate::{build, setup, step};

/// Builds what the tests drive and runs them all, or those whose name contains `filter`.
pub(crate) fn run(filter: Option<&str>) -> Result<()> {
    setup::attempt();
    if !is_root() {
        println!("Not root: tests of eBPF, cgroups and users say `skipped` and why.");
    }
    if let Err(error) = setup::ensure_container() {
        println!("{error:#}\n\nGoing on without: the test of the unit will fail.");
    }
    let defib = build::defib()?;
    build::executables(&["build", "--package", "defib-tests", "--bins"])?;
    let mut command = cargo(&["test", "--workspace"]);
    command.args(filter).env("DEFIB_BIN", defib);
    step::loud(&mut command)
}
