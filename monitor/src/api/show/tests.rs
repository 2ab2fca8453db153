use defib_core::model::{
    By, Holder, Incarnation, Reason, Signal, SourceName, StartFailure, StartFailureKind, State, TakenPort,
    Usage, WaitStatus,
};
use serde_json::{Value, json};

use super::*;
use crate::daemon::handle::Cpu;

const SEGV_CORE: WaitStatus = WaitStatus(11 | 0x80);
const KILLED: WaitStatus = WaitStatus(9);

fn json_of(value: &impl serde::Serialize) -> Value {
    serde_json::to_value(value).unwrap()
}

/// A minute ago.
fn moment() -> Tick {
    clock::now() - Duration::from_secs(60)
}

/// Replaces every time by `"TIME"`, once it has been seen to be RFC 3339 in UTC and about a minute ago.
fn timeless(mut value: Value) -> Value {
    if let Value::Object(object) = &mut value {
        for (key, value) in object.iter_mut() {
            match value {
                Value::String(text) if key == "at" || key.ends_with("_at") => {
                    let time: Timestamp = text.parse().unwrap();
                    assert!(
                        text.ends_with('Z') && text.len() <= "2026-08-03T14:03:22.118042Z".len(),
                        "{text}"
                    );
                    let ago = Timestamp::now().duration_since(time).as_secs_f64();
                    assert!((0.0..120.0).contains(&ago), "{text}");
                    *text = "TIME".to_owned();
                }
                Value::Object(_) => *value = timeless(value.take()),
                _ => {}
            }
        }
    }
    value
}

fn end(status: WaitStatus, oom: Option<bool>) -> End {
    let at = moment();
    End {
        status: Some(status),
        at,
        usage: Usage { user_us: 70_000, system_us: 30_000, max_rss_kib: 4, ..Usage::default() },
        oom,
        blame: Blame::Unknown,
    }
}

fn view() -> ServiceView {
    crate::api::tests::view("api")
}

#[test]
fn a_service_that_never_ran_has_every_key() {
    let shown = service(&view(), None, Vec::new(), clock::now());
    assert_eq!(
        serde_json::to_string(&shown).unwrap(),
        r#"{"name":"api","state":"stopped","pid":null,"incarnation":0,"ready":false,"healthy":null,"adopted":false,"#
            .to_owned()
            + r#""enabled":true,"paused":false,"paused_until":null,"group":null,"started_at":null,"uptime_seconds":null,"restarts":0,"last_exit":null,"#
            + r#""next_start_at":null,"cpu_seconds":null,"memory_bytes":null,"ports":[],"sockets":[],"description":"","why":""}"#
    );
    assert_eq!(serde_json::from_value::<Service>(json_of(&shown)).unwrap(), shown);
}

#[test]
fn a_service_that_runs_has_every_value() {
    let started = moment();
    let view = ServiceView {
        description: "the front door".to_owned(),
        state: State::Running,
        why: "replaced".to_owned(),
        pid: Some(4711),
        incarnation: Incarnation(3),
        ready: true,
        started: Some(started),
        restarts: 2,
        last_exit: Some(Ending {
            end: End { blame: Blame::Kernel { address: Some(0xdead) }, ..end(SEGV_CORE, Some(false)) },
            by: By::Itself,
        }),
        next_start: Some(started),
        ..view()
    };
    let cpu = Cpu { user: Duration::from_millis(1000), system: Duration::from_millis(250) };
    let usage = ProcessUsage { cpu, threads: 1, started, virtual_bytes: 1 << 20, resident_bytes: 8192 };
    let shown = service(&view, Some(usage), Vec::new(), started + Duration::from_millis(723_456));
    assert_eq!(
        timeless(json_of(&shown)),
        json!({
            "name": "api", "state": "running", "pid": 4711, "incarnation": 3, "ready": true, "healthy": null,
            "adopted": false, "enabled": true, "paused": false, "paused_until": null, "group": null, "started_at": "TIME", "uptime_seconds": 723.456, "restarts": 2,
            "last_exit": {
                "cause": "core", "by": "self", "code": null, "signal": "SIGSEGV", "core": true, "sender": null,
                "address": "0xdead", "at": "TIME", "unknown": [],
            },
            "next_start_at": "TIME", "cpu_seconds": 1.25, "memory_bytes": 8192, "ports": [], "sockets": [],
            "description": "the front door", "why": "replaced",
        })
    );
    assert_eq!(serde_json::from_value::<Service>(json_of(&shown)).unwrap(), shown);
}

