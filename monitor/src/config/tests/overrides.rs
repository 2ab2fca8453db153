//! Flags over variables over the file, for every key that has them; and what is said of bad ones.

use super::super::{Backend, Flags, LogFormat, LogTarget, Overrides, Settings};
use super::{bad, parse};

/// A key: what sets the flag, the variable, the line of the file, and how its value is shown.
struct Key {
    flag: fn(&mut Flags, &str),
    variable: &'static str,
    line: fn(&str) -> String,
    /// Three values for the file, the variable and the flag, of which none is the default.
    values: [&'static str; 3],
    shown: fn(&Settings) -> String,
    /// A value that is refused, and how.
    bad: (&'static str, &'static str),
    name: &'static str,
}

const PATH: &str = "found \"here\", wanted an absolute path";

const KEYS: &[Key] = &[
    Key {
        flag: |flags, value| flags.state_dir = Some(value.into()),
        variable: "DEFIB_STATE_DIR",
        line: |value| format!("daemon.state_dir = '{value}'"),
        values: ["/f", "/v", "/x"],
        shown: |settings| settings.daemon.state_dir.display().to_string(),
        bad: ("here", PATH),
        name: "--state-dir",
    },
    Key {
        flag: |flags, value| flags.runtime_dir = Some(value.into()),
        variable: "DEFIB_RUNTIME_DIR",
        line: |value| format!("daemon.runtime_dir = '{value}'"),
        values: ["/f", "/v", "/x"],
        shown: |settings| settings.daemon.runtime_dir.display().to_string(),
        bad: (
            "here",
            "found \"here\", wanted an absolute path of at most 96 bytes, because the address of the socket in it is limited",
        ),
        name: "--runtime-dir",
    },
    Key {
        flag: |flags, value| flags.log_dir = Some(value.into()),
        variable: "DEFIB_LOG_DIR",
        line: |value| format!("daemon.log_dir = '{value}'"),
        values: ["/f", "/v", "/x"],
        shown: |settings| settings.daemon.log_dir.display().to_string(),
        bad: ("here", PATH),
        name: "--log-dir",
    },
    Key {
        flag: |flags, value| flags.pid_dir = Some(value.into()),
        variable: "DEFIB_PID_DIR",
        line: |value| format!("daemon.pid_dir = '{value}'"),
        values: ["/f", "/v", "/x"],
        shown: |settings| {
            settings.daemon.pid_dir.as_ref().map_or_else(String::new, |dir| dir.display().to_string())
        },
        bad: ("here", PATH),
        name: "--pid-dir",
    },
    Key {
        flag: |flags, value| flags.source = Some(value.into()),
        variable: "DEFIB_SOURCE",
        line: |value| format!("daemon.source = '{value}'"),
        values: ["pidfd", "ebpf", "proc-connector"],
        shown: |settings| settings.daemon.source.to_string(),
        bad: ("bpf", "found \"bpf\", wanted \"auto\", \"ebpf\", \"proc-connector\" or \"pidfd\""),
        name: "--source",
    },
    Key {
        flag: |flags, value| flags.backend = Some(value.into()),
        variable: "DEFIB_BACKEND",
        line: |value| format!("daemon.backend = '{value}'"),
        values: ["direct", "direct", "direct"],
        shown: |settings| settings.daemon.backend.as_str().to_owned(),
        bad: ("systemd", "found \"systemd\", which is not built yet, wanted \"direct\""),
        name: "--backend",
    },
    Key {
        flag: |flags, value| flags.listen_metrics = Some(value.into()),
        variable: "DEFIB_LISTEN_METRICS",
        line: |value| format!("listen.metrics = '{value}'"),
        values: ["127.0.0.1:1", "[::1]:2", "0.0.0.0:3"],
        shown: |settings| settings.listen.metrics.map_or_else(String::new, |address| address.to_string()),
        bad: (
            "9977",
            "found \"9977\", wanted an address and a port such as \"127.0.0.1:9977\", or \"\" for none",
        ),
        name: "--listen-metrics",
    },
    Key {
        flag: |flags, value| flags.listen_web_config = Some(value.into()),
        variable: "DEFIB_LISTEN_WEB_CONFIG",
        line: |value| format!("listen.web_config = '{value}'"),
        values: ["/w", "/x/web.yml", "/"],
        shown: |settings| {
            settings.listen.web_config.as_ref().map_or_else(String::new, |path| path.display().to_string())
        },
        bad: (
            "web.yml",
            "found \"web.yml\", wanted the absolute path of a web configuration file, or \"\" for none",
        ),
        name: "--listen-web-config",
    },
    Key {
        flag: |flags, value| flags.log_to = Some(value.into()),
        variable: "DEFIB_LOG_TO",
        line: |value| format!("daemon.log.to = '{value}'"),
        values: ["/f", "journal", "/x"],
        shown: |settings| match &settings.daemon.log.to {
            LogTarget::Stderr => "stderr".to_owned(),
            LogTarget::Journal => "journal".to_owned(),
            LogTarget::File(path) => path.display().to_string(),
        },
        bad: ("syslog", "found \"syslog\", wanted \"stderr\", \"journal\" or the absolute path of a file"),
        name: "--log-to",
    },
    Key {
        flag: |flags, value| flags.log_format = Some(value.into()),
        variable: "DEFIB_LOG_FORMAT",
        line: |value| format!("daemon.log.format = '{value}'"),
        values: ["json", "text", "json"],
        shown: |settings| match settings.daemon.log.format {
            LogFormat::Text => "text".to_owned(),
            LogFormat::Json => "json".to_owned(),
        },
        bad: ("xml", "found \"xml\", wanted \"text\" or \"json\""),
        name: "--log-format",
    },
    Key {
        flag: |flags, value| flags.log_level = Some(value.into()),
        variable: "DEFIB_LOG",
        line: |value| format!("daemon.log.level = '{value}'"),
        values: ["warn", "debug", "info,defib::source=trace"],
        shown: |settings| settings.daemon.log.level.clone(),
        bad: (
            "loud",
            "found \"loud\", wanted error, warn, info, debug or trace, also by module as in \"info,defib::source=debug\"",
        ),
        name: "--log-level",
    },
    Key {
        flag: |flags, value| flags.max_restarts = Some(value.into()),
        variable: "DEFIB_MAX_RESTARTS",
        line: |value| format!("service.a = {{ command = 'x', restart.max_restarts = {value} }}"),
        values: ["3", "256", "none"],
        shown: |settings| match settings.services.first().map(|service| service.restart.max_restarts) {
            Some(Some(number)) => number.to_string(),
            Some(None) => "none".to_owned(),
            None => String::new(),
        },
        bad: ("257", "found \"257\", wanted a whole number from 1 to 256 or \"none\""),
        name: "--max-restarts",
    },
];

fn overrides(key: &Key, flag: Option<&str>, variable: Option<&str>) -> Overrides {
    let mut flags = Flags::default();
    if let Some(value) = flag {
        (key.flag)(&mut flags, value);
    }
    Overrides::new(flags, |name| variable.filter(|_| name == key.variable).map(Into::into), 0)
}

#[test]
fn a_flag_decides_over_a_variable_and_that_over_the_file() {
    for key in KEYS {
        let [file, variable, flag] = key.values;
        let text = (key.line)(file);
        for (given, expected) in
            [((None, None), file), ((None, Some(variable)), variable), ((Some(flag), Some(variable)), flag)]
        {
            let settings = parse(&text, &overrides(key, given.0, given.1)).unwrap();
            assert_eq!((key.shown)(&settings), expected, "{}: {given:?} over {text}", key.name);
        }
        // An empty variable is as good as none.
        let settings = parse(&text, &overrides(key, None, Some(""))).unwrap();
        assert_eq!((key.shown)(&settings), file, "{}", key.name);
    }
}

#[test]
fn a_bad_flag_or_variable_is_named_with_what_is_wanted() {
    for key in KEYS {
        let (value, why) = key.bad;
        assert_eq!(bad("", &overrides(key, Some(value), None)), [format!("{}: {why}", key.name)]);
        assert_eq!(bad("", &overrides(key, None, Some(value))), [format!("{}: {why}", key.variable)]);
    }
}

#[test]
fn the_number_of_restarts_is_decided_for_every_service() {
    let text = "[defaults]\nrestart.max_restarts = 4\n[service.a]\ncommand = 'x'\n\
                [service.b]\ncommand = 'x'\nrestart.max_restarts = 'none'";
    let flags = |value: &str| Flags { max_restarts: Some(value.to_owned()), ..Flags::default() };
    let settings = parse(text, &Overrides::new(flags("7"), |_| None, 0)).unwrap();
    assert!(settings.services.iter().all(|service| service.restart.max_restarts == Some(7)));
    for value in ["0", "+5", "5.0", " 5", "-1", "NONE", "many\u{1b}[2J"] {
        let errors = bad(text, &Overrides::new(flags(value), |_| None, 0));
        let wanted = "wanted a whole number from 1 to 256 or \"none\"";
        assert_eq!(errors, [format!("--max-restarts: found {value:?}, {wanted}")]);
    }
}

#[test]
fn there_is_one_backend() {
    assert_eq!(parse("", &super::root()).unwrap().daemon.backend, Backend::Direct);
    let line = |value: &str| bad(&format!("daemon.backend = {value}"), &super::root()).join("\n");
    let key = "f:1: daemon.backend";
    assert_eq!(
        line("'systemd'"),
        format!("{key}: found \"systemd\", which is not built yet, wanted \"direct\"")
    );
    assert_eq!(line("'runit'"), format!("{key}: found \"runit\", wanted \"direct\""));
    assert_eq!(line("1"), format!("{key}: found the integer 1, wanted \"direct\""));
}
