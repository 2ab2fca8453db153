//! What services use, by the files of each of their processes.

use defib_core::model::ServiceName;

use super::super::clock;
use super::super::group_look::Groups;
use super::super::holders::{Families, Household, MAX_PROCESSES};
use super::super::proc_folder::{FileLimit, Io, ProcFolder, Scratch, open_files};
use super::super::proc_stat::{Cpu, Units};
use super::{CpuSum, MainUsage, TreeUsage};

/// Where the processes of a service are found.
enum LookUp {
    Groups(Groups),
    Families(Families),
    /// There were groups.
    Nowhere,
}

/// Who looks, with what serves for every look.
pub(super) struct ByFiles {
    look_up: LookUp,
    units: Units,
    scratch: Scratch,
}

impl ByFiles {
    pub(super) fn look(household: &Household, services: &[(ServiceName, Option<u32>)]) -> Self {
        let look_up = match &household.cgroups {
            Some(tree) => Groups::open(tree.services()).map_or(LookUp::Nowhere, LookUp::Groups),
            None => LookUp::Families(household.families(services)),
        };
        Self { look_up, units: Units::of_this_kernel(), scratch: Scratch::new() }
    }

    /// The processes of a service, and what the kernel has counted for all of them.
    fn find(&mut self, service: &ServiceName) -> (Vec<u32>, Option<Cpu>) {
        match &self.look_up {
            LookUp::Groups(groups) => match groups.of(service.as_str()) {
                Ok(group) => {
                    (group.processes(MAX_PROCESSES, &mut self.scratch), group.cpu(&mut self.scratch))
                }
                // It has not been started yet.
                Err(_) => (Vec::new(), None),
            },
            LookUp::Families(families) => (families.processes(service), None),
            LookUp::Nowhere => (Vec::new(), None),
        }
    }

    /// What one service uses.
    pub(super) fn of(&mut self, service: ServiceName, main: Option<u32>) -> TreeUsage {
        let (pids, group) = self.find(&service);
        let Self { units, scratch, .. } = self;
        let (mut own, mut io) = (Cpu::default(), Some(Io::default()));
        let mut usage = TreeUsage {
            at: clock::now(),
            cpu: CpuSum::Living(own),
            memory: 0,
            processes: 0,
            threads: 0,
            io: None,
            main: None,
            service,
        };
        for pid in pids {
            let Ok(process) = ProcFolder::of(pid) else { continue };
            let Some(stat) = process.stat(*units, scratch) else { continue };
            // A child that ends hands what it has used to the parent that waits for it: the sum stays.
            own += stat.cpu;
            own += stat.children_cpu;
            usage.memory = usage.memory.saturating_add(stat.rss);
            usage.processes += 1;
            usage.threads += stat.threads;
            io = io.zip(process.io(scratch)).map(|(mut sum, more)| {
                sum += more;
                sum
            });
            if Some(pid) == main {
                let max_fds = process.file_limit(scratch).and_then(FileLimit::number);
                let open_fds = open_files(pid);
                usage.main = Some(MainUsage { virtual_bytes: stat.virtual_bytes, open_fds, max_fds });
            }
        }
        usage.cpu = group.map_or(CpuSum::Living(own), CpuSum::Group);
        usage.io = io;
        usage
    }
}
