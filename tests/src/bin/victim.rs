//! A process that ends in the way that its first argument names. What the tests of the event sources kill.
#![expect(
    unsafe_code,
    reason = "the ways to die are system calls: threads that end alone, forks, seccomp, ptrace"
)]
#![expect(
    clippy::disallowed_methods,
    clippy::exit,
    clippy::print_stderr,
    reason = "a victim waits, and makes processes"
)]

use std::ffi::CString;
use std::fs;
use std::process::exit;
use std::sync::atomic::{AtomicI32, Ordering};
use std::thread;
use std::time::Duration;

/// Long after the test has ended it.
const FOR_EVER: Duration = Duration::from_secs(1000);

fn main() {
    // The runtime of the language handles some of them.
    for signal in [libc::SIGSEGV, libc::SIGBUS, libc::SIGPIPE] {
        // SAFETY: no memory is involved.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match words[..] {
        ["exit", code] => exit(number(code)),
        ["raise", signal] => raise(number(signal)),
        ["segfault", core] => segfault(core == "core"),
        ["abort"] => std::process::abort(),
        ["abort-handled"] => abort_handled(),
        ["sleep"] => thread::sleep(FOR_EVER),
        ["stop-itself"] => {
            raise(libc::SIGSTOP);
            thread::sleep(FOR_EVER);
        }
        ["on-term", code] => on_term(number(code)),
        ["eat", group] => eat(group),
        ["leader-first", "return"] => leader_first(|| {}),
        ["leader-first", "exit", code] => {
            let code = number(code);
            leader_first(move || exit(code));
        }
        ["leader-first", "abort"] => leader_first(|| std::process::abort()),
        ["thread-exec", code] => thread_exec(code),
        ["threads", count, code] => threads(number(count), number(code)),
        ["seccomp-strict"] => seccomp_strict(),
        ["seccomp-filter"] => seccomp_filter(),
        ["traced", code] => traced(number(code)),
        ["leave-a-child", code] => leave_a_child(number(code)),
        ["double-fork"] => double_fork(),
        ["burst", count, code] => burst(number(count), number(code)),
        ["churn", count] => churn(number(count)),
        ["lines", count, then] => lines(number(count), then),
        ["patient", report] => patient(report),
        ["scribe", report, lines, writes] => scribe(report, number(lines), number(writes)),
        _ => {
            eprintln!("victim: no such way to die: {args:?}");
            exit(64);
        }
    }
}

fn number(text: &str) -> i32 {
    text.parse().unwrap_or_else(|_| panic!("not a number: {text}"))
}

/// A signal to this process, whose default action ends it.
fn raise(signal: i32) {
    // SAFETY: no memory is involved.
    unsafe {
        libc::signal(signal, libc::SIG_DFL);
        libc::kill(libc::getpid(), signal);
    }
    // What is generated for oneself is delivered before the system call returns; a stop comes back from here.
}

fn segfault(core: bool) {
    let limit = if core { libc::RLIM_INFINITY } else { 0 };
    let limit = libc::rlimit { rlim_cur: limit, rlim_max: limit };
    // SAFETY: the limit is a valid struct; the access is what this is for, at an address that nobody maps.
    unsafe {
        libc::setrlimit(libc::RLIMIT_CORE, &limit);
        std::ptr::write_volatile(0xdead as *mut u8, 1);
    }
}

extern "C" fn come_back(_: i32) {}

/// abort(3) with a handler that returns: the second SIGABRT ends it.
fn abort_handled() {
    // SAFETY: the handler does nothing.
    unsafe { libc::signal(libc::SIGABRT, come_back as extern "C" fn(i32) as libc::sighandler_t) };
    std::process::abort();
}

/// What the handler of SIGTERM exits with.
static CODE: AtomicI32 = AtomicI32::new(0);

extern "C" fn leave(_: i32) {
    // SAFETY: may be called in a handler.
    unsafe { libc::_exit(CODE.load(Ordering::Relaxed)) };
}

