use std::collections::BTreeSet;
use std::sync::Arc;

use defib_core::model::{
    Blame, By, End, Ending, Incarnation, Paused, Record, State, Usage, WaitStatus, What,
};

use super::super::ports::Lengths;
use super::super::{Host, OomKills, OutputCounters, Program, Queue, Ring, StateCounters, Stream};
use super::*;
use crate::effect::clock;
use crate::effect::usage::{Cpu, CpuSum, Io, MainUsage};

fn view(name: &str, state: State) -> (ServiceName, Arc<ServiceView>) {
    let name: ServiceName = name.parse().unwrap();
    let end = End {
        status: Some(WaitStatus(11)),
        at: Tick(1_000_000_000),
        usage: Usage::default(),
        oom: None,
        blame: Blame::Unknown,
    };
    let view = ServiceView {
        name: name.clone(),
        description: "says \"hello\"\n".to_owned(),
        state,
        why: "\\".to_owned(),
        pid: Some(7),
        incarnation: Incarnation(2),
        ready: state == State::Running,
        wanted: true,
        enabled: true,
        paused: (state != State::Running).then_some(Paused { until: None }),
        group: Some("web".parse().unwrap()),
        adopted: false,
        started: Some(Tick(2_000_000_000)),
        restarts: 1,
        ports: vec![80],
        sockets: Vec::new(),
        last_exit: Some(Ending { end, by: By::Itself }),
        next_start: (state == State::Retrying).then_some(Tick(3_500_000_000)),
    };
    (name, Arc::new(view))
}

fn port() -> Port {
    Port {
        port: 80,
        states: Some(vec![("listen", 1)]),
        listeners: Some(1),
        waiting: Some(0),
        capacity: Some(128),
        overflows: Some(0),
        busiest: Some(1),
        opened: Some(2),
        closed: Some(1),
        lengths: Some(Lengths { buckets: vec![("1", 1)], count: 1, sum: 0.5 }),
    }
}

#[derive(Debug)]
struct Captured;

impl OutputCounters for Captured {
    fn streams(&self) -> Vec<(ServiceName, Stream)> {
        // `gone` is configured no longer.
        let of = |name: &str| {
            let streams = [("stdout", 10, 1), ("stderr", 0, 0)];
            let name: ServiceName = name.parse().unwrap();
            streams.map(|(stream, bytes, dropped)| (name.clone(), Stream { name: stream, bytes, dropped }))
        };
        ["api", "gone"].into_iter().flat_map(of).collect()
    }
}

impl StateCounters for Captured {
    fn works(&self) -> bool {
        true
    }

    fn lost(&self) -> u64 {
        3
    }
}

fn pipeline() -> Pipeline {
    Pipeline {
        source: SourceName::Ebpf,
        received: vec![("exit", 3)],
        ends_lost: None,
        lost: vec![("ring_full", 0), ("decode", 1)],
        suppressed: 0,
        host: Some(Host { forks: 1, execs: 2, exits: 3, signals: 4, cores: 5 }),
        oom_kills: Some(OomKills { global: 6, cgroup: 7, unknown: 0 }),
        queues: vec![Queue { name: "journal", length: 1, capacity: 8192 }],
        rings: vec![Ring { name: "urgent", used: 80, capacity: 262_144 }],
        programs: vec![Program { name: "on_exit", runs: 2, took: Duration::from_nanos(1500) }],
    }
}

fn used(service: &str) -> TreeUsage {
    let main = MainUsage { virtual_bytes: 1 << 20, open_fds: Some(5), max_fds: Some(1024) };
    let cpu = Cpu { user: Duration::from_millis(1500), system: Duration::from_millis(250) };
    TreeUsage {
        service: service.parse().unwrap(),
        at: Tick(9),
        cpu: CpuSum::Living(cpu),
        memory: 4096,
        processes: 3,
        threads: 7,
        io: Some(Io { read: 512, written: 1024 }),
        main: Some(main),
    }
}

/// Counters of which every family has something, and the services that they are about.
fn counted() -> (Metrics, BTreeMap<ServiceName, Arc<ServiceView>>) {
    let metrics = Metrics::new(Tick(1));
    metrics.output.set(Arc::new(Captured)).unwrap();
    metrics.state.set(Arc::new(Captured)).unwrap();
    metrics.loads.told(true, Tick(5));
    metrics.source(SourceName::Ebpf);
    metrics.tally.heard([Tick(1)], Tick(2));
    metrics.answered("/metrics", "GET", 200, Duration::from_millis(3));
    let views = BTreeMap::from([view("api", State::Running), view("db.main-1", State::Retrying)]);
    let ending = views.values().next().and_then(|view| view.last_exit.clone()).unwrap();
    let what = What::Exit { ending, started: Some(Tick(7)) };
    let name = views.keys().next().unwrap().clone();
    let record = Record { at: Tick(9), service: name, incarnation: Incarnation(1), pid: None, what };
    metrics.tally.tell(&record, false, Tick(10));
    (metrics, views)
}

