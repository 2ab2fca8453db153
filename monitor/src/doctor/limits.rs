//! How much the kernel lets defib and its services have.

use std::path::PathBuf;

use rustix::pipe::PipeFlags;
use rustix::process::{Resource, getrlimit};

use super::facts::{Facts, brief, word};
use super::latency::path_of;
use super::row::{Group, Row};

const GROUP: Group = Group::Limits;

/// Below this, some hundred services with sockets and logs come to the end of it.
const FEW_FILES: u64 = 4096;

/// Below this, a service with threads comes to the end of it.
const FEW_TASKS: u64 = 512;

/// The size of a pipe that carries the output of a service.
const LARGE: usize = 1 << 20;

pub(super) fn rows(facts: &Facts) -> Vec<Row> {
    vec![open_files(), pid_max(), tasks(facts), log_pipes()]
}

fn open_files() -> Row {
    let Some(hard) = getrlimit(Resource::Nofile).maximum else { return GROUP.ok("open-files", "no limit") };
    let found = format!("at most {hard}; the keeper takes a few for each service");
    if hard < FEW_FILES {
        GROUP.limited("open-files", found, "LimitNOFILE=524288 in the unit, or ulimit -Hn as root")
    } else {
        GROUP.ok("open-files", found)
    }
}

fn pid_max() -> Row {
    let read = |path| word(path).and_then(|text| text.parse::<u64>().ok());
    let pids = read("/proc/sys/kernel/pid_max");
    let threads = read("/proc/sys/kernel/threads-max");
    match [pids, threads].into_iter().flatten().min() {
        Some(most) => GROUP.ok("pid-max", format!("at most {most} processes and threads on the host")),
        None => GROUP.limited("pid-max", "/proc/sys/kernel/pid_max cannot be read", ""),
    }
}

/// How much a service can write while nobody reads, by a trial.
fn log_pipes() -> Row {
    let name = "log-pipes";
    let trial = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)
        .and_then(|(read, _write)| rustix::pipe::fcntl_setpipe_size(&read, LARGE));
    if let Err(errno) = trial {
        let found = format!(
            "a service that writes waits after 64 KiB of each stream while defib is away: no larger pipe: {}",
            brief(&errno.into())
        );
        return GROUP.limited(
            name,
            found,
            "sysctl fs.pipe-max-size=1048576 fs.pipe-user-pages-soft=0, or run it as root",
        );
    }
    let found = "1 MiB of each stream can be written while defib is away";
    let soft = || word("/proc/sys/fs/pipe-user-pages-soft").and_then(|text| text.parse::<u64>().ok());
    match soft() {
        Some(pages @ 1..) if !rustix::process::geteuid().is_root() => {
            let streams = pages * 4096 / LARGE as u64;
            GROUP.ok(
                name,
                format!(
                    "{found}, of {streams} streams in all (fs.pipe-user-pages-soft), 64 KiB of the others"
                ),
            )
        }
        _ => GROUP.ok(name, found),
    }
}

/// The pids controller of this process's group and of those above it: the least counts.
fn tasks(facts: &Facts) -> Row {
    let name = "tasks";
    let least = limits(facts).into_iter().min_by_key(|(limit, _)| *limit);
    match least {
        None => GROUP.ok(name, "no cgroup limits their number here"),
        Some((limit, group)) => {
            let found = format!("at most {limit}, for defib and its services, in {}", group.display());
            if limit < FEW_TASKS {
                GROUP.limited(name, found, "TasksMax=infinity in the unit (docker: --pids-limit)")
            } else {
                GROUP.ok(name, found)
            }
        }
    }
}

fn limits(facts: &Facts) -> Vec<(u64, PathBuf)> {
    let old = facts
        .mounts
        .iter()
        .find(|mount| mount.filesystem == "cgroup" && mount.options.iter().any(|option| option == "pids"));
    let (mount, controller) = match old {
        Some(mount) => (Some(mount), "pids"),
        None => (facts.mounts.iter().find(|mount| mount.filesystem == "cgroup2"), ""),
    };
    let (Some(mount), Some(path)) = (mount, path_of(&facts.membership, controller)) else {
        return Vec::new();
    };
    let group = mount.point.join(path.trim_start_matches('/'));
    let above = group.ancestors().take_while(|path| path.starts_with(&mount.point));
    above.filter_map(|group| Some((limit(&word(group.join("pids.max"))?)?, group.to_owned()))).collect()
}

/// `max` is no limit.
fn limit(text: &str) -> Option<u64> {
    text.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn max_is_no_limit() {
        assert_eq!(limit("4096\n"), Some(4096));
        assert_eq!(limit("max\n"), None);
        assert_eq!(limit("99999999999999999999999"), None);
    }
}
