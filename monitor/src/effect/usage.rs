//! What a service uses: all its processes together, read when somebody asks.
//!
//! - `by_tasks`: from one walk of the kernel's through its tasks, where there are probes;
//! - `by_files`: from the files of each process.

mod by_files;
mod by_tasks;

use std::io;
use std::time::Duration;

use defib_core::model::{ServiceName, Tick};

use self::by_files::ByFiles;
use self::by_tasks::ByTasks;
pub use self::by_tasks::Tasks;
use super::clock;
use super::holders::Household;
pub use super::proc_folder::Io;
use super::proc_folder::{ProcFolder, Scratch, open_files};
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
    let open_fds = open_files(std::process::id()).ok_or_else(missing("fd"))?;
    Ok(OwnUsage { process: stat.into(), open_fds, max_fds })
}

/// Looks at services, which are given with their main processes: by `tasks`, where there are these and cgroups. A look at
/// one service by its files takes up to 0.1 ms, so it ends after `longest`; whoever was not looked at by then is missing.
pub fn usage(
    household: &Household,
    tasks: Option<&dyn Tasks>,
    services: Vec<(ServiceName, Option<u32>)>,
    longest: Duration,
) -> Vec<TreeUsage> {
    let begun = clock::now();
    let mut look = Look::begin(household, tasks, &services);
    let in_time = services.into_iter().take_while(|_| clock::now().since(begun) < longest);
    in_time.map(|(service, main)| look.of(service, main)).collect()
}

/// A look at services.
enum Look {
    ByTasks(ByTasks),
    ByFiles(ByFiles),
}

impl Look {
    fn begin(
        household: &Household,
        tasks: Option<&dyn Tasks>,
        services: &[(ServiceName, Option<u32>)],
    ) -> Self {
        match household.cgroups.as_ref().zip(tasks).map(|(tree, tasks)| ByTasks::look(tree, tasks)) {
            Some(Ok(look)) => return Self::ByTasks(look),
            Some(Err(error)) => tracing::debug!(%error, "what services use is read from files"),
            None => {}
        }
        Self::ByFiles(ByFiles::look(household, services))
    }

    fn of(&mut self, service: ServiceName, main: Option<u32>) -> TreeUsage {
        match self {
            Self::ByTasks(look) => look.of(service, main),
            Self::ByFiles(look) => look.of(service, main),
        }
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
        let [found] = <[TreeUsage; 1]>::try_from(usage(&household, None, me, Duration::MAX)).unwrap();
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
        assert_eq!(usage(&household, None, me, Duration::ZERO), []);
    }
}
