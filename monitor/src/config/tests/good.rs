//! Good input, and what it means.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use defib_core::model::{
    Backoff, Delays, GiveUp, Launch, Leftovers, LogLayout, LogSpec, LogStreams, Policy, ReadySpec,
    RestartSpec, ServiceSpec, Signal, SocketSpec, StopSpec, WhenDown,
};

use super::super::{Flags, Overrides, SourceChoice};
use super::{bad, good, parse, root, user};

/// The only service of a text.
#[track_caller]
fn service(text: &str) -> ServiceSpec {
    let mut services = good(text).services;
    assert_eq!(services.len(), 1);
    std::sync::Arc::unwrap_or_clone(services.remove(0))
}

/// The restart rules of a service with this table, under those of `[defaults]`.
#[track_caller]
fn restart(defaults: &str, own: &str) -> RestartSpec {
    service(&format!(
        "[defaults]\nrestart = {{ {defaults} }}\n[service.a]\ncommand = 'x'\nrestart = {{ {own} }}"
    ))
    .restart
}

const fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

#[test]
fn a_command_is_enough() {
    let spec = ServiceSpec::new("a".parse().unwrap(), vec!["x".to_owned()]);
    assert_eq!(service("[service.a]\ncommand = ['x']"), spec);
}

#[test]
fn every_key_has_its_effect() {
    let spec = service(
        r#"
        [service."a.b-1"]
        description = "the ä service"
        command = ["/bin/x", "", "a b"]
        cwd = "/srv"
        env = { A = "1", "b.c" = "" }
        env_file = "/etc/x.env"
        user = 1000
        group = "www-data"
        groups = ["video", 44]
        autostart = false
        leftovers = "keep"
        sockets = ["tcp:[::]:443", { listen = "unix:/run/x.sock", name = "ctl", backlog = 7, mode = "0600", owner = "www", group = 5 }]
        hold_for = "7s"
        when_down = "hold"
        ports = [65535, 1, 0x1f90]
        ready = { port = 8443 }
        inherit_env = ["TZ"]
        umask = "027"
        needs_files = ["/etc/x.conf"]
        service_group = "web"
        pid_file = "/run/x.pid"
        [service."a.b-1".restart]
        policy = "always"
        success_codes = [0, 143]
        never_codes = [78]
        immediate = 3
        backoff = { initial = "250us", factor = 1.5, max = "1m30s", jitter = 0 }
        max_restarts = 256
        window = "none"
        give_up = { retry_every = "6h" }
        reset_after = "1m"
        [service."a.b-1".stop]
        signal = "sigint"
        timeout = "0s"
        [service."a.b-1".log]
        capture = false
        layout = "per-start"
        streams = "apart"
        path = "/var/log/x"
        max_size = 0
        max_files = 9
        max_age = "7d"
        max_total = "2.5G"
        lines = 7
        memory = "64k"
        "#,
    );
    let launch = Launch {
        command: ["/bin/x", "", "a b"].map(str::to_owned).to_vec(),
        cwd: "/srv".into(),
        env: BTreeMap::from(
            [("A", "1"), ("b.c", "")].map(|(name, value)| (name.to_owned(), value.to_owned())),
        ),
        env_file: Some("/etc/x.env".into()),
        user: Some("1000".to_owned()),
        group: Some("www-data".to_owned()),
        groups: Some(vec!["video".to_owned(), "44".to_owned()]),
        inherit_env: BTreeSet::from(["TZ".to_owned()]),
        umask: 0o27,
        needs_files: vec!["/etc/x.conf".into()],
        sockets: vec![
            SocketSpec::new("tcp:[::]:443".parse().unwrap()),
            SocketSpec {
                name: Some("ctl".to_owned()),
                backlog: 7,
                mode: 0o600,
                owner: Some("www".to_owned()),
                group: Some("5".to_owned()),
                ..SocketSpec::new("unix:/run/x.sock".parse().unwrap())
            },
        ],
        hold_ports: BTreeSet::new(),
    };
    let log = LogSpec {
        capture: false,
        layout: LogLayout::PerStart,
        streams: LogStreams::Apart,
        path: Some("/var/log/x".into()),
        max_size: 0,
        max_files: 9,
        max_age: Some(secs(7 * 86_400)),
        max_total: Some(5 << 29),
        lines: 7,
        memory: 64 << 10,
    };
    let restart = RestartSpec {
        policy: Policy::Always,
        success_codes: BTreeSet::from([0, 143]),
        never_codes: BTreeSet::from([78]),
        immediate: 3,
        delays: Delays::Backoff(Backoff {
            initial: Duration::from_micros(250),
            factor: 1.5,
            max: secs(90),
            jitter: 0.0,
        }),
        max_restarts: Some(256),
        window: None,
        give_up: GiveUp::RetryEvery(secs(6 * 3600)),
        reset_after: secs(60),
    };
    assert_eq!(spec.name.as_str(), "a.b-1");
    assert_eq!(spec.description, "the ä service");
    assert_eq!((spec.autostart, spec.leftovers), (false, Leftovers::Keep));
    assert_eq!((spec.hold_for, spec.when_down), (Duration::from_secs(7), WhenDown::Hold));
    assert_eq!(spec.launch, launch);
    assert_eq!(spec.restart, restart);
    assert_eq!((spec.ports.clone(), spec.ready), ([1, 8080, 65535].into(), ReadySpec::Port(8443)));
    assert_eq!(spec.wanted_ports(), [1, 8080, 8443, 65535].into());
    assert_eq!(spec.log, log);
    assert_eq!(spec.service_group, Some("web".parse().unwrap()));
    assert_eq!(spec.pid_file, Some("/run/x.pid".into()));
    assert_eq!(spec.stop, StopSpec { signal: Signal(2), timeout: Duration::ZERO });
}

