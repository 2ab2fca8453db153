//! The probes on this kernel: real processes, real deaths. Needs root; says so where it cannot run.

#![expect(
    unsafe_code,
    reason = "the test maps NEXT_SLOT, as the keeper does, and its victims break every rule"
)]

mod feed;
mod flood;
mod lives;
mod pins;
mod ports;
mod signals;
mod tasks;
mod victim;

use std::fs;
use std::io::{BufRead, BufReader, Lines, Write};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};

use defib_core::model::{KernelEvent, KernelFact, Tick, Witness};
use rustix::mm::{MapFlags, ProtFlags, mmap};

use super::error::EbpfError;
use super::feed::EbpfFeed;
use super::live::EbpfSource;
use super::load::{Loaded, load};
use super::open::Opened;
use crate::source::any::{Batch, Life};

/// A shell that stands in for the keeper: it makes the processes, one command line at a time.
struct Keeper {
    shell: Child,
    input: ChildStdin,
    output: Lines<BufReader<ChildStdout>>,
}

impl Keeper {
    #[expect(clippy::disallowed_methods, reason = "a test starts its own processes")]
    fn start() -> Self {
        let mut command = Command::new("sh");
        let mut shell = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("there is a sh");
        let input = shell.stdin.take().expect("it is piped");
        let output = BufReader::new(shell.stdout.take().expect("it is piped")).lines();
        Self { shell, input, output }
    }

    /// Runs a line and waits for its end. The status goes to the shell and is not looked at here.
    fn run(&mut self, line: &str) -> String {
        writeln!(self.input, "{line}\necho done").expect("the shell reads");
        let mut said = String::new();
        for line in self.output.by_ref() {
            let line = line.expect("the shell writes text");
            if line == "done" {
                break;
            }
            said.push_str(&line);
        }
        said
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        self.shell.kill().expect("it is our child");
        self.shell.wait().expect("it is our child");
    }
}

/// Probes that follow a shell, and the mapping through which slots are announced.
struct World {
    keeper: Keeper,
    source: EbpfSource,
    feed: EbpfFeed,
    next_slot: &'static AtomicU64,
}

/// A process that runs in the background.
struct Running {
    pid: u32,
    start: u64,
    /// What was heard until it was ready.
    heard: Vec<KernelEvent>,
}

impl World {
    /// `None` with a word on stderr where the kernel or the rights do not allow it.
    fn new() -> Option<Self> {
        Self::with(load)
    }

    /// The same with probes that are loaded in another way.
    fn with(load: impl FnOnce(u32) -> Result<Loaded, EbpfError>) -> Option<Self> {
        let keeper = Keeper::start();
        let loaded = load(keeper.shell.id());
        if let Ok(loaded) = &loaded {
            assert_eq!(loaded.reports.len(), 9);
        }
        Some(Self::over(keeper, loaded.map(Opened::unpinned))?.0)
    }

    /// Over probes that were opened; also returns what was said of it.
    fn over(keeper: Keeper, opened: Result<Opened, EbpfError>) -> Option<(Self, Vec<String>)> {
        let (source, feed, why) = match opened.and_then(EbpfSource::over) {
            Ok(opened) => opened,
            Err(error @ EbpfError::Refused { .. }) => {
                panic!("{}\n{}", error.chain(), error.verifier_log().unwrap_or_default())
            }
            Err(error) => {
                eprintln!("skipped: needs CAP_BPF and an eBPF object ({})", error.chain());
                return None;
            }
        };
        // SAFETY: the mapping is as large as the map's one value, shared, and never unmapped.
        let next_slot = unsafe {
            let access = ProtFlags::READ | ProtFlags::WRITE;
            let page =
                mmap(std::ptr::null_mut(), size_of::<u64>(), access, MapFlags::SHARED, source.next_slot(), 0);
            AtomicU64::from_ptr(page.expect("the map can be mapped").cast())
        };
        Some((Self { keeper, source, feed, next_slot }, why))
    }

    /// Runs a line whose first process is the main process of `slot`, and returns what was heard.
    fn run_main(&mut self, slot: u32, line: &str) -> Vec<KernelEvent> {
        self.announced(slot, line);
        self.heard()
    }

    fn announced(&mut self, slot: u32, line: &str) -> String {
        self.next_slot.store(u64::from(slot) + 1, Ordering::Relaxed);
        let said = self.keeper.run(line);
        self.next_slot.store(0, Ordering::Relaxed);
        said
    }

    /// Starts the main process of `slot` in the background and waits until it is `ready`, which is told its pid and what
    /// was heard.
    fn start(&mut self, slot: u32, command: &str, ready: impl Fn(u32, &[KernelEvent]) -> bool) -> Running {
        let pid = self.announced(slot, &format!("{command} >/dev/null & echo $!"));
        let pid = pid.parse().expect("a pid");
        let mut heard = self.heard();
        for _ in 0..500 {
            if ready(pid, &heard) {
                // What it did just before is there now.
                heard.extend(self.heard());
                let start = heard.first().expect("its fork was heard").start;
                return Running { pid, start, heard };
            }
            self.keeper.run("sleep 0.02");
            heard.extend(self.heard());
        }
        panic!("{command}: not ready: {heard:?}");
    }

    /// Waits for the end of such a process and returns what was heard meanwhile.
    fn reap(&mut self, pid: u32) -> Vec<KernelEvent> {
        self.keeper.run(&format!("wait {pid}"));
        self.heard()
    }

    fn heard(&mut self) -> Vec<KernelEvent> {
        let mut batch = Batch::default();
        // One look takes a bounded number of events.
        loop {
            let before = batch.events.len();
            self.source.drain(&mut batch);
            if batch.events.len() == before {
                break;
            }
        }
        self.source.settle(&mut batch);
        assert_eq!(batch.lost, 0);
        batch.events
    }

    /// How many entries a map of the object has.
    fn entries<V: aya::Pod, K: aya::Pod>(&self, map: &str) -> usize {
        let map = self
            .source
            .probes
            .object
            .as_ref()
            .and_then(|object| object.map(map))
            .expect("the source has left it there");
        aya::maps::HashMap::<_, K, V>::try_from(map).expect("its types are right").keys().count()
    }
}

/// The end among these events, of which there is one.
/// A life of which the keeper does not know when it began.
fn life(pid: u32, slot: u32) -> Life {
    Life { slot, pid, started: Tick::default() }
}

fn the_end(events: &[KernelEvent]) -> Witness {
    let mut ends = events.iter().filter_map(|event| match &event.fact {
        KernelFact::Exit(witness) => Some(witness.clone()),
        _ => None,
    });
    let end = ends.next().unwrap_or_else(|| panic!("no end was heard: {events:?}"));
    assert_eq!(ends.next(), None, "{events:?}");
    end
}

/// A field of `/proc/PID/status`.
fn status(pid: u32, field: &str) -> Option<String> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    Some(status.lines().find_map(|line| line.strip_prefix(field))?.trim().to_owned())
}
