//! Embeds the eBPF object, if the feature `ebpf` asks for it and its tool chain is there.
//!
//! The path of the object goes to the code as `DEFIB_EBPF_OBJECT`, and `cfg(ebpf_object)` says that there is one.

fn main() {
    println!("cargo::rustc-check-cfg=cfg(ebpf_object)");
    println!("cargo::rerun-if-changed=build.rs");
    #[cfg(feature = "ebpf")]
    object::embed();
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
