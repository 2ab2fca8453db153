//! What surrounds a process: limits, cgroup, environment.

use std::fs::{self, File};
use std::io::{self, Read};

use super::types::{Limit, Listed};

/// An environment is read up to here; the kernel allows 6 MiB for it together with the arguments.
const ENVIRONMENT: u64 = 8 << 20;

/// The resource limits.
pub(super) fn limits(pid: u32) -> io::Result<Vec<Limit>> {
    let text = fs::read_to_string(format!("/proc/{pid}/limits"))?;
    Ok(text.lines().skip(1).filter_map(limit).collect())
}

/// Columns of fixed width, as `fs/proc/base.c` prints them: 26 for the name, 21 for each limit.
fn limit(line: &str) -> Option<Limit> {
    let column = |from: usize, to: Option<usize>| {
        let to = to.unwrap_or(line.len()).min(line.len());
        line.get(from..to).map(|text| text.trim().to_owned())
    };
    Some(Limit {
        name: column(0, Some(25))?,
        soft: column(26, Some(46))?,
        hard: column(47, Some(67))?,
        unit: column(68, None).filter(|unit| !unit.is_empty()),
    })
}

/// The path in the unified hierarchy.
pub(super) fn cgroup(pid: u32) -> Option<String> {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    text.lines().find_map(|line| line.strip_prefix("0::")).map(str::to_owned)
}

/// The names of the variables, in the order in which they were set.
pub(super) fn environment(pid: u32, most: usize) -> io::Result<Listed<String>> {
    let mut bytes = Vec::new();
    File::open(format!("/proc/{pid}/environ"))?.take(ENVIRONMENT).read_to_end(&mut bytes)?;
    Ok(Listed::first(names(&bytes), most))
}

/// What has no `=` is no variable: a process that writes a title over its arguments may have reached in there.
fn names(environment: &[u8]) -> Vec<String> {
    let name = |entry: &[u8]| {
        let end = entry.iter().position(|byte| *byte == b'=')?;
        Some(String::from_utf8_lossy(&entry[..end]).into_owned())
    };
    environment.split(|byte| *byte == 0).filter_map(name).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_value_of_a_variable_is_told() {
        assert_eq!(names(b"PATH=/bin\0TOKEN=a=b\0scribble\0EMPTY=\0"), ["PATH", "TOKEN", "EMPTY"]);
    }

    #[test]
    fn limits_are_columns() {
        let line = "Max open files            1024                 1048576              files     ";
        let wanted = Limit {
            name: "Max open files".to_owned(),
            soft: "1024".to_owned(),
            hard: "1048576".to_owned(),
            unit: Some("files".to_owned()),
        };
        assert_eq!(limit(line), Some(wanted));
        let line = "Max nice priority         0                    0                              ";
        assert_eq!(limit(line).unwrap().unit, None);
        assert_eq!(limit("Max cut"), None);
    }
}
