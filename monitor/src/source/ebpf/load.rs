//! Loads and attaches the probes, after looking for everything that would make the kernel refuse.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use aya::programs::links::FdLink;
use aya::programs::{self, BtfTracePoint, Iter, ProgramError};
use aya::{Ebpf, EbpfLoader};
use defib_ebpf::Group;

use super::super::namespace::{self, Foreign};
use super::super::rights;
use super::btf::Btf;
use super::control::Control;
use super::error::EbpfError;
use super::maps::Abi;
use super::offsets::{Resolved, resolve};
use super::report::{Hook, ProbeReport};
use super::shape::{self, Shelf};

/// The object, if there was a tool chain to build it.
#[cfg(ebpf_object)]
static OBJECT: Option<&[u8]> = Some(aya::include_bytes_aligned!(env!("DEFIB_EBPF_OBJECT")));
#[cfg(not(ebpf_object))]
static OBJECT: Option<&[u8]> = None;

/// A program of the object.
pub(super) struct Probe {
    /// The function.
    pub(super) name: &'static str,
    /// What it is for.
    pub(super) hook: Hook,
    /// Without a probe of the base there is no source; others are left out where the kernel refuses them.
    pub(super) group: Group,
}

const fn probe(name: &'static str, tracepoint: &'static str, group: Group) -> Probe {
    Probe { name, hook: Hook::Tracepoint(tracepoint), group }
}

/// Tells who sends a signal. Without it nothing is known of senders.
pub(super) const ON_GENERATE: &str = "on_generate";
/// Tells of sockets that listen.
pub(super) const ON_STATE: &str = "on_state";

/// Counts connections for it where the kernel has skipped it.
pub(super) const ON_STATE_AGAIN: &str = "on_state_again";

/// Tells what tasks use.
pub(super) const ON_TASK: &str = "on_task";

/// The probes in the order in which they are attached: fork comes last, so that no process is tracked whose end would
/// not be heard.
pub(super) const PROBES: [Probe; 9] = [
    probe("on_exit", "sched_process_exit", Group::Base),
    probe("on_oom", "mark_victim", Group::Base),
    probe("on_exec", "sched_process_exec", Group::Base),
    probe(ON_GENERATE, "signal_generate", Group::Signals),
    probe("on_deliver", "signal_deliver", Group::Signals),
    probe(ON_STATE, "inet_sock_set_state", Group::Ports),
    probe(ON_STATE_AGAIN, "inet_sock_set_state", Group::Connections),
    Probe { name: ON_TASK, hook: Hook::Iterator("task"), group: Group::Tasks },
    probe("on_fork", "sched_process_fork", Group::Base),
];

const CAPABILITIES: [(&str, u64); 2] = [("CAP_BPF", rights::BPF), ("CAP_PERFMON", rights::PERFMON)];

/// The attached probes. Dropping it detaches those that are not pinned.
pub(super) struct Loaded {
    /// What user space uses of the maps.
    pub(super) maps: Shelf,
    /// The programs that are attached.
    pub(super) programs: Vec<Program>,
    /// What came of each, in the order of [`PROBES`].
    pub(super) reports: Vec<ProbeReport>,
    /// What was loaded here: nothing if all was pinned already, or when it has been taken.
    pub(super) object: Option<Ebpf>,
    /// That which tells what tasks use, if it was pinned already, until it is taken.
    pub(super) tasks: Option<Iter>,
}

/// A program that is attached.
pub(super) struct Program {
    pub(super) name: &'static str,
    pub(super) fd: OwnedFd,
    /// While it lives, or its pin, the program is attached, if it is one that can be.
    pub(super) link: Option<FdLink>,
}

impl Loaded {
    /// Whether a probe is attached.
    pub(super) fn has(&self, name: &str) -> bool {
        self.reports.iter().any(|report| report.probe == name && report.outcome.is_ok())
    }

    /// The programs that are attached, all but these.
    pub(super) fn programs_but(&self, names: &[&str]) -> impl Iterator<Item = BorrowedFd<'_>> {
        let others = self.programs.iter().filter(|program| !names.contains(&program.name));
        others.map(|program| program.fd.as_fd())
    }
}

