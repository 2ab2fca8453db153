//! Holds a lease on a file, so that whoever executes it waits: a start that hangs, without a file system that does.
//! Tells so on standard output, and lets go when its standard input ends.
#![expect(unsafe_code, reason = "a lease is taken by fcntl(2), and its signal is ignored")]

use std::fs::File;
use std::io::Read;
use std::os::fd::AsRawFd;

fn main() {
    let path = std::env::args().nth(1).expect("a file");
    let file = File::options().write(true).open(path).expect("the file");
    // SAFETY: no memory is involved. The signal by which the kernel asks for the lease is passed over.
    let taken = unsafe {
        libc::signal(libc::SIGIO, libc::SIG_IGN);
        libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, libc::F_WRLCK)
    };
    assert_eq!(taken, 0, "{}", std::io::Error::last_os_error());
    std::fs::write(std::env::args().nth(2).expect("a file to tell by"), "held").expect("a file");
    std::io::stdin().read_to_end(&mut Vec::new()).expect("standard input");
}
