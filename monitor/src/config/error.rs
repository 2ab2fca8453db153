//! What is wrong with a configuration, and where.

use std::fmt;

/// One thing that is wrong: it prints as `FILE:LINE: KEY: message`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Finding {
    /// Where it is.
    pub place: Place,
    /// The key, as in `service.api.restart.window`, or the flag or variable; empty where none is to blame.
    pub key: String,
    /// The value found, what is wanted, and a remedy where there is one.
    pub message: String,
}

/// Where a [`Finding`] is. The order of the variants is that in which they are listed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// A flag or a variable, named by the key.
    Override,
    /// A file as a whole.
    File(String),
    /// A line of a file, counted from 1.
    Line(String, usize),
}

impl fmt::Display for Place {
    /// `FILE:LINE`, or what there is of it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Override => Ok(()),
            Self::File(file) => f.write_str(&printable(file)),
            Self::Line(file, line) => write!(f, "{}:{line}", printable(file)),
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.place != Place::Override {
            write!(f, "{}: ", self.place)?;
        }
        if !self.key.is_empty() {
            write!(f, "{}: ", self.key)?;
        }
        f.write_str(&self.message)
    }
}

/// Everything that is wrong with a configuration, in the order of its files and lines. Never empty.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigErrors(Vec<Finding>);

impl ConfigErrors {
    /// The errors in order; there is one at least.
    pub(super) fn sorted(mut findings: Vec<Finding>) -> Self {
        findings.sort();
        Self(findings)
    }

    /// `Ok` if nothing was found.
    pub(super) fn none(findings: Vec<Finding>) -> Result<(), Self> {
        if findings.is_empty() { Ok(()) } else { Err(Self::sorted(findings)) }
    }

    /// The single error that a whole file cannot be used.
    pub(super) fn of_file(file: &str, message: impl fmt::Display) -> Self {
        Self::one(Place::File(file.to_owned()), message)
    }

    /// A single error without a key.
    pub(super) fn one(place: Place, message: impl fmt::Display) -> Self {
        Self(vec![Finding { place, key: String::new(), message: message.to_string() }])
    }

    /// The errors, one after the other.
    pub fn iter(&self) -> std::slice::Iter<'_, Finding> {
        self.0.iter()
    }
}

impl fmt::Display for ConfigErrors {
    /// One line an error, without a newline at the end.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, finding) in self.0.iter().enumerate() {
            let newline = if index == 0 { "" } else { "\n" };
            write!(f, "{newline}{finding}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

/// How much of a value is repeated in a message.
const SHOWN: usize = 60;

/// A text of the file in double quotes: cut to a length for messages, and with everything escaped that could move
/// the cursor of a terminal or hide text on it.
pub(super) fn quoted(text: &str) -> String {
    match text.char_indices().nth(SHOWN) {
        Some((cut, _)) => format!("{:?}…", &text[..cut]),
        None => format!("{text:?}"),
    }
}

/// A text as it is, but for the characters that a terminal would act on.
pub(super) fn printable(text: &str) -> String {
    text.chars().flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] }).collect()
}
