//! Who may know whom inside the package `defib`. What crate boundaries cannot hold is held here, by reading the paths
//! that begin with `crate::`.

use std::fs;

use anyhow::{Context, Result, bail};

use crate::sizes::rust_files;
use crate::workspace::root;

/// Each top module and the paths of the crate that it may name, by prefix. Tests may name anything.
///
/// From the edges inwards: values and settings know nobody, sources and effects know values, the daemon knows all of
/// these, and the surfaces know the daemon's handle only.
const LAYERS: [(&str, &[&str]); 18] = [
    ("duration", &[]),
    ("size", &[]),
    ("aliveness", &[]),
    ("config", &["duration", "size"]),
    ("connections", &["effect::clock", "effect::holders", "effect::sockets", "source"]),
    ("source", &[]),
    ("effect", &["config", "keeper::plan", "keeper::protocol"]),
    ("state", &["effect::clock"]),
    ("keeper", &["effect::clock"]),
    ("metrics", &["effect::clock", "effect::usage"]),
    ("web", &["config"]),
    (
        "daemon",
        &["config", "connections", "duration", "effect", "keeper", "metrics", "source", "state", "web"],
    ),
    (
        "doctor",
        &[
            "config",
            "duration",
            "effect::cgroup",
            "effect::clock",
            "effect::held::share",
            "effect::sockets",
            "keeper",
            "source",
        ],
    ),
    ("preflight", &["config", "effect", "keeper::plan"]),
    ("client", &["api::types", "config", "daemon::handle", "duration"]),
    (
        "api",
        &[
            "client",
            "config",
            "daemon::feed",
            "daemon::handle",
            "daemon::journal",
            "duration",
            "effect::clock",
            "effect::output",
            "metrics",
            "web",
        ],
    ),
    (
        "cli",
        &[
            "api",
            "client",
            "config",
            "duration",
            "size",
            "effect::clock",
            "keeper::run",
            "daemon::purge",
            "daemon::run",
            "doctor",
            "preflight",
            "source::probe_report",
            "web",
        ],
    ),
    ("worker", &["client"]),
];

/// Names every path that points the wrong way.
pub(crate) fn check() -> Result<()> {
    let source = root().join("monitor/src");
    let (mut paths, mut wrong) = (0, 0);
    for file in rust_files(&source)? {
        let place = file.strip_prefix(&source).unwrap_or(&file);
        let module = place.components().next().map(|first| first.as_os_str().to_string_lossy().into_owned());
        let module = module.unwrap_or_default();
        let module = module.trim_end_matches(".rs");
        if module == "lib"
            || module == "main"
            || place.components().any(|part| is_test(&part.as_os_str().to_string_lossy()))
        {
            continue;
        }
        let Some((_, allowed)) = LAYERS.iter().find(|(name, _)| *name == module) else {
            bail!("the module `{module}` is in no layer yet; give it one in xtask/src/layers.rs");
        };
        let text = fs::read_to_string(&file).with_context(|| format!("cannot read {}", file.display()))?;
        for (number, path) in named(&text) {
            paths += 1;
            if !may(module, allowed, &path) {
                println!("monitor/src/{}:{number}: `{module}` may not know `crate::{path}`", place.display());
                wrong += 1;
            }
        }
    }
    println!("{paths} paths between {} modules", LAYERS.len());
    if wrong > 0 {
        bail!("{wrong} paths point the wrong way");
    }
    Ok(())
}

fn is_test(part: &str) -> bool {
    part == "tests" || part == "tests.rs"
}

fn may(module: &str, allowed: &[&str], path: &str) -> bool {
    let begins = |prefix: &str| {
        path.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
    };
    begins(module) || allowed.iter().any(|prefix| begins(prefix))
}

/// The paths behind `crate::` with their lines, up to the tests at the end of a file. Lists in braces are taken apart at
/// the first level.
fn named(text: &str) -> Vec<(usize, String)> {
    let code = text.lines().take_while(|line| line.trim() != "#[cfg(test)]");
    let mut found = Vec::new();
    for (number, line) in (1..).zip(code) {
        let line = line.split("//").next().unwrap_or_default();
        for rest in line.split("crate::").skip(1) {
            match rest.strip_prefix('{') {
                Some(list) => {
                    let words = list.split(['}', ';']).next().unwrap_or_default().split(',');
                    found.extend(words.map(|word| (number, word_path(word.trim()))));
                }
                None => found.push((number, word_path(rest))),
            }
        }
    }
    found
}

/// The path at the start of a text, without what follows it.
fn word_path(text: &str) -> String {
    let end = text.find(|c: char| !(c.is_alphanumeric() || c == '_' || c == ':')).unwrap_or(text.len());
    text[..end].trim_end_matches(':').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_found_and_judged() {
        let text = "use crate::config::{Flags, Overrides};\nuse crate::{api, keeper::plan};\nlet x = crate::duration::parse(y);\n\
                    // crate::source\n#[cfg(test)]\nuse crate::source::open;";
        let paths: Vec<String> = named(text).into_iter().map(|(_, path)| path).collect();
        assert_eq!(paths, ["config", "api", "keeper::plan", "duration::parse"]);
        assert!(may("api", &["daemon::handle"], "api::types"));
        assert!(may("api", &["daemon::handle"], "daemon::handle::Handle"));
        assert!(!may("api", &["daemon::handle"], "daemon::run"));
        assert!(!may("api", &["daemon::handle"], "daemon::handles"));
    }
}
