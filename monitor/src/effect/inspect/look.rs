//! The look as a whole.

use defib_core::model::{ServiceName, ServiceView, Tick};

use super::types::{Inspection, Listed, Process};
use super::{about, files, memory, peers, threads, tree};
use crate::effect::holders::Household;
use crate::effect::proc_stat::{Stat, Units};

/// No list is longer, whatever is asked for.
pub const MOST: usize = 4096;

/// The service that is looked at.
#[derive(Clone, Debug)]
pub struct Subject {
    service: ServiceName,
    main: Option<(u32, Tick)>,
}

impl Subject {
    /// That of a view.
    pub fn of(view: &ServiceView) -> Self {
        Self { service: view.name.clone(), main: view.pid.zip(view.started) }
    }
}

/// Looks at a service. No list has more than `most` items.
pub fn look(household: &Household, subject: Subject, most: usize) -> Inspection {
    let (most, units) = (most.min(MOST), Units::of_this_kernel());
    let Subject { service, main } = subject;
    let mut notes = Vec::new();
    let lives = |(pid, started): &(u32, Tick)| Stat::of(*pid, units).is_some_and(|it| it.began_at(*started));
    let pid = main.filter(lives).map(|(pid, _)| pid);
    let pids = household.processes(&service, pid);
    let mut found = Inspection { pid, ..without_main(service, tree::tree(pids, pid, units, most)) };
    if let Some(pid) = pid {
        let mut note = |what: &str, error: std::io::Error| notes.push(format!("{what}: {error}"));
        found.threads = threads::threads(pid, units, most);
        match files::files(pid) {
            Ok(files) => {
                found.sockets = peers::sockets(pid, &files, most);
                found.files = files.listed(most);
            }
            Err(error) => note("open files", error),
        }
        match memory::memory(pid, most) {
            Ok(memory) => found.memory = Some(memory),
            Err(error) => note("memory", error),
        }
        match about::limits(pid) {
            Ok(limits) => found.limits = limits,
            Err(error) => note("limits", error),
        }
        match about::environment(pid, most) {
            Ok(environment) => found.environment = environment,
            Err(error) => note("environment", error),
        }
        found.cgroup = about::cgroup(pid);
    }
    // What was read last may be another process's, if this one has ended meanwhile and its number is in use again.
    if main.is_some_and(|main| !lives(&main)) {
        notes = vec!["its main process has ended during the look".to_owned()];
        found = without_main(found.service, found.processes);
    }
    found.notes = notes;
    found
}

/// What is known of a service whose main process cannot be looked at.
fn without_main(service: ServiceName, processes: Listed<Process>) -> Inspection {
    Inspection {
        service,
        pid: None,
        boot: None,
        processes,
        threads: Listed::default(),
        files: Listed::default(),
        sockets: Listed::default(),
        memory: None,
        limits: Vec::new(),
        cgroup: None,
        environment: Listed::default(),
        notes: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener};

    use super::*;

    fn me(started: Tick) -> Inspection {
        let household = Household { cgroups: None, keeper: std::os::unix::process::parent_id() };
        let service = "nobody".parse().unwrap();
        look(&household, Subject { service, main: Some((std::process::id(), started)) }, 1000)
    }

    #[test]
    fn this_process_is_found_with_all_its_parts() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let started = Stat::of(std::process::id(), Units::of_this_kernel()).unwrap().started;
        let found = me(started);
        assert_eq!((found.pid, found.notes.as_slice()), (Some(std::process::id()), &[][..]));
        assert!(
            found.processes.items.iter().any(|it| it.pid == std::process::id() && !it.command.is_empty())
        );
        assert!(found.threads.items.iter().any(|it| it.tid == std::process::id()));
        assert!(found.files.items.len() > 3);
        let listens = |it: &super::super::Socket| it.state == "LISTEN" && it.local.as_ref() == Some(&address);
        assert!(found.sockets.items.iter().any(listens), "{:?}", found.sockets);
        let memory = found.memory.unwrap();
        assert!(memory.rss_bytes > 1 << 20 && memory.pss_bytes <= memory.rss_bytes);
        let sum: u64 = memory.mappings.items.iter().map(|it| it.rss_bytes).sum();
        assert!(sum > memory.rss_bytes / 2 && memory.mappings.items.iter().any(|it| it.name == "[stack]"));
        assert!(found.limits.iter().any(|it| it.name == "Max open files"));
        assert!(found.environment.items.iter().any(|name| name == "PATH"));

        let gone = me(Tick(1));
        assert_eq!((gone.pid, gone.memory), (None, None));
        assert!(gone.notes[0].contains("has ended"), "{:?}", gone.notes);
    }
}
