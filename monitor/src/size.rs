//! Sizes as operators write them: `512`, `10k`, `512M`, `2.5G`. Units are powers of 1024.

/// The units and their number of bytes.
const UNITS: [(char, u64); 4] = [('k', 1 << 10), ('M', 1 << 20), ('G', 1 << 30), ('T', 1 << 40)];

/// Why a text is not a size.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidSize {
    /// It is no number with or without a unit.
    #[error("it is a number and a unit: k, M, G or T, each 1024 times the one before")]
    Shape,
    /// It does not fit into 63 bits.
    #[error("the largest is 8388607T")]
    TooLarge,
}

/// Reads a size in bytes. A fraction, as in `2.5G`, needs a unit, and what is less than a byte is left out.
pub fn parse(text: &str) -> Result<u64, InvalidSize> {
    let unit = UNITS.iter().find(|(unit, _)| text.ends_with([*unit, unit.to_ascii_uppercase()]));
    let (number, factor) = match unit {
        Some((_, factor)) => (&text[..text.len() - 1], *factor),
        None => (text, 1),
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits = |part: &str| part.bytes().all(|b| b.is_ascii_digit());
    let fractional = number.contains('.');
    if whole.is_empty()
        || !digits(whole)
        || !digits(fraction)
        || (fractional && (factor == 1 || fraction.is_empty()))
    {
        return Err(InvalidSize::Shape);
    }
    let bytes = whole.parse::<u64>().ok().and_then(|whole| whole.checked_mul(factor));
    // Twelve digits of a T are exact enough: what is cut off is less than two bytes.
    let fraction = &fraction[..fraction.len().min(12)];
    let part = fraction.parse::<u64>().unwrap_or(0);
    let part = u128::from(part) * u128::from(factor) / 10_u128.pow(fraction.len() as u32);
    let bytes = bytes.and_then(|bytes| bytes.checked_add(u64::try_from(part).ok()?));
    bytes.filter(|bytes| *bytes <= i64::MAX as u64).ok_or(InvalidSize::TooLarge)
}

/// Prints a size so that [`parse`] reads it again, in the largest unit that divides it.
pub fn show(bytes: u64) -> String {
    let unit = UNITS.iter().rev().find(|(_, factor)| bytes != 0 && bytes.is_multiple_of(*factor));
    match unit {
        Some((unit, factor)) => format!("{}{unit}", bytes / factor),
        None => bytes.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_powers_of_1024() {
        for (text, bytes) in [
            ("0", 0),
            ("512", 512),
            ("10k", 10 << 10),
            ("10K", 10 << 10),
            ("512M", 512 << 20),
            ("2.5G", 5 << 29),
            ("1.0001k", 1024),
            ("3T", 3 << 40),
        ] {
            assert_eq!(parse(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn everything_else_is_refused() {
        for text in ["", "k", "-1", "1 M", "1MB", "1.5", "1.", ".5M", "1.M", "0x10", "1e3", "١"] {
            assert_eq!(parse(text), Err(InvalidSize::Shape), "{text:?}");
        }
        for text in ["9223372036854775808", "8388608T", "99999999999999999999"] {
            assert_eq!(parse(text), Err(InvalidSize::TooLarge), "{text:?}");
        }
    }

    #[test]
    fn what_is_printed_is_read_again() {
        for bytes in [0, 1, 1023, 1024, 1536, 10 << 20, 5 << 29, (1 << 40) + 1, i64::MAX as u64] {
            assert_eq!(parse(&show(bytes)), Ok(bytes));
        }
        assert_eq!((show(1536), show(10 << 20)), ("1536".to_owned(), "10M".to_owned()));
    }
}