/// Loads and attaches the probes, to follow the children of the process `keeper`.
pub(super) fn load(keeper: u32) -> Result<Loaded, EbpfError> {
    check()?;
    load_for(&resolve_here()?, keeper)
}

/// Whether this process may ask the kernel to load them, or to open those that are pinned.
pub(super) fn check() -> Result<(), EbpfError> {
    if OBJECT.is_none() {
        return Err(EbpfError::NoObject);
    }
    check_namespaces()?;
    check_capabilities()
}

/// What tells this object from others: its bytes, eight by eight (FNV-1a over words).
pub(super) fn fingerprint() -> u64 {
    OBJECT.unwrap_or_default().chunks(8).fold(0xcbf2_9ce4_8422_2325, |hash, bytes| {
        let mut word = [0; 8];
        word[..bytes.len()].copy_from_slice(bytes);
        (hash ^ u64::from_le_bytes(word)).wrapping_mul(0x0100_0000_01b3)
    })
}

/// What the probes must know of this kernel.
pub(super) fn resolve_here() -> Result<Resolved, EbpfError> {
    resolve(&Btf::of_kernel().map_err(EbpfError::Btf)?)
}

/// Loads and attaches the probes with these offsets and facts.
pub(super) fn load_for(resolved: &Resolved, keeper: u32) -> Result<Loaded, EbpfError> {
    let object = OBJECT.ok_or(EbpfError::NoObject)?;
    let (offsets, facts) = (Abi(resolved.offsets), Abi(resolved.facts));
    let btf = aya::Btf::from_sys_fs().map_err(|cause| EbpfError::KernelBtf(Box::new(cause)))?;
    let mut object = EbpfLoader::new()
        .btf(Some(&btf))
        .override_global("OFFSETS", &offsets, true)
        .override_global("FACTS", &facts, true)
        .load(object)
        .map_err(|cause| EbpfError::Load(Box::new(cause)))?;
    let maps = shape::shelf(&mut object)?;
    // Before the first of them runs.
    Control::of(&maps)?.serve(keeper)?;
    let (mut reports, mut programs) = (Vec::new(), Vec::new());
    for probe in &PROBES {
        let Probe { name, hook, group } = *probe;
        let attached = resolved.check(group).and_then(|()| attach(&mut object, probe, &btf));
        let outcome = match (attached, group) {
            (Err(error), Group::Base) => return Err(error),
            (Err(error), _) => Err(error),
            (Ok((program, count)), _) => {
                programs.push(program);
                Ok(count)
            }
        };
        reports.push(ProbeReport { probe: name, hook, outcome });
    }
    Ok(Loaded { maps, programs, reports, object: Some(object), tasks: None })
}

/// Loads and attaches one program, and says how many instructions the verifier looked at.
fn attach(object: &mut Ebpf, probe: &Probe, btf: &aya::Btf) -> Result<(Program, Option<u32>), EbpfError> {
    let Probe { name, hook, .. } = *probe;
    let failed = |cause| EbpfError::Attach { probe: name, cause: Box::new(cause) };
    let program = object.program_mut(name).ok_or(EbpfError::Missing { what: "probe", name })?;
    let link = match hook {
        Hook::Tracepoint(tracepoint) => {
            let program: &mut BtfTracePoint = of_kind(program, name)?;
            program.load(tracepoint, btf).map_err(|error| refused(name, error))?;
            Some(program.attach().and_then(|id| program.take_link(id)).map_err(failed)?.into())
        }
        Hook::Iterator(kind) => {
            let program: &mut Iter = of_kind(program, name)?;
            program.load(kind, btf).map_err(|error| refused(name, error))?;
            None
        }
    };
    let info = program.info().map_err(failed)?;
    let fd = program.fd().map_err(failed)?.as_fd().try_clone_to_owned().map_err(EbpfError::Descriptor)?;
    let count = info.verified_instruction_count().filter(|&count| count > 0);
    Ok((Program { name, fd, link }, count))
}

/// A program of the object as what it was made for.
fn of_kind<'a, T>(program: &'a mut programs::Program, name: &'static str) -> Result<&'a mut T, EbpfError>
where
    &'a mut T: TryFrom<&'a mut programs::Program>,
{
    program.try_into().map_err(|_other_kind| EbpfError::Missing { what: "probe", name })
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
