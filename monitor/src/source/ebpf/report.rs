//! What came of each probe, for the log, `defib load-probes` and `doctor`.

use std::fmt;

use super::error::EbpfError;

/// What a probe is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hook {
    /// The BTF tracepoint of that name.
    Tracepoint(&'static str),
    /// The kernel's objects of that kind: whoever reads the iterator runs it for each of them. It is attached to nothing.
    Iterator(&'static str),
}

impl fmt::Display for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tracepoint(name) => write!(f, "tp_btf/{name}"),
            Self::Iterator(kind) => write!(f, "iter/{kind}"),
        }
    }
}

/// One probe.
#[derive(Debug)]
pub struct ProbeReport {
    /// The function in the object.
    pub probe: &'static str,
    /// What it is for.
    pub hook: Hook,
    /// How many instructions the verifier looked at, where the kernel tells (5.16), if the probe is attached; else why
    /// it was left out. [`EbpfError::verifier_log`] has what the verifier said.
    pub outcome: Result<Option<u32>, EbpfError>,
}

impl fmt::Display for ProbeReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { probe, hook, outcome } = self;
        write!(f, "{probe} on {hook}")?;
        match outcome {
            Ok(Some(instructions)) => write!(f, ", {instructions} instructions verified"),
            Ok(None) => Ok(()),
            Err(error) => write!(f, ", left out: {}", error.chain()),
        }
    }
}
