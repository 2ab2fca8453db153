//! Two configurations, and what is said of the way from one to the other.

use super::super::diff::{Effect, diff};
use super::{good, parse};
use crate::config::{Flags, Overrides};

/// A service `a` with these keys.
fn with(keys: &str) -> String {
    format!("[service.a]\ncommand = 'x'\n{keys}")
}

/// A text, the next one, and the changes.
#[track_caller]
fn changes(old: &str, new: &str) -> String {
    diff(&good(old), &good(new)).to_string()
}

#[test]
fn the_same_settings_differ_in_nothing() {
    for text in ["", &with(""), include_str!("../../../../config/sample.toml")] {
        assert!(diff(&good(text), &good(text)).is_empty());
    }
    // Nor do settings that are written in another way.
    assert_eq!(changes(&with("restart.window = '5m'"), &with("restart = { window = '300s' }")), "");
    assert_eq!(changes("[defaults]\ncwd = '/d'\n[service.a]\ncommand = 'x'", &with("cwd = '/d'")), "");
}

#[test]
fn watched_ports_differ_by_what_they_are_not_by_how_they_are_written() {
    let new = "ports.watch = [81, 22, '80', '8000-8002']";
    assert_eq!(changes("", new), "~ ports.watch: [] -> [22, \"80-81\", \"8000-8002\"]\n");
    assert_eq!(changes("ports.watch = ['80-81', 22, 8000, 8001, 8002]", new), "");
}

#[test]
fn services_come_and_go() {
    let old = "[service.b]\ncommand = 'x'\n[service.d]\ncommand = 'x'";
    let new = "[service.a]\ncommand = 'x'\n[service.c]\ncommand = 'x'\nautostart = false\n\
               [service.d]\ncommand = 'y'\n[service.'e.f']\ncommand = 'x'";
    assert_eq!(
        changes(old, new),
        "+ service.a (starts it)\n- service.b (stops it)\n+ service.c\n\
         ~ service.d.command: [\"x\"] -> [\"y\"] (restarts it)\n+ service.\"e.f\" (starts it)\n"
    );
}

/// The lines of a service before and after, and how the change is shown.
const KEYS: &[(&str, &str, &str)] = &[
    ("", "command = ['x', 'a b']", "command: [\"x\"] -> [\"x\", \"a b\"] (restarts it)"),
    ("", "cwd = '/srv'", "cwd: \"/\" -> \"/srv\" (restarts it)"),
    ("env.A = '1'", "env.A = '2'", "env.A: \"1\" -> \"2\" (restarts it)"),
    ("env.A = '1'", "", "env.A: \"1\" -> unset (restarts it)"),
    ("", "env = { 'a.b' = '1' }", "env.\"a.b\": unset -> \"1\" (restarts it)"),
    ("", "env_file = '/e'", "env_file: unset -> \"/e\" (restarts it)"),
    ("user = 'a'", "user = 7", "user: \"a\" -> \"7\" (restarts it)"),
    ("", "group = 'g'", "group: unset -> \"g\" (restarts it)"),
    ("groups = ['g']", "groups = []", "groups: [\"g\"] -> [] (restarts it)"),
    ("", "inherit_env = ['TZ']", "inherit_env: [] -> [\"TZ\"] (restarts it)"),
    ("", "umask = '027'", "umask: \"022\" -> \"027\" (restarts it)"),
    ("", "needs_files = ['/f']", "needs_files: [] -> [\"/f\"] (restarts it)"),
    ("", "leftovers = 'keep'", "leftovers: \"kill\" -> \"keep\" (restarts it)"),
    ("", "description = 'd'", "description: \"\" -> \"d\""),
    ("", "autostart = false", "autostart: true -> false"),
    ("ports = [80]", "ports = [443, 80]", "ports: [80] -> [80, 443]"),
    ("", "ready = { port = 80 }", "ready: \"exec\" -> { port = 80 }"),
    ("", "restart.policy = 'never'", "restart.policy: \"on-failure\" -> \"never\""),
    ("", "restart.success_codes = [0, 3]", "restart.success_codes: [0] -> [0, 3]"),
    ("", "restart.never_codes = [3]", "restart.never_codes: [] -> [3]"),
    ("", "restart.immediate = 0", "restart.immediate: 1 -> 0"),
    ("", "restart.backoff.initial = '1s'", "restart.backoff.initial: \"100ms\" -> \"1s\""),
    ("", "restart.backoff.factor = 1.5", "restart.backoff.factor: 2 -> 1.5"),
    ("", "restart.max_restarts = 5", "restart.max_restarts: 10 -> 5"),
    ("restart.max_restarts = 'none'", "restart.max_restarts = 5", "restart.max_restarts: \"none\" -> 5"),
    ("", "restart.window = 'none'", "restart.window: \"5m\" -> \"none\""),
    ("", "restart.give_up = { retry_every = '6h' }", "restart.give_up: \"fail\" -> { retry_every = \"6h\" }"),
    ("", "restart.reset_after = '1m'", "restart.reset_after: \"10s\" -> \"1m\""),
    ("", "stop.signal = 'INT'", "stop.signal: \"SIGTERM\" -> \"SIGINT\""),
    ("", "stop.timeout = '0s'", "stop.timeout: \"10s\" -> \"0s\""),
    ("", "log.capture = false", "log.capture: true -> false"),
    ("", "log.max_size = 0", "log.max_size: \"10M\" -> \"0\""),
    ("", "log.max_total = '1G'", "log.max_total: \"none\" -> \"1G\""),
    ("", "log.path = '/l'", "log.path: unset -> \"/l\""),
    ("", "service_group = 'web'", "service_group: unset -> \"web\""),
    ("pid_file = '/p'", "pid_file = '/q'", "pid_file: \"/p\" -> \"/q\""),
];

