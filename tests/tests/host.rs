//! What is counted of the whole host: by whatever source, how processes end, and whom the out-of-memory killer ends.

use std::collections::BTreeMap;
use std::fs;

use defib_tests::http::get;
use defib_tests::{Daemon, Hunger, Options, metrics_address, patiently};

const SOURCES: [&str; 3] = ["ebpf", "proc-connector", "pidfd"];

const WAYS_OUT: &str = r#"
[listen]
metrics = "127.0.0.1:0"
[defaults]
autostart = false
restart = { policy = "never" }
[service.exits]
command = ["sh", "-c", "exit 3"]
[service.killed]
command = ["sh", "-c", "kill -KILL $$"]
[service.dumps]
command = ["sh", "-c", "mkdir {dir}/cores; cd {dir}/cores; ulimit -c unlimited; kill -SEGV $$"]
"#;

fn start(config: &str, source: &str) -> Daemon {
    Daemon::start_with(config, &Options::with_source(source))
}

/// The families of the host.
fn host(daemon: &Daemon) -> BTreeMap<String, f64> {
    let answer = get(metrics_address(daemon), "/metrics?collect[]=events");
    assert_eq!(answer.status, 200, "{}", answer.body);
    let lines = answer.body.lines().filter(|line| line.starts_with("defib_host_"));
    lines
        .filter_map(|line| line.rsplit_once(' '))
        .map(|(series, value)| (series.to_owned(), value.parse().expect("a number")))
        .collect()
}

/// Other processes of the machine end meanwhile, so a number may grow by more than what is done here.
#[test]
fn ends_are_counted_by_their_cause() {
    for source in SOURCES {
        let daemon = start(WAYS_OUT, source);
        let first = host(&daemon);
        let causes =
            ["exit", "signal", "core"].map(|cause| format!("defib_host_exits_total{{cause=\"{cause}\"}}"));
        if source == "pidfd" {
            assert!(
                !first.keys().any(|series| series.contains("exits")),
                "it does not hear of them: {first:#?}"
            );
            continue;
        }
        let [exit, signal, core] = &causes;
        let dumps = "defib_host_coredumps_total".to_owned();
        for (service, grows) in
            [("exits", vec![exit]), ("killed", vec![signal]), ("dumps", vec![core, &dumps])]
        {
            let before = host(&daemon);
            daemon.ask(&["start", "--no-wait", service]);
            daemon.wait_state(service, "failed");
            let dumped = fs::read_dir(daemon.path("cores")).is_ok_and(|mut folder| folder.next().is_some());
            // Where cores go is the machine's to decide.
            let pattern = fs::read_to_string("/proc/sys/kernel/core_pattern").expect("a pattern");
            assert!(service != "dumps" || dumped || pattern.starts_with(['|', '/']), "{source}: {pattern}");
            for series in grows {
                patiently(series, || (host(&daemon)[series] > before[series]).then_some(()));
            }
        }
        let now = host(&daemon);
        assert_eq!(now[core], now[&dumps], "{source}");
        assert!(causes.iter().chain([&dumps]).all(|series| now[series] >= first[series]), "{source}");
    }
}

/// A kill for want of memory of a cgroup is told as such by every source: the kernel's log says it.
#[test]
fn kills_for_memory_are_counted_by_want_of_whose() {
    for source in SOURCES {
        let group = Hunger::new(&format!("host-{source}"));
        let eater = format!("{} exec tail /dev/zero", group.join());
        let daemon = start(
            &format!(
                "[listen]\nmetrics = \"127.0.0.1:0\"\n[service.it]\ncommand = [\"sh\", \"-c\", \"{eater}\"]\n\
                 autostart = false\nrestart = {{ policy = \"never\" }}\n"
            ),
            source,
        );
        let kills = |scope: &str| host(&daemon)[&format!("defib_host_oom_kills_total{{scope=\"{scope}\"}}")];
        let before = ["global", "cgroup", "unknown"].map(kills);
        assert_eq!(before[2], 0.0, "{source}: root may read the kernel's log");
        daemon.ask(&["start", "--no-wait", "it"]);
        daemon.wait_state("it", "failed");
        patiently("the kill to be counted", || (kills("cgroup") > before[1]).then_some(()));
        assert_eq!((kills("global"), kills("unknown")), (before[0], 0.0), "{source}");
    }
}
