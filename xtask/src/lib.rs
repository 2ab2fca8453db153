//! The eBPF build, shared by `monitor/build.rs` and the `xtask` binary. Needs nothing but std, so that building
//! defib does not wait for the dependencies of its tasks.

#![forbid(unsafe_code)]
#![expect(clippy::disallowed_methods, reason = "build tools start compilers; no keeper has to know them")]

pub mod ebpf;
pub mod toolchain;
