//! The families of what services use: their processes as they are now, and what their ended lives have used.

use std::collections::BTreeMap;
use std::time::Duration;

use defib_core::model::{ServiceName, Usage};

use super::counted::Counted;
use super::names;
use super::text::Page;
use crate::effect::usage::{Cpu, CpuSum, Io, TreeUsage};

/// What was told of each service last. A counter must not fall, and a sum over processes does for a moment: between the
/// end of one and the record of it, or for good, with one whose parent did not wait for it.
#[derive(Debug, Default)]
pub(super) struct Sums(BTreeMap<ServiceName, (Cpu, Io)>);

impl Sums {
    /// Forgets services.
    pub(super) fn retain(&mut self, mut stays: impl FnMut(&ServiceName) -> bool) {
        self.0.retain(|name, _| stays(name));
    }

    fn told(&mut self, service: &ServiceName, cpu: Cpu, io: Option<Io>) -> (Cpu, Io) {
        let told = self.0.entry(service.clone()).or_default();
        let io = io.unwrap_or(told.1);
        *told = (
            Cpu { user: told.0.user.max(cpu.user), system: told.0.system.max(cpu.system) },
            Io { read: told.1.read.max(io.read), written: told.1.written.max(io.written) },
        );
        *told
    }
}

/// Writes what was found.
pub(super) fn write(
    page: &mut Page,
    found: &[TreeUsage],
    counted: &BTreeMap<ServiceName, Counted>,
    sums: &mut Sums,
) {
    for usage in found {
        let name = usage.service.as_str();
        let ended = counted.get(&usage.service).map(|counted| counted.used).unwrap_or_default();
        let io = usage.io.map(|living| with_ended_io(living, ended));
        let (cpu, sum) = sums.told(&usage.service, with_ended_cpu(usage.cpu, ended), io);
        let mut modes = page.family(&names::PROCESS_CPU);
        modes.add(&[name, "user"], cpu.user.as_secs_f64());
        modes.add(&[name, "system"], cpu.system.as_secs_f64());
        if io.is_some() {
            page.family(&names::PROCESS_READ).count(&[name], sum.read);
            page.family(&names::PROCESS_WRITTEN).count(&[name], sum.written);
        }
        page.family(&names::PROCESS_RESIDENT).count(&[name], usage.memory);
        page.family(&names::PROCESS_THREADS).count(&[name], usage.threads);
        page.family(&names::PROCESS_CHILDREN)
            .count(&[name], usage.processes.saturating_sub(usage.main.is_some().into()));
        let Some(main) = usage.main else { continue };
        page.family(&names::PROCESS_VIRTUAL).count(&[name], main.virtual_bytes);
        for (family, value) in
            [(&names::PROCESS_OPEN_FDS, main.open_fds), (&names::PROCESS_MAX_FDS, main.max_fds)]
        {
            if let Some(value) = value {
                page.family(family).count(&[name], value);
            }
        }
    }
}

fn with_ended_cpu(cpu: CpuSum, ended: Usage) -> Cpu {
    match cpu {
        // The kernel has not forgotten them.
        CpuSum::Group(cpu) => cpu,
        CpuSum::Living(mut cpu) => {
            cpu += Cpu {
                user: Duration::from_micros(ended.user_us),
                system: Duration::from_micros(ended.system_us),
            };
            cpu
        }
    }
}

fn with_ended_io(mut living: Io, ended: Usage) -> Io {
    living += Io { read: ended.read_bytes, written: ended.written_bytes };
    living
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sum_never_falls() {
        let (mut sums, name) = (Sums::default(), "api".parse().unwrap());
        let cpu = |user, system| Cpu { user: Duration::from_secs(user), system: Duration::from_secs(system) };
        let io = |read, written| Some(Io { read, written });
        assert_eq!(sums.told(&name, cpu(5, 1), io(10, 20)), (cpu(5, 1), Io { read: 10, written: 20 }));
        assert_eq!(sums.told(&name, cpu(4, 2), io(11, 3)), (cpu(5, 2), Io { read: 11, written: 20 }));
        assert_eq!(sums.told(&name, cpu(6, 0), None), (cpu(6, 2), Io { read: 11, written: 20 }));
        sums.retain(|_| false);
        assert_eq!(sums.told(&name, cpu(1, 1), None), (cpu(1, 1), Io::default()));
    }

    #[test]
    fn what_ended_lives_have_used_is_counted_once() {
        let ended = Usage { user_us: 2_000_000, read_bytes: 512, ..Usage::default() };
        let cpu = Cpu { user: Duration::from_secs(3), system: Duration::ZERO };
        assert_eq!(with_ended_cpu(CpuSum::Group(cpu), ended).user, Duration::from_secs(3));
        assert_eq!(with_ended_cpu(CpuSum::Living(cpu), ended).user, Duration::from_secs(5));
        assert_eq!(with_ended_io(Io { read: 1, written: 2 }, ended), Io { read: 513, written: 2 });
    }
}
