//! Reads `[daemon]`, under the flags and variables that decide over it.

use std::ffi::OsStr;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::document::{Document, Node};
use super::error::{Place, quoted};
use super::overrides::Overrides;
use super::own_log::{self, OwnLog};
use super::{planned, values};

/// What the daemon itself needs to know. The keeper holds it for the next daemon, which may be of a later version: a new
/// key has a default.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DaemonSettings {
    /// What survives a restart of the machine.
    pub state_dir: PathBuf,
    /// The socket, and what need not survive.
    pub runtime_dir: PathBuf,
    /// The output of services.
    pub log_dir: PathBuf,
    /// A file NAME.pid for each service that runs goes here; `None`: none is written.
    pub pid_dir: Option<PathBuf>,
    /// The daemon's own log.
    pub log: OwnLog,
    /// What runs the services.
    pub backend: Backend,
    /// Where events come from.
    pub source: SourceChoice,
    /// A daemon that does not answer the keeper for so long is replaced; `None`: only systemd's watchdog asks.
    #[serde(default)]
    pub watchdog: Option<Duration>,
}

/// `daemon.backend`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Backend {
    /// defib itself.
    #[default]
    Direct,
}

pub(super) const BACKENDS: [(&str, Backend); 1] = [("direct", Backend::Direct)];

impl Backend {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Direct => "direct",
        }
    }
}

/// `daemon.source`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum SourceChoice {
    /// The best that works here.
    #[default]
    Auto,
    /// eBPF, or no start.
    Ebpf,
    /// The kernel's proc connector, or no start.
    ProcConnector,
    /// pidfds.
    Pidfd,
}

pub(super) const SOURCES: [(&str, SourceChoice); 4] = [
    ("auto", SourceChoice::Auto),
    ("ebpf", SourceChoice::Ebpf),
    ("proc-connector", SourceChoice::ProcConnector),
    ("pidfd", SourceChoice::Pidfd),
];

impl SourceChoice {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Ebpf => "ebpf",
            Self::ProcConnector => "proc-connector",
            Self::Pidfd => "pidfd",
        }
    }
}

impl fmt::Display for SourceChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// What `[daemon]` gives.
#[derive(Debug, Default)]
pub(super) struct Given {
    state_dir: Option<PathBuf>,
    runtime_dir: Option<PathBuf>,
    log_dir: Option<PathBuf>,
    pid_dir: Option<PathBuf>,
    log: own_log::Given,
    backend: Option<Backend>,
    source: Option<SourceChoice>,
    watchdog: Option<Option<Duration>>,
    faulty: bool,
}

impl Given {
    pub(super) fn read(node: Node<'_>) -> Option<Self> {
        let mut table = node.table("a table")?;
        let mut given = Self {
            state_dir: table.get("state_dir", values::path),
            runtime_dir: table.get("runtime_dir", socket_dir),
            log_dir: table.get("log_dir", values::path),
            pid_dir: table.get("pid_dir", values::path),
            log: table.get("log", own_log::Given::read).unwrap_or_default(),
            backend: table.get("backend", |node| match node.value.as_str().map(backend) {
                Some(Ok(backend)) => Some(backend),
                Some(Err(why)) => node.complain(why),
                None => node.refuse(&values::one_of(&BACKENDS)),
            }),
            source: table.get("source", |node| values::word(node, &SOURCES)),
            watchdog: table.get("watchdog", watchdog),
            faulty: false,
        };
        given.faulty = table.faulty();
        table.finish(|key| planned::refusal(planned::DAEMON, key));
        Some(given)
    }
}

