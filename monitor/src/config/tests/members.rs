//! Several files: what may be spread over them, and what is said of what may not.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::Path;

use nix::unistd::geteuid;

use super::super::{Flags, Overrides, Settings, load, parse};
use super::{file, root};

const A: &str = "[service.a]\ncommand = 'x'\n";

#[track_caller]
fn good(texts: &[&str]) -> Settings {
    let texts: Vec<_> = texts.iter().enumerate().map(|(n, text)| file(&format!("f{n}"), text)).collect();
    parse(&texts, &root()).unwrap_or_else(|errors| panic!("{errors}"))
}

#[test]
fn services_and_keys_of_the_daemon_may_be_spread() {
    let spread = good(&[
        "[daemon]\nstate_dir = '/s'\n[defaults]\ncwd = '/d'",
        "",
        "[daemon]\nsource = 'pidfd'\n[service.b]\ncommand = 'y'",
        A,
    ]);
    let whole = good(&["[daemon]\nstate_dir = '/s'\nsource = 'pidfd'\n[defaults]\ncwd = '/d'\n\
                        [service.a]\ncommand = 'x'\n[service.b]\ncommand = 'y'"]);
    assert_eq!(spread, whole);
    assert_eq!(spread.services.len(), 2);
    // Whichever file has them, defaults hold for the services of all.
    assert_eq!(good(&[A, "[defaults]\ncwd = '/d'"]).services[0].launch.cwd, Path::new("/d"));
}

/// Files, and what is said of them.
const BAD: &[(&[&str], &str)] = &[
    (&[A, "\n[service.a]\ncommand = 'y'"], "f1:2: service.a: given already at f0:1; remove one of the two"),
    (
        &["[defaults]\ncwd = '/'", "[defaults]\numask = '022'"],
        "f1:1: defaults: given already at f0:1; remove one of the two",
    ),
    (
        &["[daemon]\nsource = 'auto'", "", "[daemon]\nstate_dir = '/s'\nsource = 'auto'"],
        "f2:3: daemon.source: given already at f0:2; remove one of the two",
    ),
    (
        &["daemon.log.to = 'journal'", "daemon.log.level = 'warn'"],
        "f1:1: daemon.log: given already at f0:1; remove one of the two",
    ),
    (
        &["listen = { metrics = '' }", "listen.metrics = ''", "listen.metrics = '[::1]:80'"],
        "f1:1: listen.metrics: given already at f0:1; remove one of the two\n\
         f2:1: listen.metrics: given already at f0:1; remove one of the two",
    ),
    (
        &["service = 'x'", A],
        "f0:1: service: found the string \"x\", wanted a table [service.NAME] for each service\n\
         f1:1: service: given already at f0:1; remove one of the two",
    ),
    (
        &[A, "[service.b]\ncommand = ['x',\n5]\nrestart = { delays = ['1s', '2'] }", "zzz = 1"],
        "f1:3: service.b.command[1]: found the integer 5, wanted a string; write \"5\"\n\
         f1:4: service.b.restart.delays[1]: found the string \"2\", wanted a duration such as \"100ms\" or \
         \"1m30s\": a number needs its unit: d, h, m, s, ms or us\n\
         f2:1: zzz: unknown key; known here: daemon, listen, ports, defaults, service",
    ),
    (
        &["x = [1,", "wrong = 1", "\n[oops"],
        "f0:1: not valid TOML: unclosed array, expected `]`\n\
         f2:2: not valid TOML: unclosed table, expected `]`",
    ),
    // The first byte of a file is on its own first line, and the end of one on its own last.
    (
        &["a = 1\n", "b = 1"],
        "f0:1: a: unknown key; known here: daemon, listen, ports, defaults, service\n\
        f1:1: b: unknown key; known here: daemon, listen, ports, defaults, service",
    ),
];

#[test]
fn what_is_given_twice_is_named_with_both_places() {
    for (texts, errors) in BAD {
        let texts: Vec<_> = texts.iter().enumerate().map(|(n, text)| file(&format!("f{n}"), text)).collect();
        let found = parse(&texts, &root()).expect_err("it is bad");
        assert_eq!(found.to_string(), *errors, "in {texts:?}");
    }
}

/// A configuration with members, and the errors of it with paths shortened.
struct Place(tempfile::TempDir);

