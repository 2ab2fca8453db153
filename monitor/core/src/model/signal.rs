//! Signals by number and name, as Linux has them on every architecture defib runs on.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A signal number, 1 to 64.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Signal(pub i32);

/// A text that names no signal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnknownSignal;

impl fmt::Display for UnknownSignal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "a signal is a name with or without SIG (TERM, SIGKILL, RTMIN+3) or a number from 1 to 64",
        )
    }
}

impl std::error::Error for UnknownSignal {}

/// signal(7), the numbers of x86 and ARM.
const NAMES: [&str; 31] = [
    "HUP", "INT", "QUIT", "ILL", "TRAP", "ABRT", "BUS", "FPE", "KILL", "USR1", "SEGV", "USR2", "PIPE",
    "ALRM", "TERM", "STKFLT", "CHLD", "CONT", "STOP", "TSTP", "TTIN", "TTOU", "URG", "XCPU", "XFSZ",
    "VTALRM", "PROF", "WINCH", "IO", "PWR", "SYS",
];

/// The first real-time signal that programs may use: glibc keeps 32 and 33 for its threads.
const RTMIN: i32 = 34;
const RTMAX: i32 = 64;

impl Signal {
    /// SIGKILL.
    pub const KILL: Self = Self(9);
    /// SIGTERM.
    pub const TERM: Self = Self(15);
}

impl fmt::Display for Signal {
    /// With its prefix, as in `SIGTERM`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = usize::try_from(self.0 - 1).ok().and_then(|index| NAMES.get(index));
        match name {
            Some(name) => f.pad(&format!("SIG{name}")),
            None if self.0 >= RTMIN => f.pad(&format!("SIGRTMIN+{}", self.0 - RTMIN)),
            None => f.pad(&format!("SIG{}", self.0)),
        }
    }
}

impl std::str::FromStr for Signal {
    type Err = UnknownSignal;

    fn from_str(text: &str) -> Result<Self, UnknownSignal> {
        let upper = text.to_ascii_uppercase();
        let name = upper.strip_prefix("SIG").unwrap_or(&upper);
        let number = if let Some(index) = NAMES.iter().position(|known| *known == name) {
            index as i32 + 1
        } else if let Some(above) = name.strip_prefix("RTMIN") {
            RTMIN + offset(above, '+')?
        } else if let Some(below) = name.strip_prefix("RTMAX") {
            RTMAX - offset(below, '-')?
        } else {
            name.parse().map_err(|_not_a_number| UnknownSignal)?
        };
        if (1..=RTMAX).contains(&number) { Ok(Self(number)) } else { Err(UnknownSignal) }
    }
}

/// The number after `sign`, or 0 if there is nothing.
fn offset(text: &str, sign: char) -> Result<i32, UnknownSignal> {
    if text.is_empty() {
        return Ok(0);
    }
    let digits = text.strip_prefix(sign).ok_or(UnknownSignal)?;
    digits.parse::<u8>().map(i32::from).map_err(|_not_a_number| UnknownSignal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers_mean_the_same_signal() {
        for (text, number) in [
            ("TERM", 15),
            ("SIGTERM", 15),
            ("sigkill", 9),
            ("9", 9),
            ("RTMIN", 34),
            ("SIGRTMIN+3", 37),
            ("RTMAX-1", 63),
        ] {
            assert_eq!(text.parse(), Ok(Signal(number)), "{text}");
        }
        for text in ["", "0", "65", "-1", "TERMINATE", "SIG", "RTMIN3", "RTMAX+1", "RTMIN+99"] {
            assert_eq!(text.parse::<Signal>(), Err(UnknownSignal), "{text}");
        }
    }

    #[test]
    fn every_signal_is_printed_so_that_it_can_be_read_again() {
        for number in 1..=64 {
            assert_eq!(Signal(number).to_string().parse(), Ok(Signal(number)));
        }
    }
}
