//! The eBPF programs, one by one, and the switches of the kernel that decide about them.

use std::error::Error;

use super::facts::word;
use super::host::lockdown;
use super::row::{Group, Row};
use crate::source::{EbpfError, ProbeReport, probes};

const GROUP: Group = Group::Sources;

/// Loads every program and unloads it. One row for each, or one that says why there are none; and why the source
/// cannot be had.
pub(super) fn rows() -> (Vec<Row>, Option<String>) {
    if !cfg!(ebpf_object) {
        let found = "this defib was built without its eBPF programs";
        let row = GROUP.missing("ebpf", found, "build it with `cargo xtask build`");
        return (vec![row], Some(found.to_owned()));
    }
    match probes() {
        Ok(reports) => (reports.iter().map(program).collect(), None),
        Err(error) => {
            let (found, remedy) = refused(&error);
            let why = found.clone();
            (vec![GROUP.missing("ebpf", found, remedy)], Some(why))
        }
    }
}

/// What came of one program. The source works without those that may be left out.
fn program(report: &ProbeReport) -> Row {
    let (name, hook) = (format!("ebpf:{}", report.probe), report.hook);
    match &report.outcome {
        Ok(None) => GROUP.ok(&name, hook.to_string()),
        Ok(Some(count)) => GROUP.ok(&name, format!("{hook}, {count} instructions verified")),
        Err(error) => {
            let (found, remedy) = refused(error);
            GROUP.limited(&name, format!("{hook}, left out: {found}"), remedy)
        }
    }
}

/// Why the kernel refuses, and what helps.
fn refused(error: &EbpfError) -> (String, String) {
    let (mut found, mut remedy) = told(error);
    if let Some(line) = error.verifier_log().and_then(verdict) {
        found = format!("{found}; the verifier says: {line}");
    }
    if remedy.is_empty() {
        remedy = remedy_for(error).to_owned();
    }
    (found, remedy)
}

fn remedy_for(error: &EbpfError) -> &'static str {
    match error {
        EbpfError::Refused { .. } | EbpfError::Load(_) if lockdown().is_some() => {
            "lift the kernel's lockdown"
        }
        EbpfError::Refused { .. } | EbpfError::Load(_) => {
            "look whether a security module or a seccomp filter forbids bpf(2)"
        }
        _ => "",
    }
}

/// What an error says, with its causes; and what it advises, which our errors put behind a semicolon.
pub(super) fn told(error: &dyn Error) -> (String, String) {
    let text = error.to_string();
    let (found, remedy) = text.split_once("; ").unwrap_or((&text, ""));
    let mut found = found.to_owned();
    let mut cause = error.source();
    while let Some(error) = cause {
        let text = error.to_string();
        let text = text.split(" (os error").next().unwrap_or_default();
        // Some of aya's errors tell their cause in their own text, too.
        if !found.contains(text) {
            found = format!("{found}: {text}");
        }
        cause = error.source();
    }
    (found, remedy.to_owned())
}

/// The line of a verifier's log that says what is wrong: the last one that is neither an instruction, nor a state, nor
/// the count at the end.
fn verdict(log: &str) -> Option<&str> {
    log.lines().rev().map(str::trim).find(|line| {
        let instruction = line.split_once(':').is_some_and(|(number, _)| number.parse::<u32>().is_ok());
        !(line.is_empty()
            || instruction
            || line.starts_with("processed ")
            || line.starts_with("; ")
            || line.starts_with("func#")
            || line.starts_with("R0")
            || line.starts_with("R1=")
            || line.starts_with("verification time")
            || line.starts_with("stack depth"))
    })
}

/// The switches.
pub(super) fn settings() -> Row {
    let name = "bpf-settings";
    if let Some(level) = lockdown() {
        let remedy = "boot without lockdown=confidentiality, or let defib use its other sources";
        return match level.as_str() {
            "confidentiality" => {
                GROUP.limited(name, "the kernel is locked down: programs may not read its memory", remedy)
            }
            level => GROUP.ok(name, format!("lockdown is `{level}`, which lets eBPF be")),
        };
    }
    let jit = word("/proc/sys/net/core/bpf_jit_enable");
    if jit.as_deref() == Some("0") {
        let found = "programs are interpreted, not compiled: each fork, exec and exit takes a little longer";
        return GROUP.limited(name, found, "sysctl net.core.bpf_jit_enable=1");
    }
    // The file is root's: who may not read it learns nothing, and cannot load programs either.
    let compiled = if jit.is_some() { ", programs are compiled" } else { "" };
    let unprivileged = match word("/proc/sys/kernel/unprivileged_bpf_disabled").as_deref() {
        Some("0") => ", bpf(2) is for everybody",
        Some(_) => ", bpf(2) is for CAP_BPF",
        None => "",
    };
    GROUP.ok(name, format!("no lockdown{compiled}{unprivileged}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::source::Hook;

    #[test]
    fn the_verdict_is_found_in_a_log() {
        let log = "func#0 @0\n0: R1=ctx() R10=fp0\n; let task = arg(0);\n0: (79) r1 = *(u64 *)(r1 +0)\n\
                   access beyond struct sock at off 720 size 2\n\
                   processed 12 insns (limit 1000000) max_states_per_insn 0\n\n";
        assert_eq!(verdict(log), Some("access beyond struct sock at off 720 size 2"));
        assert_eq!(verdict(""), None);
        assert_eq!(verdict("processed 0 insns\n"), None);
    }

    #[test]
    fn what_an_error_advises_is_told_apart() {
        let error = EbpfError::Capabilities { capabilities: "CAP_BPF".into() };
        let (found, remedy) = told(&error);
        assert_eq!(
            (found.as_str(), remedy.as_str()),
            ("defib lacks CAP_BPF", "run it as root or grant them")
        );
    }

    #[test]
    fn a_cause_is_told_once() {
        let cause = || std::io::Error::from_raw_os_error(libc::EPERM);
        let error = EbpfError::Proc { path: "/proc/it", cause: cause() };
        assert_eq!(told(&error).0, "cannot read /proc/it: Operation not permitted");
        assert_eq!(told(&cause()).1, "");
    }

    #[test]
    fn a_program_that_was_left_out_says_why() {
        let hook = Hook::Tracepoint("inet_sock_set_state");
        let report = |outcome| ProbeReport { probe: "on_state", hook, outcome };
        let row = program(&report(Ok(Some(46))));
        let found = "tp_btf/inet_sock_set_state, 46 instructions verified";
        assert_eq!((row.name.as_str(), row.found.as_str()), ("ebpf:on_state", found));
        let row = program(&report(Err(EbpfError::Kernel { what: "tracepoint x".into(), since: "5.12" })));
        assert!(row.found.contains("left out: this kernel has no `tracepoint x`"), "{}", row.found);
        assert_eq!(row.remedy, "that needs Linux 5.12 or later");
    }
}
