//! Looks for what building eBPF needs, and installs what is missing where that is allowed.

use std::path::Path;
use std::process::Command;

use anyhow::{Result, bail};
use xtask::toolchain::{Missing, Toolchain, tool, tools_dir};

use crate::packages::{self, Advice};
use crate::{step, workspace};

/// Debian's compiler with `core` for eBPF.
const RUST_PACKAGES: [&str; 3] = ["rustc-web", "cargo-web", "libstd-rust-web-dev-bpf"];

/// What bpf-linker links against: the LLVM of that compiler.
const LLVM_PACKAGES: [&str; 5] =
    ["llvm-22-dev", "libpolly-22-dev", "libzstd-dev", "zlib1g-dev", "libxml2-dev"];

/// The programs of the container's test, and Debian's packages that have them.
const CONTAINER_PROGRAMS: [&str; 4] =
    ["/usr/bin/systemd-nspawn", "/lib/systemd/systemd", "/usr/bin/setpriv", "/usr/bin/pgrep"];
const CONTAINER_PACKAGES: [&str; 4] = ["systemd", "systemd-container", "util-linux", "procps"];

/// Servers that take over sockets, as they are, and a client of one.
const SERVER_PROGRAMS: [&str; 4] =
    ["/usr/sbin/nginx", "/usr/bin/dbus-daemon", "/usr/bin/dbus-send", "/usr/bin/python3"];
/// Where they come from.
const SERVER_PACKAGES: [&str; 4] = ["nginx-light", "dbus-daemon", "dbus-bin", "python3"];

/// Where Debian puts that LLVM.
const LLVM_PREFIX: &str = "/usr/lib/llvm-22";

/// What to do where these packages do not exist.
const OTHER_WAY: &str = "\
Any other tool chain for bpfel-unknown-none serves as well:
  rustup toolchain install nightly --component rust-src
  cargo install bpf-linker";

/// Makes the eBPF tool chain complete, or says what is left to do.
pub(crate) fn ensure() -> Result<()> {
    let root = workspace::root();
    let Err(missing) = Toolchain::find(&root) else { return Ok(()) };
    println!("Building eBPF needs {missing}.");
    let packages = missing_packages(missing);
    if !packages.is_empty() {
        let then = missing.linker.then(|| step::command_line(&bpf_linker(&root)));
        packages::install(&packages, Advice { then: then.as_deref(), otherwise: OTHER_WAY })?;
    }
    if missing.linker {
        let mut command = bpf_linker(&root);
        println!(
            "Installing bpf-linker into {} with\n  {}",
            tools_dir(&root).display(),
            step::command_line(&command)
        );
        step::quiet("bpf-linker (about a minute)", &mut command)?;
    }
    match Toolchain::find(&root) {
        Ok(_) => Ok(()),
        Err(missing) => bail!("everything was installed, but {missing} cannot be found\n{OTHER_WAY}"),
    }
}

/// What to do where the packages of Prometheus do not exist.
const PROMETHEUS_OTHERWISE: &str = "\
Any prometheus, promtool and amtool on the PATH serve as well. Where systemd runs, the packages start servers on the ports
9090 and 9093, which no test needs: systemctl disable --now prometheus prometheus-alertmanager";

/// Everything that can be installed: what building needs, and what tests run.
pub(crate) fn all() -> Result<()> {
    ensure()?;
    ensure_prometheus()?;
    ensure_container()?;
    ensure_servers()
}

/// Prometheus and its promtool, which tests run beside defib, and the amtool of its Alertmanager.
pub(crate) fn ensure_prometheus() -> Result<()> {
    let root = workspace::root();
    if ["prometheus", "promtool", "amtool"].iter().all(|program| tool(&root, program).is_some()) {
        return Ok(());
    }
    println!("Tests of the metrics need prometheus, promtool and amtool.");
    packages::install(
        &["prometheus", "prometheus-alertmanager"],
        Advice { then: None, otherwise: PROMETHEUS_OTHERWISE },
    )
}

/// What the tests need besides: a systemd for the container in which defib is its unit. Root's tests only, so nobody else
/// is troubled with it.
pub(crate) fn ensure_container() -> Result<()> {
    if !workspace::is_root() || CONTAINER_PROGRAMS.iter().all(|path| Path::new(path).is_file()) {
        return Ok(());
    }
    println!("The tests of the unit need systemd-nspawn.");
    let otherwise = "systemd-nspawn and systemd itself have to be installed in another way";
    packages::install(&packages::missing(CONTAINER_PACKAGES), Advice { then: None, otherwise })
}

/// The servers to which tests pass sockets. Root's tests only, too: for anybody else those say that they are skipped.
pub(crate) fn ensure_servers() -> Result<()> {
    if !workspace::is_root() || SERVER_PROGRAMS.iter().all(|path| Path::new(path).is_file()) {
        return Ok(());
    }
    println!("The tests of held sockets need nginx, dbus and Python.");
    packages::install(&packages::missing(SERVER_PACKAGES), Advice::default())
}

/// As [`ensure`], for those who can do without: the reason is printed, and the work goes on.
pub(crate) fn attempt() {
    if let Err(error) = ensure() {
        println!("{error:#}\n\nGoing on without eBPF: defib runs on its other sources.");
    }
}

/// Tools that only the gate needs.
pub(crate) fn ensure_gate() -> Result<()> {
    ensure()?;
    for component in ["fmt", "clippy"] {
        let found = step::succeeds(&mut workspace::cargo(&[component, "--version"]));
        if !found {
            let name = if component == "fmt" { "rustfmt" } else { component };
            step::quiet(name, Command::new("rustup").args(["component", "add", name]))?;
        }
    }
    // Judges the manual pages; where it cannot be had, the test says that it is skipped.
    let roff = packages::missing(["groff-base"]);
    if !roff.is_empty() && workspace::is_root() {
        packages::install(&roff, Advice::default())?;
    }
    let root = workspace::root();
    if tool(&root, "cargo-deny").is_none() {
        let mut command = workspace::cargo(&["install", "cargo-deny", "--locked", "--debug", "--root"]);
        command.arg(tools_dir(&root));
        println!("Installing cargo-deny with\n  {}", step::command_line(&command));
        step::quiet("cargo-deny (some minutes)", &mut command)?;
    }
    Ok(())
}

fn missing_packages(missing: Missing) -> Vec<&'static str> {
    let rust = RUST_PACKAGES.iter().filter(|_| missing.rust);
    let llvm = LLVM_PACKAGES.iter().filter(|_| missing.linker);
    packages::missing(rust.chain(llvm).copied())
}

fn bpf_linker(root: &Path) -> Command {
    let mut command =
        workspace::cargo(&["install", "bpf-linker@0.13.0", "--locked", "--no-default-features"]);
    command.args(["--features", "llvm-22", "--root"]).arg(tools_dir(root));
    // Without the first it links against whichever LLVM comes first; the second is what its llvm-sys asks for.
    command.env("LLVM_PREFIX", LLVM_PREFIX).env("LLVM_SYS_221_PREFIX", LLVM_PREFIX);
    command
}
