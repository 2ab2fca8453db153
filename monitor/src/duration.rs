//! Durations as operators write and read them: `100ms`, `5s`, `1m30s`, `2h`.

use std::time::Duration;

/// The units from the longest to the shortest, in nanoseconds.
const UNITS: [(&str, u64); 6] = [
    ("d", 86_400_000_000_000),
    ("h", 3_600_000_000_000),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
    ("us", 1_000),
];

/// The longest duration that can be written. It is a century, which is "never" to a supervisor, and fits into the
/// 64 bits of nanoseconds (584 years) that all times are kept in, with room to add a few.
pub const MAX: Duration = Duration::from_secs(36_500 * 86_400);

/// Why a text is not a duration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidDuration {
    /// It does not consist of numbers with units.
    #[error("it is made of whole numbers, each with its unit")]
    Shape,
    /// A number has no unit.
    #[error("a number needs its unit: d, h, m, s, ms or us")]
    NoUnit,
    /// A unit is none.
    #[error("the units are d, h, m, s, ms and us")]
    UnknownUnit,
    /// A unit comes again, or a longer one follows a shorter one.
    #[error("each unit comes once, the longest first")]
    Order,
    /// It is longer than [`MAX`].
    #[error("the longest is 36500d")]
    TooLong,
}

/// Reads a duration: whole numbers with units, the longest unit first, as in `1m30s`.
pub fn parse(text: &str) -> Result<Duration, InvalidDuration> {
    let mut rest = text;
    let mut units = UNITS.as_slice();
    let mut total: u64 = 0;
    loop {
        let (digits, after) = split(rest, |b| b.is_ascii_digit());
        if digits.is_empty() {
            return Err(InvalidDuration::Shape);
        }
        let (unit, after) = split(after, |b| b.is_ascii_alphabetic());
        let index = units.iter().position(|(name, _)| *name == unit).ok_or_else(|| match unit {
            "" if after.is_empty() => InvalidDuration::NoUnit,
            "" => InvalidDuration::Shape,
            _ if UNITS.iter().any(|(name, _)| *name == unit) => InvalidDuration::Order,
            _ => InvalidDuration::UnknownUnit,
        })?;
        // A number that does not fit is all digits, so it can only be too large.
        let span = digits.parse::<u64>().ok().and_then(|number| number.checked_mul(units[index].1));
        total = span.and_then(|span| total.checked_add(span)).ok_or(InvalidDuration::TooLong)?;
        units = &units[index + 1..];
        rest = after;
        if rest.is_empty() {
            break;
        }
    }
    let duration = Duration::from_nanos(total);
    if duration > MAX { Err(InvalidDuration::TooLong) } else { Ok(duration) }
}

/// Prints a duration so that [`parse`] reads it again; what is shorter than a microsecond is left out.
pub fn show(duration: Duration) -> String {
    let mut rest = duration.as_nanos();
    let mut text = String::new();
    for (name, unit) in UNITS {
        let unit = u128::from(unit);
        if rest >= unit {
            text.push_str(&format!("{}{name}", rest / unit));
            rest %= unit;
        }
    }
    if text.is_empty() { "0s".to_owned() } else { text }
}

/// The longest head of `text` whose bytes are all `of` a kind, and the rest.
fn split(text: &str, of: impl Fn(u8) -> bool) -> (&str, &str) {
    text.split_at(text.bytes().position(|b| !of(b)).unwrap_or(text.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_with_units_add_up() {
        for (text, micros) in [
            ("0s", 0),
            ("250us", 250),
            ("100ms", 100_000),
            ("5s", 5_000_000),
            ("1m30s", 90_000_000),
            ("90s", 90_000_000),
            ("2h", 7_200_000_000),
            ("7d", 604_800_000_000),
            ("1d2h3m4s5ms6us", 93_784_005_006),
        ] {
            assert_eq!(parse(text), Ok(Duration::from_micros(micros)), "{text}");
        }
        assert_eq!(parse("36500d"), Ok(MAX));
    }

    #[test]
    fn anything_else_is_refused_with_its_reason() {
        use InvalidDuration::{NoUnit, Order, Shape, TooLong, UnknownUnit};
        for (text, why) in [
            ("", Shape),
            ("s", Shape),
            ("-1s", Shape),
            (" 1s", Shape),
            ("1s ", Shape),
            ("1 s", Shape),
            ("1.5s", Shape),
            ("1s,5ms", Shape),
            ("١s", Shape),
            ("5", NoUnit),
            ("1m30", NoUnit),
            ("5sec", UnknownUnit),
            ("5S", UnknownUnit),
            ("5µs", Shape),
            ("30s1m", Order),
            ("1s1s", Order),
            ("36500d1us", TooLong),
            ("99999999999999999999s", TooLong),
            ("213504d", TooLong),
        ] {
            assert_eq!(parse(text), Err(why), "{text}");
        }
    }

    #[test]
    fn what_is_shown_can_be_read_again() {
        for (text, shown) in [
            ("0ms", "0s"),
            ("90s", "1m30s"),
            ("3600s", "1h"),
            ("1500ms", "1s500ms"),
            ("48h", "2d"),
            ("1us", "1us"),
        ] {
            assert_eq!(parse(text).map(show).as_deref(), Ok(shown));
        }
        assert_eq!(show(Duration::from_nanos(999)), "0s");
        assert_eq!(parse(&show(MAX)), Ok(MAX));
    }
}