/// Shows an event, and checks that a client reads it as it was written.
fn shown(event: journal::Event) -> Value {
    let at = moment();
    let event = super::event(&journal::Entry { seq: 7, at, event, apart: false });
    assert_eq!(serde_json::from_value::<Event>(json_of(&event)).unwrap(), event);
    timeless(json_of(&event))
}

fn told(what: Told) -> Value {
    let at = moment();
    let (service, incarnation) = ("api".parse().unwrap(), Incarnation(3));
    shown(journal::Event::Service(Record { at, service, incarnation, pid: Some(4711), what }))
}

fn seen(main: bool, fact: KernelFact) -> Value {
    let at = moment();
    let event = KernelEvent { at, pid: 4712, start: 1, slot: Some(1), main, name: None, fact };
    shown(journal::Event::Kernel { service: "api".parse().unwrap(), event })
}

#[test]
fn what_the_core_tells_is_shown_in_full() {
    let state = told(Told::State { from: State::Running, to: State::Crashed, why: "SIGSEGV".to_owned() });
    assert_eq!(
        state,
        json!({"seq": 7, "at": "TIME", "service": "api", "pid": 4711, "name": null, "kind": "state", "incarnation": 3,
            "from": "running", "to": "crashed", "why": "SIGSEGV"})
    );
    let restart = told(Told::Restart { reason: Reason::Signal, attempt: 2, delay_ns: 100_000_000 });
    assert_eq!(
        restart,
        json!({"seq": 7, "at": "TIME", "service": "api", "pid": 4711, "name": null, "kind": "restart", "incarnation": 3,
            "reason": "signal", "attempt": 2, "delay_seconds": 0.1})
    );
    let failure = StartFailure {
        kind: StartFailureKind::Exec,
        call: "execve /no".to_owned(),
        errno: Some(2),
        error: "No such file or directory (ENOENT)".to_owned(),
        remedy: "install it".to_owned(),
    };
    assert_eq!(
        told(Told::StartFailed { failure }),
        json!({"seq": 7, "at": "TIME", "service": "api", "pid": 4711, "name": null, "kind": "exec", "ok": false, "main": true,
            "filename": null, "incarnation": 3, "reason": "exec", "call": "execve /no", "errno": 2,
            "error": "No such file or directory (ENOENT)", "remedy": "install it"})
    );
}

#[test]
fn an_end_says_what_is_not_known() {
    let end = end(KILLED, None);
    let started = Some(end.at - Duration::from_secs(3));
    assert_eq!(
        told(Told::Exit { ending: Ending { end, by: By::Stop }, started }),
        json!({"seq": 7, "at": "TIME", "service": "api", "pid": 4711, "name": null, "kind": "exit", "main": true,
            "incarnation": 3, "cause": "signal", "by": "stop", "code": null, "signal": "SIGKILL", "core": false,
            "oom": null, "sender": null, "address": null, "ran_seconds": 3.0, "cpu_seconds": 0.1,
            "max_rss_bytes": 4096, "unknown": ["oom", "sender"]})
    );
}

#[test]
fn only_a_sigkill_can_be_the_oom_killers() {
    for (status, oom, shown) in [
        (KILLED, Some(true), Some(true)),
        (KILLED, Some(false), Some(false)),
        (KILLED, None, None),
        (SEGV_CORE, None, Some(false)),
        (WaitStatus(0x100), None, Some(false)),
    ] {
        assert_eq!(exit(&end(status, oom), true).oom, shown, "{status:?} {oom:?}");
    }
}

