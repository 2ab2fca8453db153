//! A memory cgroup for processes that are to be killed for want of memory.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// A cgroup with so little memory that whoever joins it and eats is killed, nobody else.
#[derive(Debug)]
pub struct Hunger {
    folder: PathBuf,
    /// A group in it that has no limit of its own.
    child: PathBuf,
}

impl Hunger {
    const LIMIT: &str = "64M";

    /// Makes one. Needs root and the memory controller of either hierarchy.
    pub fn new(name: &str) -> Self {
        let folder = format!("defib-test-{}-{name}", std::process::id());
        let (first, second) = (Path::new("/sys/fs/cgroup/memory"), Path::new("/sys/fs/cgroup"));
        if first.join("cgroup.procs").exists() {
            let made = Self::make(first.join(folder));
            fs::write(made.folder.join("memory.limit_in_bytes"), Self::LIMIT).expect("a limit");
            return made;
        }
        let controllers = fs::read_to_string(second.join("cgroup.controllers")).unwrap_or_default();
        assert!(
            controllers.split_whitespace().any(|name| name == "memory"),
            "this test needs the memory controller, in a hierarchy of its own at {} or unified at {}",
            first.display(),
            second.display()
        );
        fs::write(second.join("cgroup.subtree_control"), "+memory").expect("root may hand memory down");
        let made = Self::make(second.join(folder));
        fs::write(made.folder.join("memory.max"), Self::LIMIT).expect("a limit");
        // There is none without swap.
        fs::write(made.folder.join("memory.swap.max"), "0").ok();
        made
    }

    fn make(folder: PathBuf) -> Self {
        let child = folder.join("child");
        fs::create_dir_all(&child).expect("root may make a cgroup");
        Self { folder, child }
    }

    /// Takes away nearly all that is left.
    pub fn starve(&self) {
        let limit = ["memory.limit_in_bytes", "memory.max"].map(|name| self.folder.join(name));
        let limit = limit.iter().find(|path| path.exists()).expect("a limit");
        fs::write(limit, "64k").expect("a limit");
    }

    /// Its folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// The folder of a group in it, whose members are its victims too.
    pub fn child(&self) -> &Path {
        &self.child
    }

    /// What a shell does to be the victim before it runs the eater.
    pub fn join(&self) -> String {
        format!("echo $$ > {}/cgroup.procs; echo 1000 > /proc/self/oom_score_adj;", self.folder.display())
    }
}

impl Drop for Hunger {
    fn drop(&mut self) {
        // A dying process is in its group until it is reaped. A group that will not go is left, rather than to panic here.
        for _ in 0..500 {
            for folder in [&self.child, &self.folder] {
                for pid in fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default().lines() {
                    fs::write(self.folder.with_file_name("cgroup.procs"), pid).ok();
                }
                fs::remove_dir(folder).ok();
            }
            if !self.folder.exists() {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}
