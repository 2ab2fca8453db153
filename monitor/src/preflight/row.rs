//! One line of what was found.

use std::fmt;

use serde::Serialize;

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Row {
    /// Its name, the same for every service; with a port or a file where there may be several.
    pub name: String,
    /// How it is.
    pub verdict: Verdict,
    /// What was found.
    pub found: String,
    /// What to do; empty where nothing need be done.
    pub remedy: String,
}

/// How something is. The words are for scripts, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// No obstacle.
    Ok,
    /// Perhaps one.
    Warning,
    /// A start would fail, or the service be of no use.
    Error,
}

impl Verdict {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

pub(super) fn ok(name: impl Into<String>, found: impl Into<String>) -> Row {
    Row { name: name.into(), verdict: Verdict::Ok, found: found.into(), remedy: String::new() }
}

pub(super) fn warning(name: impl Into<String>, found: impl Into<String>, remedy: impl Into<String>) -> Row {
    Row { name: name.into(), verdict: Verdict::Warning, found: found.into(), remedy: remedy.into() }
}

pub(super) fn error(name: impl Into<String>, found: impl Into<String>, remedy: impl Into<String>) -> Row {
    Row { name: name.into(), verdict: Verdict::Error, found: found.into(), remedy: remedy.into() }
}
