//! What decides over the file: flags and variables, taken once at the edge of the program and handed in.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

/// The variables that are looked at, all of them.
const VARIABLES: [&str; 18] = [
    "DEFIB_BACKEND",
    "DEFIB_CONFIG",
    "DEFIB_LISTEN_METRICS",
    "DEFIB_LISTEN_WEB_CONFIG",
    "DEFIB_LOG",
    "DEFIB_LOG_DIR",
    "DEFIB_LOG_FORMAT",
    "DEFIB_LOG_TO",
    "DEFIB_MAX_RESTARTS",
    "DEFIB_PID_DIR",
    "DEFIB_RUNTIME_DIR",
    "DEFIB_SOURCE",
    "DEFIB_STATE_DIR",
    "HOME",
    "PATH",
    "XDG_CONFIG_HOME",
    "XDG_RUNTIME_DIR",
    "XDG_STATE_HOME",
];

/// The flags of the command line as they were given.
#[derive(Clone, Debug, Default)]
pub struct Flags {
    /// `--config`
    pub config: Option<PathBuf>,
    /// `--state-dir`
    pub state_dir: Option<PathBuf>,
    /// `--runtime-dir`
    pub runtime_dir: Option<PathBuf>,
    /// `--log-dir`
    pub log_dir: Option<PathBuf>,
    /// `--pid-dir`
    pub pid_dir: Option<PathBuf>,
    /// `--backend`
    pub backend: Option<String>,
    /// `--max-restarts`
    pub max_restarts: Option<String>,
    /// `--listen-metrics`
    pub listen_metrics: Option<String>,
    /// `--listen-web-config`
    pub listen_web_config: Option<PathBuf>,
    /// `--log-to`
    pub log_to: Option<String>,
    /// `--log-format`
    pub log_format: Option<String>,
    /// `--log-level`
    pub log_level: Option<String>,
    /// `--source`
    pub source: Option<String>,
    /// `--strict`: warnings are errors.
    pub strict: bool,
}

/// Everything besides the file that settings depend on.
#[derive(Clone, Debug)]
pub struct Overrides {
    /// The flags.
    pub flags: Flags,
    variables: BTreeMap<&'static str, OsString>,
    /// The effective user: root has other default folders, and trusts fewer files.
    pub euid: u32,
}

impl Overrides {
    /// Keeps the flags, and of the environment what settings depend on. An empty variable counts as not set.
    pub fn new(flags: Flags, variable: impl Fn(&str) -> Option<OsString>, euid: u32) -> Self {
        let set = |name: &'static str| Some((name, variable(name).filter(|value| !value.is_empty())?));
        Self { flags, variables: VARIABLES.into_iter().filter_map(set).collect(), euid }
    }

    /// The file to load, and whether somebody asked for it: only then is it an error that it does not exist.
    pub fn config(&self) -> (PathBuf, bool) {
        match self.flags.config.as_deref().or(self.variable("DEFIB_CONFIG").map(Path::new)) {
            Some(path) => (path.to_owned(), true),
            None => (self.default_config(), false),
        }
    }

    fn default_config(&self) -> PathBuf {
        let own = if self.euid == 0 { None } else { self.xdg("XDG_CONFIG_HOME", ".config") };
        own.unwrap_or_else(|| PathBuf::from("/etc/defib")).join("defib.toml")
    }

    /// What a flag or else a variable sets, with the name of the one that does.
    pub(super) fn setting<'a>(
        &'a self,
        flag: &'static str,
        value: Option<&'a OsStr>,
        variable: &'static str,
    ) -> Option<(&'static str, &'a OsStr)> {
        value.map(|value| (flag, value)).or_else(|| Some((variable, self.variable(variable)?)))
    }

    /// The default of `daemon.state_dir`; `None` without root and without a home.
    pub(super) fn state_dir(&self) -> Option<PathBuf> {
        if self.euid == 0 {
            Some("/var/lib/defib".into())
        } else {
            self.xdg("XDG_STATE_HOME", ".local/state")
        }
    }

    /// The default of `daemon.runtime_dir`.
    pub(super) fn runtime_dir(&self) -> PathBuf {
        match self.absolute("XDG_RUNTIME_DIR") {
            _ if self.euid == 0 => "/run/defib".into(),
            Some(base) => base.join("defib"),
            None => format!("/tmp/defib-{}", self.euid).into(),
        }
    }

    /// A variable that is set.
    pub(super) fn variable(&self, name: &str) -> Option<&OsStr> {
        self.variables.get(name).map(OsString::as_os_str)
    }

    /// defib's folder in one of the XDG folders, or else in that folder's usual place at home.
    fn xdg(&self, variable: &str, usual: &str) -> Option<PathBuf> {
        let base = self.absolute(variable).map(Path::to_owned);
        Some(base.or_else(|| Some(self.absolute("HOME")?.join(usual)))?.join("defib"))
    }

    /// The path in a variable; a relative one is to be ignored, says the XDG specification.
    pub(super) fn absolute(&self, name: &str) -> Option<&Path> {
        self.variable(name).map(Path::new).filter(|path| path.is_absolute())
    }
}
