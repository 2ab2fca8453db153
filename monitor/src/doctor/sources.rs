//! Where a daemon would hear of processes, and why not in a better way.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt;

use defib_core::model::SourceName;

use super::daemon::Running;
use super::facts::{Facts, brief};
use super::row::{Group, Row};
use super::{bpf, btf, connector, daemon, pidfd};
use crate::config;
use crate::source::{SourceError, may_cost_the_host};

const GROUP: Group = Group::Sources;

/// The source that `auto` takes, and the rows.
pub(super) fn rows(facts: &Facts, running: &Running) -> (SourceName, Vec<Row>) {
    let (programs, no_ebpf) = bpf::rows();
    let no_connector = connector::refusal();
    let (name, why) = best(no_ebpf, no_connector.as_ref());
    let works = |asked| match asked {
        SourceName::ProcConnector => no_connector.is_none(),
        SourceName::Ebpf => name == SourceName::Ebpf,
        SourceName::Pidfd | SourceName::Scripted => true,
    };
    let mut rows = vec![taken(facts, name, &why, works), daemon::row(facts, running, name), types(facts)];
    rows.extend(programs);
    rows.extend([bpf::settings(), connector::row(no_connector.as_ref())]);
    rows.extend(pidfd::rows(facts));
    rows.push(kmsg());
    (name, rows)
}

/// The best source that works, in the order of [`source::open`], and why each better one does not.
fn best(no_ebpf: Option<String>, no_connector: Option<&SourceError>) -> (SourceName, Vec<String>) {
    let Some(no_ebpf) = no_ebpf else { return (SourceName::Ebpf, Vec::new()) };
    let mut why = vec![format!("ebpf: {no_ebpf}")];
    match (no_connector, may_cost_the_host()) {
        (None, Ok(())) => return (SourceName::ProcConnector, why),
        (Some(error), _) => why.push(format!("proc-connector: {}", bpf::told(error).0)),
        (None, Err(reason)) => why.push(format!("proc-connector: {reason}")),
    }
    (SourceName::Pidfd, why)
}

fn taken(facts: &Facts, best: SourceName, why: &[String], works: impl Fn(SourceName) -> bool) -> Row {
    let what = match best {
        SourceName::Ebpf => "forks, execs, ends with time, cause and sender, and ports",
        SourceName::ProcConnector => "forks, execs and ends, at a cost for the whole host",
        SourceName::Pidfd | SourceName::Scripted => "the ends of services, and restarts as quick",
    };
    let asked = match facts.settings.source {
        config::SourceChoice::Auto => return auto(best, what, why),
        config::SourceChoice::Ebpf => SourceName::Ebpf,
        config::SourceChoice::ProcConnector => SourceName::ProcConnector,
        config::SourceChoice::Pidfd => SourceName::Pidfd,
    };
    let works = works(asked);
    let (asked, best) = (asked.as_str(), best.as_str());
    if !works {
        let found =
            format!("the configuration asks for {asked}, which does not work here: no daemon will start");
        return GROUP.missing("source", found, format!("source = \"auto\", which takes {best}")).fatal();
    }
    GROUP.ok("source", format!("{asked}, as the configuration asks; auto would take {best}"))
}

fn auto(best: SourceName, what: &str, why: &[String]) -> Row {
    let found = format!("auto takes {}: {what}", best.as_str());
    if why.is_empty() {
        return GROUP.ok("source", found);
    }
    GROUP.limited("source", format!("{found}. Not {}", why.join("; not ")), "see the rows of these sources")
}

fn types(facts: &Facts) -> Row {
    match &facts.types {
        Ok(types) => {
            let size = types.size / 1024;
            GROUP.ok("btf", format!("{}, {size} KiB: gives eBPF its offsets", btf::VMLINUX))
        }
        Err(error) => {
            let found = format!("{}: {}; no eBPF", btf::VMLINUX, brief(error));
            GROUP.missing("btf", found, "a kernel with CONFIG_DEBUG_INFO_BTF, and /sys mounted")
        }
    }
}

fn kmsg() -> Row {
    let flags = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    match OpenOptions::new().read(true).custom_flags(flags).open("/dev/kmsg") {
        Ok(_) => GROUP.ok("kmsg", "names victims of the out-of-memory killer where there is no eBPF"),
        Err(error) => GROUP.limited(
            "kmsg",
            format!("/dev/kmsg: {}; without eBPF no out-of-memory kill is told", brief(&error)),
            if error.kind() == io::ErrorKind::PermissionDenied {
                "grant CAP_SYSLOG, or sysctl kernel.dmesg_restrict=0"
            } else {
                ""
            },
        ),
    }
}
