//! Completion scripts and manual pages, judged by the programs that are to read them.
#![expect(
    clippy::disallowed_methods,
    clippy::print_stderr,
    reason = "tests start shells and roff, and say which are not there"
)]

use std::fs;
use std::path::Path;
use std::process::Command;

use defib_tests::{Daemon, Said, defib, patiently, program, said};

/// Whether a program is there; says so if not.
fn there(name: &str) -> bool {
    let found = std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|folder| folder.join(name).is_file()));
    if !found {
        eprintln!("skipped: there is no {name} here");
    }
    found
}

fn script(shell: &str) -> String {
    let Said { code, out, err } = defib(&["completions", shell]);
    assert_eq!((code, err.as_str()), (0, ""), "{shell}");
    out
}

#[test]
fn shells_understand_the_scripts() {
    let folder = tempfile::tempdir().expect("a folder");
    for shell in ["bash", "zsh", "fish"] {
        let path = folder.path().join(shell);
        fs::write(&path, script(shell)).expect("a file");
        if there(shell) {
            let judged = said(Command::new(shell).arg("-n").arg(&path));
            assert_eq!((judged.code, judged.err.as_str()), (0, ""), "{shell}");
        }
    }
    assert_eq!(defib(&["completions", "csh"]).code, 2);
    assert!(
        script("bash").contains(program().to_str().expect("UTF-8")),
        "what it runs is found from everywhere"
    );
    let named = defib(&["completions", "bash", "--program", "defib"]);
    assert!(named.out.contains("\"defib\" -- "), "{}", named.out);
}

#[test]
fn bash_completes_verbs_options_services_and_groups() {
    if !there("bash") {
        return;
    }
    let daemon = Daemon::start(
        "[service.api-1]\ncommand = \"sleep 1000\"\nservice_group = \"web\"\nautostart = false\n\
         [service.api-2]\ncommand = \"sleep 1000\"\nservice_group = \"web\"\nautostart = false\n\
         [service.db]\ncommand = \"sleep 1000\"\nautostart = false\n",
    );
    fs::write(daemon.path("script"), script("bash")).expect("a file");
    let complete = |words: &[&str], run: &Path| {
        let ask = "source \"$1\"; shift; COMP_WORDS=(\"$@\"); COMP_CWORD=$(($# - 1)); COMP_TYPE=9\n\
                   _clap_complete_defib defib \"${@: -1}\" \"${@: -2:1}\" 2>&1; printf '%s\\n' \"${COMPREPLY[@]}\"";
        let mut command = Command::new("bash");
        command.args(["-c", ask, "bash"]).arg(daemon.path("script")).arg("defib").args(words);
        let said = said(command.env("DEFIB_RUNTIME_DIR", run));
        assert_eq!(said.err, "", "{words:?}");
        said.out.split_whitespace().map(str::to_owned).collect::<Vec<_>>()
    };
    let run = daemon.path("run");
    assert_eq!(complete(&["st"], &run), ["status", "start", "stop", "stats"]);
    let names = |words: &[&str], expected: &[&str]| {
        // Nobody who presses Tab waits long, so a busy daemon may be left unheard.
        let found = patiently("names", || Some(complete(words, &run)).filter(|found| !found.is_empty()));
        assert_eq!(found, expected, "{words:?}");
    };
    names(&["stop", "a"], &["api-1", "api-2"]);
    names(&["stop", "api-1", "d"], &["db"]);
    names(&["inspect", "d"], &["db"]);
    names(&["status", "--group", ""], &["web"]);
    assert_eq!(complete(&["--color", "a"], &run), ["auto", "always"]);
    assert_eq!(complete(&["stats", "--cs"], &run), ["--csv"]);
    assert_eq!(
        complete(&["stop", "a"], Path::new("/nowhere")),
        [""; 0],
        "without a daemon: nothing, and no noise"
    );
}

#[test]
fn roff_understands_the_pages() {
    let folder = tempfile::tempdir().expect("a folder");
    let pages = folder.path().join("man/man1");
    let said_it = defib(&["man", pages.to_str().expect("UTF-8")]);
    assert_eq!((said_it.code, said_it.err.as_str()), (0, ""));
    let help = defib(&["--help"]).out;
    let verbs = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let verbs = verbs.take_while(|line| !line.is_empty()).filter(|line| !line.starts_with("   "));
    let verbs: Vec<&str> = verbs.filter_map(|line| line.split_ascii_whitespace().next()).collect();
    assert!(verbs.len() > 15, "{help}");
    for verb in verbs.iter().filter(|verb| **verb != "help") {
        assert!(pages.join(format!("defib-{verb}.1")).is_file(), "{verb}");
    }
    let main = fs::read_to_string(pages.join("defib.1")).expect("the page");
    assert_eq!(defib(&["man"]).out, main);
    assert!(!pages.join("defib-load-probes.1").exists(), "what is hidden is hidden");
    if there("groff") {
        for page in pages.read_dir().expect("a folder") {
            let path = page.expect("an entry").path();
            assert!(fs::read(&path).expect("a page").is_ascii(), "{}", path.display());
            let judged = said(Command::new("groff").args(["-man", "-Tutf8", "-ww"]).arg(&path));
            assert_eq!((judged.code, judged.err.as_str()), (0, ""), "{}", path.display());
        }
    }
    let denied = defib(&["man", "/proc/nowhere"]);
    assert_eq!(denied.code, 1, "{denied:?}");
    assert!(denied.err.contains("cannot write manual pages to /proc/nowhere"), "{denied:?}");
}
