//! The sockets among the descriptors of a process, read from /proc.

use std::fs;
use std::io;
use std::os::fd::RawFd;

/// The sockets that a process has: each number with the inode behind it, until `left` descriptors have been looked at.
///
/// # Errors
/// If its descriptors cannot be listed: it has ended, or belongs to somebody else. One whose link cannot be read is none.
pub(super) fn sockets_of(
    pid: u32,
    left: &mut usize,
) -> io::Result<impl Iterator<Item = io::Result<(RawFd, u64)>>> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd"))?;
    let entries = entries.take_while(|_| {
        let more = *left > 0;
        *left = left.saturating_sub(1);
        more
    });
    let socket = |entry: fs::DirEntry| {
        let number = entry.file_name().to_str()?.parse().ok()?;
        Some((number, inode_of(fs::read_link(entry.path()).ok()?.to_str()?)?))
    };
    Ok(entries.filter_map(move |entry| entry.map(socket).transpose()))
}

/// The inode of a socket, of what a descriptor leads to: `socket:[4711]`.
pub(super) fn inode_of(target: &str) -> Option<u64> {
    target.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, TcpListener};
    use std::os::fd::AsRawFd;

    use super::*;

    #[test]
    fn sockets_are_told_by_number_and_inode_up_to_a_bound() {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let own = (listener.as_raw_fd(), rustix::fs::fstat(&listener).expect("a socket").st_ino);
        let mut left = 1_000_000;
        let all: io::Result<Vec<_>> = sockets_of(std::process::id(), &mut left).expect("this one").collect();
        assert!(all.expect("a list").contains(&own));
        assert!(left < 1_000_000);
        for bound in [0, 3] {
            let mut left = bound;
            assert!(sockets_of(std::process::id(), &mut left).expect("this one").count() <= bound);
            assert_eq!(left, 0);
        }
    }
}
