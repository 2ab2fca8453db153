//! Every value of every profile, and what stands above them.

use std::time::Duration;

use defib_core::model::{
    Delays, GiveUp, Launch, Leftovers, LogLayout, LogSpec, LogStreams, Policy, RestartSpec, ServiceSpec,
    Signal, StopSpec,
};

use super::{bad, good, root};

const fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

fn list(delays: &[u64]) -> Delays {
    Delays::List(delays.iter().copied().map(secs).collect())
}

/// A service under a profile, and further lines of `[defaults]`.
#[track_caller]
fn under(profile: &str, more: &str) -> ServiceSpec {
    let text = format!("[defaults]\nprofile = '{profile}'\n{more}\n[service.a]\ncommand = 'x'\n");
    std::sync::Arc::unwrap_or_clone(good(&text).services.remove(0))
}

/// The service without a profile.
fn plain() -> ServiceSpec {
    ServiceSpec {
        launch: Launch::new(vec!["x".to_owned()]),
        ..std::sync::Arc::unwrap_or_clone(good("[service.a]\ncommand = 'x'").services.remove(0))
    }
}

#[test]
fn flowless() {
    let spec = ServiceSpec {
        restart: RestartSpec {
            policy: Policy::Always,
            immediate: 0,
            delays: list(&[5, 10, 20, 40, 80]),
            max_restarts: Some(5),
            window: Some(secs(300)),
            give_up: GiveUp::Fail,
            reset_after: secs(300),
            ..RestartSpec::default()
        },
        stop: StopSpec { signal: Signal::TERM, timeout: secs(30) },
        log: LogSpec {
            max_size: 100 << 20,
            max_total: Some(1 << 30),
            max_age: Some(secs(7 * 86_400)),
            ..LogSpec::default()
        },
        ..plain()
    };
    assert_eq!(under("flowless", ""), spec);
}

#[test]
fn dixwatcher() {
    let spec = ServiceSpec {
        restart: RestartSpec {
            policy: Policy::OnFailure,
            immediate: 0,
            delays: list(&[5]),
            max_restarts: Some(5),
            window: None,
            give_up: GiveUp::Fail,
            ..RestartSpec::default()
        },
        stop: StopSpec { signal: Signal::TERM, timeout: secs(10) },
        log: LogSpec { capture: true, streams: LogStreams::Joined, lines: 1000, ..LogSpec::default() },
        ..plain()
    };
    assert_eq!(under("dixwatcher", ""), spec);
}

#[test]
fn flowweaver() {
    let spec = ServiceSpec {
        autostart: false,
        restart: RestartSpec { policy: Policy::Never, success_codes: [0].into(), ..RestartSpec::default() },
        stop: StopSpec { signal: Signal::TERM, ..StopSpec::default() },
        ..plain()
    };
    assert_eq!(under("flowweaver", ""), spec);
}

#[test]
fn processmonitor() {
    let spec = ServiceSpec {
        restart: RestartSpec {
            policy: Policy::OnFailure,
            immediate: 0,
            delays: list(&[1, 2, 5]),
            max_restarts: Some(5),
            window: None,
            give_up: GiveUp::Fail,
            reset_after: secs(300),
            ..RestartSpec::default()
        },
        log: LogSpec { layout: LogLayout::PerStart, streams: LogStreams::Apart, ..LogSpec::default() },
        ..plain()
    };
    assert_eq!(under("processmonitor", ""), spec);
}

#[test]
fn lifecycle() {
    let spec = ServiceSpec {
        restart: RestartSpec {
            policy: Policy::Always,
            immediate: 0,
            delays: list(&[10]),
            max_restarts: Some(5),
            window: Some(secs(600)),
            give_up: GiveUp::Fail,
            ..RestartSpec::default()
        },
        ..plain()
    };
    assert_eq!(under("lifecycle", ""), spec);
}

#[test]
fn what_defaults_say_themselves_stands_above() {
    let spec = under("flowless", "restart = { max_restarts = 9 }\nstop.timeout = '1s'\nleftovers = 'keep'");
    assert_eq!((spec.restart.max_restarts, spec.restart.window), (Some(9), Some(secs(300))));
    assert_eq!(spec.restart.delays, list(&[5, 10, 20, 40, 80]));
    assert_eq!((spec.stop.timeout, spec.leftovers), (secs(1), Leftovers::Keep));
    // Also the kind of the delays: those of the profile give way, and with them what follows from a list.
    let spec = under("flowless", "restart.backoff.max = '1h'");
    assert!(matches!(&spec.restart.delays, Delays::Backoff(backoff) if backoff.max == secs(3600)));
    assert_eq!(spec.restart.immediate, 1);
    // And the service above both.
    let text = "[defaults]\nprofile = 'flowless'\n[service.a]\ncommand = 'x'\nrestart.max_restarts = 7";
    assert_eq!(good(text).services[0].restart.max_restarts, Some(7));
}

#[test]
fn a_profile_that_does_not_exist_is_refused_with_those_that_do() {
    const THERE: &str = "\"flowless\", \"dixwatcher\", \"flowweaver\", \"processmonitor\" or \"lifecycle\"";
    for (value, found) in [("'flowles'", "the string \"flowles\""), ("5", "the integer 5"), ("{}", "a table")]
    {
        assert_eq!(
            bad(&format!("[defaults]\nprofile = {value}"), &root()),
            [format!("f:2: defaults.profile: found {found}, wanted {THERE}")]
        );
    }
    let text = "[service.a]\ncommand = 'x'\nprofile = 'flowless'";
    assert!(bad(text, &root())[0].starts_with("f:3: service.a.profile: unknown key"));
}
