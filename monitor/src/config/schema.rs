//! The configuration as a JSON schema, draft 2020-12: for editors that complete keys and mark mistakes.
//!
//! Words, bounds and defaults come from the reader and the model; the sets of keys are compared with the reader's by a
//! test. A schema cannot know what spans keys or files: `defib check` has the last word.

use defib_core::model::{Backoff, LogSpec, RestartSpec, ServiceSpec, SocketAddress, SocketSpec, StopSpec};
use serde_json::{Map, Value, json};

use super::watched::PortSettings;
use super::{daemon, listen, log, own_log, profile, restart, sockets as of_sockets};
use crate::{duration, size};

/// The schema.
pub fn schema() -> Value {
    let shared = shared();
    let of_service = with(own_keys(), &shared);
    let of_defaults = with(vec![("profile", profile())], &shared);
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "defib",
        "description": "The configuration of defib: /etc/defib/defib.toml and the files in conf.d beside it",
        "type": "object",
        "additionalProperties": false,
        "properties": {
            "daemon": table("defib itself", daemon_keys()),
            "listen": table("Where defib can be asked over TCP", listen_keys()),
            "ports": table("Ports of the host", vec![("watch", watched_ports())]),
            "defaults": object("What services have in common; a service's own key wins", of_defaults),
            "service": {
                "description": "The services by name",
                "type": "object",
                "additionalProperties": false,
                "patternProperties": { (NAME): { "$ref": "#/$defs/service" } },
            },
        },
        "$defs": {
            "service": requiring("command", object("A service", of_service)),
            "shared": object("The keys that a service may have and [defaults] too", shared),
            "duration": {
                "description": "Whole numbers with units, the longest first: 100ms, 5s, 1m30s, 2h, 7d",
                "type": "string",
                "pattern": "^([0-9]+d)?([0-9]+h)?([0-9]+m)?([0-9]+s)?([0-9]+ms)?([0-9]+us)?$",
                "minLength": 2,
            },
            "size": {
                "description": "Bytes, or a number and a unit of 1024: 512, 10k, 512M, 2.5G",
                "anyOf": [
                    { "type": "integer", "minimum": 0 },
                    { "type": "string", "pattern": "^[0-9]+([.][0-9]+)?[kKmMgGtT]$|^[0-9]+$" },
                ],
            },
            "path": { "description": "An absolute path", "type": "string", "pattern": "^/" },
            "account": {
                "description": "A name or a number",
                "anyOf": [
                    { "type": "integer", "minimum": 0, "maximum": 4_294_967_294_u32 },
                    { "type": "string", "pattern": "^[^\\s:/+-][^\\s:/]*$" },
                ],
            },
            "port": { "type": "integer", "minimum": 1, "maximum": 65535 },
            "code": { "type": "integer", "minimum": 0, "maximum": 255 },
        },
    })
}

/// Names of services and of their groups.
const NAME: &str = "^[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}$";

