//! The start time of a process that ran before the probes were attached.

use std::fs;

use defib_ebpf::COARSE_NS;

/// When the process `pid` started, in nanoseconds of `CLOCK_BOOTTIME` rounded down to [`COARSE_NS`]: `/proc` tells no
/// more. `None` if there is none.
pub(super) fn coarse_start(pid: u32) -> Option<u64> {
    parse(&fs::read(format!("/proc/{pid}/stat")).ok()?)
}

/// Field 22 of proc_pid_stat(5). The second field is the command's name in brackets, and may hold brackets itself.
fn parse(stat: &[u8]) -> Option<u64> {
    let behind_name = stat.iter().rposition(|&byte| byte == b')')? + 1;
    let fields = std::str::from_utf8(&stat[behind_name..]).ok()?;
    let ticks: u64 = fields.split_ascii_whitespace().nth(19)?.parse().ok()?;
    ticks.checked_mul(COARSE_NS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_may_look_like_the_fields_behind_it() {
        let fields = (3..=21).map(|n| n.to_string()).collect::<Vec<_>>().join(" ");
        for name in ["cat", "a) S 1 2 (b", ") ) )", "\u{fffd}"] {
            let stat = format!("77 ({name}) {fields} 123456 23 24");
            assert_eq!(parse(stat.as_bytes()), Some(1_234_560_000_000), "{name}");
        }
        for bad in ["", "1 (x", "1 (x)", "1 (x) R 4", "1 (x) a b c d e f g h i j k l m n o p q r s t"] {
            assert_eq!(parse(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn this_process_started() {
        assert!(coarse_start(std::process::id()).is_some_and(|start| start % COARSE_NS == 0));
        assert_eq!(coarse_start(0), None);
    }
}
