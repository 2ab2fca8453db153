//! Settings as an operator would write them: key by key, for what compares and shows them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::path::PathBuf;
use std::time::Duration;

use defib_core::model::{
    Delays, GiveUp, Launch, Leftovers, LogLayout, LogSpec, LogStreams, Policy, ReadySpec, RestartSpec,
    ServiceSpec, SocketSpec,
};

use super::own_log::{LogFormat, LogTarget};
use super::settings::Settings;
use super::sockets;
use crate::{duration, size};

/// Keys with their values.
pub(super) type Keys = BTreeMap<String, Value>;

/// A value as it would be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Value {
    text: String,
    secret: bool,
}

impl Value {
    /// The value, or `…` if nobody should read it over somebody's shoulder.
    pub(super) fn show(self) -> String {
        if self.secret { "…".to_owned() } else { self.text }
    }
}

/// The table of a service.
pub(super) fn table(spec: &ServiceSpec) -> String {
    super::document::path(Some("service"), spec.name.as_str())
}

/// Whether a key of a service is one that makes its process: those of [`Launch`], and what becomes of its tree.
pub(super) fn of_process(key: &str) -> bool {
    const KEYS: [&str; 13] = [
        "command",
        "cwd",
        "env",
        "env_file",
        "group",
        "groups",
        "hold_ports",
        "inherit_env",
        "leftovers",
        "needs_files",
        "sockets",
        "umask",
        "user",
    ];
    KEYS.contains(&key.split('.').next().unwrap_or_default())
}

/// `[daemon]`, `[listen]` and `[ports]`.
pub(super) fn daemon(settings: &Settings) -> Keys {
    let daemon = &settings.daemon;
    let mut list = List::new("daemon".to_owned());
    list.path("state_dir", Some(&daemon.state_dir));
    list.path("runtime_dir", Some(&daemon.runtime_dir));
    list.path("log_dir", Some(&daemon.log_dir));
    list.path("pid_dir", daemon.pid_dir.as_ref());
    list.text("backend", daemon.backend.as_str());
    list.text("source", daemon.source.as_str());
    list.duration("watchdog", daemon.watchdog);
    match &daemon.log.to {
        LogTarget::Stderr => list.text("log.to", "stderr"),
        LogTarget::Journal => list.text("log.to", "journal"),
        LogTarget::File(path) => list.path("log.to", Some(path)),
    }
    let format = match daemon.log.format {
        LogFormat::Text => "text",
        LogFormat::Json => "json",
    };
    list.text("log.format", format);
    list.text("log.level", &daemon.log.level);
    list.table = "listen".to_owned();
    list.text("metrics", &settings.listen.metrics.map_or_else(String::new, |address| address.to_string()));
    list.path("web_config", settings.listen.web_config.as_ref());
    list.plain("max_series", settings.listen.max_series);
    list.table = "ports".to_owned();
    let range = |(first, last): (u16, u16)| {
        if first == last { first.to_string() } else { format!("\"{first}-{last}\"") }
    };
    let watch: Vec<String> = settings.ports.ranges().into_iter().map(range).collect();
    list.raw("watch", format!("[{}]", watch.join(", ")));
    list.keys
}

/// A service, with what it has from `[defaults]` and by itself.
pub(super) fn service(spec: &ServiceSpec) -> Keys {
    // All fields by name, so that a new one cannot be forgotten here.
    let ServiceSpec {
        name: _,
        description,
        launch,
        autostart,
        ports,
        ready,
        restart,
        stop,
        leftovers,
        log,
        service_group,
        pid_file,
        hold_for,
        when_down,
    } = spec;
    let mut list = List::new(table(spec));
    list.text("description", description);
    list.launch(launch);
    list.plain("autostart", autostart);
    list.set("ports", ports);
    match ready {
        ReadySpec::Exec => list.text("ready", "exec"),
        ReadySpec::Port(port) => list.raw("ready", format!("{{ port = {port} }}")),
    }
    list.restart(restart);
    list.text("stop.signal", &stop.signal.to_string());
    list.duration("stop.timeout", Some(stop.timeout));
    let leftovers = match leftovers {
        Leftovers::Kill => "kill",
        Leftovers::Keep => "keep",
    };
    list.text("leftovers", leftovers);
    list.log(log);
    if let Some(group) = service_group {
        list.text("service_group", group.as_str());
    }
    list.path("pid_file", pid_file.as_ref());
    list.duration("hold_for", Some(*hold_for));
    let when_down = sockets::WHEN_DOWN.iter().find(|(_, known)| known == when_down);
    list.text("when_down", when_down.map_or("", |(word, _)| word));
    list.keys
}

/// A socket, with what is not as it would be by itself.
fn socket(socket: &SocketSpec) -> String {
    let SocketSpec { listen, name, backlog, mode, owner, group, v6only } = socket;
    let plain = SocketSpec::new(listen.clone());
    let mut keys = vec![format!("listen = {:?}", listen.to_string())];
    let mut text = |key: &str, text: &Option<String>| {
        keys.extend(text.as_ref().map(|text| format!("{key} = {text:?}")));
    };
    text("name", name);
    text("owner", owner);
    text("group", group);
    keys.extend((*backlog != plain.backlog).then(|| format!("backlog = {backlog}")));
    keys.extend((*mode != plain.mode).then(|| format!("mode = \"{mode:04o}\"")));
    keys.extend(v6only.then(|| "v6only = true".to_owned()));
    if *socket == plain { format!("{:?}", listen.to_string()) } else { format!("{{ {} }}", keys.join(", ")) }
}

