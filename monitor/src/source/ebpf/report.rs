//! What came of each probe, for the log, `defib load-probes` and `doctor`.

use std::fmt;

use super::error::EbpfError;

/// One probe.
#[derive(Debug)]
pub struct ProbeReport {
    /// The function in the object.
    pub probe: &'static str,
    /// The BTF tracepoint that it is for.
    pub tracepoint: &'static str,
    /// How many instructions the verifier looked at, where the kernel tells (5.16), if the probe is attached; else why
    /// it was left out. [`EbpfError::verifier_log`] has what the verifier said.
    pub outcome: Result<Option<u32>, EbpfError>,
}

impl fmt::Display for ProbeReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { probe, tracepoint, outcome } = self;
        write!(f, "{probe} on tp_btf/{tracepoint}")?;
        match outcome {
            Ok(Some(instructions)) => write!(f, ", {instructions} instructions verified"),
            Ok(None) => Ok(()),
            Err(error) => write!(f, ", left out: {}", error.chain()),
        }
    }
}