/// Handles SIGTERM, as a server does, and exits.
fn on_term(code: i32) {
    CODE.store(code, Ordering::Relaxed);
    // SAFETY: the handler calls nothing that may not be called in one.
    unsafe { libc::signal(libc::SIGTERM, leave as extern "C" fn(i32) as libc::sighandler_t) };
    thread::sleep(FOR_EVER);
}

/// Joins a cgroup that has little memory, as its first victim, and takes all there is.
fn eat(group: &str) {
    fs::write("/proc/self/oom_score_adj", "1000").expect("root");
    fs::write(format!("{group}/cgroup.procs"), std::process::id().to_string()).expect("a cgroup");
    let mut food: Vec<Vec<u8>> = Vec::new();
    loop {
        food.push(vec![food.len() as u8 | 1; 1 << 20]);
    }
}

/// The first thread ends; another one does the rest a little later.
fn leader_first(rest: impl FnOnce() + Send + 'static) {
    thread::spawn(|| {
        thread::sleep(Duration::from_millis(50));
        rest();
        // SAFETY: ends this thread; it is the last one.
        unsafe { libc::syscall(libc::SYS_exit, 0) };
    });
    // SAFETY: ends this thread and no other; nothing of it is used by the other one.
    unsafe { libc::syscall(libc::SYS_exit, 0) };
}

fn thread_exec(code: &str) {
    let program = std::env::current_exe().expect("a path").into_os_string().into_encoded_bytes();
    let words = [program, b"exit".to_vec(), code.as_bytes().to_vec()];
    thread::spawn(move || {
        thread::sleep(Duration::from_millis(20));
        let words = words.map(|word| CString::new(word).expect("no zero"));
        let mut pointers: Vec<_> = words.iter().map(|word| word.as_ptr()).collect();
        pointers.push(std::ptr::null());
        // SAFETY: the program, its arguments and the environment are strings that end with zero, the lists with null.
        unsafe { libc::execv(pointers[0], pointers.as_ptr()) };
        exit(65);
    });
    thread::sleep(FOR_EVER);
}

/// exit(3) while other threads live: the kernel ends them by SIGKILL, which is nobody's signal.
fn threads(count: i32, code: i32) {
    for _ in 0..count {
        thread::spawn(|| thread::sleep(FOR_EVER));
    }
    thread::sleep(Duration::from_millis(20));
    exit(code);
}

fn seccomp_strict() {
    // SAFETY: no memory is involved; the second call is the forbidden one.
    unsafe {
        libc::prctl(libc::PR_SET_SECCOMP, 1);
        libc::syscall(libc::SYS_getpid);
    }
}

/// A filter that kills the process for every further system call.
fn seccomp_filter() {
    let kill = libc::sock_filter { code: 0x06, jt: 0, jf: 0, k: libc::SECCOMP_RET_KILL_PROCESS };
    let mut program = [kill];
    let filter = libc::sock_fprog { len: 1, filter: program.as_mut_ptr() };
    // SAFETY: the filter is a valid program of one instruction, and outlives the call.
    unsafe {
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
        libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const filter);
        libc::syscall(libc::SYS_getpid);
    }
}

/// Forks; the new process does the rest and does not come back.
fn in_a_child(rest: impl FnOnce()) -> i32 {
    // SAFETY: this process has one thread, so the child can do what it likes.
    match unsafe { libc::fork() } {
        0 => {
            rest();
            exit(0)
        }
        child => child,
    }
}

