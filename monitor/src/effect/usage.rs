//! What a service uses: all its processes together, read when somebody asks.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use defib_core::model::{ServiceName, Tick};

use super::clock;
use super::holders::Household;
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

/// Bytes from and to storage, as proc_pid_io(5) counts them: of processes that there are, with the children that they
/// have waited for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Io {
    /// Read.
    pub read: u64,
    /// Written, or to be written.
    pub written: u64,
}

impl std::ops::AddAssign for Io {
    fn add_assign(&mut self, other: Self) {
        self.read = self.read.saturating_add(other.read);
        self.written = self.written.saturating_add(other.written);
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

/// Looks at services, which are given with their main processes. A look at one takes about 0.1 ms, so it ends after
/// `longest`; whoever was not looked at by then is missing.
pub fn usage(
    household: &Household,
    services: Vec<(ServiceName, Option<u32>)>,
    longest: Duration,
) -> Vec<TreeUsage> {
    let (units, begun) = (Units::of_this_kernel(), clock::now());
    let in_time = services.into_iter().take_while(|_| clock::now().since(begun) < longest);
    in_time.map(|(service, main)| look(household, service, main, units)).collect()
}

fn look(household: &Household, service: ServiceName, main: Option<u32>, units: Units) -> TreeUsage {
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
    for pid in household.processes(&usage.service, main) {
        let folder = PathBuf::from(format!("/proc/{pid}"));
        let Some(stat) = Stat::read(&folder.join("stat"), units) else { continue };
        // A child that ends hands what it has used to the parent that waits for it: the sum stays.
        own += stat.cpu;
        own += stat.children_cpu;
        usage.memory = usage.memory.saturating_add(stat.rss);
        usage.processes += 1;
        usage.threads += stat.threads;
        io = io.zip(io_of(&folder)).map(|(mut sum, more)| {
            sum += more;
            sum
        });
        if Some(pid) == main {
            let (open_fds, max_fds) = (open_fds(&folder), max_fds(&folder));
            usage.main = Some(MainUsage { virtual_bytes: stat.virtual_bytes, open_fds, max_fds });
        }
    }
    let group = household.cgroups.as_ref().and_then(|tree| cpu_of(&tree.folder(&usage.service)));
    usage.cpu = group.map_or(CpuSum::Living(own), CpuSum::Group);
    usage.io = io;
    usage
}

/// `cpu.stat` is there in every group but the root, whatever controllers are enabled. It forgets nobody who has ended.
fn cpu_of(group: &Path) -> Option<Cpu> {
    let text = fs::read_to_string(group.join("cpu.stat")).ok()?;
    let micros = |key: &str| {
        let value = text.lines().find_map(|line| line.strip_prefix(key))?;
        Some(Duration::from_micros(value.parse().ok()?))
    };
    Some(Cpu { user: micros("user_usec ")?, system: micros("system_usec ")? })
}

fn io_of(process: &Path) -> Option<Io> {
    let text = fs::read_to_string(process.join("io")).ok()?;
    let bytes = |key: &str| text.lines().find_map(|line| line.strip_prefix(key))?.parse().ok();
    Some(Io { read: bytes("read_bytes: ")?, written: bytes("write_bytes: ")? })
}

fn open_fds(process: &Path) -> Option<u64> {
    let folder = process.join("fd");
    // Since Linux 6.2 the size of the folder is the number of its entries; before, it is 0.
    match fs::metadata(&folder).ok()?.len() {
        0 => fs::read_dir(&folder).ok()?.count().try_into().ok(),
        open => Some(open),
    }
}

fn max_fds(process: &Path) -> Option<u64> {
    let limits = fs::read_to_string(process.join("limits")).ok()?;
    let soft = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    soft.split_whitespace().next()?.parse().ok()
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
    fn whoever_cannot_be_looked_at_in_time_is_missing() {
        let (household, me) = me();
        assert_eq!(usage(&household, me, Duration::ZERO), []);
    }
}
