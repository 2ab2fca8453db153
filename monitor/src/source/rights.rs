//! The capabilities of this process.

use std::fs;
use std::io;

/// Where they stand.
pub(super) const STATUS: &str = "/proc/self/status";

/// Bits of capability(7).
pub(super) const NET_ADMIN: u64 = 1 << 12;
pub(super) const SYS_ADMIN: u64 = 1 << 21;
pub(super) const PERFMON: u64 = 1 << 38;
pub(super) const BPF: u64 = 1 << 39;

/// The effective ones.
pub(super) fn effective() -> io::Result<u64> {
    Ok(parse(&fs::read_to_string(STATUS)?))
}

/// Those that a `/proc/PID/status` shows; none if it makes no sense.
fn parse(status: &str) -> u64 {
    let mask = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_effective_ones_count() {
        let status = |mask| format!("Name:\tx\nCapPrm:\tffffffffffffffff\nCapEff:\t{mask}\n");
        assert_eq!(parse(&status("000000c000000000")), PERFMON | BPF);
        assert_eq!(parse(&status("nonsense")), 0);
        assert_eq!(parse(""), 0);
    }
}
