//! A service that keeps its own ledger, so that what defib tells of it can be checked against what it went through.
//!
//! `martyr FOLDER NAME [--every MILLIS] [--burst LINES] [--die MILLIS] [--listen] [--leave CHILDREN] [--deaf] [--seed N]`
//!
//! In FOLDER, of each service:
//! - `NAME.ledger`: `start LIFE INCARNATION PID START AT` for each life, `end LIFE exit|signal NUMBER AT` before a death of
//!   its own choice, `second INCARNATION PID AT` of a life that found another one at work. One write(2) a line. LIFE counts
//!   the lives from 0; START is the start time in `/proc/PID/stat`, AT nanoseconds of `CLOCK_BOOTTIME`.
//! - `NAME.progress`: for each life two numbers of 64 bits: the lines that it has begun to write, and has written.
//! - `NAME.lock`: locked by whoever lives.
//!
//! Its output is lines `NAME LIFE NUMBER`, numbered from 1 in each life. With `--listen` it answers each client at
//! descriptor 3 with `NAME`.
#![expect(
    unsafe_code,
    reason = "the signals' dispositions are set back, and a descriptor is passed by number"
)]
#![expect(
    clippy::disallowed_methods,
    clippy::exit,
    reason = "a victim waits, makes processes, and ends in the middle"
)]

use std::fs::File;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::fd::{AsFd, FromRawFd};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;
use std::process::{Command, Stdio, exit};
use std::thread;
use std::time::Duration;

use defib_tests::sim::Chance;
use nix::sys::signal::{SigSet, Signal, raise};
use rustix::time::{ClockId, clock_gettime};

/// Long after whoever tests has ended it.
const FOR_EVER: Duration = Duration::from_secs(100_000);

/// The exit code of a second life.
const SECOND: i32 = 99;

#[derive(Default)]
struct Ways {
    folder: PathBuf,
    name: String,
    every: u64,
    burst: u64,
    die: Option<u64>,
    listen: bool,
    leave: u64,
    deaf: bool,
    seed: u64,
}

