//! The proc connector, tried as the source tries it: asked to tell, and once it has answered, to stop.

use super::bpf::told;
use super::row::{Group, Row};
use crate::source::{self, SourceChoice, SourceError};

const GROUP: Group = Group::Sources;

/// What it costs, as measured: a fork, exec and exit with and without a listener.
const COST: &str = "costs every fork, exec and exit of the host about 30 %";

/// Why the source cannot be had, if it cannot.
pub(super) fn refusal() -> Option<SourceError> {
    // No process is followed: 0 is nobody's parent.
    source::open(&SourceChoice::ProcConnector, 0, None).err()
}

/// Whether the kernel would tell.
pub(super) fn row(refusal: Option<&SourceError>) -> Row {
    let name = "proc-connector";
    let Some(error) = refusal else { return GROUP.ok(name, format!("answers; in use it {COST}")) };
    let (found, remedy) = told(error);
    let fallback = "needed only where there is no eBPF";
    let remedy = if remedy.is_empty() { fallback.to_owned() } else { format!("{remedy}; {fallback}") };
    GROUP.missing(name, found, remedy)
}
