//! Embeds the eBPF object, if the feature `ebpf` asks for it and its tool chain is there.
//!
//! The path of the object goes to the code as `DEFIB_EBPF_OBJECT`, and `cfg(ebpf_object)` says that there is one.

fn main() {
    println!("cargo::rustc-check-cfg=cfg(ebpf_object)");
    println!("cargo::rerun-if-changed=build.rs");
    build_info();
    #[cfg(feature = "ebpf")]
    object::embed();
}

/// From what this is built, for the metric of that name: the commit, and the compiler.
#[expect(clippy::disallowed_methods, reason = "a build script asks git and the compiler")]
fn build_info() {
    use std::process::Command;

    let answer = |program: &str, args: &[&str]| {
        let output = Command::new(program).args(args).output().ok().filter(|output| output.status.success());
        output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let unknown = || "unknown".to_owned();
    // Only a release says its commit: to a developer each commit would cost a build.
    let release = std::env::var("PROFILE").is_ok_and(|profile| profile == "release");
    let git = |args| if release { answer("git", args) } else { None };
    let revision = git(&["rev-parse", "--short=12", "HEAD"]);
    // A file that is not there would make cargo run the script each time.
    if let Some(log) = git(&["rev-parse", "--git-path", "logs/HEAD"])
        && std::path::Path::new(&log).exists()
    {
        println!("cargo::rerun-if-changed={log}");
    }
    let compiler = std::env::var("RUSTC").ok().and_then(|rustc| answer(&rustc, &["--version"]));
    let version = compiler.and_then(|text| Some(text.split(' ').nth(1)?.to_owned()));
    println!("cargo::rustc-env=DEFIB_REVISION={}", revision.unwrap_or_else(unknown));
    println!("cargo::rustc-env=DEFIB_RUSTC={}", version.unwrap_or_else(unknown));
}

#[cfg(feature = "ebpf")]
mod object {
    use std::path::{Path, PathBuf};
    use std::{env, fs};

    use xtask::ebpf;
    use xtask::toolchain::{self, Toolchain};

    pub(crate) fn embed() {
        let workspace = variable("CARGO_MANIFEST_DIR").join("..");
        let workspace = fs::canonicalize(&workspace).unwrap_or(workspace);
        for source in ["monitor-ebpf", "Cargo.lock", "Cargo.toml"] {
            println!("cargo::rerun-if-changed={}", workspace.join(source).display());
        }
        let toolchain = match Toolchain::find(&workspace) {
            Ok(toolchain) => toolchain,
            Err(missing) => {
                println!(
                    "cargo::warning=defib is built without eBPF, for want of {missing}; `cargo xtask build` mends it"
                );
                for folder in toolchain::watched(&workspace) {
                    println!("cargo::rerun-if-changed={}", folder.display());
                }
                return;
            }
        };
        let out_dir = variable("OUT_DIR");
        match ebpf::build(&toolchain, &workspace, &target_dir(&out_dir).join("ebpf")) {
            Ok(object) => {
                // A copy that belongs to this build, whatever another profile's build does to the shared one.
                let copy = out_dir.join("defib-ebpf");
                fs::copy(&object, &copy)
                    .unwrap_or_else(|error| panic!("cannot copy {}: {error}", object.display()));
                println!("cargo::rustc-cfg=ebpf_object");
                println!("cargo::rustc-env=DEFIB_EBPF_OBJECT={}", copy.display());
            }
            Err(error) => panic!("{error}"),
        }
    }

    /// The target folder that `out_dir` is in, by the tag that cargo puts there. One object serves every profile.
    fn target_dir(out_dir: &Path) -> PathBuf {
        let tagged = out_dir.ancestors().filter(|folder| folder.join("CACHEDIR.TAG").is_file()).last();
        tagged.unwrap_or(out_dir).to_owned()
    }

    fn variable(name: &str) -> PathBuf {
        env::var_os(name).map(PathBuf::from).unwrap_or_else(|| panic!("cargo sets {name}"))
    }
}
