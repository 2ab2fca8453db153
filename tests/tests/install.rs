//! `defib install` and `defib uninstall`, in a folder that plays the root of the file system.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use defib_tests::{defib, program};
use serde_json::Value;

const UNITS: [&str; 2] = ["etc/systemd/system/defib.service", "etc/systemd/system/defib@.service"];
const LINK: &str = "etc/systemd/system/multi-user.target.wants/defib.service";

fn files(root: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).expect("a folder").flatten() {
            let path = entry.path();
            if entry.file_type().expect("a type").is_dir() {
                folders.push(path);
            } else {
                found.push(path.strip_prefix(root).expect("below").display().to_string());
            }
        }
    }
    found.sort();
    found
}

#[test]
fn what_install_makes_uninstall_removes_and_both_say_so() {
    let root = tempfile::tempdir().expect("a folder");
    let at = root.path().to_str().expect("UTF-8");
    let install = ["install", "--root", at, "--prefix", "/opt/defib", "--enable"];

    let dry = defib(&[&install[..], &["--dry-run"]].concat());
    assert_eq!((dry.code, dry.err.as_str()), (0, ""), "{}", dry.out);
    assert!(dry.out.lines().all(|line| line.starts_with("would have ")), "{}", dry.out);
    assert_eq!(files(root.path()), [""; 0]);

    let done = defib(&install);
    assert_eq!((done.code, done.err.as_str()), (0, ""), "{}", done.out);
    let mut expected = vec![UNITS[0], UNITS[1], LINK, "opt/defib/bin/defib"];
    expected.sort_unstable();
    assert_eq!(files(root.path()), expected);
    assert!(expected.iter().all(|file| done.out.contains(file)), "{}", done.out);
    for unit in UNITS {
        let text = fs::read_to_string(root.path().join(unit)).expect("a unit");
        assert!(
            text.contains("ExecStart=/opt/defib/bin/defib ") && !text.contains("/usr/bin/defib"),
            "{text}"
        );
    }
    assert_eq!(fs::read_link(root.path().join(LINK)).expect("a link"), Path::new("/").join(UNITS[0]));
    let copy = root.path().join("opt/defib/bin/defib");
    assert_eq!(fs::metadata(&copy).expect("a copy").permissions().mode() & 0o7777, 0o755);
    assert_eq!(fs::read(&copy).expect("a copy"), fs::read(program()).expect("the program"));

    let gone = defib(&["uninstall", "--root", at, "--json"]);
    let said: Value = serde_json::from_str(&gone.out).expect("JSON");
    assert_eq!((gone.code, said["steps"].as_array().map(Vec::len)), (0, Some(4)), "{said:#}");
    assert_eq!(files(root.path()), [""; 0]);
    let nothing = defib(&["uninstall", "--root", at]);
    assert_eq!((nothing.code, nothing.out.as_str()), (0, "there is nothing to do\n"));
}

#[test]
fn a_unit_of_somebody_else_is_left_alone() {
    let root = tempfile::tempdir().expect("a folder");
    let at = root.path().to_str().expect("UTF-8");
    let unit = root.path().join(UNITS[1]);
    fs::create_dir_all(unit.parent().expect("a folder")).expect("a folder");
    fs::write(&unit, "[Service]\n").expect("a unit");
    for verb in ["install", "uninstall"] {
        let said = defib(&[verb, "--root", at]);
        assert_eq!(said.code, 1, "{verb}: {}", said.out);
        assert!(said.err.contains(UNITS[1]) && said.err.contains("not written by"), "{}", said.err);
        assert_eq!(files(root.path()), [UNITS[1]], "{verb}: nothing by halves");
    }
    assert_eq!(fs::read_to_string(&unit).expect("a unit"), "[Service]\n");
}

#[test]
fn paths_that_a_unit_cannot_hold_are_refused() {
    let root = tempfile::tempdir().expect("a folder");
    let at = root.path().to_str().expect("UTF-8");
    for (prefix, why) in [("/with a blank", "--prefix"), ("/100%", "--prefix"), ("relative", "absolute")] {
        let said = defib(&["install", "--root", at, "--prefix", prefix]);
        assert_eq!(said.code, 1, "{prefix}");
        assert!(said.err.contains(why) && said.err.contains(prefix), "{}", said.err);
    }
    assert_eq!(files(root.path()), [""; 0]);
}