/// A key with its schema.
type Key = (&'static str, Value);

fn daemon_keys() -> Vec<Key> {
    vec![
        ("state_dir", path("What survives a reboot", Some("/var/lib/defib"))),
        ("runtime_dir", path("The socket, and what is gone after a reboot", Some("/run/defib"))),
        ("log_dir", path("The output of services", Some("/var/log/defib"))),
        (
            "pid_dir",
            path("While a service runs, NAME.pid in this folder holds the number of its main process", None),
        ),
        ("backend", words("What runs the services", &daemon::BACKENDS, "direct")),
        ("source", words("Who tells of deaths", &daemon::SOURCES, "auto")),
        (
            "watchdog",
            or_none("A daemon that does not answer for so long is replaced", "duration", json!("none")),
        ),
        (
            "log",
            table(
                "defib's own log",
                vec![
                    (
                        "to",
                        json!({
                            "description": "\"stderr\", \"journal\" or the path of a file",
                            "type": "string", "pattern": "^(stderr|journal|/.*)$", "default": "stderr",
                        }),
                    ),
                    ("format", words("Lines for people, or an object a line", &own_log::FORMATS, "text")),
                    (
                        "level",
                        json!({
                            "description": "error, warn, info, debug or trace, also by module: info,defib::source=debug",
                            "type": "string", "default": "info",
                            "pattern": format!("^{LEVEL}(,{LEVEL})*$"),
                        }),
                    ),
                ],
            ),
        ),
    ]
}

const LEVEL: &str = "([A-Za-z0-9_:]+=)?(off|error|warn|info|debug|trace)";

fn listen_keys() -> Vec<Key> {
    let metrics = json!({
        "description": "Where Prometheus scrapes, as address:port; \"\" for nowhere",
        "type": "string", "pattern": "^$|^.+:[0-9]{1,5}$", "default": "127.0.0.1:9977",
    });
    let web_config = json!({
        "description": "The web configuration file, as other exporters have it, that says by TLS and by passwords who may ask there; \"\" for none",
        "type": "string", "pattern": "^$|^/", "default": "",
    });
    let max_series = json!({
        "description": "How many services each family of metrics is about at most; what is left out is counted",
        "type": "integer", "minimum": listen::SERIES.start(), "maximum": listen::SERIES.end(),
        "default": listen::MAX_SERIES,
    });
    vec![("metrics", metrics), ("web_config", web_config), ("max_series", max_series)]
}

fn watched_ports() -> Value {
    json!({
        "description": "TCP ports, and ranges of them as \"8000-8099\", of which connections are counted; those of services are counted anyway",
        "type": "array", "maxItems": PortSettings::MAX, "default": [],
        "items": {
            "anyOf": [{ "$ref": "#/$defs/port" }, { "type": "string", "pattern": "^[0-9]{1,5}(-[0-9]{1,5})?$" }],
        },
    })
}

fn profile() -> Value {
    let names = profile::PROFILES.map(|(name, _)| name);
    json!({
        "description": "The values of another supervisor, beneath what stands in [defaults]",
        "enum": names,
    })
}

/// What belongs to one service.
fn own_keys() -> Vec<Key> {
    vec![
        (
            "command",
            json!({
                "description": "The program and its arguments; one string is split at its spaces. There is no shell",
                "anyOf": [
                    { "type": "array", "items": { "type": "string" }, "minItems": 1 },
                    { "type": "string", "minLength": 1 },
                ],
            }),
        ),
        (
            "description",
            json!({ "description": "One line for people", "type": "string", "pattern": "^[^\\n\\r\\t]*$" }),
        ),
        (
            "ports",
            json!({
                "description": "The TCP ports that it is to listen on",
                "type": "array", "items": { "$ref": "#/$defs/port" }, "uniqueItems": true,
                "maxItems": ServiceSpec::MAX_PORTS,
            }),
        ),
        ("sockets", sockets()),
        (
            "hold_ports",
            json!({
                "description": "Whether its ports stay open while it is restarted, though it binds them by itself",
                "type": "boolean", "default": false,
            }),
        ),
        ("pid_file", path("A file that holds the number of its main process while it runs", None)),
    ]
}

fn sockets() -> Value {
    const ADDRESS: &str = "^((tcp|udp):.+:[0-9]{1,5}|unix(-dgram)?:/.{0,106})$";
    let plain = SocketSpec::new(SocketAddress::Unix("/".into()));
    let listen = json!({
        "description": "tcp:ADDRESS:PORT, udp:ADDRESS:PORT, unix:PATH or unix-dgram:PATH",
        "type": "string", "pattern": ADDRESS,
    });
    let keys = vec![
        ("listen", listen.clone()),
        (
            "name",
            json!({
                "description": "Its name in LISTEN_FDNAMES; unless given, that of the service",
                "type": "string", "pattern": "^[!-9;-~]{1,255}$",
            }),
        ),
        (
            "backlog",
            json!({
                "description": "How many connections may wait to be accepted",
                "type": "integer", "minimum": 1, "maximum": i32::MAX, "default": plain.backlog,
            }),
        ),
        ("mode", octal("The permissions of a unix socket", plain.mode)),
        ("owner", account("To whom a unix socket belongs; unless given, to whoever runs defib")),
        ("group", account("Its group, likewise")),
        (
            "v6only",
            json!({
                "description": "Whether [::] leaves IPv4 alone", "type": "boolean", "default": plain.v6only,
            }),
        ),
    ];
    json!({
        "description": "Sockets that defib opens, holds between two lives, and passes to each by LISTEN_FDS",
        "type": "array", "maxItems": SocketSpec::MAX,
        "items": { "anyOf": [listen, requiring("listen", table("A socket", keys))] },
    })
}

fn octal(description: &str, default: u32) -> Value {
    json!({
        "description": description,
        "anyOf": [
            { "type": "string", "pattern": "^0*[0-7]{1,3}$" },
            { "type": "integer", "minimum": 0, "maximum": 0o777 },
        ],
        "default": format!("{default:04o}"),
    })
}

fn shared() -> Map<String, Value> {
    let strings = |description: &str| json!({ "description": description, "type": "array", "items": { "type": "string", "minLength": 1 } });
    map(vec![
        ("cwd", path("Where it runs", Some("/"))),
        (
            "env",
            json!({
                "description": "Variables that are added to its environment",
                "type": "object", "additionalProperties": { "type": "string" },
            }),
        ),
        ("env_file", path("A file of NAME=value lines, read before each start", None)),
        ("user", account("As whom it runs; unless given, as whoever runs defib")),
        ("group", account("The unix group; unless given, the user's own")),
        (
            "groups",
            json!({
                "description": "Supplementary groups; unless given, the user's own",
                "type": "array", "items": { "$ref": "#/$defs/account" },
            }),
        ),
        ("inherit_env", strings("Variables that it gets from defib's own environment")),
        (
            "umask",
            json!({
                "description": "The file mode creation mask, in octal",
                "anyOf": [
                    { "type": "string", "pattern": "^[0-7]{1,3}$" },
                    { "type": "integer", "minimum": 0, "maximum": 0o777 },
                ],
                "default": "022",
            }),
        ),
        (
            "needs_files",
            json!({
                "description": "Files and folders without which no start is tried",
                "type": "array", "items": { "$ref": "#/$defs/path" }, "default": [],
            }),
        ),
        (
            "service_group",
            json!({ "description": "The set that --group and the label group name", "type": "string", "pattern": NAME }),
        ),
        ("log", table("What becomes of its output", log_keys())),
        (
            "autostart",
            json!({ "description": "Whether it starts with defib", "type": "boolean", "default": true }),
        ),
        (
            "ready",
            json!({
                "description": "What makes a running process a ready one: \"exec\", or { port = 8080 }",
                "anyOf": [
                    { "const": "exec" },
                    requiring("port", table("It listens on this port", vec![("port", reference("port"))])),
                ],
                "default": "exec",
            }),
        ),
        ("restart", table("When and how often it is started again", restart_keys())),
        ("stop", table("How it is ended", stop_keys())),
        (
            "leftovers",
            json!({
                "description": "What happens to the rest of its processes when its main process ends",
                "enum": ["kill", "keep"], "default": "kill",
            }),
        ),
        (
            "hold_for",
            span("Its sockets are held while it waits so long for its restart", ServiceSpec::HOLD_FOR),
        ),
        (
            "when_down",
            words(
                "What becomes of its sockets while it is down, or waits longer",
                &of_sockets::WHEN_DOWN,
                "refuse",
            ),
        ),
    ])
}

fn log_keys() -> Vec<Key> {
    let default = LogSpec::default();
    let number = |description: &str, most: u32, default: u32| json!({ "description": description, "type": "integer", "minimum": 0, "maximum": most, "default": default });
    vec![
        (
            "capture",
            json!({ "description": "Whether it is kept", "type": "boolean", "default": default.capture }),
        ),
        ("layout", words("One file that is rotated, or a folder for each life", &log::LAYOUTS, "single")),
        ("streams", words("Both streams in one file, or each in its own", &log::STREAMS, "joined")),
        ("path", path("The file instead of NAME.log in log_dir; with per-start the folder", None)),
        ("max_size", size("A file this long is rotated; 0: never", default.max_size)),
        ("max_files", number("How many rotated files are kept", 10_000, default.max_files)),
        ("max_age", or_none("Older files are removed", "duration", json!("none"))),
        ("max_total", or_none("The most for all files of the service together", "size", json!("none"))),
        (
            "lines",
            number("How many of the latest lines are kept in memory", LogSpec::MAX_LINES, default.lines),
        ),
        ("memory", size("How many bytes of them at most", default.memory)),
    ]
}

fn restart_keys() -> Vec<Key> {
    let (default, backoff) = (RestartSpec::default(), Backoff::default());
    let codes = |description: &str, default: &std::collections::BTreeSet<u8>| json!({ "description": description, "type": "array", "items": reference("code"), "default": default });
    vec![
        ("policy", words("Which ends lead to another start", &restart::POLICIES, "on-failure")),
        ("success_codes", codes("Exit codes that mean success", &default.success_codes)),
        ("never_codes", codes("Exit codes after which it is not started again", &default.never_codes)),
        (
            "immediate",
            json!({
                "description": "How many restarts of a series come at once; with delays the default is 0",
                "type": "integer", "minimum": 0, "maximum": u32::MAX, "default": default.immediate,
            }),
        ),
        (
            "backoff",
            table(
                "The wait before each one after those, growing",
                vec![
                    ("initial", span("The first", backoff.initial)),
                    (
                        "factor",
                        json!({ "description": "The growth", "type": "number", "minimum": 1, "default": backoff.factor }),
                    ),
                    ("max", span("The longest", backoff.max)),
                    (
                        "jitter",
                        json!({
                            "description": "The spread as a share of the wait",
                            "type": "number", "minimum": 0, "maximum": 1, "default": backoff.jitter,
                        }),
                    ),
                ],
            ),
        ),
        (
            "delays",
            json!({
                "description": "Instead of backoff: the waits one by one; the last one repeats",
                "type": "array", "items": reference("duration"), "minItems": 1,
            }),
        ),
        (
            "max_restarts",
            json!({
                "description": "More restarts than this within the window are too many",
                "anyOf": [{ "type": "integer", "minimum": 1, "maximum": RestartSpec::MAX_RESTARTS }, { "const": "none" }],
                "default": default.max_restarts,
            }),
        ),
        (
            "window",
            or_none(
                "\"none\": all restarts of the series count",
                "duration",
                json!(default.window.map(duration::show)),
            ),
        ),
        (
            "give_up",
            json!({
                "description": "What follows too many restarts: \"fail\", or { retry_every = \"6h\" }",
                "anyOf": [
                    { "const": "fail" },
                    requiring(
                        "retry_every",
                        table("One try each time", vec![("retry_every", reference("duration"))]),
                    ),
                ],
                "default": "fail",
            }),
        ),
        ("reset_after", span("A life at least this long ends the series", default.reset_after)),
    ]
}

fn stop_keys() -> Vec<Key> {
    let default = StopSpec::default();
    vec![
        (
            "signal",
            json!({
                "description": "What asks the main process to end, with or without SIG",
                "type": "string", "pattern": "^[A-Za-z0-9+-]+$", "default": "TERM",
            }),
        ),
        ("timeout", span("How long it may take before all its processes get SIGKILL", default.timeout)),
    ]
}

fn reference(name: &str) -> Value {
    json!({ "$ref": format!("#/$defs/{name}") })
}

fn described(name: &str, description: &str, default: Option<Value>) -> Value {
    let mut value = reference(name);
    value["description"] = description.into();
    if let Some(default) = default {
        value["default"] = default;
    }
    value
}

fn path(description: &str, default: Option<&str>) -> Value {
    described("path", description, default.map(Value::from))
}

fn account(description: &str) -> Value {
    described("account", description, None)
}

fn span(description: &str, default: std::time::Duration) -> Value {
    described("duration", description, Some(duration::show(default).into()))
}

fn size(description: &str, default: u64) -> Value {
    described("size", description, Some(size::show(default).into()))
}

fn or_none(description: &str, name: &str, default: Value) -> Value {
    json!({ "description": description, "anyOf": [{ "const": "none" }, reference(name)], "default": default })
}

/// One of the words that a reader knows.
fn words<T>(description: &str, words: &[(&str, T)], default: &str) -> Value {
    let words: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
    debug_assert!(words.contains(&default));
    json!({ "description": description, "enum": words, "default": default })
}

fn map(keys: Vec<Key>) -> Map<String, Value> {
    keys.into_iter().map(|(key, schema)| (key.to_owned(), schema)).collect()
}

/// Some keys, and those that are shared, which are described in one place.
fn with(own: Vec<Key>, shared: &Map<String, Value>) -> Map<String, Value> {
    let mut keys = map(own);
    keys.extend(shared.keys().map(|key| (key.clone(), reference(&format!("shared/properties/{key}")))));
    keys
}

fn table(description: &str, keys: Vec<Key>) -> Value {
    object(description, map(keys))
}

fn object(description: &str, keys: Map<String, Value>) -> Value {
    json!({ "description": description, "type": "object", "additionalProperties": false, "properties": keys })
}

fn requiring(key: &str, mut table: Value) -> Value {
    table["required"] = json!([key]);
    table
}
