//! Finds what compiles eBPF: a rustc that has or can build `core` for the target, and bpf-linker.

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::{env, fs};

/// The target: little endian, as every architecture that defib runs on.
pub const TARGET: &str = "bpfel-unknown-none";

/// Debian's compiler for the web browsers, kept new in stable releases, with `core` for eBPF ready-made.
const DEBIAN: &str = "/usr";

/// Where Debian puts that `core`, below the sysroot.
const DEBIAN_CORE: &str = "lib/rustlib/bpfel-unknown-none/lib";

/// Everything an eBPF build needs.
#[derive(Clone, Debug)]
pub struct Toolchain {
    /// The compiler.
    pub rust: Rust,
    /// bpf-linker.
    pub linker: PathBuf,
}

/// A compiler that can target eBPF, by the folder above its `bin`.
#[derive(Clone, Debug)]
pub enum Rust {
    /// Has `core` for the target.
    Prebuilt(PathBuf),
    /// A nightly of rustup with the source of `core`, which each build compiles.
    BuildsCore(PathBuf),
}

/// What is not there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Missing {
    /// No compiler for the target.
    pub rust: bool,
    /// No bpf-linker.
    pub linker: bool,
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rust = self.rust.then_some("a rustc with `core` for bpfel-unknown-none");
        let linker = self.linker.then_some("bpf-linker");
        let parts: Vec<&str> = rust.into_iter().chain(linker).collect();
        f.write_str(&parts.join(" and "))
    }
}

impl Rust {
    /// The folder that holds `rustc` and `cargo`.
    pub fn bin(&self) -> PathBuf {
        match self {
            Self::Prebuilt(prefix) | Self::BuildsCore(prefix) => prefix.join("bin"),
        }
    }

    fn find() -> Option<Self> {
        let complete =
            |prefix: &Path| ["bin/rustc", "bin/cargo"].iter().all(|tool| prefix.join(tool).is_file());
        let debian = PathBuf::from(DEBIAN);
        if complete(&debian) && debian.join(DEBIAN_CORE).is_dir() {
            return Some(Self::Prebuilt(debian));
        }
        let mut nightlies: Vec<PathBuf> = fs::read_dir(rustup_home()?.join("toolchains"))
            .ok()?
            .filter_map(|entry| Some(entry.ok()?.path()))
            .filter(|path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("nightly")))
            .filter(|path| complete(path) && path.join("lib/rustlib/src/rust/library/core").is_dir())
            .collect();
        // `nightly-x86_64…` sorts behind `nightly-2026-…`: an undated one is preferred.
        nightlies.sort();
        nightlies.pop().map(Self::BuildsCore)
    }
}

impl Toolchain {
    /// Looks for the tool chain, in about a millisecond.
    pub fn find(workspace: &Path) -> Result<Self, Missing> {
        match (Rust::find(), linker(workspace)) {
            (Some(rust), Some(linker)) => Ok(Self { rust, linker }),
            (rust, linker) => Err(Missing { rust: rust.is_none(), linker: linker.is_none() }),
        }
    }
}

/// Where `cargo xtask setup` installs tools: in the checkout, whatever `CARGO_TARGET_DIR` says, not in the user's home.
pub fn tools_dir(workspace: &Path) -> PathBuf {
    workspace.join("target/tools")
}

/// A program in the tools folder, on the PATH or in cargo's own folder.
pub fn tool(workspace: &Path, name: &str) -> Option<PathBuf> {
    let on_path = env::var_os("PATH").unwrap_or_default();
    std::iter::once(tools_dir(workspace).join("bin"))
        .chain(env::split_paths(&on_path).filter(|folder| folder.is_absolute()))
        .chain(cargo_bin())
        .map(|folder| folder.join(name))
        .find(|path| path.is_file())
}

/// The folders in which a missing tool chain will appear when somebody installs it. All are small.
pub fn watched(workspace: &Path) -> Vec<PathBuf> {
    let tools = tools_dir(workspace).join("bin");
    // Cargo takes a folder that is not there for changed, each time; an empty one costs nothing.
    let made = fs::create_dir_all(&tools).is_ok();
    let folders = [Some(tools).filter(|_| made), Some(PathBuf::from(DEBIAN).join("bin")), cargo_bin()];
    folders.into_iter().flatten().filter(|folder| folder.is_dir()).collect()
}

fn linker(workspace: &Path) -> Option<PathBuf> {
    tool(workspace, "bpf-linker")
}

fn cargo_bin() -> Option<PathBuf> {
    Some(home("CARGO_HOME", ".cargo")?.join("bin"))
}

fn rustup_home() -> Option<PathBuf> {
    home("RUSTUP_HOME", ".rustup")
}

fn home(variable: &str, default: &str) -> Option<PathBuf> {
    let set = |name: &str| env::var_os(name).filter(|value: &OsString| !value.is_empty()).map(PathBuf::from);
    set(variable).or_else(|| Some(set("HOME")?.join(default)))
}