fn main() {
    // The runtime of the language has handlers for some, which swallow the first one that another process sends.
    for signal in [libc::SIGSEGV, libc::SIGBUS, libc::SIGPIPE] {
        // SAFETY: no memory is involved.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    let mut args = std::env::args().skip(1);
    let mut next = || args.next().expect("an argument");
    let first = next();
    if first == "remain" {
        remain(&next());
    }
    let mut ways = Ways { folder: first.into(), name: next(), every: 20, burst: 1, ..Ways::default() };
    while let Some(arg) = args.next() {
        let mut number = || args.next().and_then(|text| text.parse().ok()).expect("a number");
        match arg.as_str() {
            "--every" => ways.every = number(),
            "--burst" => ways.burst = number(),
            "--die" => ways.die = Some(number()),
            "--leave" => ways.leave = number(),
            "--seed" => ways.seed = number(),
            "--listen" => ways.listen = true,
            "--deaf" => ways.deaf = true,
            // One that changes nothing but the command line.
            "--variant" => drop(args.next()),
            unknown => panic!("no such way to live: {unknown}"),
        }
    }
    live(&ways);
}

/// A descendant that outlives its parent, in a session of its own or in that of its parent.
fn remain(place: &str) -> ! {
    if place == "apart" {
        nix::unistd::setsid().ok();
    }
    thread::sleep(FOR_EVER);
    exit(0)
}

fn live(ways: &Ways) {
    if ways.deaf {
        SigSet::from_iter([Signal::SIGTERM]).thread_block().expect("a mask");
    }
    // They are made before the lock is taken, so that none holds it for a moment.
    for child in 0..ways.leave {
        let place = if child.is_multiple_of(2) { "apart" } else { "beside" };
        let program = std::env::current_exe().expect("a path");
        let mut remaining = Command::new(program);
        // The folder is there for whoever looks for what a test has left.
        remaining.args(["remain", place]).arg(&ways.folder);
        // It is waited for by nobody: it outlives this one.
        drop(remaining.stdin(Stdio::null()).spawn().expect("a process"));
    }
    let mut ledger = Ledger::open(ways);
    let life = ledger.begin();
    let mut chance = Chance(ways.seed ^ (life << 20) ^ u64::from(std::process::id()));
    if ways.listen {
        let name = format!("{}\n", ways.name);
        thread::spawn(move || answer(&name));
    }
    let mut end = ways.die.map(|mean| now() + (mean / 4 + chance.roll() % (mean * 3 / 2)) * 1_000_000);
    let mut out = File::from(std::io::stdout().as_fd().try_clone_to_owned().expect("a descriptor"));
    let mut number = 0_u64;
    loop {
        for _ in 0..ways.burst {
            number += 1;
            ledger.progress.write_all_at(&number.to_ne_bytes(), life * 16).expect("the progress");
            out.write_all(format!("{} {life} {number}\n", ways.name).as_bytes()).expect("the output");
            ledger.progress.write_all_at(&number.to_ne_bytes(), life * 16 + 8).expect("the progress");
        }
        if end.take_if(|end| *end <= now()).is_some() {
            die(&ledger, life, &mut chance);
        }
        thread::sleep(Duration::from_millis(ways.every));
    }
}

fn answer(name: &str) {
    // SAFETY: it is passed by whoever started this process, and nothing else here uses it.
    let listener = unsafe { TcpListener::from_raw_fd(3) };
    for client in listener.incoming() {
        // The client may have gone.
        client.and_then(|mut client| client.write_all(name.as_bytes())).ok();
    }
}

/// Ends in a way of its own choice, which is written down before.
fn die(ledger: &Ledger, life: u64, chance: &mut Chance) {
    let signals = [Signal::SIGSEGV, Signal::SIGABRT, Signal::SIGKILL, Signal::SIGFPE, Signal::SIGUSR1];
    let choice = chance.roll() % 10;
    match signals.get(choice as usize) {
        Some(signal) => {
            ledger.note(&format!("end {life} signal {} {}", *signal as i32, now()));
            raise(*signal).expect("a signal");
        }
        None => {
            let code = [0, 1, 7, 101, 255][choice as usize - signals.len()];
            ledger.note(&format!("end {life} exit {code} {}", now()));
            exit(code);
        }
    }
}

/// Nanoseconds of `CLOCK_BOOTTIME`.
fn now() -> u64 {
    let time = clock_gettime(ClockId::Boottime);
    time.tv_sec as u64 * 1_000_000_000 + time.tv_nsec as u64
}

struct Ledger {
    path: PathBuf,
    lines: File,
    progress: File,
    /// Locked until this process ends, however it ends.
    lock: File,
}

impl Ledger {
    fn open(ways: &Ways) -> Self {
        let path = |kind: &str| ways.folder.join(format!("{}.{kind}", ways.name));
        let open = |kind: &str, append: bool| {
            let mut options = File::options();
            options.create(true).read(true).append(append).write(true);
            options.open(path(kind)).expect("a file of the ledger")
        };
        Self {
            path: path("ledger"),
            lines: open("ledger", true),
            progress: open("progress", false),
            lock: open("lock", false),
        }
    }

    /// Notes that a life begins, and returns its number.
    fn begin(&mut self) -> u64 {
        let incarnation = std::env::var("DEFIB_INCARNATION").unwrap_or_else(|_unset| "0".to_owned());
        let pid = std::process::id();
        if self.lock.try_lock().is_err() {
            self.note(&format!("second {incarnation} {pid} {}", now()));
            exit(SECOND);
        }
        let mut text = String::new();
        File::open(&self.path).and_then(|mut file| file.read_to_string(&mut text)).expect("the ledger");
        let life = text.lines().filter(|line| line.starts_with("start ")).count() as u64;
        let stat = std::fs::read_to_string("/proc/self/stat").expect("/proc");
        let start =
            stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(19)).expect("a start time");
        self.progress.write_all_at(&[0; 16], life * 16).expect("the progress");
        self.note(&format!("start {life} {incarnation} {pid} {start} {}", now()));
        life
    }

    fn note(&self, line: &str) {
        (&self.lines).write_all(format!("{line}\n").as_bytes()).expect("the ledger");
    }
}
