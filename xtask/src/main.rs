//! `cargo xtask`: everything that is done with this repository, from a bare machine to a release gate.

#![forbid(unsafe_code)]
#![expect(
    clippy::disallowed_methods,
    reason = "a task runs compilers and tests, and tells how long they took"
)]
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a task speaks to whoever started it")]

mod bench;
mod build;
mod chaos;
mod ci;
mod kernels;
mod layers;
mod load;
mod packages;
mod run;
mod setup;
mod sizes;
mod step;
mod systemds;
mod test;
mod workspace;

use std::process::ExitCode;

use anyhow::{Result, bail};

const USAGE: &str = "\
cargo xtask VERB

  setup            install what is missing to build eBPF and to test; quick when nothing is
  build            setup, then build defib with its eBPF programs
  load             load and attach the probes of the built defib once, and say how it went
  build-and-load   build, then load
  run              build, then run the sample configuration in the foreground
  test [FILTER]    build, then run all tests, or those whose name contains FILTER
  chaos [ARGS]     build, then let everything die for a minute on each source; `chaos --help` tells of seeds and times
  bench [ARGS]     setup, then measure; `bench --help` lists what
  kernels [NAME…]  build, then boot 5.10, 6.1, 6.12 and the newest kernel, or those named, in QEMU, and test there
  systemds [NAME…] build, then test as a unit of the systemd of Debian's bookworm and trixie, or of those named
  ci [GATE]        everything that must hold before a change is taken, or one gate of it
";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match dispatch(&args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("xtask: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn dispatch(args: &[String]) -> Result<()> {
    let Some((verb, rest)) = args.split_first() else { bail!("no verb\n\n{USAGE}") };
    match (verb.as_str(), rest) {
        ("-h" | "--help" | "help", _) => print!("{USAGE}"),
        ("bench", rest) => {
            if !rest.iter().any(|arg| arg == "--help" || arg == "-h") {
                setup::ensure()?;
            }
            return bench::run(rest);
        }
        ("chaos", rest) => return chaos::run(rest),
        ("kernels", names) if !names.iter().any(|name| name.starts_with('-')) => return kernels::run(names),
        ("systemds", names) if !names.iter().any(|name| name.starts_with('-')) => {
            return systemds::run(names);
        }
        (_, [flag]) if flag == "-h" || flag == "--help" => print!("{USAGE}"),
        ("test", []) => return test::run(None),
        ("test", [filter]) => return test::run(Some(filter)),
        ("setup", []) => return setup::all(),
        ("build", []) => drop(build::with_ebpf()?),
        ("load", []) => return load::run(&build::existing()?),
        ("build-and-load", []) => return load::run(&build::with_ebpf()?),
        ("run", []) => return run::run(),
        ("ci", []) => return ci::run(None),
        ("ci", [gate]) => return ci::run(Some(gate)),
        (
            "setup" | "build" | "load" | "build-and-load" | "run" | "test" | "kernels" | "systemds" | "ci",
            rest,
        ) => {
            bail!("`{verb}` does not take `{}`\n\n{USAGE}", rest.join(" "))
        }
        (unknown, _) => bail!("no verb `{unknown}`\n\n{USAGE}"),
    }
    Ok(())
}