fn written((metrics, views): &(Metrics, BTreeMap<ServiceName, Arc<ServiceView>>), format: Format) -> String {
    metrics.page(&Scrape {
        collectors: &Collector::ALL,
        views,
        usage: (vec![used("api")], Duration::from_millis(1)),
        source: SourceName::Ebpf,
        pipeline: (Some(pipeline()), Duration::from_millis(1)),
        ports: (vec![port()], true, Duration::from_millis(1)),
        now: clock::now,
        format,
    })
}

/// A page on which every family has something.
fn full() -> String {
    written(&counted(), Format::Text)
}

/// The samples of a page by everything but their value.
fn samples(page: &str) -> Vec<(&str, f64)> {
    let lines = page.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
    lines
        .map(|line| line.rsplit_once(' ').unwrap())
        .map(|(series, value)| (series, value.parse().unwrap()))
        .collect()
}

fn value(page: &str, series: &str) -> Option<f64> {
    samples(page).into_iter().find(|(name, _)| *name == series).map(|(_, value)| value)
}

#[test]
fn every_family_is_written_with_its_type_and_nothing_else() {
    let page = full();
    let written: BTreeSet<(&str, &str)> =
        page.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' ')).collect();
    let named: BTreeSet<(&str, &str)> =
        names::ALL.iter().map(|family| (family.name, family.kind.as_str())).collect();
    assert_eq!(written, named);
    let types = page.lines().filter(|line| line.starts_with("# TYPE ")).count();
    assert_eq!(types, named.len(), "a family in two blocks");
    for family in names::ALL {
        assert!(page.contains(&format!("# HELP {} {}\n", family.name, family.help)), "{}", family.name);
    }
}

#[test]
fn no_series_is_there_twice() {
    let page = full();
    let mut seen = BTreeSet::new();
    for (series, _) in samples(&page) {
        assert!(seen.insert(series), "{series}");
    }
    assert!(seen.len() > 150);
}

/// Of a page in OpenMetrics only the headings differ, and the end.
#[test]
fn both_formats_tell_the_same() {
    let counted = counted();
    // What takes another time each time.
    let still = |page: &str| {
        let moves = ["_duration_seconds", "process_", "defib_http_request"];
        let still = |line: &&str| !line.is_empty() && !moves.iter().any(|name| line.contains(name));
        page.lines().filter(still).map(str::to_owned).collect::<BTreeSet<_>>()
    };
    let text = written(&counted, Format::Text);
    let open = written(&counted, Format::OpenMetrics);
    let samples_of =
        |page: &str| still(page).into_iter().filter(|line| !line.starts_with('#')).collect::<BTreeSet<_>>();
    assert_eq!(samples_of(&text), samples_of(&open));
    assert!(samples_of(&text).len() > 20);
    assert!(open.ends_with("\n# EOF\n") && open.matches("# EOF").count() == 1);
    assert!(!text.contains("# EOF") && !text.contains("# UNIT"));
    for line in [
        "# TYPE defib_process_exits counter\n",
        "# TYPE defib_http_requests counter\n",
        "# TYPE process_cpu_seconds counter\n# UNIT process_cpu_seconds seconds\nprocess_cpu_seconds_total ",
        "# UNIT defib_process_output_bytes bytes\n",
        "# UNIT defib_process_stop_seconds seconds\n",
        "defib_process_stop_seconds_bucket{le=\"10.0\"} 0\n",
    ] {
        assert!(open.contains(line), "{line}\n{open}");
    }
    for line in open.lines().filter(|line| line.starts_with("# ") && *line != "# EOF") {
        let name = line.split(' ').nth(2).unwrap();
        assert!(!name.ends_with("_total"), "{line}");
    }
    assert!(!open.contains("\n\n"), "OpenMetrics has no empty lines");
}

#[test]
fn what_is_too_much_for_a_family_is_left_out_and_counted() {
    let counted = counted();
    counted.0.limit(1);
    let page = written(&counted, Format::Text);
    assert_eq!(value(&page, "defib_process_up{process=\"api\"}"), Some(1.0));
    assert_eq!(value(&page, "defib_process_up{process=\"db.main-1\"}"), None);
    let alone = value(&page, "defib_process_next_start_timestamp_seconds{process=\"db.main-1\"}");
    assert!(alone.is_some(), "each family has a limit of its own");
    // Eight states of one service; what is of defib's own is never left out.
    let dropped =
        |page: &str, family: &str| value(page, &format!("defib_series_dropped_total{{family=\"{family}\"}}"));
    assert_eq!(dropped(&page, "defib_process_state"), Some(8.0));
    assert_eq!(dropped(&page, "defib_process_up"), Some(1.0));
    assert_eq!(dropped(&page, "defib_process_exits_total"), Some(0.0));
    assert_eq!(dropped(&page, "defib_collector_success"), None);
    assert_eq!(page.matches("defib_collector_success{").count(), Collector::ALL.len());
    let again = written(&counted, Format::Text);
    assert_eq!(dropped(&again, "defib_process_state"), Some(16.0), "at each scrape");
    counted.0.limit(2);
    let page = written(&counted, Format::Text);
    assert_eq!(value(&page, "defib_process_up{process=\"db.main-1\"}"), Some(0.0));
    assert_eq!(dropped(&page, "defib_process_state"), Some(16.0));
}