/// Ends while its own child traces it: the tracer hears of the end first.
fn traced(code: i32) {
    // SAFETY: no memory is involved.
    let main = unsafe { libc::getpid() };
    // The tracer may be a child of a child where only descendants may be traced, so this is said to be allowed.
    // SAFETY: no memory is involved.
    unsafe { libc::prctl(libc::PR_SET_PTRACER, libc::PR_SET_PTRACER_ANY) };
    let tracer = in_a_child(|| {
        // SAFETY: no memory is involved but the status, which is valid.
        unsafe {
            if libc::ptrace(libc::PTRACE_SEIZE, main, 0, 0) != 0 {
                exit(66);
            }
            let mut status = 0;
            libc::kill(main, libc::SIGCONT);
            // Signal stops are passed on; the end is the last thing to be heard.
            while libc::waitpid(main, &raw mut status, libc::__WALL) == main && libc::WIFSTOPPED(status) {
                let signal = libc::WSTOPSIG(status);
                libc::ptrace(libc::PTRACE_CONT, main, 0, if signal == libc::SIGTRAP { 0 } else { signal });
            }
        }
    });
    let tracing = || {
        let status = fs::read_to_string("/proc/self/status").expect("/proc");
        status
            .lines()
            .any(|line| line.strip_prefix("TracerPid:").is_some_and(|pid| pid.trim() == tracer.to_string()))
    };
    while !tracing() {
        thread::sleep(Duration::from_millis(1));
    }
    exit(code);
}

fn leave_a_child(code: i32) {
    in_a_child(|| thread::sleep(FOR_EVER));
    exit(code);
}

/// As daemons do it.
fn double_fork() {
    in_a_child(|| {
        // SAFETY: no memory is involved.
        unsafe { libc::setsid() };
        in_a_child(|| thread::sleep(FOR_EVER));
    });
    exit(0);
}

/// So many children at once, then its own end.
fn burst(count: i32, code: i32) {
    for _ in 0..count {
        in_a_child(|| ());
    }
    for _ in 0..count {
        // SAFETY: no status is asked for.
        unsafe { libc::wait(std::ptr::null_mut()) };
    }
    exit(code);
}

/// Writes so many numbered lines as fast as it can, then makes a file, and stays.
fn lines(count: i32, then: &str) {
    use std::io::Write;
    let mut out = std::io::BufWriter::with_capacity(16 * 1024, std::io::stdout());
    for number in 0..count {
        writeln!(out, "{number:09} the quick brown fox jumps over the lazy dog").expect("stdout");
    }
    out.flush().expect("stdout");
    fs::write(then, "").expect("a file");
    thread::sleep(FOR_EVER);
}

/// Writes numbered lines of 64 bytes for ever, so many with each write and so many writes in a millisecond, and keeps account in
/// `REPORT.PID`: how many lines were written. A write of up to 64 lines is done or not, whoever ends it.
fn scribe(report: &str, lines: i32, writes: i32) {
    use std::io::Write;
    use std::os::unix::fs::FileExt;
    let pid = std::process::id();
    let account = fs::File::create(format!("{report}.{pid}")).expect("a file");
    let mut count = 0;
    loop {
        for _ in 0..writes {
            let text: String = (count..count + lines).map(|line| format!("{pid:010} {line:052}\n")).collect();
            std::io::stdout().lock().write_all(text.as_bytes()).expect("stdout");
            count += lines;
            account.write_all_at(format!("{count:010}").as_bytes(), 0).expect("a file");
        }
        thread::sleep(Duration::from_millis(1));
    }
}

/// Writes for ever, 8 KiB each time, and tells in a file how many milliseconds the longest write took, and how many bytes
/// there were.
fn patient(report: &str) {
    use std::io::Write;
    let text = [[b'x'; 1023].as_slice(), b"\n"].concat().repeat(8);
    let (mut longest, mut total) = (0, 0);
    loop {
        let begun = std::time::Instant::now();
        std::io::stdout().write_all(&text).expect("stdout");
        std::io::stdout().flush().expect("stdout");
        longest = begun.elapsed().as_millis().max(longest);
        total += text.len();
        // In one step, so that nobody reads half of it.
        fs::write(format!("{report}.new"), format!("{longest} {total}")).expect("a file");
        fs::rename(format!("{report}.new"), report).expect("a file");
        thread::sleep(Duration::from_millis(2));
    }
}

/// Forks, executes and reaps, one after the other.
fn churn(count: i32) {
    let program = std::env::current_exe().expect("a path");
    for _ in 0..count {
        let status = std::process::Command::new(&program).args(["exit", "0"]).status().expect("a process");
        assert!(status.success());
    }
}
