//! What tasks use, compared with what `/proc` says of them.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use defib_ebpf::TaskUse;
use rustix::thread::{CapabilitySet, capabilities, set_capabilities};

use super::super::tasks::TaskLook;
use super::{World, status, victim};
use crate::effect::cgroup::{self, CgroupTree};
use crate::effect::clock;

/// A folder of services of its own, with the group of one in it. Removed with its processes.
struct Services {
    /// What was made for it: in a group that others use, too, a group of its own.
    made: PathBuf,
    folder: PathBuf,
}

impl Services {
    fn of(test: &str) -> Self {
        let pid = std::process::id();
        let tree = CgroupTree::find(Path::new("/nowhere"), pid).expect("there is a cgroup v2");
        let made = tree.origin().join(format!("defib-test-{test}-{pid}"));
        let folder = made.join("svc");
        fs::create_dir_all(folder.join("api")).unwrap();
        Self { made, folder }
    }

    /// Moves a process into a group of the service.
    fn enter(&self, below: &str, pid: u32) {
        let group = self.folder.join("api").join(below);
        fs::create_dir_all(&group).unwrap();
        fs::write(group.join("cgroup.procs"), pid.to_string()).unwrap();
    }

    /// What is told of the service, and nothing is of others.
    fn look(&self, tasks: &TaskLook) -> Vec<TaskUse> {
        let mut told = Vec::new();
        tasks.look(inode(&self.folder), &mut |task| told.push(*task)).unwrap();
        let group = inode(&self.folder.join("api"));
        assert!(told.iter().all(|task| task.group == group), "{told:?} are in {group}");
        told
    }
}

impl Drop for Services {
    fn drop(&mut self) {
        cgroup::kill(&self.made);
        let emptied = cgroup::wait_until_empty(&self.made, clock::now() + Duration::from_secs(60));
        cgroup::remove_with_all_below(&self.made);
        // A second panic would hide the first.
        assert!(std::thread::panicking() || emptied && !self.made.exists(), "{:?} stays", self.made);
    }
}

fn inode(path: &Path) -> u64 {
    fs::metadata(path).unwrap().ino()
}

/// A number after a word in a file of a process.
fn number(pid: u32, file: &str, word: &str) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap();
    let value = text.lines().find_map(|line| line.strip_prefix(word)).unwrap();
    value.split_whitespace().next().unwrap().parse().unwrap()
}

/// Whether every thread of a process waits for something.
fn all_asleep(pid: u32) -> bool {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return false };
    let sleeps =
        |path: PathBuf| fs::read_to_string(path.join("stat")).is_ok_and(|stat| stat.contains(") S "));
    threads.flatten().all(|thread| sleeps(thread.path()))
}

/// Fields of proc_pid_stat(5), which count from 1.
fn stat(pid: u32, field: usize) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let (_, rest) = text.rsplit_once(") ").unwrap();
    rest.split(' ').nth(field - 3).unwrap().parse().unwrap()
}

#[tokio::test(flavor = "current_thread")]
async fn what_tasks_use_is_what_proc_says() {
    let Some(mut world) = World::new() else { return };
    let tasks = world.source.take_tasks().expect("this kernel lets tasks be walked through");
    assert!(world.source.take_tasks().is_none(), "it is taken once");
    let services = Services::of("tasks");
    assert_eq!(services.look(&tasks), []);

    // What runs may take more memory from one look to the next.
    let rests = |pid, _: &[_]| victim::is_ready(pid) && all_asleep(pid);
    let busy = world.start(1, &victim::command("use"), rests).pid;
    assert_eq!(services.look(&tasks), [], "it is in no group of a service yet");
    services.enter("0/own/deeper", busy);
    let other = world.start(2, &victim::command("wait"), rests).pid;
    services.enter("1", other);

    let told = services.look(&tasks);
    let of = |pid| told.iter().filter(|task| task.tgid == pid).collect::<Vec<_>>();
    let threads = fs::read_dir(format!("/proc/{busy}/task")).unwrap().count();
    assert_eq!((of(busy).len(), told.len()), (threads, threads + of(other).len()));
    assert!(threads > 3, "{threads}");
    let page = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).unwrap().unwrap() as u64;
    for pid in [busy, other] {
        let firsts: Vec<_> = of(pid).into_iter().filter(|task| task.threads > 0).collect();
        let [first] = firsts[..] else { panic!("{firsts:?}") };
        assert_eq!(u64::from(first.threads), stat(pid, 20));
        assert_eq!(first.virtual_pages * page, stat(pid, 23));
        assert_eq!(first.resident_pages, stat(pid, 24));
        let soft = fs::read_to_string(format!("/proc/{pid}/limits")).unwrap();
        let soft = soft.lines().find_map(|line| line.strip_prefix("Max open files")).unwrap();
        assert_eq!(first.max_files.to_string(), soft.split_whitespace().next().unwrap());
        let sum = |field: fn(&TaskUse) -> u64| of(pid).into_iter().map(field).sum::<u64>();
        assert_eq!(sum(|task| task.read), number(pid, "io", "read_bytes:"));
        assert_eq!(sum(|task| task.written), number(pid, "io", "write_bytes:"));
    }
    assert!(number(busy, "io", "write_bytes:") >= 2 << 20, "by two threads, one of which has ended");

    world.keeper.run(&format!("kill -KILL {busy}"));
    // The first thread may have ended before the others.
    let ended = || status(busy, "State:").is_none_or(|state| state.starts_with('Z'));
    while !ended() || status(busy, "Threads:").is_some_and(|threads| threads != "1") {
        std::thread::yield_now();
    }
    assert!(services.look(&tasks).iter().all(|task| task.tgid == other), "what has ended uses nothing");
}

/// The kernel hands out no program by its number then.
#[tokio::test(flavor = "current_thread")]
async fn tasks_are_walked_through_without_cap_sys_admin() {
    let mut rights = capabilities(None).expect("they can be read");
    rights.effective -= CapabilitySet::SYS_ADMIN;
    // Of this thread alone.
    set_capabilities(None, rights).expect("less is always allowed");
    let Some(mut world) = World::new() else { return };
    let tasks = world.source.take_tasks().expect("this kernel lets tasks be walked through");
    let services = Services::of("rights");
    let one = world.start(1, &victim::command("wait"), |pid, _| victim::is_ready(pid)).pid;
    services.enter("0", one);
    assert!(services.look(&tasks).iter().any(|task| task.tgid == one));
}