#[test]
fn each_key_is_shown_with_both_values_and_what_it_does() {
    for (old, new, shown) in KEYS {
        let new = match new.strip_prefix("command") {
            Some(_) => format!("[service.a]\n{new}"),
            None => with(new),
        };
        assert_eq!(changes(&with(old), &new), format!("~ service.a.{shown}\n"), "{old} to {new}");
    }
    // Kinds of delays have keys of their own.
    assert_eq!(
        changes(&with("restart.immediate = 1"), &with("restart = { immediate = 1, delays = ['5s', '10s'] }")),
        "~ service.a.restart.backoff.factor: 2 -> unset\n\
         ~ service.a.restart.backoff.initial: \"100ms\" -> unset\n\
         ~ service.a.restart.backoff.jitter: 0.1 -> unset\n\
         ~ service.a.restart.backoff.max: \"1m\" -> unset\n\
         ~ service.a.restart.delays: unset -> [\"5s\", \"10s\"]\n"
    );
}

#[test]
fn secrets_are_not_shown_and_nothing_steers_a_terminal() {
    let old = with("env = { DB_PASSWORD = 'old', api_token = 't', PLAIN = 'a' }");
    let new = with("env = { DB_PASSWORD = 'new', SSH_KEY = 'k', PLAIN = \"\\u001b[2J\\u202e\" }");
    assert_eq!(
        changes(&old, &new),
        "~ service.a.env.DB_PASSWORD: … -> … (restarts it)\n\
         ~ service.a.env.PLAIN: \"a\" -> \"\\u{1b}[2J\\u{202e}\" (restarts it)\n\
         ~ service.a.env.SSH_KEY: unset -> … (restarts it)\n\
         ~ service.a.env.api_token: … -> unset (restarts it)\n"
    );
}

#[test]
fn keys_of_the_daemon_say_when_they_hold() {
    let new = "[daemon]\nstate_dir = '/s'\npid_dir = '/p'\nsource = 'pidfd'\nwatchdog = '30s'\nlog = { to = '/l', level = 'warn' }\n\
               [listen]\nmetrics = ''\nweb_config = '/w'\nmax_series = 5";
    let later = "(when defib itself is stopped and started)";
    assert_eq!(
        changes("", new),
        format!(
            "~ daemon.log.level: \"info\" -> \"warn\"\n~ daemon.log.to: \"stderr\" -> \"/l\"\n\
             ~ daemon.pid_dir: unset -> \"/p\" {later}\n~ daemon.source: \"auto\" -> \"pidfd\" {later}\n\
             ~ daemon.state_dir: \"/var/lib/defib\" -> \"/s\" {later}\n~ daemon.watchdog: \"none\" -> \"30s\"\n\
             ~ listen.max_series: 1000 -> 5\n\
             ~ listen.metrics: \"127.0.0.1:9977\" -> \"\"\n\
             ~ listen.web_config: unset -> \"/w\"\n"
        )
    );
}

#[test]
fn scripts_get_the_same_as_json() {
    let found = diff(
        &good(&with("")),
        &good("[service.a]\ncommand = 'x'\nrestart.max_restarts = 5\n[service.b]\ncommand = 'y'"),
    );
    assert_eq!(found.changes[1].effect, Effect::Starts);
    let json = serde_json::to_string(&found).unwrap();
    let first =
        r#"{"kind":"changed","key":"service.a.restart.max_restarts","old":"10","new":"5","effect":"none"}"#;
    let second = r#"{"kind":"added","key":"service.b","old":null,"new":null,"effect":"starts"}"#;
    assert_eq!(json, format!(r#"{{"changes":[{first},{second}]}}"#));
}

/// The rule for single keys and that for the whole specification agree.
#[test]
fn what_restarts_is_what_makes_another_process() {
    for (old, new, _) in KEYS.iter().filter(|(_, new, _)| !new.starts_with("command")) {
        let (old, new) = (good(&with(old)), good(&with(new)));
        let restarts = diff(&old, &new).changes.iter().any(|change| change.effect == Effect::Restarts);
        assert_eq!(restarts, !old.services[0].same_process(&new.services[0]), "{new:?}");
    }
    // What a flag decides is a change like any other.
    let flags = Flags { max_restarts: Some("3".to_owned()), ..Flags::default() };
    let decided = parse(&with(""), &Overrides::new(flags, |_| None, 0)).unwrap();
    assert_eq!(diff(&good(&with("")), &decided).to_string(), "~ service.a.restart.max_restarts: 10 -> 3\n");
}
