//! Builds the eBPF object.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::{env, fmt, io};

use crate::toolchain::{Rust, TARGET, Toolchain};

/// The profile of the object, whatever the workspace's profiles say: BTF needs the debug info, and the programs fit the
/// verifier only when optimised.
const PROFILE: [(&str, &str); 6] = [
    ("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "1"),
    ("CARGO_PROFILE_RELEASE_DEBUG", "2"),
    ("CARGO_PROFILE_RELEASE_LTO", "fat"),
    ("CARGO_PROFILE_RELEASE_OPT_LEVEL", "3"),
    ("CARGO_PROFILE_RELEASE_PANIC", "abort"),
    ("CARGO_PROFILE_RELEASE_STRIP", "none"),
];

/// Variables by which an outer cargo or a user's shell would steer the inner one.
const LEAKS: [&str; 8] = [
    "CARGO_BUILD_",
    "CARGO_CFG_",
    "CARGO_ENCODED_RUSTFLAGS",
    "CARGO_FEATURE_",
    "CARGO_MAKEFLAGS",
    "CARGO_PROFILE_",
    "CARGO_TARGET_",
    "RUST",
];

/// Why there is no object.
#[derive(Debug)]
pub enum BuildError {
    /// The compiler could not be started.
    Start { cargo: PathBuf, cause: io::Error },
    /// The compiler said no; this is what it said.
    Compile { output: String },
}

impl fmt::Display for BuildError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Start { cargo, cause } => write!(f, "cannot start {}: {cause}", cargo.display()),
            Self::Compile { output } => write!(f, "the eBPF programs do not compile:\n{output}"),
        }
    }
}

impl std::error::Error for BuildError {}

/// Builds the eBPF programs of `workspace` in `target_dir` and returns the path of the object.
///
/// `target_dir` must not be the one of a cargo that waits for this call: the two would wait for one lock.
pub fn build(toolchain: &Toolchain, workspace: &Path, target_dir: &Path) -> Result<PathBuf, BuildError> {
    let bin = toolchain.rust.bin();
    let cargo = bin.join("cargo");
    let mut command = Command::new(&cargo);
    for (name, _) in env::vars_os() {
        if name
            .to_str()
            .is_some_and(|name| LEAKS.iter().any(|leak| name.starts_with(leak)) && name != "RUSTUP_HOME")
        {
            command.env_remove(name);
        }
    }
    let arch = env::consts::ARCH;
    let flags =
        [format!("--cfg=bpf_target_arch=\"{arch}\""), "-Cdebuginfo=2".into(), "-Clink-arg=--btf".into()];
    command
        .current_dir(workspace)
        .args(["build", "--locked", "--release", "--package", "defib-ebpf", "--bin", "defib-ebpf"])
        .args(["--features", "programs", "--target", TARGET, "--target-dir"])
        .arg(target_dir)
        .envs(PROFILE)
        // aya-ebpf needs one unstable feature; this makes a stable compiler take it.
        .env("RUSTC_BOOTSTRAP", "1")
        .env("RUSTC", bin.join("rustc"))
        .env("RUSTC_WRAPPER", "")
        // Build scripts of dependencies look for `rustc` on the PATH: they must not find rustup's.
        .env("PATH", prepended(&bin))
        .env("CARGO_TARGET_BPFEL_UNKNOWN_NONE_LINKER", &toolchain.linker)
        .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"))
        .stdin(Stdio::null());
    if let Rust::BuildsCore(_) = toolchain.rust {
        command.arg("-Zbuild-std=core");
    }
    let output = command.output().map_err(|cause| BuildError::Start { cargo, cause })?;
    if !output.status.success() {
        return Err(BuildError::Compile { output: String::from_utf8_lossy(&output.stderr).into_owned() });
    }
    Ok(target_dir.join(TARGET).join("release/defib-ebpf"))
}

fn prepended(bin: &Path) -> std::ffi::OsString {
    let old = env::var_os("PATH").unwrap_or_default();
    let folders = std::iter::once(bin.to_owned()).chain(env::split_paths(&old));
    env::join_paths(folders).unwrap_or(old)
}
