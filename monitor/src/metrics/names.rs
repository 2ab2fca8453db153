//! Every family of metrics: the one place where a name, its type, its labels and its help are told.
//!
//! Two writers share the page, and no family is of both: the recorder of the crate `metrics` has what the daemon counts of
//! itself under labels that are fixed in the code; all that is labelled by the configuration or by the kernel is written
//! anew at each scrape, so that a label which has gone leaves no series behind.

/// How Prometheus is to take the numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Grows until the daemon starts anew.
    Counter,
    /// Goes up and down.
    Gauge,
    /// Counts by size.
    Histogram,
}

impl Kind {
    /// The word behind `# TYPE`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Things, or truth as 1 and 0.
    One,
    /// Seconds; of a time stamp since 1970.
    Seconds,
    /// Bytes.
    Bytes,
}

impl Unit {
    /// Its word in OpenMetrics; what is only counted has none.
    pub fn word(self) -> Option<&'static str> {
        match self {
            Self::One => None,
            Self::Seconds => Some("seconds"),
            Self::Bytes => Some("bytes"),
        }
    }
}

/// Who writes a family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Writer {
    /// The recorder of the crate `metrics`.
    Recorder,
    /// defib's own, at each scrape.
    Scrape,
}

/// One family.
#[derive(Debug, PartialEq, Eq)]
pub struct Family {
    /// Its full name.
    pub name: &'static str,
    /// Its type.
    pub kind: Kind,
    /// Its unit, in which its name ends.
    pub unit: Unit,
    /// Its labels, in the order in which their values are given.
    pub labels: &'static [&'static str],
    /// What it tells.
    pub help: &'static str,
    /// Who writes it.
    pub writer: Writer,
}

impl Family {
    /// Whether the configuration says how many members it has: those are limited. Labels of the others have values that
    /// are fixed in the code.
    pub fn is_open(&self) -> bool {
        const OPEN: [&str; 2] = ["process", "port"];
        self.labels.first().is_some_and(|label| OPEN.contains(label))
    }
}

macro_rules! families {
    ($($id:ident = $name:literal, $kind:ident, $unit:ident, $writer:ident, [$($label:literal),*], $help:literal;)+) => {
        $(
            #[doc = $help]
            pub const $id: Family = Family {
                name: $name,
                kind: Kind::$kind,
                unit: Unit::$unit,
                labels: &[$($label),*],
                help: $help,
                writer: Writer::$writer,
            };
        )+
        /// All of them, by name.
        pub const ALL: &[&Family] = &[$(&$id),+];
    };
}

