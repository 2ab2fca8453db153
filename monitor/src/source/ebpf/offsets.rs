//! Resolves what the probes must know of the running kernel.

use defib_ebpf::{Facts, Offsets};

use super::btf::Btf;
use super::error::EbpfError;

/// The offsets and facts of the kernel that `btf` describes, for probes that follow the children of `keeper`.
pub(super) fn resolve(btf: &Btf, keeper: u32) -> Result<(Offsets, Facts), EbpfError> {
    let mut offsets = [0; Offsets::PATHS.len()];
    for (offset, path) in offsets.iter_mut().zip(Offsets::PATHS) {
        *offset = btf.offset(path).ok_or_else(|| EbpfError::Kernel { what: path.into() })?;
    }
    let arguments = |tracepoint: &str| {
        let found = btf.tracepoint(tracepoint).filter(|arguments| !arguments.is_empty());
        found.ok_or_else(|| EbpfError::Kernel { what: format!("tracepoint {tracepoint}") })
    };
    let facts = Facts {
        keeper_tgid: keeper,
        exit_has_group_dead: (arguments("sched_process_exit")?.len() > 1).into(),
        oom_arg_is_task: btf.is_pointer(arguments("mark_victim")?[0]).into(),
    };
    Ok((Offsets::from_array(offsets), facts))
}
