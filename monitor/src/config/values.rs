//! Readers of single values: from a [`Node`] to a type that cannot be wrong, or a note of what is wanted.

use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use defib_core::model::Signal;
use toml::de::DeValue;

use super::document::Node;
use super::error::quoted;
use crate::{duration, size};

pub(super) fn boolean(node: Node<'_>) -> Option<bool> {
    node.value.as_bool().or_else(|| node.refuse("true or false"))
}

/// A size of a range, in bytes.
pub(super) fn size(node: Node<'_>, range: RangeInclusive<u64>) -> Option<u64> {
    let limits = match (*range.start(), *range.end()) {
        (0, end) if end >= i64::MAX as u64 => String::new(),
        (start, end) if end >= i64::MAX as u64 => format!(", at least {}", size::show(start)),
        (start, end) => format!(" from {} to {}", size::show(start), size::show(end)),
    };
    let wanted = format!("a size such as \"512M\" or \"10k\"{limits}");
    let bytes = match node.value {
        DeValue::String(text) => match size::parse(text) {
            Ok(bytes) => bytes,
            Err(why) => return node.refuse(&format!("{wanted}: {why}")),
        },
        DeValue::Integer(number) if number.radix() == 10 => match number.as_str().parse() {
            Ok(bytes) => bytes,
            Err(_) => return node.refuse(&wanted),
        },
        _ => return node.refuse(&wanted),
    };
    if range.contains(&bytes) { Some(bytes) } else { node.refuse(&wanted) }
}

/// `"none"`, or what `read` reads.
pub(super) fn or_none<'a, T>(node: Node<'a>, read: impl FnOnce(Node<'a>) -> Option<T>) -> Option<Option<T>> {
    if node.value.as_str() == Some("none") { Some(None) } else { read(node).map(Some) }
}

/// One line for people.
pub(super) fn line(node: Node<'_>) -> Option<String> {
    match node.value.as_str() {
        Some(text) if !text.contains(char::is_control) => Some(text.to_owned()),
        _ => node.refuse("one line of text without control characters"),
    }
}

/// A string that the kernel can take as an argument or a variable: those end at a NUL.
pub(super) fn argument(node: Node<'_>) -> Option<String> {
    let quotes = match node.value {
        DeValue::String(text) if !text.contains('\0') => return Some(text.as_ref().to_owned()),
        DeValue::String(_) => return node.refuse("a string without NUL"),
        DeValue::Integer(number) => number.to_string(),
        DeValue::Float(number) => number.as_str().to_owned(),
        DeValue::Boolean(value) => value.to_string(),
        DeValue::Datetime(_) | DeValue::Array(_) | DeValue::Table(_) => return node.refuse("a string"),
    };
    node.refuse(&format!("a string; write {}", quoted(&quotes)))
}

/// The wish for a path, in the words of the messages.
pub(super) const PATH: &str = "an absolute path";

pub(super) fn path(node: Node<'_>) -> Option<PathBuf> {
    match node.value.as_str() {
        Some(text) if Path::new(text).is_absolute() && !text.contains('\0') => Some(text.into()),
        _ => node.refuse(PATH),
    }
}

/// Any duration, zero too.
pub(super) fn duration(node: Node<'_>) -> Option<Duration> {
    duration_or(node, "a duration such as \"100ms\" or \"1m30s\"")
}

/// A duration where zero would mean a busy loop or nothing at all.
pub(super) fn span(node: Node<'_>) -> Option<Duration> {
    span_or(node, "a duration above zero, such as \"100ms\" or \"1m30s\"")
}

/// As [`span`], where `wanted` names what else is allowed.
pub(super) fn span_or(node: Node<'_>, wanted: &str) -> Option<Duration> {
    match duration_or(node.clone(), wanted)? {
        Duration::ZERO => node.refuse(wanted),
        span => Some(span),
    }
}

fn duration_or(node: Node<'_>, wanted: &str) -> Option<Duration> {
    match node.value {
        DeValue::String(text) => match duration::parse(text) {
            Ok(duration) => Some(duration),
            Err(why) => node.refuse(&format!("{wanted}: {why}")),
        },
        DeValue::Integer(number) => {
            node.refuse(&format!("{wanted}; for seconds write {}", quoted(&format!("{number}s"))))
        }
        _ => node.refuse(wanted),
    }
}