families! {
    BUILD_INFO = "defib_build_info", Gauge, One, Scrape, ["version", "revision", "rustc"],
        "Facts about this build; always 1.";
    COLLECTOR_DURATION = "defib_collector_duration_seconds", Gauge, Seconds, Scrape, ["collector"],
        "How long a scrape-time collector took in this scrape.";
    COLLECTOR_SUCCESS = "defib_collector_success", Gauge, One, Scrape, ["collector"],
        "Whether a scrape-time collector succeeded in this scrape (1) or not (0).";
    CONFIG_SUCCESSFUL = "defib_config_last_reload_successful", Gauge, One, Scrape, [],
        "Whether the last load of the configuration succeeded (1) or not (0).";
    CONFIG_SUCCESS_TIME = "defib_config_last_reload_success_timestamp_seconds", Gauge, Seconds, Scrape, [],
        "When a configuration was last loaded with success, Unix time in seconds.";
    EVENT_LAST = "defib_event_last_timestamp_seconds", Gauge, Seconds, Scrape, ["source"],
        "When the last event of a source was handled, Unix time in seconds.";
    EVENT_LATENCY = "defib_event_latency_seconds", Histogram, Seconds, Scrape, ["source"],
        "Time from the kernel time stamp of an event to its handling.";
    EBPF_RUNS = "defib_ebpf_program_runs_total", Counter, One, Scrape, ["program"],
        "Runs of an eBPF program; only when kernel.bpf_stats_enabled is 1.";
    EBPF_RUN_SECONDS = "defib_ebpf_program_run_seconds_total", Counter, Seconds, Scrape, ["program"],
        "Time spent in an eBPF program; only when kernel.bpf_stats_enabled is 1.";
    EVENT_QUEUE_CAPACITY = "defib_event_queue_capacity", Gauge, One, Scrape, ["queue"],
        "Most items that can wait in an internal queue.";
    EVENT_QUEUE_LENGTH = "defib_event_queue_length", Gauge, One, Scrape, ["queue"],
        "Items waiting in an internal queue.";
    EVENT_RESYNCS = "defib_event_resyncs_total", Counter, One, Recorder, ["source"],
        "Full re-reads of state done because events were lost.";
    EVENT_RING_CAPACITY = "defib_event_ring_capacity_bytes", Gauge, Bytes, Scrape, ["ring"],
        "Size of a kernel ring buffer.";
    EVENT_RING_USED = "defib_event_ring_used_bytes", Gauge, Bytes, Scrape, ["ring"],
        "Bytes waiting in a kernel ring buffer.";
    EVENT_SOURCE_UP = "defib_event_source_up", Gauge, One, Scrape, ["source"],
        "Whether an event source is attached and delivering (1) or not (0).";
    EVENTS_LOST = "defib_events_lost_total", Counter, One, Scrape, ["source", "reason"],
        "Events known to be lost before they were handled.";
    EVENTS_RECEIVED = "defib_events_received_total", Counter, One, Scrape, ["source", "event"],
        "Events read from a kernel source.";
    EVENTS_SUPPRESSED = "defib_events_suppressed_total", Counter, One, Scrape, ["source"],
        "Events of descendants left out on purpose because one service told too many.";
    HOST_COREDUMPS = "defib_host_coredumps_total", Counter, One, Scrape, [],
        "Process ends with a core dump on this host since start.";
    HOST_EXECS = "defib_host_execs_total", Counter, One, Scrape, [],
        "Successful execs on this host since start, from kernel events.";
    HOST_EXITS = "defib_host_exits_total", Counter, One, Scrape, ["cause"],
        "Process ends on this host since start, from kernel events: by exit, by a signal, or by one with a core dump.";
    HOST_FORKS = "defib_host_forks_total", Counter, One, Scrape, [],
        "Processes created on this host since start, from kernel events.";
    HOST_OOM_KILLS = "defib_host_oom_kills_total", Counter, One, Scrape, ["scope"],
        "Out-of-memory kills on this host since start: for want of its memory (global) or of a cgroup, by the kernel log; unknown where that cannot be read.";
    HTTP_DURATION = "defib_http_request_duration_seconds", Histogram, Seconds, Scrape, ["handler"],
        "Time to answer an HTTP request.";
    HTTP_REQUESTS = "defib_http_requests_total", Counter, One, Recorder, ["handler", "method", "code"],
        "HTTP requests answered.";
    LOG_MESSAGES = "defib_log_messages_total", Counter, One, Recorder, ["level"],
        "Log messages written.";
    PORT_QUEUE_CAPACITY = "defib_port_accept_queue_capacity", Gauge, One, Scrape, ["port", "protocol"],
        "Most connections that can wait to be accepted.";
    PORT_QUEUE_LENGTH = "defib_port_accept_queue_length", Gauge, One, Scrape, ["port", "protocol"],
        "Connections waiting to be accepted.";
    PORT_OVERFLOWS = "defib_port_accept_queue_overflows_total", Counter, One, Scrape, ["port", "protocol"],
        "Connections dropped because the accept queue was full.";
    PORT_BUSIEST = "defib_port_busiest_peer_connections", Gauge, One, Scrape, ["port", "protocol"],
        "Established connections of the remote address, or IPv6 network of 64 bits, that has most of them.";
    PORT_CONNECTION = "defib_port_connection_seconds", Histogram, Seconds, Scrape, ["port", "protocol"],
        "How long closed connections had been established.";
    PORT_CONNECTIONS = "defib_port_connections", Gauge, One, Scrape, ["port", "protocol", "state"],
        "Sockets bound to a watched local port, by TCP state.";
    PORT_CLOSED = "defib_port_connections_closed_total", Counter, One, Scrape, ["port", "protocol"],
        "Connections that left established on a watched local port.";
    PORT_OPENED = "defib_port_connections_opened_total", Counter, One, Scrape, ["port", "protocol"],
        "Connections that became established on a watched local port.";
    PORT_LISTENERS = "defib_port_listeners", Gauge, One, Scrape, ["port", "protocol"],
        "Listening sockets on a watched local port.";
    PROCESS_BACKOFF = "defib_process_backoff_seconds", Gauge, Seconds, Scrape, ["process"],
        "Delay now waited before the next start; 0 when not backing off.";
    PROCESS_CHILDREN = "defib_process_children", Gauge, One, Scrape, ["process"],
        "Descendant processes of the main process.";
    PROCESS_CPU = "defib_process_cpu_seconds_total", Counter, Seconds, Scrape, ["process", "mode"],
        "CPU time of the process tree, kept over restarts.";
    PROCESS_DESIRED = "defib_process_desired", Gauge, One, Scrape, ["process"],
        "Whether the operator wants the process to run (1) or not (0).";
    PROCESS_EXIT_DETECTION = "defib_process_exit_detection_seconds", Histogram, Seconds, Scrape, ["source"],
        "Time from the kernel exit event to the supervisor acting on it.";
    PROCESS_EXITS = "defib_process_exits_total", Counter, One, Scrape, ["process", "cause", "status"],
        "Ends of the main process, by how it ended and with which status; `unknown` if it died while nobody watched.";
    PROCESS_INFO = "defib_process_info", Gauge, One, Scrape, ["process", "group", "backend"],
        "Static facts about a supervised process; always 1.";
    PROCESS_LAST_EXIT_STATUS = "defib_process_last_exit_status", Gauge, One, Scrape, ["process"],
        "Exit code of the last end, or 128 plus the signal number.";
    PROCESS_LAST_EXIT_TIME = "defib_process_last_exit_timestamp_seconds", Gauge, Seconds, Scrape, ["process"],
        "When the main process last ended, Unix time in seconds.";
    PROCESS_MAX_FDS = "defib_process_max_fds", Gauge, One, Scrape, ["process"],
        "Soft limit of open file descriptors of the main process.";
    PROCESS_NEXT_START = "defib_process_next_start_timestamp_seconds", Gauge, Seconds, Scrape, ["process"],
        "When the next start is due, Unix time in seconds; absent when none is due.";
    PROCESS_OOM_KILLS = "defib_process_oom_kills_total", Counter, One, Scrape, ["process"],
        "Times the kernel out-of-memory killer ended a task of the process.";
    PROCESS_OPEN_FDS = "defib_process_open_fds", Gauge, One, Scrape, ["process"],
        "Open file descriptors of the main process.";
    PROCESS_OUTPUT = "defib_process_output_bytes_total", Counter, Bytes, Scrape, ["process", "stream"],
        "Bytes captured from standard output and error.";
    PROCESS_OUTPUT_DROPPED = "defib_process_output_dropped_bytes_total", Counter, Bytes, Scrape, ["process", "stream"],
        "Captured bytes dropped because a reader or a disk was too slow.";
    PROCESS_PAUSED = "defib_process_paused", Gauge, One, Scrape, ["process"],
        "Whether automatic restarts of the process are paused (1) or not (0).";
    PROCESS_READ = "defib_process_read_bytes_total", Counter, Bytes, Scrape, ["process"],
        "Bytes the process tree caused to be read from storage.";
    PROCESS_READY = "defib_process_ready_seconds", Histogram, Seconds, Scrape, [],
        "Time from exec to ready, over all supervised processes.";
    PROCESS_RESIDENT = "defib_process_resident_memory_bytes", Gauge, Bytes, Scrape, ["process"],
        "Resident memory of the process tree.";
    PROCESS_RESTART_LATENCY = "defib_process_restart_latency_seconds", Histogram, Seconds, Scrape, ["source"],
        "Time from the kernel exit event to the exec of the replacement, without configured delay.";
    PROCESS_RESTARTS = "defib_process_restarts_total", Counter, One, Scrape, ["process", "reason"],
        "Automatic and requested restarts, by what caused them.";
    PROCESS_START_FAILURES = "defib_process_start_failures_total", Counter, One, Scrape, ["process", "reason"],
        "Times a start failed before or at exec.";
    PROCESS_START_LIMIT = "defib_process_start_limit_reached_total", Counter, One, Scrape, ["process"],
        "Times automatic restarts were given up because the start limit was reached.";
    PROCESS_START_TIME = "defib_process_start_time_seconds", Gauge, Seconds, Scrape, ["process"],
        "Start time of the current instance, Unix time in seconds.";
    PROCESS_STARTS = "defib_process_starts_total", Counter, One, Scrape, ["process"],
        "Times the process was started (successful exec).";
    PROCESS_STATE = "defib_process_state", Gauge, One, Scrape, ["process", "state"],
        "Lifecycle state of a supervised process; 1 for the current state, 0 for the others.";
    PROCESS_STOP = "defib_process_stop_seconds", Histogram, Seconds, Scrape, [],
        "Time from the stop request to the end of the process, over all supervised processes.";
    PROCESS_THREADS = "defib_process_threads", Gauge, One, Scrape, ["process"],
        "Threads of the process tree.";
    PROCESS_UP = "defib_process_up", Gauge, One, Scrape, ["process"],
        "Whether the process is running and ready (1) or not (0).";
    PROCESS_VIRTUAL = "defib_process_virtual_memory_bytes", Gauge, Bytes, Scrape, ["process"],
        "Virtual memory of the main process.";
    PROCESS_WRITTEN = "defib_process_written_bytes_total", Counter, Bytes, Scrape, ["process"],
        "Bytes the process tree caused to be written to storage.";
    SERIES_DROPPED = "defib_series_dropped_total", Counter, One, Scrape, ["family"],
        "Label sets left out because of the cardinality limit, counted at each scrape; ends under other at each end.";
    STATE_DATABASE_LOST = "defib_state_database_lost_total", Counter, One, Scrape, [],
        "Ends of lives that were not kept because the state database could not be written for too long.";
    STATE_DATABASE_UP = "defib_state_database_up", Gauge, One, Scrape, [],
        "Whether the state database can be written (1) or not (0).";
    OWN_CPU = "process_cpu_seconds_total", Counter, Seconds, Scrape, [],
        "Total user and system CPU time spent in seconds.";
    OWN_MAX_FDS = "process_max_fds", Gauge, One, Scrape, [],
        "Maximum number of open file descriptors.";
    OWN_OPEN_FDS = "process_open_fds", Gauge, One, Scrape, [],
        "Number of open file descriptors.";
    OWN_RESIDENT = "process_resident_memory_bytes", Gauge, Bytes, Scrape, [],
        "Resident memory size in bytes.";
    OWN_START_TIME = "process_start_time_seconds", Gauge, Seconds, Scrape, [],
        "Start time of the process since unix epoch in seconds.";
    OWN_THREADS = "process_threads", Gauge, One, Scrape, [],
        "Number of OS threads in the process.";
    OWN_VIRTUAL = "process_virtual_memory_bytes", Gauge, Bytes, Scrape, [],
        "Virtual memory size in bytes.";
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_unique_even_with_the_suffixes_of_histograms() {
        let mut seen = BTreeSet::new();
        for family in ALL {
            let suffixes: &[&str] = match family.kind {
                Kind::Histogram => &["", "_bucket", "_sum", "_count"],
                Kind::Counter | Kind::Gauge => &[""],
            };
            for suffix in suffixes {
                assert!(seen.insert(format!("{}{suffix}", family.name)), "{}{suffix}", family.name);
            }
            // Its name in OpenMetrics.
            if let Some(base) = family.name.strip_suffix("_total") {
                assert!(seen.insert(base.to_owned()), "{base}");
            }
        }
    }

    #[test]
    fn names_end_as_their_kind_and_unit_want() {
        for Family { name, kind, unit, labels, help, .. } in ALL {
            assert_eq!(*kind == Kind::Counter, name.ends_with("_total"), "{name}");
            let base = name.trim_end_matches("_total");
            assert_eq!(*unit == Unit::Seconds, base.ends_with("_seconds"), "{name}");
            assert_eq!(*unit == Unit::Bytes, base.ends_with("_bytes"), "{name}");
            assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{name}");
            assert!(help.ends_with('.') && !help.contains(['\n', '\\', '"']), "{name}: {help}");
            // What Prometheus adds to every target, or uses itself.
            for label in *labels {
                let taken =
                    ["job", "instance", "type", "service", "env", "region", "cluster", "le", "quantile"];
                assert!(!taken.contains(label), "{name}: {label}");
            }
            assert!(
                name.starts_with("defib_") || labels.is_empty(),
                "{name}: the standard ones have no labels"
            );
        }
    }

    /// Recorders are filled by other means, so nothing here may be of both.
    #[test]
    fn the_recorder_has_counters_only() {
        let recorded: Vec<_> = ALL.iter().filter(|family| family.writer == Writer::Recorder).collect();
        assert!(recorded.len() == 3 && recorded.iter().all(|family| family.kind == Kind::Counter));
    }
}