impl Place {
    fn new(members: &[(&str, &str)]) -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        place.write("defib.toml", A);
        fs::create_dir(place.0.path().join("conf.d")).unwrap();
        for (name, text) in members {
            place.write(&format!("conf.d/{name}"), text);
        }
        place
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.0.path().join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(path, Permissions::from_mode(0o644)).unwrap();
    }

    fn load(&self) -> Result<Vec<String>, String> {
        let folder = self.0.path().canonicalize().unwrap();
        let home = |name: &str| (name == "HOME").then(|| "/nowhere".into());
        let overrides = Overrides::new(Flags::default(), home, geteuid().as_raw());
        let shorten = |text: String| text.replace(&format!("{}/", folder.display()), "");
        match load(&folder.join("defib.toml"), &overrides) {
            Ok(loaded) => Ok(loaded.texts.into_iter().map(|(file, _)| shorten(file)).collect()),
            Err(errors) => Err(shorten(errors.to_string())),
        }
    }
}

#[test]
fn members_are_read_in_the_order_of_their_names() {
    let place = Place::new(&[
        ("20-c.toml", "[service.c]\ncommand = 'x'"),
        ("10-b.toml", "[service.b]\ncommand = 'x'"),
        ("9.toml", ""),
        ("readme.txt", "not TOML"),
        (".#10-b.toml", "not TOML"),
        ("10-b.toml~", "not TOML"),
    ]);
    let read = place.load().unwrap();
    assert_eq!(read, ["defib.toml", "conf.d/10-b.toml", "conf.d/20-c.toml", "conf.d/9.toml"]);
    place.write("conf.d/9.toml", "[service.a]\ncommand = 'x'");
    let folder = place.0.path().canonicalize().unwrap();
    let error = place.load().unwrap_err().replace(&format!("{}/", folder.display()), "");
    assert_eq!(error, "conf.d/9.toml:1: service.a: given already at defib.toml:1; remove one of the two");
    fs::remove_dir_all(place.0.path().join("conf.d")).unwrap();
    assert_eq!(place.load().unwrap(), ["defib.toml"]);
}

#[test]
fn members_that_cannot_be_read_are_named_all() {
    let place = Place::new(&[("b.toml", "# \u{fffd}")]);
    fs::write(place.0.path().join("conf.d/b.toml"), b"\n# \xff").unwrap();
    fs::create_dir(place.0.path().join("conf.d/c.toml")).unwrap();
    symlink("nowhere", place.0.path().join("conf.d/d.toml")).unwrap();
    fs::write(place.0.path().join("conf.d/e.toml"), vec![b'\n'; (1 << 20) + 1]).unwrap();
    assert_eq!(
        place.load().unwrap_err(),
        "conf.d/c.toml: conf.d/c.toml is a folder, not a file\n\
         conf.d/d.toml: cannot open conf.d/nowhere: No such file or directory\n\
         conf.d/e.toml: larger than the 1048576 bytes that are allowed\n\
         conf.d/b.toml:2: line 2 is not UTF-8: found the byte 0xff"
    );
    fs::remove_dir_all(place.0.path().join("conf.d")).unwrap();
    place.write("conf.d", "");
    assert_eq!(place.load().unwrap_err(), "conf.d: conf.d is a file, not a folder");
}

#[test]
fn root_trusts_members_as_it_trusts_the_file() {
    if !geteuid().is_root() {
        println!("skipped: needs root");
        return;
    }
    let place = Place::new(&[("b.toml", "")]);
    let folder = place.0.path().join("conf.d");
    fs::set_permissions(folder.join("b.toml"), Permissions::from_mode(0o664)).unwrap();
    let writable = "may be written by others (mode 0664), who could make root act; run: chmod go-w";
    assert_eq!(place.load().unwrap_err(), format!("conf.d/b.toml: conf.d/b.toml {writable} conf.d/b.toml"));
    fs::set_permissions(folder.join("b.toml"), Permissions::from_mode(0o644)).unwrap();
    fs::set_permissions(&folder, Permissions::from_mode(0o777)).unwrap();
    let writable = "may be written by others (mode 0777), who could make root act; run: chmod go-w";
    assert_eq!(place.load().unwrap_err(), format!("conf.d: conf.d {writable} conf.d"));
    fs::set_permissions(&folder, Permissions::from_mode(0o755)).unwrap();
    // A link may lead out of the folder, to what is trusted as well.
    place.write("far", "");
    symlink("../far", folder.join("link.toml")).unwrap();
    assert_eq!(place.load().unwrap(), ["defib.toml", "conf.d/b.toml", "conf.d/link.toml"]);
    chown(place.0.path().join("far"), Some(1000), None).unwrap();
    assert_eq!(
        place.load().unwrap_err(),
        "conf.d/link.toml: far belongs to user 1000, who could make root act; run: chown root far"
    );
}
