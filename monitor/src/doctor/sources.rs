//! Where a daemon would hear of processes, and why not in a better way.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::time::Duration;

use defib_core::model::SourceName;
use rustix::net::netlink::GENERIC;

use super::daemon::Running;
use super::facts::{Facts, brief};
use super::netlink::{Netlink, REQUEST, answer, message};
use super::rights;
use super::row::{Group, Row};
use super::{bpf, btf, connector, daemon, pidfd};
use crate::config;
use crate::source::{self, SourceChoice};

const GROUP: Group = Group::Sources;

/// The source that `auto` takes, and the rows.
pub(super) fn rows(facts: &Facts, running: &Running) -> (SourceName, Vec<Row>) {
    let (programs, no_ebpf) = bpf::rows();
    let (name, why) = best(no_ebpf);
    let mut rows = vec![taken(facts, name, &why), daemon::row(facts, running, name), types(facts)];
    rows.extend(programs);
    rows.extend([bpf::settings(), connector::row(), taskstats(facts)]);
    rows.extend(pidfd::rows(facts));
    rows.push(kmsg());
    (name, rows)
}

/// The best source that works, in the order of [`source::open`], and why each better one does not.
fn best(no_ebpf: Option<String>) -> (SourceName, Vec<String>) {
    let Some(no_ebpf) = no_ebpf else { return (SourceName::Ebpf, Vec::new()) };
    let mut why = vec![format!("ebpf: {no_ebpf}")];
    // No process is followed: 0 is nobody's parent.
    match source::open(&SourceChoice::ProcConnector, 0) {
        Ok(selection) => (selection.name, why),
        Err(error) => {
            why.push(format!("proc-connector: {}", bpf::told(&error).0));
            (SourceName::Pidfd, why)
        }
    }
}

fn taken(facts: &Facts, best: SourceName, why: &[String]) -> Row {
    let what = match best {
        SourceName::Ebpf => "forks, execs, and ends with time and cause",
        SourceName::ProcConnector => "forks, execs and ends, at a cost for the whole host",
        SourceName::Pidfd | SourceName::Scripted => "the ends of services, and restarts as quick",
    };
    let asked = match facts.settings.source {
        config::SourceChoice::Auto => return auto(best, what, why),
        config::SourceChoice::Ebpf => SourceName::Ebpf,
        config::SourceChoice::ProcConnector => SourceName::ProcConnector,
        config::SourceChoice::Pidfd => SourceName::Pidfd,
    };
    let works = match asked {
        SourceName::ProcConnector => source::open(&SourceChoice::ProcConnector, 0).is_ok(),
        SourceName::Ebpf => best == SourceName::Ebpf,
        SourceName::Pidfd | SourceName::Scripted => true,
    };
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

/// How long the kernel may take; it answers within the send.
const PATIENCE: Duration = Duration::from_millis(300);

/// Asks genetlink for the family; joining it is not needed to know.
fn taskstats(facts: &Facts) -> Row {
    let name = "taskstats";
    let asked = family("TASKSTATS");
    match asked {
        Ok(true) if facts.rights.has(&rights::NET_ADMIN) => {
            GROUP.ok(name, "there: early starts can do without eBPF")
        }
        Ok(true) => GROUP.missing(
            name,
            "not for this user: no early starts without eBPF",
            "grant CAP_NET_ADMIN; needed only where there is no eBPF",
        ),
        Ok(false) => GROUP.missing(name, "the kernel does not answer", ""),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {
            GROUP.missing(name, "this kernel has none", "a kernel with CONFIG_TASKSTATS, or eBPF")
        }
        Err(error) => GROUP.missing(name, format!("it cannot be asked for: {}", brief(&error)), ""),
    }
}

/// Whether generic netlink knows the family; `false`: no answer.
fn family(name: &str) -> io::Result<bool> {
    /// GENL_ID_CTRL, CTRL_CMD_GETFAMILY of version 1, and its CTRL_ATTR_FAMILY_NAME.
    const CONTROL: u16 = 0x10;
    const GET_FAMILY: [u8; 4] = [3, 1, 0, 0];
    const FAMILY_NAME: u16 = 2;
    let length = u16::try_from(4 + name.len() + 1).unwrap_or(u16::MAX);
    let mut payload = GET_FAMILY.to_vec();
    payload.extend(length.to_ne_bytes());
    payload.extend(FAMILY_NAME.to_ne_bytes());
    payload.extend(name.bytes());
    // The NUL, and up to the next multiple of four.
    payload.push(0);
    payload.resize(payload.len().next_multiple_of(4), 0);
    let socket = Netlink::open(GENERIC, 0)?;
    socket.send(&message(CONTROL, REQUEST, &payload))?;
    Ok(socket.wait(PATIENCE, answer)?.transpose()?.is_some())
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
