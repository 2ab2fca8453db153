//! What a service uses: all its processes together, read when somebody asks.

use std::fs;
use std::path::Path;
use std::time::Duration;

use defib_core::model::{ServiceName, Tick};

use super::clock;
use super::holders::Household;
use super::proc_stat::{Stat, Units};

/// What the processes of a service use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TreeUsage {
    /// The service.
    pub service: ServiceName,
    /// When this was read.
    pub at: Tick,
    /// CPU time that it has used. It counts up from a point of its own: only differences of two looks mean something.
    pub cpu: Duration,
    /// The resident memory of its processes in bytes; what several of them share is counted for each.
    pub memory: u64,
    /// How many processes there are.
    pub processes: u64,
}

/// Looks at services, which are given with their main processes.
pub fn usage(household: &Household, services: Vec<(ServiceName, Option<u32>)>) -> Vec<TreeUsage> {
    let units = Units::of_this_kernel();
    let look = |(service, main): (ServiceName, Option<u32>)| {
        let stats = household.processes(&service, main).into_iter().filter_map(|pid| Stat::of(pid, units));
        let (mut own, mut memory, mut processes) = (Duration::ZERO, 0_u64, 0);
        for stat in stats {
            // A child that ends hands its time to the parent that waits for it: the sum stays.
            own += stat.cpu + stat.children_cpu;
            memory = memory.saturating_add(stat.rss);
            processes += 1;
        }
        // The kernel counts in the group of the service, and forgets nobody who has ended.
        let group = household.cgroups.as_ref().and_then(|tree| cpu_of(&tree.folder(&service)));
        TreeUsage { at: clock::now(), cpu: group.unwrap_or(own), memory, processes, service }
    };
    services.into_iter().map(look).collect()
}

/// `cpu.stat` is there in every group but the root, whatever controllers are enabled.
fn cpu_of(group: &Path) -> Option<Duration> {
    let text = fs::read_to_string(group.join("cpu.stat")).ok()?;
    let micros = text.lines().find_map(|line| line.strip_prefix("usage_usec "))?;
    Some(Duration::from_micros(micros.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_is_a_service_of_one_if_it_is_taken_for_the_main_process() {
        let household = Household { cgroups: None, keeper: std::os::unix::process::parent_id() };
        let me = ("nobody".parse().unwrap(), Some(std::process::id()));
        let [found] = <[TreeUsage; 1]>::try_from(usage(&household, vec![me])).unwrap();
        assert!(found.memory > 1 << 20 && found.processes >= 1, "{found:?}");
    }
}
