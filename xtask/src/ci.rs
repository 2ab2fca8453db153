//! The gate: what must hold before a change is taken. The same command here and on every machine.

use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use xtask::toolchain::tool;

use crate::workspace::{cargo, root};
use crate::{layers, setup, sizes, step, test};

/// One thing that must hold.
struct Gate {
    name: &'static str,
    check: fn() -> Result<()>,
}

/// In this order: what fails quickly, and most often, comes first.
const GATES: [Gate; 9] = [
    Gate { name: "fmt", check: || step::loud(&mut cargo(&["fmt", "--all", "--check"])) },
    Gate { name: "layers", check: layers::check },
    Gate { name: "sizes", check: sizes::check },
    Gate { name: "generated", check: generated },
    Gate { name: "clippy", check: clippy },
    Gate { name: "without-ebpf", check: without_ebpf },
    Gate { name: "tests", check: || test::run(None) },
    Gate { name: "doc", check: doc },
    Gate { name: "deny", check: deny },
];

/// Files that are written by a program: the file, and the command whose output it must equal.
const GENERATED: [(&str, &[&str]); 1] =
    [("config/defib.schema.json", &["run", "--quiet", "--package", "defib", "--", "schema"])];

/// Passes all gates, or the one of that name.
pub(crate) fn run(only: Option<&str>) -> Result<()> {
    let gates: Vec<&Gate> = GATES.iter().filter(|gate| only.is_none_or(|name| name == gate.name)).collect();
    if gates.is_empty() {
        bail!("no such gate; there are: {}", GATES.map(|gate| gate.name).join(", "));
    }
    setup::ensure_gate()?;
    let started = Instant::now();
    for Gate { name, check } in &gates {
        println!("\n== {name}");
        let began = Instant::now();
        check().with_context(|| format!("the gate `{name}` is shut"))?;
        println!("== {name}: passed in {:.1} s", began.elapsed().as_secs_f64());
    }
    println!("\n{} gates passed in {:.0} s.", gates.len(), started.elapsed().as_secs_f64());
    Ok(())
}

fn clippy() -> Result<()> {
    step::loud(&mut cargo(&["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]))
}

fn without_ebpf() -> Result<()> {
    step::loud(&mut cargo(&["check", "--package", "defib", "--no-default-features"]))
}

fn doc() -> Result<()> {
    step::loud(cargo(&["doc", "--workspace", "--no-deps"]).env("RUSTDOCFLAGS", "-D warnings"))
}

fn deny() -> Result<()> {
    let deny = tool(&root(), "cargo-deny").context("cargo-deny is not there")?;
    let mut command = Command::new(deny);
    command.current_dir(root()).args(["--workspace", "--config", ".cargo/deny.toml", "check"]);
    step::loud(command.args(["bans", "licenses", "sources"]))
}

fn generated() -> Result<()> {
    for (path, command) in GENERATED {
        let written = std::fs::read(root().join(path)).with_context(|| format!("cannot read {path}"))?;
        let output = cargo(command).output().with_context(|| format!("cannot make {path} anew"))?;
        if !output.status.success() || output.stdout != written {
            bail!("{path} is not what `cargo {}` writes", command.join(" "));
        }
    }
    Ok(())
}