/// A whole number of a range, which `wanted` names.
pub(super) fn whole(node: Node<'_>, range: RangeInclusive<u32>, wanted: &str) -> Option<u32> {
    let DeValue::Integer(number) = node.value else { return node.refuse(wanted) };
    match u32::from_str_radix(number.as_str(), number.radix()) {
        Ok(number) if range.contains(&number) => Some(number),
        _ => node.refuse(wanted),
    }
}

/// A number of a range, which `wanted` names; a whole number will do. No range contains NaN.
pub(super) fn number(node: Node<'_>, range: RangeInclusive<f64>, wanted: &str) -> Option<f64> {
    let text = match node.value {
        DeValue::Float(number) => number.as_str(),
        DeValue::Integer(number) if number.radix() == 10 => number.as_str(),
        _ => return node.refuse(wanted),
    };
    match text.parse() {
        Ok(number) if range.contains(&number) => Some(number),
        _ => node.refuse(wanted),
    }
}

/// A number of at most three octal digits, in quotes or with 0o, which `wanted` names.
pub(super) fn octal(node: Node<'_>, wanted: &str) -> Option<u32> {
    let number = match node.value {
        DeValue::String(text) if text.bytes().all(|b| b.is_ascii_digit()) => {
            u32::from_str_radix(text, 8).ok()
        }
        DeValue::Integer(number) if number.radix() == 8 => u32::from_str_radix(number.as_str(), 8).ok(),
        _ => None,
    };
    number.filter(|number| *number <= 0o777).or_else(|| node.refuse(wanted))
}

/// A set of exit codes.
pub(super) fn codes(node: Node<'_>) -> Option<BTreeSet<u8>> {
    let code = |item| whole(item, 0..=255, "an exit code from 0 to 255").map(|code| code as u8);
    list(node, "an array of exit codes such as [0, 143]", code).map(BTreeSet::from_iter)
}

pub(super) fn signal(node: Node<'_>) -> Option<Signal> {
    let parsed = node.value.as_str().map(str::parse::<Signal>);
    match parsed {
        Some(Ok(signal)) => Some(signal),
        Some(Err(why)) => node.refuse(&format!("a signal: {why}")),
        None => node.refuse("a signal such as \"TERM\""),
    }
}

/// A user or a group of the system, by name or by number.
///
/// The highest number is none: setresuid(2) takes it for "leave this as it is".
pub(super) fn account(node: Node<'_>) -> Option<String> {
    let wanted = "a name or a number from 0 to 4294967294";
    let text = match node.value {
        DeValue::String(text) => text.as_ref().to_owned(),
        DeValue::Integer(number) if number.radix() == 10 => number.as_str().to_owned(),
        _ => return node.refuse(wanted),
    };
    let numeric = text.starts_with(|c: char| c.is_ascii_digit() || c == '-' || c == '+');
    let valid = if numeric {
        text.parse::<u32>().is_ok_and(|number| number != u32::MAX) && !text.starts_with('+')
    } else {
        !text.is_empty()
            && !text.contains(|c: char| c.is_whitespace() || c.is_control() || c == ':' || c == '/')
    };
    if valid { Some(text) } else { node.refuse(wanted) }
}

/// An array of which every item is read by `read`.
pub(super) fn list<'a, T>(
    node: Node<'a>,
    wanted: &str,
    read: impl Fn(Node<'a>) -> Option<T>,
) -> Option<Vec<T>> {
    // All items are read before one that was refused refuses the whole, so that every error is noted.
    let items: Vec<Option<T>> = node.items(wanted)?.into_iter().map(read).collect();
    items.into_iter().collect()
}

/// One of a few words.
pub(super) fn word<T: Copy>(node: Node<'_>, words: &[(&str, T)]) -> Option<T> {
    let found = words.iter().find(|(word, _)| node.value.as_str() == Some(word));
    found.map(|(_, value)| *value).or_else(|| node.refuse(&one_of(words)))
}

/// `"a", "b" or "c"`.
pub(super) fn one_of<T>(words: &[(&str, T)]) -> String {
    let quoted: Vec<String> = words.iter().map(|(word, _)| format!("{word:?}")).collect();
    match quoted.split_last() {
        Some((last, [])) => last.clone(),
        Some((last, others)) => format!("{} or {last}", others.join(", ")),
        None => String::new(),
    }
}
