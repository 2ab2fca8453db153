//! What services use, as a scrape tells it: of the whole tree, and kept over restarts.

use std::collections::BTreeMap;
use std::fs;

use defib_tests::http::get;
use defib_tests::{Daemon, Options, metrics_address, patiently, pid, signal};

/// A life that uses a little of everything, notes it, and waits: CPU time in both modes, 1 MiB on the disk, two children,
/// five files.
const BUSY: &str = r#"
[listen]
metrics = "127.0.0.1:0"
[service.busy]
command = ["bash", "-c", """
i=0; while [ $i -lt 60000 ]; do i=$((i+1)); done
dd if=/dev/zero of={dir}/data bs=1M count=1 conv=fsync 2>{dir}/dd
exec 20</dev/null 21</dev/null
ulimit -S -n 100
sleep 1000 & sleep 1000 &
echo $DEFIB_INCARNATION > {dir}/life
wait
"""]
restart = { immediate = 100 }
[service.idle]
command = "sleep 1000"
autostart = false
"#;

fn scrape(daemon: &Daemon) -> BTreeMap<String, f64> {
    let answer = get(metrics_address(daemon), "/metrics?collect[]=usage");
    assert_eq!(answer.status, 200, "{}", answer.body);
    let lines = answer.body.lines().filter(|line| !line.starts_with('#'));
    lines
        .filter_map(|line| line.rsplit_once(' '))
        .map(|(series, value)| (series.to_owned(), value.parse().expect("a number")))
        .collect()
}

/// Three processes that sleep, the pids of which are known.
const ASLEEP: &str = r#"
[listen]
metrics = "127.0.0.1:0"
[service.asleep]
command = ["sh", "-c", """
ulimit -S -n 100
sleep 1000 & echo $! > {dir}/first
sleep 1000 & echo $! > {dir}/second
wait
"""]
"#;

/// A number in a file of a process, behind a word.
fn number(pid: u32, file: &str, word: &str) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/{file}")).expect("it runs");
    let value = text.lines().find_map(|line| line.strip_prefix(word)).expect("the kernel tells it");
    value.split_whitespace().next().expect("a number").parse().expect("a number")
}

/// A field of proc_pid_stat(5), which counts from 1.
fn stat(pid: u32, field: usize) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/stat")).expect("it runs");
    let fields = text.rsplit_once(") ").expect("a name").1.split(' ').nth(field - 3);
    fields.expect("a field").parse().expect("a number")
}

/// Whether the kernel walks through its tasks for it, or files are read.
#[test]
fn what_is_told_is_what_proc_says() {
    let page =
        nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE).expect("it is known").expect("it has one");
    for source in ["ebpf", "pidfd"] {
        let daemon = Daemon::start_with(ASLEEP, &Options::with_source(source));
        let main = pid(&daemon.wait("asleep", "to run", |it| it["state"] == "running"));
        let noted = |file: &str| fs::read_to_string(daemon.path(file)).ok()?.trim().parse::<u32>().ok();
        // What is still being loaded takes more memory from one look to the next.
        let stat_of = |pid: u32| fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let is_asleep = |pid: u32, name: &str| stat_of(pid).contains(&format!("({name}) S "));
        let children = ["first", "second"];
        let children = patiently("both children to be named", || {
            children.map(noted).into_iter().collect::<Option<Vec<_>>>()
        });
        patiently("all to sleep", || {
            let children = children.iter().all(|pid| is_asleep(*pid, "sleep"));
            (children && is_asleep(main, "sh")).then_some(())
        });
        let told = scrape(&daemon);
        let of = |family: &str| told[&format!("defib_process_{family}{{process=\"asleep\"}}")];
        let all = [main, children[0], children[1]];
        let sum = |of: &dyn Fn(u32) -> u64| all.map(of).iter().sum::<u64>() as f64;

        assert_eq!((of("children"), of("threads")), (2.0, 3.0), "{source}");
        assert_eq!(of("resident_memory_bytes"), sum(&|pid| stat(pid, 24)) * page as f64, "{source}");
        assert_eq!(of("virtual_memory_bytes"), stat(main, 23) as f64, "{source}");
        assert_eq!(of("read_bytes_total"), sum(&|pid| number(pid, "io", "read_bytes:")), "{source}");
        assert_eq!(of("written_bytes_total"), sum(&|pid| number(pid, "io", "write_bytes:")), "{source}");
        assert_eq!(of("max_fds"), 100.0, "{source}");
        let open = fs::read_dir(format!("/proc/{main}/fd")).expect("it runs").count();
        assert_eq!(of("open_fds"), open as f64, "{source}");
    }
}

