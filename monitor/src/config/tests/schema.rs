//! The schema: it knows the keys, words and defaults of the reader, and judges as the reader does.

use std::collections::BTreeSet;

use serde_json::Value;

use super::files::{REFERENCE, SAMPLE, uncommented};
use super::{bad, good, parse, root};
use crate::config::schema;

/// The properties of the table at a JSON pointer, through one reference.
fn table(pointer: &str) -> Value {
    let schema = schema();
    let found = schema.pointer(pointer).unwrap_or_else(|| panic!("nothing at {pointer}"));
    match found.get("$ref").and_then(Value::as_str) {
        Some(reference) => table(reference.trim_start_matches('#')),
        None => found["properties"].clone(),
    }
}

/// The tables of the file, each with the keys that the reader says it knows.
const TABLES: [(&str, &str, &str); 14] = [
    ("zzzzzz = 1", "", ""),
    ("[daemon]\nzzzzzz = 1", "daemon", "/properties/daemon"),
    ("daemon.log.zzzzzz = 1", "daemon.log", "/properties/daemon/properties/log"),
    ("[listen]\nzzzzzz = 1", "listen", "/properties/listen"),
    ("[ports]\nzzzzzz = 1", "ports", "/properties/ports"),
    ("[defaults]\nzzzzzz = 1", "defaults", "/properties/defaults"),
    ("[service.a]\nzzzzzz = 1\ncommand = 'x'", "service.a", "/$defs/service"),
    ("defaults.log.zzzzzz = 1", "log", "/$defs/shared/properties/log"),
    ("defaults.restart.zzzzzz = 1", "restart", "/$defs/shared/properties/restart"),
    ("defaults.restart.backoff.zzzzzz = 1", "backoff", "/$defs/shared/properties/restart/properties/backoff"),
    (
        "defaults.restart.give_up = { retry_every = '1s', zzzzzz = 1 }",
        "give_up",
        "/$defs/shared/properties/restart/properties/give_up/anyOf/1",
    ),
    ("defaults.stop.zzzzzz = 1", "stop", "/$defs/shared/properties/stop"),
    (
        "[service.a]\ncommand = 'x'\nsockets = [{ listen = 'unix:/x', zzzzzz = 1 }]",
        "socket",
        "/$defs/service/properties/sockets/items/anyOf/1",
    ),
    ("defaults.ready = { port = 1, zzzzzz = 1 }", "ready", "/$defs/shared/properties/ready/anyOf/1"),
];

#[test]
fn it_has_the_keys_of_the_reader() {
    for (text, name, pointer) in TABLES {
        let errors = bad(text, &root());
        let known = errors.iter().find_map(|error| error.split_once("known here: ")).expect("a list").1;
        let known: BTreeSet<&str> = known.split(", ").collect();
        let table = table(pointer);
        let keys: BTreeSet<&str> = table.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(keys, known, "in {name}");
    }
}

#[test]
fn every_key_is_described() {
    for (_, name, pointer) in TABLES {
        for (key, schema) in table(pointer).as_object().unwrap() {
            let described = match schema.get("$ref").and_then(Value::as_str) {
                Some(shared) if shared.starts_with("#/$defs/shared") => {
                    let whole = crate::config::schema();
                    whole.pointer(&shared[1..]).unwrap()["description"].is_string()
                }
                _ => schema["description"].is_string() || schema["$ref"].is_string(),
            };
            assert!(described, "{name}.{key}");
        }
    }
}

/// A JSON value as TOML.
fn toml(value: &Value) -> String {
    match value {
        Value::Array(items) => format!("[{}]", items.iter().map(toml).collect::<Vec<_>>().join(", ")),
        other => other.to_string(),
    }
}

/// Lines that set every key of a table, and of the tables in it, to its default. Returns how many there are.
fn defaults(path: &str, properties: &Value, text: &mut String) -> usize {
    let mut count = 0;
    for (key, schema) in properties.as_object().unwrap() {
        let path = format!("{path}.{key}");
        if let Some(default) = schema.get("default") {
            text.push_str(&format!("{path} = {}\n", toml(default)));
            count += 1;
        } else if schema.get("properties").is_some() {
            count += defaults(&path, &schema["properties"], text);
        }
    }
    count
}

#[test]
fn its_defaults_are_those_of_the_program() {
    const SERVICE: &str = "service.a.command = 'x'\n";
    let mut text = SERVICE.to_owned();
    let mut count = defaults("daemon", &table("/properties/daemon"), &mut text);
    count += defaults("listen", &table("/properties/listen"), &mut text);
    count += defaults("ports", &table("/properties/ports"), &mut text);
    count += defaults("defaults", &table("/$defs/shared"), &mut text);
    assert_eq!(good(&text), good(SERVICE), "{text}");
    assert_eq!(count, 44, "{text}");
}

