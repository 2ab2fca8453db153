//! The standard families of a process, for the daemon itself.

use super::names;
use super::text::Page;
use super::wall_seconds;
use crate::effect::usage::OwnUsage;

pub(super) fn write(page: &mut Page, own: &OwnUsage) {
    let OwnUsage { process, open_fds, max_fds } = own;
    page.single(&names::OWN_CPU, process.cpu.total().as_secs_f64());
    page.single(&names::OWN_THREADS, process.threads as f64);
    page.single(&names::OWN_START_TIME, wall_seconds(process.started));
    page.single(&names::OWN_VIRTUAL, process.virtual_bytes as f64);
    page.single(&names::OWN_RESIDENT, process.resident_bytes as f64);
    page.single(&names::OWN_OPEN_FDS, *open_fds as f64);
    page.single(&names::OWN_MAX_FDS, max_fds.map_or(f64::INFINITY, |max| max as f64));
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use defib_core::model::Tick;

    use super::super::text::Format;
    use super::*;
    use crate::effect::usage::{Cpu, ProcessUsage};

    #[test]
    fn the_numbers_are_in_seconds_and_bytes_and_no_limit_is_infinite() {
        let cpu = Cpu { user: Duration::from_millis(1510), system: Duration::from_millis(500) };
        let process = ProcessUsage {
            cpu,
            threads: 5,
            started: Tick(10_000_000_000),
            virtual_bytes: 9_000_000,
            resident_bytes: 102_400,
        };
        let text = |max_fds| {
            let mut page = Page::default();
            write(&mut page, &OwnUsage { process, open_fds: 7, max_fds });
            page.into_text(Format::Text)
        };
        for line in [
            "\nprocess_cpu_seconds_total 2.01\n",
            "\nprocess_threads 5\n",
            "\nprocess_virtual_memory_bytes 9000000\n",
            "\nprocess_resident_memory_bytes 102400\n",
            "\nprocess_open_fds 7\n",
            "\nprocess_max_fds 1024\n",
        ] {
            assert!(text(Some(1024)).contains(line), "{line}{}", text(Some(1024)));
        }
        assert!(text(None).contains("\nprocess_max_fds +Inf\n"));
    }
}
