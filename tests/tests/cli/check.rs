//! `defib check`: what is wrong with a configuration, and which one root takes.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use defib_tests::{Daemon, Options, Said, assert_harmless, assert_said, defib};

use super::{NOBODY, SLEEP, keys, parse};

#[test]
fn a_description_with_control_characters_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("defib.toml");
    let said = check(&file, "[service.it]\ncommand = \"true\"\ndescription = \"a \\u001b[31mred\\nthing\"\n");
    assert_said(&said, 1, &[":3: service.it.description: ", "\\u{1b}[31mred\\nthing", "control characters"]);
    assert_harmless(&said.err);
}

fn check(file: &Path, text: &str) -> Said {
    fs::write(file, text).expect("a file");
    defib(&["check", "--config", file.to_str().expect("UTF-8")])
}

#[test]
fn check_counts_services_or_lists_every_error_with_its_line() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("defib.toml");
    let path = file.to_str().expect("UTF-8");
    assert_said(&check(&file, ""), 0, &[path, "0 services"]);
    assert_said(&check(&file, &format!("[service.a]\n{SLEEP}\n")), 0, &["ok, 1 service\n"]);
    assert_said(
        &check(&file, &format!("[service.a]\n{SLEEP}\n[service.b]\n{SLEEP}\n")),
        0,
        &["ok, 2 services\n"],
    );

    let bad = "[daemon]\nsorce = \"x\"\n[service.a]\ncommand = 5\n[service.b]\nrestart = \"always\"\n";
    let said = check(&file, bad);
    assert_eq!((said.code, said.out.as_str()), (1, ""), "{said:?}");
    let found: Vec<_> = said.err.lines().collect();
    let wanted = [
        (2, "daemon.sorce: ", "did you mean source?"),
        (4, "service.a.command: ", "5"),
        (5, "service.b.command: ", "missing"),
        (6, "service.b.restart: ", "policy"),
    ];
    assert_eq!(found.len(), wanted.len(), "{}", said.err);
    for (found, (line, key, text)) in found.iter().zip(wanted) {
        assert!(found.starts_with(&format!("{path}:{line}: {key}")) && found.contains(text), "{found}");
    }
    let said = defib(&["check", "--json", "--config", path]);
    assert_eq!(said.code, 1);
    let verdict = parse(&said.out);
    assert_eq!(keys(&verdict), ["errors", "file", "ok", "services", "warnings"]);
    assert_eq!((&verdict["ok"], verdict["errors"].as_array().map(Vec::len)), (&false.into(), Some(4)));

    assert_said(&check(&file, "[service.a\n"), 1, &[&format!("{path}:1: ")]);
    let missing = folder.path().join("missing");
    let said = defib(&["check", "--config", missing.to_str().expect("UTF-8")]);
    assert_said(&said, 1, &["missing", "--config"]);
}

#[test]
fn root_takes_no_configuration_that_others_may_change() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("defib.toml");
    let good = format!("[service.a]\n{SLEEP}\n");
    assert_said(&check(&file, &good), 0, &[]);
    fs::set_permissions(&file, fs::Permissions::from_mode(0o664)).expect("permissions");
    assert_said(&check(&file, &good), 1, &["may be written by others", "0664", "chmod go-w"]);
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).expect("permissions");
    std::os::unix::fs::chown(&file, Some(NOBODY), None).expect("root");
    assert_said(&check(&file, &good), 1, &["belongs to user 54321", "chown root"]);

    // Nor does the daemon, and it says the same.
    let options = Options { owner: Some(NOBODY), ..Options::default() };
    let mut daemon = Daemon::launch(&good, &options);
    assert_eq!(daemon.exit_code(), 1);
    assert!(daemon.log().contains("belongs to user 54321"), "{}", daemon.log());
}