fn judge(text: &str) -> Result<(), String> {
    let document: Value = serde_json::to_value(toml::from_str::<toml::Table>(text).unwrap()).unwrap();
    let schema = schema();
    let validator = jsonschema::draft202012::new(&schema).unwrap();
    validator.validate(&document).map_err(|error| error.to_string())
}

#[test]
fn it_is_a_schema_and_accepts_what_the_reader_accepts() {
    assert!(jsonschema::meta::is_valid(&schema()));
    let every_key = include_str!("good.rs");
    let every_key = every_key.split_once("r#\"").unwrap().1.split_once("\"#").unwrap().0;
    for text in [
        REFERENCE,
        &uncommented(),
        SAMPLE,
        every_key,
        "",
        "defaults.profile = 'flowless'",
        "[service.a]\ncommand = 'x'\nuser = 0\nready = { port = 1 }\nrestart.delays = ['0s']\numask = 0o27",
        "listen.metrics = ''\ndaemon.log = { to = '/l', level = 'info,defib::source=debug' }",
        "daemon.pid_dir = '/run/x'",
        "ports.watch = [22, '80', '8000-8099']",
    ] {
        good(text);
        assert_eq!(judge(text), Ok(()), "in {text}");
    }
}

#[test]
fn it_refuses_what_the_reader_refuses() {
    let service = |line: &str| format!("[service.a]\ncommand = 'x'\n{line}");
    let mut texts: Vec<String> = [
        "zzz = 1",
        "services = {}",
        "daemon.source = 'bpf'",
        "daemon.state_dir = 'here'",
        "daemon.backend = 'systemd'",
        "daemon.log.to = 'syslog'",
        "daemon.log.level = 'loud'",
        "listen.metrics = '9977'",
        "listen.web_config = 'web.yml'",
        "listen.max_series = 0",
        "ports = [22]",
        "ports.watch = 22",
        "ports.watch = [0]",
        "ports.watch = ['http']",
        "defaults.profile = 'other'",
        "defaults.command = 'x'",
        "[service.a]",
        "[service.'a b']\ncommand = 'x'",
        "[service.a]\ncommand = []",
        "[service.a]\ncommand = 5",
    ]
    .map(str::to_owned)
    .into();
    texts.extend(
        [
            "zzz = 1",
            "health = {}",
            "cwd = 'here'",
            "env = { A = 1 }",
            "user = -1",
            "groups = 'video'",
            "autostart = 'yes'",
            "ports = [0]",
            "ports = 80",
            "ready = 'port'",
            "ready = {}",
            "umask = '99'",
            "leftovers = 'reap'",
            "needs_files = ['x']",
            "restart = 'always'",
            "restart.policy = 'on-fail'",
            "restart.max_restarts = 0",
            "restart.max_restarts = 257",
            "restart.backoff.factor = 0.5",
            "restart.backoff.jitter = 2",
            "restart.window = 300",
            "restart.give_up = 'no'",
            "restart.delays = []",
            "restart.success_codes = [256]",
            "stop.timeout = 10",
            "stop.timeout = 'soon'",
            "log.max_size = '10MB'",
            "log.max_files = -1",
            "log.layout = 'x'",
            "log.lines = 1e9",
            "sockets = 'tcp:0.0.0.0:80'",
            "sockets = ['tcp:80']",
            "sockets = ['unix:x']",
            "sockets = [{ name = 'a' }]",
            "sockets = [{ listen = 'unix:/x', mode = '888' }]",
            "sockets = [{ listen = 'unix:/x', name = 'a:b' }]",
            "sockets = [{ listen = 'unix:/x', backlog = 0 }]",
            "hold_for = 5",
            "when_down = 'wait'",
        ]
        .map(service),
    );
    for text in texts {
        assert!(parse(&text, &root()).is_err(), "the reader accepts {text}");
        assert!(judge(&text).is_err(), "the schema accepts {text}");
    }
}

/// The file in the repository; `cargo xtask ci generated` compares it byte by byte.
#[test]
fn the_file_is_not_stale() {
    let file: Value = serde_json::from_str(include_str!("../../../../config/defib.schema.json")).unwrap();
    assert_eq!(file, schema(), "run: cargo run -p defib -- schema > config/defib.schema.json");
}
