//! Loads and attaches the probes, after looking for everything that would make the kernel refuse.

use std::fs;

use aya::programs::{BtfTracePoint, ProgramError};
use aya::{Ebpf, EbpfLoader};

use super::super::namespace::{self, Foreign};
use super::btf::Btf;
use super::error::EbpfError;
use super::maps::Abi;
use super::offsets::resolve;

/// The object, if there was a tool chain to build it.
#[cfg(ebpf_object)]
static OBJECT: Option<&[u8]> = Some(aya::include_bytes_aligned!(env!("DEFIB_EBPF_OBJECT")));
#[cfg(not(ebpf_object))]
static OBJECT: Option<&[u8]> = None;

/// The probes and their tracepoints, in the order in which they are attached: fork comes last, so that no process is
/// tracked whose end would not be heard.
pub(super) const PROBES: [(&str, &str); 4] = [
    ("on_exit", "sched_process_exit"),
    ("on_oom", "mark_victim"),
    ("on_exec", "sched_process_exec"),
    ("on_fork", "sched_process_fork"),
];

/// Bits of capability(7).
const CAP_SYS_ADMIN: u64 = 1 << 21;
const CAPABILITIES: [(&str, u64); 2] = [("CAP_BPF", 1 << 39), ("CAP_PERFMON", 1 << 38)];

/// Loads and attaches the probes, to follow the children of the process `keeper`. They are detached when the result is
/// dropped.
pub(super) fn load(keeper: u32) -> Result<Ebpf, EbpfError> {
    let object = OBJECT.ok_or(EbpfError::NoObject)?;
    check_namespaces()?;
    check_capabilities()?;
    let (offsets, facts) = resolve(&Btf::of_kernel().map_err(EbpfError::Btf)?, keeper)?;
    let (offsets, facts) = (Abi(offsets), Abi(facts));
    let btf = aya::Btf::from_sys_fs().map_err(|cause| EbpfError::KernelBtf(Box::new(cause)))?;
    let mut ebpf = EbpfLoader::new()
        .btf(Some(&btf))
        .override_global("OFFSETS", &offsets, true)
        .override_global("FACTS", &facts, true)
        .load(object)
        .map_err(|cause| EbpfError::Load(Box::new(cause)))?;
    for (probe, tracepoint) in PROBES {
        let program = program(&mut ebpf, probe)?;
        program.load(tracepoint, &btf).map_err(|error| refused(probe, error))?;
        program.attach().map_err(|cause| EbpfError::Attach { probe, cause: Box::new(cause) })?;
    }
    Ok(ebpf)
}

/// Loads and attaches the probes, and takes them away again. One line for each, as `defib load-probes` prints it.
pub fn probe_report() -> Result<Vec<String>, EbpfError> {
    // No process is tracked: the idle task, whose number this is, makes no children.
    report(&mut load(0)?)
}

/// One line for each probe: its tracepoint and what it cost the verifier.
pub(super) fn report(ebpf: &mut Ebpf) -> Result<Vec<String>, EbpfError> {
    let line = |(probe, tracepoint)| {
        let info = program(ebpf, probe)?.info().map_err(|error| refused(probe, error))?;
        let cost = info.verified_instruction_count().filter(|&count| count > 0);
        let cost = cost.map_or(String::new(), |count| format!(", {count} instructions verified"));
        Ok(format!("{probe} on tp_btf/{tracepoint}{cost}"))
    };
    PROBES.into_iter().map(line).collect()
}

fn program<'a>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<&'a mut BtfTracePoint, EbpfError> {
    let found = ebpf.program_mut(name).and_then(|program| program.try_into().ok());
    found.ok_or(EbpfError::Missing { what: "probe", name })
}

/// Keeps the verifier's log apart from the error, which must fit a line.
fn refused(probe: &'static str, error: ProgramError) -> EbpfError {
    match error {
        ProgramError::LoadError { io_error, verifier_log } => {
            EbpfError::Refused { probe, cause: io_error, log: verifier_log.to_string() }
        }
        other => EbpfError::Attach { probe, cause: Box::new(other) },
    }
}

fn check_namespaces() -> Result<(), EbpfError> {
    namespace::check().map_err(|foreign| match foreign {
        Foreign::Namespace(namespace) => EbpfError::Namespace { namespace },
        Foreign::Unreadable(path, cause) => EbpfError::Proc { path, cause },
    })
}

fn check_capabilities() -> Result<(), EbpfError> {
    let path = "/proc/self/status";
    let status = fs::read_to_string(path).map_err(|cause| EbpfError::Proc { path, cause })?;
    match lacking(&status) {
        Some(capabilities) => Err(EbpfError::Capabilities { capabilities }),
        None => Ok(()),
    }
}

/// The names of the capabilities that a `/proc/PID/status` does not show as effective.
fn lacking(status: &str) -> Option<String> {
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = effective.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
    if effective & CAP_SYS_ADMIN != 0 {
        return None;
    }
    let names: Vec<&str> =
        CAPABILITIES.iter().filter(|(_, bit)| effective & bit == 0).map(|(name, _)| *name).collect();
    (!names.is_empty()).then(|| names.join(" and "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_capabilities_that_are_lacking_are_named() {
        for (mask, expected) in [
            ("0000000000000000", Some("CAP_BPF and CAP_PERFMON")),
            ("0000004000000000", Some("CAP_BPF")),
            ("000000c000000000", None),
            ("0000000000200000", None),
            ("000001ffffffffff", None),
            ("nonsense", Some("CAP_BPF and CAP_PERFMON")),
        ] {
            let status = format!("Name:\tx\nCapPrm:\tffffffffffffffff\nCapEff:\t{mask}\n");
            assert_eq!(lacking(&status).as_deref(), expected, "{mask}");
        }
    }
}