#[test]
fn a_command_line_is_split_by_the_rules_of_a_shell() {
    for (text, words) in [
        (r"/bin/x -a  b", &["/bin/x", "-a", "b"][..]),
        (r#"x 'a b' "c d" e\ f ''"#, &["x", "a b", "c d", "e f", ""]),
        (r#"sh -c "sleep 1; kill -SEGV $$""#, &["sh", "-c", "sleep 1; kill -SEGV $$"]),
        ("x *.c # no more", &["x", "*.c"]),
    ] {
        assert_eq!(service(&format!("[service.a]\ncommand = '''{text}'''")).launch.command, words);
    }
}

#[test]
fn a_services_own_keys_win_one_by_one() {
    let settings = good(
        r#"
        [defaults]
        cwd = "/d"
        env = { A = "d", B = "d" }
        stop = { signal = "INT", timeout = "1s" }
        restart = { policy = "always", window = "1h" }
        [service.own]
        command = "x"
        cwd = "/o"
        env.B = "o"
        stop.timeout = "2s"
        restart.window = "none"
        [service.plain]
        command = "x"
        "#,
    );
    let [own, plain] = &settings.services[..] else { panic!("two services") };
    assert_eq!((own.launch.cwd.as_path(), plain.launch.cwd.as_path()), (Path::new("/o"), Path::new("/d")));
    assert_eq!(own.launch.env.values().collect::<Vec<_>>(), ["d", "o"]);
    assert_eq!(own.stop, StopSpec { signal: Signal(2), timeout: secs(2) });
    assert_eq!(plain.stop, StopSpec { signal: Signal(2), timeout: secs(1) });
    assert_eq!((own.restart.policy, own.restart.window), (Policy::Always, None));
    assert_eq!((plain.restart.policy, plain.restart.window), (Policy::Always, Some(secs(3600))));
}

#[test]
fn a_service_may_go_back_to_the_readiness_that_is_built_in() {
    let settings = good(
        "defaults.ready = { port = 1 }\n[service.a]\ncommand = 'x'\n[service.b]\ncommand = 'x'\nready = 'exec'",
    );
    let ready: Vec<ReadySpec> = settings.services.iter().map(|service| service.ready).collect();
    assert_eq!(ready, [ReadySpec::Port(1), ReadySpec::Exec]);
    let all: Vec<String> = (1..=64).map(|port| port.to_string()).collect();
    let many = service(&format!("[service.a]\ncommand = 'x'\nports = [{}]", all.join(", ")));
    assert_eq!(many.ports.len(), ServiceSpec::MAX_PORTS);
}

#[test]
fn a_list_of_delays_leaves_no_immediate_restart_unless_one_is_given() {
    let list = |list: &[u64]| Delays::List(list.iter().copied().map(secs).collect());
    let spec = restart("", "delays = ['5s', '10s', '20s', '40s', '80s']");
    assert_eq!((spec.immediate, spec.delays), (0, list(&[5, 10, 20, 40, 80])));
    assert_eq!(restart("", "delays = ['1s'], immediate = 2").immediate, 2);
    assert_eq!(restart("immediate = 2", "delays = ['1s']").immediate, 2);
    // The nearer layer decides which kind of delays it is.
    let spec = restart("delays = ['1s']", "backoff = { factor = 3 }");
    assert_eq!(
        (spec.immediate, spec.delays),
        (1, Delays::Backoff(Backoff { factor: 3.0, ..Backoff::default() }))
    );
    let spec = restart("backoff = { initial = '1s' }", "delays = ['0s']");
    assert_eq!((spec.immediate, spec.delays), (0, list(&[0])));
    let spec = restart("backoff = { initial = '1s' }", "backoff = { max = '2s' }");
    assert_eq!(
        spec.delays,
        Delays::Backoff(Backoff { initial: secs(1), max: secs(2), ..Backoff::default() })
    );
}

#[test]
fn rules_between_keys_hold_between_layers_too() {
    let text = "defaults.restart = { never_codes = [3], backoff.initial = '10s' }\n\
                [service.a]\ncommand = 'x'\nrestart.success_codes = [0, 3]\nrestart.backoff.max = '5s'";
    assert_eq!(
        bad(text, &root()),
        [
            "f:4: service.a.restart.success_codes: exit code 3 is in both success_codes and never_codes",
            "f:5: service.a.restart.backoff.max: max is 5s, but must be at least initial, which is 10s",
        ]
    );
}

#[test]
fn no_text_means_no_service() {
    let settings = good("");
    assert_eq!(settings.services, []);
    assert_eq!(settings.daemon.state_dir, Path::new("/var/lib/defib"));
    assert_eq!(settings.daemon.runtime_dir, Path::new("/run/defib"));
    assert_eq!(settings.daemon.log_dir, Path::new("/var/log/defib"));
    assert_eq!(settings.daemon.source, SourceChoice::Auto);
}

#[test]
fn without_root_folders_are_those_of_the_user() {
    let folders = |variables: &[(&str, &str)]| {
        let daemon = parse("", &user(variables)).unwrap().daemon;
        [daemon.state_dir, daemon.runtime_dir, daemon.log_dir]
    };
    let xdg = [("HOME", "/h"), ("XDG_STATE_HOME", "/s"), ("XDG_RUNTIME_DIR", "/r")];
    assert_eq!(folders(&xdg), ["/s/defib", "/r/defib", "/s/defib/log"].map(PathBuf::from));
    let home = [("HOME", "/h"), ("XDG_STATE_HOME", "relative"), ("XDG_RUNTIME_DIR", "")];
    let state = "/h/.local/state/defib";
    assert_eq!(folders(&home), [state, "/tmp/defib-1000", "/h/.local/state/defib/log"].map(PathBuf::from));
    assert_eq!(
        bad("", &user(&[])),
        ["daemon.state_dir: missing, and neither XDG_STATE_HOME nor HOME is set to derive it from"]
    );
}

#[test]
fn flags_decide_over_variables_and_those_over_the_file() {
    let text = "[daemon]\nstate_dir = '/file'\nruntime_dir = '/file'\nlog_dir = '/file'\nsource = 'auto'";
    let flags =
        Flags { state_dir: Some("/flag".into()), source: Some("pidfd".to_owned()), ..Flags::default() };
    let variables = |name: &str| match name {
        "DEFIB_SOURCE" => Some("ebpf".into()),
        "DEFIB_STATE_DIR" | "DEFIB_RUNTIME_DIR" => Some("/variable".into()),
        _ => None,
    };
    let daemon = parse(text, &Overrides::new(flags, variables, 0)).unwrap().daemon;
    assert_eq!(daemon.state_dir, Path::new("/flag"));
    assert_eq!(daemon.runtime_dir, Path::new("/variable"));
    assert_eq!(daemon.log_dir, Path::new("/file"));
    assert_eq!(daemon.source, SourceChoice::Pidfd);
}

#[test]
fn bad_flags_and_variables_are_named() {
    let flags =
        Flags { state_dir: Some("here".into()), source: Some("kprobes".to_owned()), ..Flags::default() };
    let long = "/l".repeat(49);
    let variables = |name: &str| match name {
        "DEFIB_RUNTIME_DIR" => Some(long.as_str().into()),
        "DEFIB_LOG_DIR" => Some("./log".into()),
        _ => None,
    };
    let errors = bad("", &Overrides::new(flags, variables, 0));
    let cut = "/l".repeat(30);
    assert_eq!(
        errors,
        [
            "--source: found \"kprobes\", wanted \"auto\", \"ebpf\", \"proc-connector\" or \"pidfd\""
                .to_owned(),
            "--state-dir: found \"here\", wanted an absolute path".to_owned(),
            "DEFIB_LOG_DIR: found \"./log\", wanted an absolute path".to_owned(),
            format!(
                "DEFIB_RUNTIME_DIR: found \"{cut}\"…, wanted an absolute path of at most 96 bytes, \
                 because the address of the socket in it is limited"
            ),
        ]
    );
}

#[test]
fn the_configuration_is_looked_for_where_it_was_asked_for() {
    let (path, asked) = root().config();
    assert_eq!((path.as_path(), asked), (Path::new("/etc/defib/defib.toml"), false));
    let (path, asked) = user(&[("HOME", "/h")]).config();
    assert_eq!((path.as_path(), asked), (Path::new("/h/.config/defib/defib.toml"), false));
    let (path, asked) = user(&[("HOME", "/h"), ("XDG_CONFIG_HOME", "/c")]).config();
    assert_eq!((path.as_path(), asked), (Path::new("/c/defib/defib.toml"), false));
    let (path, asked) = user(&[("HOME", "/h"), ("DEFIB_CONFIG", "x.toml")]).config();
    assert_eq!((path.as_path(), asked), (Path::new("x.toml"), true));
}
