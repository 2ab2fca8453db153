//! The JSON of logs.

use defib_core::model::ServiceName;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::duration;

/// A line that a service wrote, or a piece of one.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogLine {
    /// When it came, to about 100 ms.
    pub at: Option<Timestamp>,
    /// `joined`, `stdout` or `stderr`.
    pub stream: String,
    /// The line, with U+FFFD for what is no UTF-8.
    pub line: String,
    /// The line as it is, two digits a byte, if it is no UTF-8.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hex: Option<String>,
    /// Whether it goes on: longer than 64 KiB, or without an end yet.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub partial: bool,
}

impl LogLine {
    /// What was written.
    pub fn bytes(&self) -> Vec<u8> {
        let Some(hex) = &self.hex else { return self.line.clone().into_bytes() };
        let pairs = hex.as_bytes().chunks_exact(2);
        pairs.filter_map(|pair| u8::from_str_radix(str::from_utf8(pair).ok()?, 16).ok()).collect()
    }
}

/// How many lines there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counted {
    /// Whole lines.
    pub count: u64,
}

/// The last lines of a service.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Output {
    /// The oldest first.
    pub lines: Vec<String>,
}

/// What the files of a service take.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogUsage {
    /// The service.
    pub service: ServiceName,
    /// How many files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
    /// The file, or the folder of all lives.
    pub path: String,
}

/// The body of `vacuum`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Vacuum {
    /// Of which services; all if there are none.
    #[serde(default)]
    pub services: Vec<ServiceName>,
    /// Remove files that have not been written for longer, as in `7d`.
    pub older: Option<String>,
    /// Remove the oldest until all together take no more bytes.
    pub size: Option<u64>,
}

/// What was removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Vacuumed {
    /// How many files.
    pub files: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// Why a text is no time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a time is written like 2026-05-01T12:00:00Z, or how long ago it is, like 1h or \"1 hour ago\"")]
pub struct InvalidTime;

/// Reads a time: RFC 3339, a duration before `now` as in the configuration, or in words.
///
/// # Errors
/// If it is none of these.
pub fn time(text: &str, now: Timestamp) -> Result<Timestamp, InvalidTime> {
    if let Ok(at) = text.parse::<Timestamp>() {
        return Ok(at);
    }
    let words: Vec<&str> = text.split_whitespace().collect();
    let span = match words[..] {
        ["now"] => return Ok(now),
        [span] | [span, "ago"] => duration::parse(span).ok(),
        [number, unit] | [number, unit, "ago"] => {
            let unit = match unit.strip_suffix('s').filter(|unit| !unit.is_empty()).unwrap_or(unit) {
                "second" | "sec" | "s" => "s",
                "minute" | "min" | "m" => "m",
                "hour" | "h" => "h",
                "day" | "d" => "d",
                "week" | "w" => "w",
                _ => return Err(InvalidTime),
            };
            match (number.parse::<u64>(), unit) {
                (Ok(weeks), "w") => {
                    weeks.checked_mul(7).and_then(|days| duration::parse(&format!("{days}d")).ok())
                }
                (Ok(number), unit) => duration::parse(&format!("{number}{unit}")).ok(),
                (Err(_), _) => None,
            }
        }
        _ => None,
    };
    now.checked_sub(span.ok_or(InvalidTime)?).map_err(|_too_long_ago| InvalidTime)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_absolute_or_so_long_ago() {
        let now: Timestamp = "2026-05-01T12:00:00Z".parse().unwrap();
        for (text, wanted) in [
            ("2026-04-30T00:00:00+02:00", "2026-04-29T22:00:00Z"),
            ("1h", "2026-05-01T11:00:00Z"),
            ("1h30m ago", "2026-05-01T10:30:00Z"),
            ("1 hour ago", "2026-05-01T11:00:00Z"),
            ("2 days", "2026-04-29T12:00:00Z"),
            ("1 week ago", "2026-04-24T12:00:00Z"),
            ("now", "2026-05-01T12:00:00Z"),
        ] {
            assert_eq!(time(text, now), Ok(wanted.parse().unwrap()), "{text}");
        }
        for text in ["", "yesterday-ish", "1", "1 parsec ago", "hour ago", "-1h", "99999999d"] {
            assert_eq!(time(text, now), Err(InvalidTime), "{text}");
        }
    }

    #[test]
    fn bytes_come_back_whatever_they_were() {
        let line = LogLine {
            at: None,
            stream: "joined".into(),
            line: "\u{fffd}a".into(),
            hex: Some("ff61".into()),
            partial: false,
        };
        assert_eq!(line.bytes(), [0xff, b'a']);
    }
}