/// Over several lives, which nobody looks at while they live.
fn sums_are_kept(options: &Options) {
    let daemon = Daemon::start_with(BUSY, options);
    let noted = || fs::read_to_string(daemon.path("life")).unwrap_or_default().trim().parse::<u64>().ok();
    let mut last: BTreeMap<String, f64> = BTreeMap::new();
    for life in 1..=3_u64 {
        patiently("the life to have done its work", || (noted() == Some(life)).then_some(()));
        let it = daemon.wait("busy", "to be known", |it| it["incarnation"] == life);
        let folder = format!("/proc/{}", pid(&it));
        let now = scrape(&daemon);
        let of = |family: &str| now[&format!("defib_process_{family}{{process=\"busy\"}}")];
        let cpu =
            |mode: &str| now[&format!("defib_process_cpu_seconds_total{{process=\"busy\",mode=\"{mode}\"}}")];
        let before = |series: &str| last.get(series).copied().unwrap_or(0.0);

        assert_eq!((of("children"), of("threads")), (2.0, 3.0));
        assert_eq!(of("max_fds"), 100.0);
        assert_eq!(of("open_fds"), fs::read_dir(format!("{folder}/fd")).expect("a process").count() as f64);
        assert!(of("resident_memory_bytes") > 1e6 && of("virtual_memory_bytes") > 1e6);
        let mib = f64::from(1 << 20);
        assert!(of("written_bytes_total") >= life as f64 * mib, "life {life}: {now:#?}");
        assert!(of("written_bytes_total") < (life as f64 + 1.0) * mib, "life {life}: {now:#?}");
        assert!(cpu("user") > 0.0 && cpu("user") + cpu("system") > 0.01, "{now:#?}");
        for (series, value) in now.iter().filter(|(series, _)| series.contains("_total")) {
            assert!(*value >= before(series), "{series} fell from {} to {value}", before(series));
        }
        let user = "defib_process_cpu_seconds_total{process=\"busy\",mode=\"user\"}";
        assert!(now[user] > before(user), "each life uses some: {now:#?}");
        assert_eq!(now["defib_collector_success{collector=\"usage\"}"], 1.0);
        assert!(!now.contains_key("defib_process_open_fds{process=\"idle\"}"), "it has no main process");
        last = now;
        signal(pid(&it), libc::SIGKILL);
    }
    daemon.wait("busy", "in its next life", |it| it["incarnation"] == 4);
    daemon.ask(&["stop", "busy"]);
    let stopped = scrape(&daemon);
    for (series, value) in last.iter().filter(|(series, _)| series.contains("_total")) {
        assert!(stopped[series] >= *value, "{series} fell from {value} to {}", stopped[series]);
    }
    assert_eq!(stopped["defib_process_threads{process=\"busy\"}"], 0.0);
}

#[test]
fn what_ended_lives_have_used_is_kept() {
    sums_are_kept(&Options::default());
}

/// Without cgroups, where nobody but defib remembers who has ended.
#[test]
fn what_ended_lives_have_used_is_kept_without_cgroups() {
    const NOBODY: u32 = 65534;
    if !nix::unistd::geteuid().is_root() {
        // Then the other test is this one.
        return;
    }
    let id = NOBODY.to_string();
    sums_are_kept(&Options {
        before: ["setpriv", "--reuid", &id, "--regid", &id, "--clear-groups"].map(String::from).into(),
        owner: Some(NOBODY),
        ..Options::default()
    });
}