/// A wish for a folder: in words, and as a test.
type Wish = (&'static str, fn(&Path) -> bool);

const FOLDER: Wish = (values::PATH, Path::is_absolute);

/// sun_path of unix(7) has 108 bytes, and `/defib.sock` with its NUL takes 12 of them.
const SOCKET_FOLDER: Wish =
    ("an absolute path of at most 96 bytes, because the address of the socket in it is limited", |path| {
        path.is_absolute() && path.as_os_str().len() <= 96
    });

fn watchdog(node: Node<'_>) -> Option<Option<Duration>> {
    const WANTED: &str = "a duration of at least 1s, such as \"30s\", or \"none\"";
    values::or_none(node, |node| match values::span_or(node.clone(), WANTED)? {
        span if span < Duration::from_secs(1) => node.refuse(WANTED),
        span => Some(span),
    })
}

fn socket_dir(node: Node<'_>) -> Option<PathBuf> {
    let (wanted, valid) = SOCKET_FOLDER;
    let path = values::path(node.clone())?;
    if valid(&path) { Some(path) } else { node.refuse(wanted) }
}

/// The backend of a name, or why there is none.
fn backend(word: &str) -> Result<Backend, String> {
    let wanted = values::one_of(&BACKENDS);
    match BACKENDS.iter().find(|(name, _)| *name == word) {
        Some((_, backend)) => Ok(*backend),
        None if planned::BACKENDS.contains(&word) => {
            Err(format!("found {}, which is {}, wanted {wanted}", quoted(word), planned::WORD))
        }
        None => Err(format!("found {}, wanted {wanted}", quoted(word))),
    }
}

/// Settles every key: flag, variable, file, default.
pub(super) fn settle(doc: &Document<'_>, given: Given, overrides: &Overrides) -> DaemonSettings {
    let root = overrides.euid == 0;
    let flags = &overrides.flags;
    let set = |flag, value: &Option<PathBuf>, variable, wish| {
        let value = value.as_deref().map(Path::as_os_str);
        folder(doc, overrides.setting(flag, value, variable), wish)
    };
    let state_dir = set("--state-dir", &flags.state_dir, "DEFIB_STATE_DIR", FOLDER);
    let runtime_dir = set("--runtime-dir", &flags.runtime_dir, "DEFIB_RUNTIME_DIR", SOCKET_FOLDER);
    let pid_dir = set("--pid-dir", &flags.pid_dir, "DEFIB_PID_DIR", FOLDER);
    let log_dir = set("--log-dir", &flags.log_dir, "DEFIB_LOG_DIR", FOLDER);
    let source = overrides.setting("--source", flags.source.as_deref().map(OsStr::new), "DEFIB_SOURCE");

    let state_dir = state_dir.or(given.state_dir).unwrap_or_else(|| match overrides.state_dir() {
        Some(path) => path,
        None => {
            // If the file gives one that was refused, that is the error to report.
            if !given.faulty {
                let message = "missing, and neither XDG_STATE_HOME nor HOME is set to derive it from";
                doc.note(Place::Override, "daemon.state_dir", message);
            }
            PathBuf::new()
        }
    });
    let log_dir = log_dir
        .or(given.log_dir)
        .unwrap_or_else(|| if root { PathBuf::from("/var/log/defib") } else { state_dir.join("log") });
    DaemonSettings {
        runtime_dir: runtime_dir.or(given.runtime_dir).unwrap_or_else(|| overrides.runtime_dir()),
        backend: set_backend(doc, overrides).or(given.backend).unwrap_or_default(),
        source: chosen(doc, source).or(given.source).unwrap_or_default(),
        pid_dir: pid_dir.or(given.pid_dir),
        watchdog: given.watchdog.flatten(),
        log: own_log::settle(doc, given.log, overrides),
        state_dir,
        log_dir,
    }
}

/// The folder that a flag or a variable sets. One that is noted as wrong is never used, so it may be returned.
fn folder(doc: &Document<'_>, set: Option<(&str, &OsStr)>, (wanted, valid): Wish) -> Option<PathBuf> {
    let (name, value) = set?;
    let path = Path::new(value);
    if !valid(path) {
        doc.note(
            Place::Override,
            name,
            format!("found {}, wanted {wanted}", quoted(&path.to_string_lossy())),
        );
    }
    Some(path.to_owned())
}

/// The source that a flag or a variable sets.
fn chosen(doc: &Document<'_>, set: Option<(&str, &OsStr)>) -> Option<SourceChoice> {
    let (name, value) = set?;
    let value = value.to_string_lossy();
    let found = SOURCES.iter().find(|(word, _)| *word == value).map(|(_, source)| *source);
    if found.is_none() {
        let message = format!("found {}, wanted {}", quoted(&value), values::one_of(&SOURCES));
        doc.note(Place::Override, name, message);
    }
    found
}

/// The backend that a flag or a variable sets.
fn set_backend(doc: &Document<'_>, overrides: &Overrides) -> Option<Backend> {
    let flag = overrides.flags.backend.as_deref().map(OsStr::new);
    let (name, value) = overrides.setting("--backend", flag, "DEFIB_BACKEND")?;
    match backend(&value.to_string_lossy()) {
        Ok(backend) => Some(backend),
        Err(why) => {
            doc.note(Place::Override, name, why);
            None
        }
    }
}
