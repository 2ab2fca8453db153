//! What makes restarts quick where milliseconds matter. Nothing here is needed for restarts as such.

use std::fs;
use std::path::PathBuf;

use rustix::process::{Resource, getrlimit};

use super::btf;
use super::facts::{Facts, brief, text, word};
use super::rights::{self, Place};
use super::row::{Group, Row};

const GROUP: Group = Group::Latency;

pub(super) fn rows(facts: &Facts) -> Vec<Row> {
    vec![pressure(), realtime(facts), ptrace(facts), release(facts)]
}

fn pressure() -> Row {
    // The file may be there and refuse: psi=0.
    match text("/proc/pressure/memory") {
        Ok(_) => GROUP.ok("pressure", "the kernel tells when memory or CPU is short"),
        Err(error) => {
            let found = format!("/proc/pressure/memory: {}; shortages are not told", brief(&error));
            GROUP.limited("pressure", found, "a kernel with CONFIG_PSI, booted with psi=1")
        }
    }
}

/// By the rules of sched_setscheduler(2), not by trying: no safe wrapper offers the call.
fn realtime(facts: &Facts) -> Row {
    let name = "realtime";
    let capable = facts.rights.has(&rights::SYS_NICE) && facts.namespaces.user != Place::Own;
    let priority = getrlimit(Resource::Rtprio).current.unwrap_or(u64::MAX);
    if !capable && priority == 0 {
        let remedy = "grant CAP_SYS_NICE, or LimitRTPRIO=1 in the unit";
        return GROUP.missing(name, "neither CAP_SYS_NICE nor RLIMIT_RTPRIO allows it", remedy);
    }
    if word("/proc/sys/kernel/sched_rt_runtime_us").as_deref() == Some("0") {
        let remedy = "sysctl kernel.sched_rt_runtime_us=950000";
        return GROUP.missing(name, "the kernel leaves realtime tasks no time", remedy);
    }
    if let Some(group) = without_time(facts) {
        let found = format!("{} has no realtime (RT_GROUP_SCHED)", group.display());
        return GROUP.missing(name, found, "give it cpu.rt_runtime_us, or boot with rt_group_sched=0");
    }
    let by = if capable { "CAP_SYS_NICE" } else { "RLIMIT_RTPRIO" };
    GROUP.ok(name, format!("allowed ({by}): a new life can get the CPU at once under load"))
}

/// The group of this process, if it has no share of realtime: a kernel with RT_GROUP_SCHED then refuses.
fn without_time(facts: &Facts) -> Option<PathBuf> {
    let old = facts
        .mounts
        .iter()
        .find(|mount| mount.filesystem == "cgroup" && mount.options.iter().any(|option| option == "cpu"));
    if let Some(mount) = old {
        let group = mount.point.join(path_of(&facts.membership, "cpu")?.trim_start_matches('/'));
        return (word(group.join("cpu.rt_runtime_us")).as_deref() == Some("0")).then_some(group);
    }
    // In version 2 no group but the root has any, and `cpu.max` is where the controller is on.
    let mount = facts.mounts.iter().find(|mount| mount.filesystem == "cgroup2")?;
    let group = mount.point.join(path_of(&facts.membership, "")?.trim_start_matches('/'));
    let on = fs::exists(group.join("cpu.max")).unwrap_or(false);
    (on && facts.kernel_names(btf::RT_GROUPS) == Some(true)).then_some(group)
}

/// The path in the hierarchy of a controller, or in the unified one: cgroups(7), `/proc/pid/cgroup`.
pub(super) fn path_of<'a>(membership: &'a str, controller: &str) -> Option<&'a str> {
    membership.lines().find_map(|line| {
        let mut parts = line.splitn(3, ':');
        let (_, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
        controllers.split(',').any(|name| name == controller).then_some(path)
    })
}

/// Staged starts stop a process before its first instruction, by tracing a child.
fn ptrace(facts: &Facts) -> Row {
    let name = "ptrace";
    let capable = facts.rights.has(&rights::SYS_PTRACE) && facts.namespaces.user != Place::Own;
    let scope = word("/proc/sys/kernel/yama/ptrace_scope");
    match scope.as_deref() {
        Some("3") => GROUP.missing(
            name,
            "Yama forbids tracing to everybody: no staged starts",
            "boot without kernel.yama.ptrace_scope=3, which cannot be taken back",
        ),
        Some("2") if !capable => GROUP.missing(
            name,
            "Yama allows tracing to CAP_SYS_PTRACE only: no staged starts",
            "grant CAP_SYS_PTRACE, or sysctl kernel.yama.ptrace_scope=1",
        ),
        _ if capable => GROUP.ok(name, "services of every user can be staged"),
        _ => GROUP.ok(name, "services of this user can be staged"),
    }
}

/// By an eBPF program at the death itself.
fn release(facts: &Facts) -> Row {
    let name = "bpf-release";
    match facts.kernel_names(btf::SEND_SIGNAL) {
        Some(true) => GROUP.ok(name, "eBPF can release a staged start at the death (bpf_send_signal_task)"),
        Some(false) | None => GROUP.limited(
            name,
            "no bpf_send_signal_task: the keeper releases a staged start, 50 µs later",
            "run Linux 6.13 or later",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_group_of_a_controller_is_found() {
        let text = "9:name=systemd:/s\n4:cpu,cpuacct:/a:b\n\n0::/u\nnonsense\n";
        assert_eq!(path_of(text, "cpu"), Some("/a:b"));
        assert_eq!(path_of(text, ""), Some("/u"));
        assert_eq!(path_of(text, "cp"), None);
        assert_eq!(path_of("", ""), None);
    }
}
