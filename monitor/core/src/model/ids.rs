//! Newtypes for the names and numbers by which things are known.

use std::fmt;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// The name of a service, as it stands in `[service.NAME]`.
///
/// It becomes the name of a cgroup folder and of a log file, so it holds only what is harmless in both:
/// a letter, digit or `_` first, then letters, digits, `_`, `-` and `.`, [`ServiceName::MAX`] bytes at most.
/// `@` (instances) and `:` (groups) have meanings of their own.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ServiceName(Arc<str>);

impl ServiceName {
    /// The longest name in bytes: with room for a suffix it stays well below NAME_MAX (255).
    pub const MAX: usize = 64;

    /// The name as it is written.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Why a text is not a [`ServiceName`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidName;

impl fmt::Display for InvalidName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "a name starts with a letter, a digit or `_`, goes on with letters, digits, `_`, `-` and `.`, \
             and has at most {} bytes",
            ServiceName::MAX
        )
    }
}

impl std::error::Error for InvalidName {}

impl TryFrom<String> for ServiceName {
    type Error = InvalidName;

    fn try_from(text: String) -> Result<Self, InvalidName> {
        text.parse()
    }
}

impl std::str::FromStr for ServiceName {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, InvalidName> {
        let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
        let first = text.bytes().next().is_some_and(word);
        let rest = text.bytes().all(|b| word(b) || b == b'-' || b == b'.');
        if first && rest && text.len() <= Self::MAX { Ok(Self(text.into())) } else { Err(InvalidName) }
    }
}

impl From<ServiceName> for String {
    fn from(name: ServiceName) -> Self {
        name.0.as_ref().to_owned()
    }
}

impl fmt::Display for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl fmt::Debug for ServiceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// A draft of the plan of a service. It grows by one each time that a plan is asked for, so it tells the answer to the
/// latest question from a late answer to an earlier one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Draft(pub u64);

impl Draft {
    /// The one after this.
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

/// A withdrawal of a standing order, by which its confirmation is told from that of an earlier one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Withdrawal(pub u64);

impl Withdrawal {
    /// The one after this.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

/// One life of a service. It grows by one with every attempt to start the service, so it is the epoch that
/// tells a report of this life from a late report of an earlier one. 0: the service has never been started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Incarnation(pub u64);

impl Incarnation {
    /// The life after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A request of a client that waits for its reply.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct RequestId(pub u64);
