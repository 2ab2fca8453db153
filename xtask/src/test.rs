//! Running the tests.

use anyhow::Result;

use crate::workspace::{cargo, is_root};
use crate::{build, setup, step};

/// Builds what the tests drive and runs them all, or those whose name contains `filter`.
pub(crate) fn run(filter: Option<&str>) -> Result<()> {
    setup::attempt();
    for ensured in [setup::ensure_prometheus(), setup::ensure_container(), setup::ensure_servers()] {
        if let Err(error) = ensured {
            println!("{error:#}\n\nGoing on: the tests that need it will fail.");
        }
    }
    if !is_root() {
        println!("Not root: tests of eBPF, cgroups and users say `skipped` and why.");
    }
    let defib = build::defib()?;
    build::executables(&["build", "--package", "defib-tests", "--bins"])?;
    let mut command = cargo(&["test", "--workspace"]);
    command.args(filter).env("DEFIB_BIN", defib);
    step::loud(&mut command)
}
