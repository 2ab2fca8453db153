//! What is mounted where: `/proc/self/mountinfo`, as proc(5) has it.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

/// A mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mount {
    pub(super) point: PathBuf,
    pub(super) filesystem: String,
    /// The options of the file system, not those of the mount.
    pub(super) options: Vec<String>,
}

/// The lines that can be understood.
pub(super) fn mounts(mountinfo: &str) -> Vec<Mount> {
    mountinfo.lines().filter_map(parse).collect()
}

fn parse(line: &str) -> Option<Mount> {
    let (mount, rest) = line.split_once(" - ")?;
    let mut rest = rest.split(' ');
    let filesystem = rest.next()?.to_owned();
    let options = rest.nth(1).unwrap_or_default().split(',').map(str::to_owned).collect();
    Some(Mount { point: unescape(mount.split(' ').nth(4)?), filesystem, options })
}

/// Blanks and backslashes are written as three octal digits.
fn unescape(text: &str) -> PathBuf {
    let mut bytes = Vec::with_capacity(text.len());
    let mut parts = text.split('\\');
    bytes.extend(parts.next().unwrap_or_default().bytes());
    for part in parts {
        match part.get(..3).and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                bytes.push(byte);
                bytes.extend(part.bytes().skip(3));
            }
            None => {
                bytes.push(b'\\');
                bytes.extend(part.bytes());
            }
        }
    }
    OsStr::from_bytes(&bytes).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_read_from_whatever_proc_says() {
        let text = "41 31 0:38 / /sys/fs/cgroup/uni\\040fied rw,relatime shared:9 - cgroup2 none rw,nsdelegate\n\
                    nonsense\n\n1 2 - \n7 - bpf\n32 31 0:29 / /cpu rw - cgroup cgroup rw,cpu";
        let found = mounts(text);
        assert_eq!(found.len(), 2, "{found:?}");
        assert_eq!(
            (found[0].point.as_path(), found[0].filesystem.as_str()),
            ("/sys/fs/cgroup/uni fied".as_ref(), "cgroup2")
        );
        assert_eq!(found[1].options, ["rw", "cpu"]);
        assert_eq!(unescape("a\\134b\\9ü\\"), PathBuf::from("a\\b\\9ü\\"));
        assert_eq!(unescape("\\ü12"), PathBuf::from("\\ü12"));
    }
}
