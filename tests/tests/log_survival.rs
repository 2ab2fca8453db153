//! What services write while defib is killed, or does not read: every line is in its file once.
#![expect(clippy::disallowed_methods, reason = "tests wait")]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use defib_tests::{Daemon, Options, children, lives, patiently, signal, victim};

/// The folders of several keepers, one after the other.
struct Home {
    folder: tempfile::TempDir,
    /// In memory: there the pipes have their names.
    runtime: tempfile::TempDir,
}

impl Home {
    fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        Self { folder, runtime: tempfile::tempdir_in("/dev/shm").expect("a folder") }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// One that writes so many lines at a time.
    fn scribe(&self, name: &str, words: &str, log: &str) -> String {
        let (victim, report) = (victim(), self.path(name));
        let words = words.replace(' ', "\", \"");
        format!(
            "[service.{name}]\ncommand = [\"{}\", \"scribe\", \"{}\", \"{words}\"]\nlog = {{ {log} }}\n",
            victim.display(),
            report.display()
        )
    }

    fn start(&self, config: &str) -> Daemon {
        let dir = |flag: &str, path: PathBuf| [flag.to_owned(), path.display().to_string()];
        let args = [
            dir("--state-dir", self.path("state")),
            dir("--runtime-dir", self.runtime.path().to_owned()),
            dir("--log-dir", self.path("log")),
        ];
        Daemon::launch(config, &Options { args: args.concat(), ..Options::default() })
    }

    /// How many lines each life of a service has written: by pid.
    fn lives(&self, name: &str) -> BTreeMap<u32, u64> {
        let entries = fs::read_dir(self.folder.path()).expect("a folder").flatten();
        let life = |entry: fs::DirEntry| {
            let file = entry.file_name().into_string().ok()?;
            let pid = file.strip_prefix(name)?.strip_prefix('.')?.parse().ok()?;
            Some((pid, fs::read_to_string(entry.path()).ok()?.parse().unwrap_or(0)))
        };
        entries.filter_map(life).collect()
    }

    fn log(&self, name: &str) -> String {
        let current = self.path(&format!("log/{name}.log"));
        let older = |number: u32| PathBuf::from(format!("{}.{number}", current.display()));
        let mut files: Vec<_> = (1..).map(older).take_while(|path| path.exists()).collect();
        files.reverse();
        files.push(current);
        files.iter().map(|path| fs::read_to_string(path).unwrap_or_default()).collect()
    }

    /// Every line that a life has accounted for is there once, in order, and so is a last write that it could not account
    /// for; nothing else.
    #[track_caller]
    fn assert_once(&self, name: &str, at_once: u64) {
        let (log, lives) = (self.log(name), self.lives(name));
        let mut found: BTreeMap<u32, u64> = BTreeMap::new();
        for (number, line) in log.lines().enumerate() {
            let words =
                line.split_once(' ').and_then(|(pid, line)| Some((pid.parse().ok()?, line.parse().ok()?)));
            let (pid, line): (u32, u64) = words.unwrap_or_else(|| panic!("{name}: line {number}: {line:?}"));
            let next = found.entry(pid).or_default();
            assert_eq!(line, *next, "{name}: line {number}, of {pid}");
            *next += 1;
        }
        for (pid, wrote) in lives {
            let found = found.get(&pid).copied().unwrap_or(0);
            assert!(found == wrote || found == wrote + at_once, "{name}: {pid} wrote {wrote}, found {found}");
        }
    }
}

/// Ends keeper and daemon at once, in either order.
fn kill_both(defib: &mut Daemon, keeper_first: bool) {
    let mut pids = [defib.keeper(), children_of(defib)];
    if !keeper_first {
        pids.reverse();
    }
    pids.into_iter().for_each(|pid| signal(pid, libc::SIGKILL));
    assert_eq!(defib.exit_code(), -1);
    patiently("the daemon's end", || pids.iter().all(|pid| !lives(*pid)).then_some(()));
}

fn children_of(defib: &Daemon) -> u32 {
    let daemon = |pid: &u32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.windows(14).any(|word| word == b"--under-keeper")
    };
    patiently("a daemon", || children(defib.keeper()).into_iter().find(daemon))
}

/// Ends defib once it supervises, and waits until it has left.
fn end(mut defib: Daemon) {
    patiently("defib to supervise", || defib.log().contains("defib supervises").then_some(()));
    signal(defib.keeper(), libc::SIGTERM);
    assert_eq!(defib.exit_code(), 0, "{}", defib.log());
}

#[test]
fn no_line_is_lost_or_doubled_when_keeper_and_daemon_are_killed() {
    const KILLS: usize = 20;
    let home = Home::new();
    let config = [
        home.scribe("quiet", "1 2", "max_size = '200k', max_files = 1000"),
        home.scribe("busy", "64 16", "max_size = '20M', max_files = 1000"),
    ]
    .concat();
    let mut random = 0x5eed_u64;
    let mut defib = home.start(&config);
    for _ in 0..KILLS {
        patiently("both services", || {
            (home.lives("quiet").len() + home.lives("busy").len() == 2).then_some(())
        });
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        std::thread::sleep(Duration::from_micros(20_000 + (random >> 33) % 100_000));
        kill_both(&mut defib, random & (1 << 32) != 0);
        defib = home.start(&config);
    }
    end(defib);
    home.assert_once("quiet", 1);
    home.assert_once("busy", 64);
    assert!(!home.runtime.path().join("output").exists(), "names go with the services");
}

#[test]
fn what_a_service_that_is_gone_has_left_is_written_and_removed() {
    let home = Home::new();
    let (stays, goes) = (home.scribe("stays", "1 1", ""), home.scribe("goes", "1 1", ""));
    let mut defib = home.start(&format!("{stays}{goes}"));
    patiently("both services", || (home.lives("goes").len() + home.lives("stays").len() == 2).then_some(()));
    let names = home.runtime.path().join("output");
    assert!(names.join("goes.joined.pipe").exists() && names.join("goes.joined.spool").exists());
    kill_both(&mut defib, true);
    let defib = home.start(&stays);
    let gone = |path: &Path| !path.exists();
    patiently("the names to go", || {
        (gone(&names.join("goes.joined.pipe")) && gone(&names.join("goes.joined.spool"))).then_some(())
    });
    home.assert_once("goes", 1);
    end(defib);
    home.assert_once("stays", 1);
}

#[test]
fn a_mebibyte_can_be_written_while_nobody_reads() {
    let config = "[service.s]\ncommand = ['sh', '-c', 'until [ -e {dir}/go ]; do sleep 0.02; done; \
                  head -c 1048576 /dev/zero | tr \"\\0\" x; touch {dir}/done; sleep 1000']\n";
    let defib = Daemon::start(config);
    defib.wait_state("s", "running");
    let daemon = defib.daemon();
    signal(daemon, libc::SIGSTOP);
    fs::write(defib.path("go"), "").expect("a file");
    patiently("the service not to wait", || defib.path("done").exists().then_some(()));
    let log = || fs::metadata(defib.path("log/s.log")).map_or(0, |found| found.len());
    assert_eq!(log(), 0, "nobody has read");
    signal(daemon, libc::SIGCONT);
    patiently("all of it", || (log() == 1 << 20).then_some(()));
}
