//! What a service uses: all its processes together, read when somebody asks.

use std::io;
use std::time::Duration;

use defib_core::model::{ServiceName, Tick};

use super::clock;
use super::group_look::Groups;
use super::holders::{Families, Household, MAX_PROCESSES};
pub use super::proc_folder::Io;
use super::proc_folder::{FileLimit, ProcFolder, Scratch};
pub use super::proc_stat::Cpu;
use super::proc_stat::{Stat, Units};

/// What the processes of a service use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TreeUsage {
    /// The service.
    pub service: ServiceName,
    /// When this was read.
    pub at: Tick,
    /// CPU time that it has used.
    pub cpu: CpuSum,
    /// The resident memory of its processes in bytes; what several of them share is counted for each.
    pub memory: u64,
    /// How many processes there are.
    pub processes: u64,
    /// How many threads they have together.
    pub threads: u64,
    /// What they have caused to be read and written; `None` if not all of them let that be read.
    pub io: Option<Io>,
    /// What is told of the main process alone, if there is one.
    pub main: Option<MainUsage>,
}

/// CPU time, and since when it counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CpuSum {
    /// The kernel counts in the group of the service: every process that has ever been in it.
    Group(Cpu),
    /// Of the processes that there are, with the children that they have waited for.
    Living(Cpu),
}

impl CpuSum {
    /// The time. It counts up from a point of its own: only differences of two looks mean something.
    pub fn total(self) -> Duration {
        let (Self::Group(cpu) | Self::Living(cpu)) = self;
        cpu.total()
    }
}

/// What the main process of a service uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MainUsage {
    /// Virtual memory in bytes.
    pub virtual_bytes: u64,
    /// How many files it has open; `None` if it does not let that be read.
    pub open_fds: Option<u64>,
    /// How many it may open, its soft limit; `None`: as many as it likes, or it cannot be read.
    pub max_fds: Option<u64>,
}

/// What one process uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProcessUsage {
    /// CPU time of its own.
    pub cpu: Cpu,
    /// How many threads it has.
    pub threads: u64,
    /// When it started, to hundredths of a second.
    pub started: Tick,
    /// Virtual memory in bytes.
    pub virtual_bytes: u64,
    /// Resident memory in bytes.
    pub resident_bytes: u64,
}

impl From<Stat> for ProcessUsage {
    fn from(stat: Stat) -> Self {
        let Stat { cpu, threads, started, virtual_bytes, rss: resident_bytes, .. } = stat;
        Self { cpu, threads, started, virtual_bytes, resident_bytes }
    }
}

/// What this process uses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OwnUsage {
    /// As of any other.
    pub process: ProcessUsage,
    /// How many files it has open.
    pub open_fds: u64,
    /// How many it may open, its soft limit; `None`: as many as it likes.
    pub max_fds: Option<u64>,
}

/// What the process that began at `started` uses; `None` if it is gone, be its pid in use again or not.
pub fn of_process(pid: u32, started: Tick) -> Option<ProcessUsage> {
    Stat::of(pid, Units::of_this_kernel()).filter(|stat| stat.began_at(started)).map(ProcessUsage::from)
}

/// What this process uses.
///
/// # Errors
/// If `/proc` does not show it.
pub fn of_this_process() -> io::Result<OwnUsage> {
    let (own, mut scratch) = (ProcFolder::own()?, Scratch::new());
    let missing = |file| move || io::Error::other(format!("/proc/self/{file} is not as proc(5) says"));
    let stat = own.stat(Units::of_this_kernel(), &mut scratch).ok_or_else(missing("stat"))?;
    let max_fds = own.file_limit(&mut scratch).ok_or_else(missing("limits"))?.number();
    drop(own);
    let open_fds = ProcFolder::own_open_files().ok_or_else(missing("fd"))?;
    Ok(OwnUsage { process: stat.into(), open_fds, max_fds })
}

/// Looks at services, which are given with their main processes. A look at one takes about 0.1 ms, so it ends after
/// `longest`; whoever was not looked at by then is missing.
pub fn usage(
    household: &Household,
    services: Vec<(ServiceName, Option<u32>)>,
    longest: Duration,
) -> Vec<TreeUsage> {
    let begun = clock::now();
    let look_up = match &household.cgroups {
        Some(tree) => Groups::open(tree.services()).map_or(LookUp::Nowhere, LookUp::Groups),
        None => LookUp::Families(household.families(&services)),
    };
    let mut looker = Looker { look_up, units: Units::of_this_kernel(), scratch: Scratch::new() };
    let in_time = services.into_iter().take_while(|_| clock::now().since(begun) < longest);
    in_time.map(|(service, main)| looker.look(service, main)).collect()
}

/// Where the processes of a service are found.
enum LookUp {
    Groups(Groups),
    Families(Families),
    /// There were groups.
    Nowhere,
}

/// Who looks, with what serves for every look.
struct Looker {
    look_up: LookUp,
    units: Units,
    scratch: Scratch,
}

impl Looker {
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

    fn look(&mut self, service: ServiceName, main: Option<u32>) -> TreeUsage {
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
                let open_fds = process.open_files();
                usage.main = Some(MainUsage { virtual_bytes: stat.virtual_bytes, open_fds, max_fds });
            }
        }
        usage.cpu = group.map_or(CpuSum::Living(own), CpuSum::Group);
        usage.io = io;
        usage
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn me() -> (Household, Vec<(ServiceName, Option<u32>)>) {
        let household = Household { cgroups: None, keeper: std::os::unix::process::parent_id() };
        (household, vec![("nobody".parse().unwrap(), Some(std::process::id()))])
    }

    #[test]
    fn this_process_is_a_service_of_one_if_it_is_taken_for_the_main_process() {
        let (household, me) = me();
        let [found] = <[TreeUsage; 1]>::try_from(usage(&household, me, Duration::MAX)).unwrap();
        assert!(
            found.memory > 1 << 20 && found.processes >= 1 && found.threads >= found.processes,
            "{found:?}"
        );
        assert!(matches!(found.cpu, CpuSum::Living(_)) && found.io.is_some(), "{found:?}");
        let main = found.main.unwrap();
        assert!(main.virtual_bytes > found.memory / 2 && main.open_fds > Some(2), "{main:?}");
        assert!(main.max_fds.is_none_or(|most| Some(most) >= main.open_fds), "{main:?}");
    }

    #[test]
    fn a_process_is_known_by_its_start() {
        let (pid, own) = (std::process::id(), of_this_process().unwrap());
        let started = own.process.started;
        let found = of_process(pid, started).unwrap();
        assert!(found.resident_bytes > 1 << 20 && found.virtual_bytes >= found.resident_bytes, "{found:?}");
        assert!(started <= clock::now() && own.open_fds > 2, "{own:?}");
        assert_eq!(of_process(pid, started + Duration::from_secs(5)), None, "the pid is in use again");
        assert_eq!(of_process(u32::MAX, started), None, "no such process");
    }

    #[test]
    fn whoever_cannot_be_looked_at_in_time_is_missing() {
        let (household, me) = me();
        assert_eq!(usage(&household, me, Duration::ZERO), []);
    }
}
