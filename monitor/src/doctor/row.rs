//! One line of the report.

use std::fmt;

use serde::Serialize;

/// One thing that was looked at.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// What it is about.
    pub group: Group,
    /// Its name, the same on every host.
    pub name: String,
    /// How it is.
    pub verdict: Verdict,
    /// What was found, and what defib does with it or does instead.
    pub found: String,
    /// What to do; empty where nothing can or need be done.
    pub remedy: String,
    /// Whether nothing can be supervised because of it.
    #[serde(skip)]
    pub fatal: bool,
}

/// How something is. The words are for scripts, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// As good as it can be.
    Ok,
    /// There, but less than it could be, or done in another way.
    Limited,
    /// Not there, and what it is for is not done.
    Missing,
}

/// What rows are about, in the order in which they are shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Group {
    /// The machine and the user.
    Host,
    /// Where defib hears of processes.
    Sources,
    /// How it holds the processes of a service together.
    Trees,
    /// What survives the daemon.
    State,
    /// Listening sockets and connections.
    Ports,
    /// What makes restarts quick.
    Latency,
    /// How much the kernel lets it have.
    Limits,
}

impl Verdict {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Limited => "limited",
            Self::Missing => "missing",
        }
    }
}

impl Group {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::Sources => "sources",
            Self::Trees => "trees",
            Self::State => "state",
            Self::Ports => "ports",
            Self::Latency => "latency",
            Self::Limits => "limits",
        }
    }

    /// A row of the group where all is well.
    pub(super) fn ok(self, name: &str, found: impl Into<String>) -> Row {
        self.row(name, Verdict::Ok, found.into(), String::new())
    }

    /// A row of the group about something that is less than it could be.
    pub(super) fn limited(self, name: &str, found: impl Into<String>, remedy: impl Into<String>) -> Row {
        self.row(name, Verdict::Limited, found.into(), remedy.into())
    }

    /// A row of the group about something that is not there.
    pub(super) fn missing(self, name: &str, found: impl Into<String>, remedy: impl Into<String>) -> Row {
        self.row(name, Verdict::Missing, found.into(), remedy.into())
    }

    fn row(self, name: &str, verdict: Verdict, found: String, remedy: String) -> Row {
        Row { group: self, name: name.to_owned(), verdict, found, remedy, fatal: false }
    }
}

impl Row {
    /// The same row, of something without which nothing can be supervised.
    pub(super) fn fatal(self) -> Self {
        Self { fatal: true, ..self }
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Display for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}
