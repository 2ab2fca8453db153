//! Loads and attaches the probes, after looking for everything that would make the kernel refuse.

use aya::programs::{BtfTracePoint, ProgramError};
use aya::{Ebpf, EbpfLoader};
use defib_ebpf::Group;

use super::super::namespace::{self, Foreign};
use super::super::rights;
use super::btf::Btf;
use super::error::EbpfError;
use super::maps::Abi;
use super::offsets::{Resolved, resolve};
use super::report::ProbeReport;

/// The object, if there was a tool chain to build it.
#[cfg(ebpf_object)]
static OBJECT: Option<&[u8]> = Some(aya::include_bytes_aligned!(env!("DEFIB_EBPF_OBJECT")));
#[cfg(not(ebpf_object))]
static OBJECT: Option<&[u8]> = None;

/// A program of the object.
pub(super) struct Probe {
    /// The function.
    pub(super) name: &'static str,
    /// The BTF tracepoint that it is for.
    pub(super) tracepoint: &'static str,
    /// Without a probe of the base there is no source; others are left out where the kernel refuses them.
    group: Group,
}

const fn probe(name: &'static str, tracepoint: &'static str, group: Group) -> Probe {
    Probe { name, tracepoint, group }
}

/// Tells who sends a signal. Without it nothing is known of senders.
pub(super) const ON_GENERATE: &str = "on_generate";
/// Tells of sockets that listen.
pub(super) const ON_STATE: &str = "on_state";

/// The probes in the order in which they are attached: fork comes last, so that no process is tracked whose end would
/// not be heard.
pub(super) const PROBES: [Probe; 7] = [
    probe("on_exit", "sched_process_exit", Group::Base),
    probe("on_oom", "mark_victim", Group::Base),
    probe("on_exec", "sched_process_exec", Group::Base),
    probe(ON_GENERATE, "signal_generate", Group::Signals),
    probe("on_deliver", "signal_deliver", Group::Signals),
    probe(ON_STATE, "inet_sock_set_state", Group::Ports),
    probe("on_fork", "sched_process_fork", Group::Base),
];

const CAPABILITIES: [(&str, u64); 2] = [("CAP_BPF", rights::BPF), ("CAP_PERFMON", rights::PERFMON)];

/// The attached probes, which are detached when this is dropped.
pub(super) struct Loaded {
    pub(super) object: Ebpf,
    /// What came of each, in the order of [`PROBES`].
    pub(super) reports: Vec<ProbeReport>,
}

impl Loaded {
    /// Whether a probe is attached.
    pub(super) fn has(&self, name: &str) -> bool {
        self.reports.iter().any(|report| report.probe == name && report.outcome.is_ok())
    }

    /// A probe that is attached.
    pub(super) fn probe(&self, name: &str) -> Option<&BtfTracePoint> {
        self.object.program(name)?.try_into().ok()
    }
}

/// Loads and attaches the probes, to follow the children of the process `keeper`.
pub(super) fn load(keeper: u32) -> Result<Loaded, EbpfError> {
    load_for(&resolve_here(keeper)?)
}

/// What the probes must know of this kernel, if it may be asked to load them at all.
pub(super) fn resolve_here(keeper: u32) -> Result<Resolved, EbpfError> {
    if OBJECT.is_none() {
        return Err(EbpfError::NoObject);
    }
    check_namespaces()?;
    check_capabilities()?;
    resolve(&Btf::of_kernel().map_err(EbpfError::Btf)?, keeper)
}

/// Loads and attaches the probes with these offsets and facts.
pub(super) fn load_for(resolved: &Resolved) -> Result<Loaded, EbpfError> {
    let object = OBJECT.ok_or(EbpfError::NoObject)?;
    let (offsets, facts) = (Abi(resolved.offsets), Abi(resolved.facts));
    let btf = aya::Btf::from_sys_fs().map_err(|cause| EbpfError::KernelBtf(Box::new(cause)))?;
    let mut object = EbpfLoader::new()
        .btf(Some(&btf))
        .override_global("OFFSETS", &offsets, true)
        .override_global("FACTS", &facts, true)
        .load(object)
        .map_err(|cause| EbpfError::Load(Box::new(cause)))?;
    let mut reports = Vec::new();
    for probe in &PROBES {
        let Probe { name, tracepoint, group } = *probe;
        let outcome = resolved.check(group).and_then(|()| attach(program(&mut object, name)?, probe, &btf));
        let outcome = match (outcome, group) {
            (Err(error), Group::Base) => return Err(error),
            (outcome, _) => outcome,
        };
        reports.push(ProbeReport { probe: name, tracepoint, outcome });
    }
    Ok(Loaded { object, reports })
}

/// Loads and attaches one program, and says how many instructions the verifier looked at.
fn attach(program: &mut BtfTracePoint, probe: &Probe, btf: &aya::Btf) -> Result<Option<u32>, EbpfError> {
    let Probe { name, tracepoint, .. } = *probe;
    program.load(tracepoint, btf).map_err(|error| refused(name, error))?;
    let failed = |cause| EbpfError::Attach { probe: name, cause: Box::new(cause) };
    program.attach().map_err(failed)?;
    let info = program.info().map_err(failed)?;
    Ok(info.verified_instruction_count().filter(|&count| count > 0))
}

/// Loads and attaches the probes, says what came of each, and takes them away again. An error if there would be no
/// source; a probe that would be left out is none.
pub fn probes() -> Result<Vec<ProbeReport>, EbpfError> {
    // No process is tracked: the idle task, whose number this is, makes no children.
    Ok(load(0)?.reports)
}

/// The same as lines, as `defib load-probes` prints them.
pub fn probe_report() -> Result<Vec<String>, EbpfError> {
    Ok(lines(&probes()?))
}

/// One line for each probe.
pub(super) fn lines(reports: &[ProbeReport]) -> Vec<String> {
    reports.iter().map(ToString::to_string).collect()
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
    let effective = rights::effective().map_err(|cause| EbpfError::Proc { path: rights::STATUS, cause })?;
    match lacking(effective) {
        Some(capabilities) => Err(EbpfError::Capabilities { capabilities }),
        None => Ok(()),
    }
}

/// The names of the capabilities that are not among these.
fn lacking(effective: u64) -> Option<String> {
    if effective & rights::SYS_ADMIN != 0 {
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
        for (effective, expected) in [
            (0, Some("CAP_BPF and CAP_PERFMON")),
            (rights::PERFMON, Some("CAP_BPF")),
            (rights::PERFMON | rights::BPF, None),
            (rights::SYS_ADMIN, None),
        ] {
            assert_eq!(lacking(effective).as_deref(), expected, "{effective:#x}");
        }
    }
}