#[test]
fn views_and_counts_are_told() {
    let page = full();
    for (series, wanted) in [
        ("defib_process_info{process=\"api\",group=\"web\",backend=\"direct\"}", 1.0),
        ("defib_process_state{process=\"api\",state=\"running\"}", 1.0),
        ("defib_process_state{process=\"api\",state=\"failed\"}", 0.0),
        ("defib_process_up{process=\"api\"}", 1.0),
        ("defib_process_up{process=\"db.main-1\"}", 0.0),
        ("defib_process_paused{process=\"db.main-1\"}", 1.0),
        ("defib_process_backoff_seconds{process=\"api\"}", 0.0),
        ("defib_process_backoff_seconds{process=\"db.main-1\"}", 2.5),
        ("defib_process_last_exit_status{process=\"api\"}", 139.0),
        ("defib_process_exits_total{process=\"api\",cause=\"signal\",status=\"SIGSEGV\"}", 1.0),
        ("defib_process_restarts_total{process=\"db.main-1\",reason=\"oom\"}", 0.0),
        ("defib_process_start_failures_total{process=\"api\",reason=\"exec\"}", 0.0),
        ("defib_process_output_dropped_bytes_total{process=\"api\",stream=\"stdout\"}", 1.0),
        ("defib_process_cpu_seconds_total{process=\"api\",mode=\"user\"}", 1.5),
        ("defib_process_children{process=\"api\"}", 2.0),
        ("defib_process_max_fds{process=\"api\"}", 1024.0),
        ("defib_process_written_bytes_total{process=\"api\"}", 1024.0),
        ("defib_collector_success{collector=\"usage\"}", 0.0),
        ("defib_event_source_up{source=\"ebpf\"}", 1.0),
        ("defib_event_source_up{source=\"pidfd\"}", 0.0),
        ("defib_events_lost_total{source=\"ebpf\",reason=\"decode\"}", 1.0),
        ("defib_event_queue_capacity{queue=\"journal\"}", 8192.0),
        ("defib_host_exits_total{cause=\"exit\"}", 3.0),
        ("defib_host_exits_total{cause=\"signal\"}", 4.0),
        ("defib_host_exits_total{cause=\"core\"}", 5.0),
        ("defib_host_coredumps_total", 5.0),
        ("defib_host_oom_kills_total{scope=\"global\"}", 6.0),
        ("defib_host_oom_kills_total{scope=\"cgroup\"}", 7.0),
        ("defib_host_oom_kills_total{scope=\"unknown\"}", 0.0),
        ("defib_config_last_reload_successful", 1.0),
        ("defib_series_dropped_total{family=\"defib_process_exits_total\"}", 0.0),
        ("defib_collector_success{collector=\"events\"}", 1.0),
    ] {
        assert_eq!(value(&page, series), Some(wanted), "{series}");
    }
    assert_eq!(
        value(&page, "defib_process_next_start_timestamp_seconds{process=\"api\"}"),
        None,
        "none is due"
    );
    assert!(value(&page, "defib_process_start_time_seconds{process=\"api\"}").unwrap() > 1e9);
}

#[test]
fn a_supervisor_that_does_not_answer_is_a_collector_that_failed() {
    let metrics = Metrics::new(Tick(1));
    let views = BTreeMap::new();
    let page = metrics.page(&Scrape {
        collectors: &[Collector::Events],
        views: &views,
        usage: (Vec::new(), Duration::ZERO),
        source: SourceName::Pidfd,
        pipeline: (None, Duration::from_secs(1)),
        ports: (Vec::new(), true, Duration::ZERO),
        now: clock::now,
        format: Format::Text,
    });
    assert_eq!(value(&page, "defib_collector_success{collector=\"events\"}"), Some(0.0));
    assert!(value(&page, "defib_collector_duration_seconds{collector=\"events\"}").unwrap() >= 1.0);
    assert_eq!(value(&page, "defib_event_source_up{source=\"pidfd\"}"), None);
    assert_eq!(value(&page, "defib_process_stop_seconds_count"), Some(0.0), "what needs no answer is there");
    assert_eq!(value(&page, "defib_build_info"), None, "nobody asked for it");
}

#[test]
fn collectors_are_known_by_their_words() {
    for collector in Collector::ALL {
        assert_eq!(Collector::named(collector.as_str()), Some(collector));
    }
    assert_eq!(Collector::named("everything"), None);
}
