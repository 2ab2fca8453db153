//! Which boot of the machine this is: times and pids of another one mean nothing in it.

use std::fs;

/// Where the kernel tells.
const PATH: &str = "/proc/sys/kernel/random/boot_id";

/// The name of the present boot. Empty where the kernel does not tell: that is no boot at all.
pub fn id() -> String {
    fs::read_to_string(PATH).map(|text| text.trim().to_owned()).unwrap_or_default()
}
