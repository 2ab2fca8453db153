//! Reads `[daemon.log]`: the daemon's own log.

use std::ffi::OsStr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::document::{Document, Node, Table};
use super::error::{Place, quoted};
use super::overrides::Overrides;
use super::values;

/// The daemon's own log.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnLog {
    /// Where it goes.
    pub to: LogTarget,
    /// In what form.
    pub format: LogFormat,
    /// What is told: a level, or levels by module, as in `info,defib::source=debug`.
    pub level: String,
}

impl OwnLog {
    /// As long as the file has not been read: standard error, in the form that flags and variables ask for. What is
    /// wrong with those is told with all other errors.
    pub fn early(overrides: &Overrides) -> Self {
        let flags = &overrides.flags;
        let word = |flag, value: &Option<String>, variable| {
            let (_, value) = overrides.setting(flag, value.as_deref().map(OsStr::new), variable)?;
            value.to_str().map(str::to_owned)
        };
        Self {
            to: LogTarget::Stderr,
            format: word(FORMAT.0, &flags.log_format, FORMAT.1)
                .and_then(|word| format(&word))
                .unwrap_or_default(),
            level: word(FLAG_LEVEL.0, &flags.log_level, FLAG_LEVEL.1)
                .and_then(|word| level(&word))
                .unwrap_or_else(|| DEFAULT_LEVEL.to_owned()),
        }
    }
}

/// Where the daemon's own log goes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum LogTarget {
    /// Standard error.
    #[default]
    Stderr,
    /// The journal of systemd, with fields.
    Journal,
    /// A file, which is appended to.
    File(PathBuf),
}

/// The form of the daemon's own log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum LogFormat {
    /// Lines for people.
    #[default]
    Text,
    /// An object a line.
    Json,
}

/// Flags, and the variables that do the same.
const FORMAT: (&str, &str) = ("--log-format", "DEFIB_LOG_FORMAT");
const FLAG_LEVEL: (&str, &str) = ("--log-level", "DEFIB_LOG");

const DEFAULT_LEVEL: &str = "info";

pub(super) const FORMATS: [(&str, LogFormat); 2] = [("text", LogFormat::Text), ("json", LogFormat::Json)];
const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
const TARGET: &str = "\"stderr\", \"journal\" or the absolute path of a file";
const LEVEL: &str = "error, warn, info, debug or trace, also by module as in \"info,defib::source=debug\"";

/// What the table gives.
#[derive(Clone, Debug, Default)]
pub(super) struct Given {
    to: Option<LogTarget>,
    format: Option<LogFormat>,
    level: Option<String>,
}

impl Given {
    pub(super) fn read(node: Node<'_>) -> Option<Self> {
        let mut table: Table<'_> = node.table("a table such as { to = \"journal\", level = \"info\" }")?;
        let given = Self {
            to: table.get("to", |node| node.value.as_str().and_then(target).or_else(|| node.refuse(TARGET))),
            format: table.get("format", |node| values::word(node, &FORMATS)),
            level: table
                .get("level", |node| node.value.as_str().and_then(level).or_else(|| node.refuse(LEVEL))),
        };
        table.finish(|_| None);
        Some(given)
    }
}

/// Settles every key: flag, variable, file, default.
pub(super) fn settle(doc: &Document<'_>, given: Given, overrides: &Overrides) -> OwnLog {
    let flags = &overrides.flags;
    OwnLog {
        to: set(doc, overrides, ("--log-to", &flags.log_to, "DEFIB_LOG_TO"), TARGET, target)
            .or(given.to)
            .unwrap_or_default(),
        format: set(
            doc,
            overrides,
            (FORMAT.0, &flags.log_format, FORMAT.1),
            &values::one_of(&FORMATS),
            format,
        )
        .or(given.format)
        .unwrap_or_default(),
        level: set(doc, overrides, (FLAG_LEVEL.0, &flags.log_level, FLAG_LEVEL.1), LEVEL, level)
            .or(given.level)
            .unwrap_or_else(|| DEFAULT_LEVEL.to_owned()),
    }
}

/// What a flag or a variable sets.
fn set<T>(
    doc: &Document<'_>,
    overrides: &Overrides,
    (flag, value, variable): (&'static str, &Option<String>, &'static str),
    wanted: &str,
    read: impl Fn(&str) -> Option<T>,
) -> Option<T> {
    let (name, value) = overrides.setting(flag, value.as_deref().map(OsStr::new), variable)?;
    let value = value.to_string_lossy();
    let read = read(&value);
    if read.is_none() {
        doc.note(Place::Override, name, format!("found {}, wanted {wanted}", quoted(&value)));
    }
    read
}

fn target(text: &str) -> Option<LogTarget> {
    match text {
        "stderr" => Some(LogTarget::Stderr),
        "journal" => Some(LogTarget::Journal),
        path if path.starts_with('/') && !path.contains('\0') => Some(LogTarget::File(path.into())),
        _ => None,
    }
}

fn format(text: &str) -> Option<LogFormat> {
    FORMATS.iter().find(|(word, _)| *word == text).map(|(_, format)| *format)
}

fn level(text: &str) -> Option<String> {
    let level = |word: &str| LEVELS.contains(&word);
    let module = |name: &str| {
        !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b':')
    };
    // Stricter than the filter itself, to which a level with a slip of the pen is the name of a module.
    let valid = |part: &str| match part.split_once('=') {
        Some((name, word)) => module(name) && level(word),
        None => level(part),
    };
    text.split(',').all(valid).then(|| text.to_owned())
}