#[test]
fn what_the_kernel_tells_is_shown_in_full() {
    assert_eq!(
        seen(true, KernelFact::Exec { filename: "/bin/api".to_owned() }),
        json!({"seq": 7, "at": "TIME", "service": "api", "pid": 4712, "name": null, "kind": "exec", "ok": true, "main": true,
            "filename": "/bin/api"})
    );
    assert_eq!(
        seen(false, KernelFact::Fork { parent: 4711 }),
        json!({"seq": 7, "at": "TIME", "service": "api", "pid": 4712, "name": null, "kind": "fork", "parent": 4711, "main": false})
    );
    assert_eq!(
        seen(false, KernelFact::Oom),
        json!({"seq": 7, "at": "TIME", "service": "api", "pid": 4712, "name": null, "kind": "oom", "main": false})
    );
    assert_eq!(
        seen(
            false,
            KernelFact::Exit(Witness {
                status: Some(WaitStatus(0x200)),
                oom: Some(false),
                ..Witness::default()
            })
        ),
        json!({"seq": 7, "at": "TIME", "service": "api", "pid": 4712, "name": null, "kind": "exit", "main": false,
            "incarnation": null, "cause": "exit", "by": null, "code": 2, "signal": null, "core": false,
            "oom": false, "sender": null, "address": null, "ran_seconds": null, "cpu_seconds": null,
            "max_rss_bytes": null, "unknown": []})
    );
}

#[test]
fn a_signal_has_a_sender_or_an_address_or_is_the_kernels() {
    let sender =
        defib_core::model::Sender { signal: Signal::TERM, pid: 812, uid: 1000, name: "deploy".to_owned() };
    let shown = json!({"signal": "SIGTERM", "pid": 812, "uid": 1000, "name": "deploy"});
    for (blame, sender, address) in [
        (Blame::Process(sender), shown, Value::Null),
        (Blame::Kernel { address: Some(u64::MAX) }, Value::Null, json!("0xffffffffffffffff")),
        (Blame::Kernel { address: None }, Value::Null, Value::Null),
    ] {
        assert_eq!(
            seen(true, KernelFact::Signal { signal: Signal::TERM, blame }),
            json!({"seq": 7, "at": "TIME", "service": "api", "pid": 4712, "name": null, "kind": "signal",
                "main": true, "signal": "SIGTERM", "sender": sender, "address": address, "unknown": []})
        );
    }
}

#[test]
fn an_end_whose_status_nobody_knows_says_so() {
    assert_eq!(
        seen(false, KernelFact::Exit(Witness::default())),
        json!({"seq": 7, "at": "TIME", "service": "api", "pid": 4712, "name": null, "kind": "exit", "main": false,
            "incarnation": null, "cause": null, "by": null, "code": null, "signal": null, "core": false,
            "oom": null, "sender": null, "address": null, "ran_seconds": null, "cpu_seconds": null,
            "max_rss_bytes": null, "unknown": ["status"]})
    );
}

#[test]
fn a_taken_port_names_its_holder() {
    let taken = |holder| Told::PortTaken(TakenPort { port: 80, holder });
    let holder = Holder { pid: 9, name: "nginx".to_owned() };
    for (holder, shown) in [(Some(holder), json!({"pid": 9, "name": "nginx"})), (None, Value::Null)] {
        assert_eq!(
            told(taken(holder)),
            json!({"seq": 7, "at": "TIME", "service": "api", "pid": 4711, "name": null, "kind": "port", "port": 80,
                "holder": shown})
        );
    }
    assert_eq!(
        told(Told::Listen { port: 80 }),
        json!({"seq": 7, "at": "TIME", "service": "api", "pid": 4711, "name": null, "kind": "listen", "port": 80})
    );
}

#[test]
fn a_loss_names_its_source() {
    assert_eq!(
        shown(journal::Event::Lost { source: SourceName::Ebpf, count: 12 }),
        json!({"seq": 7, "at": "TIME", "service": null, "pid": null, "name": null, "kind": "lost", "source": "ebpf", "count": 12})
    );
}
