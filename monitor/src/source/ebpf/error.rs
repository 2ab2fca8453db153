//! Why the eBPF source cannot be had, and what to do about it.

use std::io;

use aya::maps::MapError;
use aya::programs::ProgramError;

use super::btf::BtfError;

/// Why the eBPF source cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum EbpfError {
    /// The tool chain was missing when this binary was built, or the feature was off.
    #[error("this defib was built without its eBPF programs; build it with `cargo xtask build`")]
    NoObject,
    /// What the kernel calls a process is not what this process calls it.
    #[error(
        "defib is in a {namespace} namespace of its own, which the kernel's events do not speak of; run it in the host's"
    )]
    Namespace {
        /// `pid`, `user` or `time`.
        namespace: &'static str,
    },
    /// The kernel would refuse.
    #[error("defib lacks {capabilities}; run it as root or grant them")]
    Capabilities {
        /// Their names.
        capabilities: String,
    },
    /// `/proc` does not tell what has to be known.
    #[error("cannot read {path}")]
    Proc {
        /// The file.
        path: &'static str,
        /// Why not.
        #[source]
        cause: io::Error,
    },
    /// The kernel does not describe its types.
    #[error(
        "the kernel's types cannot be had from {}; it must be built with CONFIG_DEBUG_INFO_BTF",
        super::btf::VMLINUX
    )]
    Btf(#[source] BtfError),
    /// aya's own reader of the kernel's types gave up.
    #[error("the kernel's types cannot be used")]
    KernelBtf(#[source] Box<aya::BtfError>),
    /// The kernel is too old, or so new that something was renamed.
    #[error("this kernel has no `{what}`; that needs Linux {since} or later")]
    Kernel {
        /// The BTF path of the field, the tracepoint, or the function.
        what: String,
        /// The first version that has it.
        since: &'static str,
    },
    /// The object or one of its maps could not be loaded.
    #[error("the eBPF object cannot be loaded")]
    Load(#[source] Box<aya::EbpfError>),
    /// The verifier refused a probe, or the kernel all probes.
    #[error("the kernel refused the probe `{probe}`")]
    Refused {
        /// The function in the object.
        probe: &'static str,
        /// What bpf(2) answered.
        #[source]
        cause: io::Error,
        /// What the verifier has to say, over many lines.
        log: String,
    },
    /// Whoever has pinned the probes was refused this one.
    #[error(
        "the probe `{probe}` is not among those that are pinned, because it was refused when they were loaded"
    )]
    LeftOut {
        /// The function in the object.
        probe: &'static str,
    },
    /// A probe was loaded but could not be attached.
    #[error("the probe `{probe}` cannot be attached")]
    Attach {
        /// The function in the object.
        probe: &'static str,
        /// Why not.
        #[source]
        cause: Box<ProgramError>,
    },
    /// The object is not the one that this code was written with.
    #[error("the eBPF object has no {what} `{name}`")]
    Missing {
        /// `probe` or `map`.
        what: &'static str,
        /// Its name.
        name: &'static str,
    },
    /// A map could not be used.
    #[error("the map `{map}` cannot be used")]
    Map {
        /// Its name in the object.
        map: &'static str,
        /// Why not.
        #[source]
        cause: Box<MapError>,
    },
    /// A descriptor could not be duplicated.
    #[error("a program's descriptor cannot be kept")]
    Descriptor(#[source] io::Error),
    /// The ring could not be waited for.
    #[error("the ring cannot be polled")]
    Poll(#[source] io::Error),
}

impl EbpfError {
    /// The verifier's log, if it was the verifier that refused.
    pub fn verifier_log(&self) -> Option<&str> {
        match self {
            Self::Refused { log, .. } if !log.is_empty() => Some(log),
            _ => None,
        }
    }

    /// The error with all its causes, on one line.
    pub fn chain(&self) -> String {
        super::super::any::chain(self)
    }
}
