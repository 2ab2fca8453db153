//! What `/proc` tells of a process at this moment: for processes that ran before anybody listened, and after a loss.
//!
//! Everything here may be gone between two looks, so everything is an `Option`, and nothing blocks.

use std::ffi::OsStr;
use std::fs;

use defib_ebpf::COARSE_NS;

/// A path in an event is cut to this, as the eBPF source does.
const PATH: usize = 63;

/// Some fields of proc_pid_stat(5).
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stat {
    /// The name of the leading thread.
    pub(super) name: String,
    /// Whether the leading thread has ended.
    pub(super) left: bool,
    /// The parent.
    pub(super) parent: u32,
    /// How many threads there are, with an ended leading one.
    pub(super) threads: u32,
    /// When it started, in nanoseconds of `CLOCK_BOOTTIME` rounded down to 10 ms.
    pub(super) start: u64,
    /// The wait status so far: 0, unless it is dying or has been stopped.
    pub(super) status: i32,
}

/// `/proc/PID/stat`.
pub(super) fn stat(pid: u32) -> Option<Stat> {
    parse(&fs::read(format!("/proc/{pid}/stat")).ok()?)
}

/// The threads of a process but for the leading one.
pub(super) fn threads(pid: u32) -> Option<Vec<u32>> {
    let entries = fs::read_dir(format!("/proc/{pid}/task")).ok()?;
    Some(entries.flatten().filter_map(|entry| number(&entry.file_name())).filter(|&tid| tid != pid).collect())
}

/// Every process.
pub(super) fn processes() -> Vec<u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten();
    entries.flatten().filter_map(|entry| number(&entry.file_name())).collect()
}

/// The program that it runs, cut to 63 bytes. A thread of the kernel and a zombie run none.
pub(super) fn program(pid: u32) -> Option<String> {
    let path = fs::read_link(format!("/proc/{pid}/exe")).ok()?;
    let mut path = path.into_os_string().to_string_lossy().into_owned();
    path.truncate(path.floor_char_boundary(PATH));
    Some(path)
}

/// The name of the leading thread.
pub(super) fn name(pid: u32) -> Option<String> {
    let name = fs::read(format!("/proc/{pid}/comm")).ok()?;
    Some(String::from_utf8_lossy(name.strip_suffix(b"\n").unwrap_or(&name)).into_owned())
}

fn number(name: &OsStr) -> Option<u32> {
    name.to_str()?.parse().ok()
}

/// The second field is the name in brackets, and may hold brackets itself.
fn parse(stat: &[u8]) -> Option<Stat> {
    let before_name = stat.iter().position(|&byte| byte == b'(')? + 1;
    let behind_name = stat.iter().rposition(|&byte| byte == b')')?;
    let name = String::from_utf8_lossy(stat.get(before_name..behind_name)?).into_owned();
    let fields = std::str::from_utf8(&stat[behind_name + 1..]).ok()?;
    let fields: Vec<_> = fields.split_ascii_whitespace().collect();
    // proc_pid_stat(5) counts from 1, and the state is its third.
    let field = |number: usize| fields.get(number - 3).copied();
    let start: u64 = field(22)?.parse().ok()?;
    Some(Stat {
        name,
        left: matches!(field(3)?, "Z" | "X"),
        parent: field(4)?.parse().ok()?,
        threads: field(20)?.parse().ok()?,
        start: start.checked_mul(COARSE_NS)?,
        status: field(52).and_then(|status| status.parse().ok()).unwrap_or_default(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_may_look_like_the_fields_behind_it() {
        let rest = (5..=51).map(|n| n.to_string()).collect::<Vec<_>>().join(" ");
        for name in ["cat", "a) S 1 2 (b", ") ) )", "(", "\u{fffd}"] {
            let stat = format!("77 ({name}) Z 4 {rest} 139\n");
            let expected = Stat {
                name: name.to_owned(),
                left: true,
                parent: 4,
                threads: 20,
                start: 22 * COARSE_NS,
                status: 139,
            };
            assert_eq!(parse(stat.as_bytes()), Some(expected), "{name}");
        }
        for bad in
            ["", "1 (x", "1 )x(", "1 (x)", "1 (x) R 4", "1 (x) a b c d e f g h i j k l m n o p q r s t u"]
        {
            assert_eq!(parse(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn this_process_is_told_as_it_is() {
        let me = std::process::id();
        let stat = stat(me).expect("it runs");
        assert!(!stat.left && stat.threads >= 1 && stat.start > 0, "{stat:?}");
        assert_eq!((stat.parent, stat.status), (std::os::unix::process::parent_id(), 0));
        assert_eq!(name(me).as_deref(), Some(&*stat.name));
        assert!(program(me).is_some() && processes().contains(&me));
        assert!(!threads(me).expect("it runs").contains(&me));
        assert_eq!(super::stat(0), None);
    }
}
