//! The files that come with defib: they must not go stale.

use super::super::Finding;
use super::{bad, file, good, root};
use crate::config::parse;
use defib_core::model::{Delays, RestartSpec};

pub(super) const REFERENCE: &str = include_str!("../../../../config/defib.toml");
pub(super) const SAMPLE: &str = include_str!("../../../../config/sample.toml");

/// The file with its settings in force: those are the lines that begin with # and no space.
pub(super) fn uncommented() -> String {
    let line = |line: &str| match line.strip_prefix('#') {
        Some(setting) if !setting.is_empty() && !setting.starts_with(' ') => format!("{setting}\n"),
        _ => format!("{line}\n"),
    };
    REFERENCE.lines().map(line).collect()
}

#[test]
fn the_reference_names_the_defaults() {
    const SERVICE: &str = "[service.a]\ncommand = 'x'";
    let settings = good(&uncommented());
    assert_eq!(settings, good(REFERENCE));
    assert_eq!(settings, good(""));
    assert_eq!(good(&format!("{}{SERVICE}", uncommented())), good(SERVICE));
    // Not by saying nothing: there is a line for each key that has a default.
    let changed = REFERENCE.lines().filter(|line| !uncommented().lines().any(|other| other == *line)).count();
    assert_eq!(changed, 40);
}

#[test]
fn the_reference_has_every_key() {
    let probes = "zzzzzz = 1\n[daemon]\nzzzzzz = 1\nlog.zzzzzz = 1\n[listen]\nzzzzzz = 1\n[ports]\nzzzzzz = 1\n[service.a]\nzzzzzz = 1\ncommand = 'x'\n\
                  [service.a.restart]\nzzzzzz = 1\nbackoff.zzzzzz = 1\n[service.a.stop]\nzzzzzz = 1\n\
                  [service.a.ready]\nzzzzzz = 1\nport = 1\n[service.a.log]\nzzzzzz = 1";
    let errors = bad(probes, &root());
    assert_eq!(errors.len(), 11);
    for error in errors {
        let (_, known) = error.split_once("known here: ").unwrap();
        for key in known.split(", ") {
            let given = [format!("{key} = "), format!("[defaults.{key}]"), format!("[{key}")];
            // A key of a table within braces.
            let given = given.into_iter().chain([format!("{{ {key} = ")]).collect::<Vec<_>>();
            assert!(given.iter().any(|text| REFERENCE.contains(text)), "{key} is not explained");
        }
    }
}

#[test]
fn the_examples_in_the_reference_are_valid() {
    let key = |line: &str| line.split_once(" = ").is_some_and(|(key, _)| !key.contains(' '));
    let line = |line: &str| match line.strip_prefix("# ") {
        Some(example) if key(example) || example.starts_with('[') => format!("{example}\n"),
        Some(_) => "\n".to_owned(),
        None => format!("{line}\n"),
    };
    let settings = good(&REFERENCE.lines().map(line).collect::<String>());
    assert_eq!(settings.services[0].launch.command, ["/usr/bin/api", "--port", "8080"]);
    assert_eq!(settings.services[0].launch.user.as_deref(), Some("api"));
    assert_eq!(settings.services[0].ports, [8080, 8443].into());
    assert!(matches!(settings.services[0].restart.delays, Delays::List(_)));
}

#[test]
fn the_sample_shows_three_ways_to_live() {
    let settings = good(SAMPLE);
    let names: Vec<&str> = settings.services.iter().map(|service| service.name.as_str()).collect();
    assert_eq!(names, ["flaky", "heartbeat", "leaver"]);
    assert_eq!(settings.services[2].restart.immediate, 0);
    assert_eq!(settings.services[0].restart.immediate, RestartSpec::default().immediate);
}

#[test]
fn errors_print_one_a_line() {
    let errors = parse(&[file("dir/f.toml", "a = 1\nb = 2")], &root()).unwrap_err();
    let lines: Vec<String> = errors.iter().map(Finding::to_string).collect();
    assert_eq!(errors.to_string(), lines.join("\n"));
    assert!(lines[1].starts_with("dir/f.toml:2: b: unknown key"));
}
