//! What services use, by one walk of the kernel's through all its tasks. The files of each process take many times as long.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::{fmt, io};

use defib_core::model::ServiceName;
use defib_ebpf::TaskUse;

use super::super::cgroup::CgroupTree;
use super::super::clock;
use super::super::group_look::Groups;
use super::super::proc_folder::{Io, Scratch, open_files};
use super::super::proc_stat::{Cpu, Units};
use super::{CpuSum, MainUsage, TreeUsage};

/// Who lets the kernel walk.
pub trait Tasks: fmt::Debug + Send + Sync {
    /// Shows what every thread uses that is in a cgroup below `services`, which is given by its inode number.
    ///
    /// # Errors
    /// If the kernel does not let that be read. Some may have been shown by then.
    fn look(&self, services: u64, each: &mut dyn FnMut(&TaskUse)) -> io::Result<()>;
}

/// What one walk has shown, and where the rest is read.
pub(super) struct ByTasks {
    groups: Groups,
    /// The inode numbers of the groups of services.
    inodes: BTreeMap<OsString, u64>,
    sums: TaskSums,
    units: Units,
    scratch: Scratch,
}

impl ByTasks {
    pub(super) fn look(tree: &CgroupTree, tasks: &dyn Tasks) -> io::Result<Self> {
        let groups = Groups::open(tree.services())?;
        let (services, inodes) = groups.inodes()?;
        let sums = TaskSums::of(tasks, services)?;
        Ok(Self { groups, inodes, sums, units: Units::of_this_kernel(), scratch: Scratch::new() })
    }

    /// What one service uses.
    pub(super) fn of(&mut self, service: ServiceName, main: Option<u32>) -> TreeUsage {
        let Self { groups, inodes, sums, units, scratch } = self;
        let name = service.as_str();
        let inode = inodes.get(OsStr::new(name));
        let GroupUse { pages, processes, threads, io } =
            inode.map(|inode| sums.group(*inode)).unwrap_or_default();
        let cpu = inode.and_then(|_| groups.cpu_of(name, scratch));
        let main = main.and_then(|pid| Some((pid, sums.process(pid)?))).map(|(pid, process)| MainUsage {
            virtual_bytes: units.bytes(process.pages),
            open_fds: open_files(pid),
            max_fds: process.max_fds,
        });
        TreeUsage {
            at: clock::now(),
            // Without a group nothing has ever run.
            cpu: cpu.map_or(CpuSum::Living(Cpu::default()), CpuSum::Group),
            memory: units.bytes(pages),
            processes,
            threads,
            io: Some(io),
            main,
            service,
        }
    }
}

/// What the processes in one group use together, as in [`TreeUsage`].
#[derive(Clone, Copy, Debug, Default)]
struct GroupUse {
    /// Resident memory in pages.
    pages: u64,
    processes: u64,
    threads: u64,
    io: Io,
}

/// What is told of single processes.
#[derive(Clone, Copy, Debug)]
struct ProcessUse {
    /// Virtual memory in pages.
    pages: u64,
    /// The soft limit of open files, unless there is none.
    max_fds: Option<u64>,
}

/// What one walk has shown.
#[derive(Debug, Default)]
struct TaskSums {
    /// By the inode number of the service's group.
    groups: BTreeMap<u64, GroupUse>,
    /// By the pids of all of them.
    processes: BTreeMap<u32, ProcessUse>,
}

impl TaskSums {
    fn of(tasks: &dyn Tasks, services: u64) -> io::Result<Self> {
        let mut sums = Self::default();
        tasks.look(services, &mut |task| sums.add(task))?;
        Ok(sums)
    }

    fn add(&mut self, task: &TaskUse) {
        let group = self.groups.entry(task.group).or_default();
        group.io += Io { read: task.read, written: task.written };
        if task.threads == 0 {
            return;
        }
        group.pages = group.pages.saturating_add(task.resident_pages);
        group.processes += 1;
        group.threads += u64::from(task.threads);
        let max_fds = Some(task.max_files).filter(|most| *most < u64::MAX);
        self.processes.insert(task.tgid, ProcessUse { pages: task.virtual_pages, max_fds });
    }

    /// Of one group; nothing if nobody is in it.
    fn group(&self, inode: u64) -> GroupUse {
        self.groups.get(&inode).copied().unwrap_or_default()
    }

    /// Of one process, if it is one of a service's.
    fn process(&self, pid: u32) -> Option<ProcessUse> {
        self.processes.get(&pid).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Told(Vec<TaskUse>);

    impl Tasks for Told {
        fn look(&self, services: u64, each: &mut dyn FnMut(&TaskUse)) -> io::Result<()> {
            assert_eq!(services, 3);
            self.0.iter().for_each(each);
            Ok(())
        }
    }

    #[test]
    fn threads_add_up_to_processes_and_processes_to_groups() {
        let first = |group, tgid| TaskUse {
            group,
            read: 1,
            written: 2,
            virtual_pages: 30,
            resident_pages: 20,
            max_files: if tgid == 10 { 1024 } else { u64::MAX },
            tgid,
            threads: 2,
        };
        let other = |group, tgid| TaskUse { group, read: 10, written: 20, tgid, ..TaskUse::default() };
        let told = Told(vec![first(7, 10), other(7, 10), first(7, 11), first(8, 12), other(7, 11)]);
        let sums = TaskSums::of(&told, 3).unwrap();
        let GroupUse { pages, processes, threads, io } = sums.group(7);
        assert_eq!((pages, processes, threads, io), (40, 2, 4, Io { read: 22, written: 44 }));
        assert_eq!((sums.group(8).processes, sums.group(9).processes), (1, 0));
        let max_fds = |pid| sums.process(pid).unwrap().max_fds;
        assert_eq!((max_fds(10), max_fds(11), sums.process(10).unwrap().pages), (Some(1024), None, 30));
        assert!(sums.process(13).is_none());
    }
}