/// Whether a variable of this name is likely to hold what others should not read.
fn secret(name: &str) -> bool {
    let name = name.to_ascii_uppercase();
    ["PASS", "TOKEN", "SECRET", "KEY"].iter().any(|word| name.contains(word))
}

/// The keys of a table under way.
struct List {
    table: String,
    keys: Keys,
}

impl List {
    fn new(table: String) -> Self {
        Self { table, keys: Keys::new() }
    }

    fn raw(&mut self, key: &str, text: String) {
        self.keys.insert(format!("{}.{key}", self.table), Value { text, secret: false });
    }

    /// A text in quotes, with everything escaped that a terminal would act on.
    fn text(&mut self, key: &str, text: &str) {
        self.raw(key, format!("{text:?}"));
    }

    fn plain(&mut self, key: &str, value: impl ToString) {
        self.raw(key, value.to_string());
    }

    fn path(&mut self, key: &str, path: Option<&PathBuf>) {
        if let Some(path) = path {
            self.text(key, &path.to_string_lossy());
        }
    }

    /// Numbers or texts, as an array.
    fn set<'i, T: Debug + 'i>(&mut self, key: &str, items: impl IntoIterator<Item = &'i T>) {
        let items: Vec<String> = items.into_iter().map(|item| format!("{item:?}")).collect();
        self.raw(key, format!("[{}]", items.join(", ")));
    }

    fn duration(&mut self, key: &str, span: Option<Duration>) {
        self.text(key, &span.map_or_else(|| "none".to_owned(), duration::show));
    }

    fn launch(&mut self, launch: &Launch) {
        let Launch {
            command,
            cwd,
            env,
            env_file,
            user,
            group,
            groups,
            inherit_env,
            umask,
            needs_files,
            sockets,
            hold_ports,
        } = launch;
        self.set("command", command);
        self.path("cwd", Some(cwd));
        for (name, value) in env {
            let value = Value { text: format!("{value:?}"), secret: secret(name) };
            self.keys.insert(super::document::path(Some(&format!("{}.env", self.table)), name), value);
        }
        self.path("env_file", env_file.as_ref());
        for (key, account) in [("user", user), ("group", group)] {
            if let Some(account) = account {
                self.text(key, account);
            }
        }
        if let Some(groups) = groups {
            self.set("groups", groups);
        }
        self.set("inherit_env", inherit_env);
        self.text("umask", &format!("{umask:03o}"));
        let files: Vec<String> = needs_files.iter().map(|file| file.to_string_lossy().into_owned()).collect();
        self.set("needs_files", &files);
        let sockets: Vec<String> = sockets.iter().map(socket).collect();
        self.raw("sockets", format!("[{}]", sockets.join(", ")));
        self.plain("hold_ports", !hold_ports.is_empty());
    }

    fn restart(&mut self, restart: &RestartSpec) {
        let RestartSpec {
            policy,
            success_codes,
            never_codes,
            immediate,
            delays,
            max_restarts,
            window,
            give_up,
            reset_after,
        } = restart;
        let policy = match policy {
            Policy::Always => "always",
            Policy::OnFailure => "on-failure",
            Policy::Never => "never",
        };
        self.text("restart.policy", policy);
        self.codes("restart.success_codes", success_codes);
        self.codes("restart.never_codes", never_codes);
        self.plain("restart.immediate", immediate);
        match delays {
            Delays::Backoff(backoff) => {
                self.duration("restart.backoff.initial", Some(backoff.initial));
                self.plain("restart.backoff.factor", backoff.factor);
                self.duration("restart.backoff.max", Some(backoff.max));
                self.plain("restart.backoff.jitter", backoff.jitter);
            }
            Delays::List(delays) => {
                let delays: Vec<String> = delays.iter().copied().map(duration::show).collect();
                self.set("restart.delays", &delays);
            }
        }
        match max_restarts {
            Some(most) => self.plain("restart.max_restarts", most),
            None => self.text("restart.max_restarts", "none"),
        }
        self.duration("restart.window", *window);
        match give_up {
            GiveUp::Fail => self.text("restart.give_up", "fail"),
            GiveUp::RetryEvery(every) => {
                let every = duration::show(*every);
                self.raw("restart.give_up", format!("{{ retry_every = {every:?} }}"));
            }
        }
        self.duration("restart.reset_after", Some(*reset_after));
    }

    fn codes(&mut self, key: &str, codes: &BTreeSet<u8>) {
        self.set(key, codes);
    }

    fn log(&mut self, log: &LogSpec) {
        let LogSpec {
            capture,
            layout,
            streams,
            path,
            max_size,
            max_files,
            max_age,
            max_total,
            lines,
            memory,
        } = log;
        self.plain("log.capture", capture);
        let layout = match layout {
            LogLayout::Single => "single",
            LogLayout::PerStart => "per-start",
        };
        self.text("log.layout", layout);
        let streams = match streams {
            LogStreams::Joined => "joined",
            LogStreams::Apart => "apart",
        };
        self.text("log.streams", streams);
        self.path("log.path", path.as_ref());
        self.text("log.max_size", &size::show(*max_size));
        self.plain("log.max_files", max_files);
        self.duration("log.max_age", *max_age);
        self.text("log.max_total", &max_total.map_or_else(|| "none".to_owned(), size::show));
        self.plain("log.lines", lines);
        self.text("log.memory", &size::show(*memory));
    }
}
