//! A start that hangs.

use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::{beside, patiently};

/// A lease on the program of a service: its execve(2) hangs until this is dropped.
#[derive(Debug)]
pub struct Lease(Child);

impl Lease {
    /// Takes a lease on a file that nobody has open. `told` is a file that is made then.
    #[track_caller]
    pub fn take(file: &Path, told: &Path) -> Self {
        let holder = Command::new(beside("lease")).args([file, told]).stdin(Stdio::piped()).spawn();
        let lease = Self(holder.expect("a program"));
        patiently("the lease", || told.exists().then_some(()));
        lease
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        self.0.wait().expect("a child");
    }
}
