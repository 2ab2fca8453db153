//! Whether the log of a service has every line that its lives have written, once and in order.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use super::ledger::Life;

/// The lines of a life as the log has them.
#[derive(Debug, Default)]
struct Found {
    lines: u64,
    /// The first thing that is wrong with their order.
    wrong: Option<String>,
}

/// What is wrong, in words. `may_lack` says of which lives the last lines may be missing.
pub(super) fn judge(
    folder: &Path,
    name: &str,
    lives: &[Life],
    may_lack: impl Fn(&Life) -> bool,
) -> Vec<String> {
    let text = whole(folder, name);
    let mut problems = Vec::new();
    let mut found: BTreeMap<u64, Found> = BTreeMap::new();
    for (place, line) in text.split_inclusive('\n').enumerate() {
        let Some((life, number)) = parse(line, name) else {
            problems.push(format!("{name}: line {place} of its log is {line:?}"));
            continue;
        };
        let found = found.entry(life).or_default();
        if number != found.lines + 1 && found.wrong.is_none() {
            found.wrong = Some(format!("after line {} comes line {number}", found.lines));
        }
        found.lines = number;
    }
    for life in lives {
        let Found { lines, wrong } = found.remove(&life.number).unwrap_or_default();
        let (begun, written) = life.lines;
        let (number, pid) = (life.number, life.pid);
        if let Some(wrong) = wrong {
            problems.push(format!("{name}: in the log of life {number} (pid {pid}) {wrong}"));
        } else if lines > begun || lines < written && !may_lack(life) {
            problems.push(format!(
                "{name}: life {number} (pid {pid}) has written {written} lines, or {begun}, and {lines} are in the log"
            ));
        }
    }
    let strangers =
        found.keys().map(|life| format!("{name}: its log has lines of life {life}, which never was"));
    problems.extend(strangers);
    problems
}

/// The log from its oldest file on.
fn whole(folder: &Path, name: &str) -> String {
    let current = folder.join(format!("{name}.log"));
    let older = |number: u32| folder.join(format!("{name}.log.{number}"));
    let mut files: Vec<_> = (1..).map(older).take_while(|path| path.exists()).collect();
    files.reverse();
    files.push(current);
    let bytes: Vec<u8> = files.iter().flat_map(|file| fs::read(file).unwrap_or_default()).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Life and number of a line.
fn parse(line: &str, name: &str) -> Option<(u64, u64)> {
    let (life, number) = line.strip_prefix(name)?.strip_prefix(' ')?.strip_suffix('\n')?.split_once(' ')?;
    Some((life.parse().ok()?, number.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(text: &str, lines: (u64, u64), may_lack: bool) -> Vec<String> {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("a.log"), text).unwrap();
        let life = Life { number: 0, incarnation: 1, pid: 2, start: 3, at: 4, end: None, lines };
        judge(folder.path(), "a", &[life], |_| may_lack)
    }

    #[test]
    fn a_line_that_is_missing_doubled_or_torn_is_told() {
        assert_eq!(problems("a 0 1\na 0 2\n", (2, 2), false), [""; 0]);
        assert_eq!(problems("a 0 1\na 0 2\n", (2, 1), false), [""; 0], "killed before it could say so");
        assert_eq!(problems("a 0 1\n", (2, 1), false), [""; 0], "killed before it could write it");
        assert!(problems("a 0 1\n", (2, 2), false)[0].contains("1 are in the log"));
        assert_eq!(problems("a 0 1\n", (2, 2), true), [""; 0]);
        assert!(problems("a 0 2\n", (2, 2), true)[0].contains("after line 0 comes line 2"));
        assert!(problems("a 0 1\na 0 1\n", (1, 1), false)[0].contains("after line 1 comes line 1"));
        assert!(problems("a 0 1\na 0", (1, 1), false)[0].contains("is \"a 0\""));
        assert!(problems("defib: 7 bytes are missing\na 0 1\n", (1, 1), false)[0].contains("line 0"));
        assert!(problems("a 0 1\na 1 1\n", (1, 1), false)[0].contains("never was"));
    }
}
