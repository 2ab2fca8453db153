//! The API as a client meets it: real sockets, the real client, a daemon that is played by the test.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::Extension;
use defib_core::model::{Incarnation, LogSpec, Record, ServiceView, SourceName, State, Tick, What as Told};
use defib_core::{Reply, Verb};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};

use super::peer::Peer;
use super::routes;
use super::server::{Limits, serve_within};
use super::types::{Event, Progress, What};
use crate::client::{Client, Error};
use crate::daemon::handle::{Ask, BootFile, Handle};
use crate::daemon::journal::{Event as Happened, Journal, JournalWriter};
use crate::effect::holders::Household;
use crate::effect::output::handle::Held;
use crate::effect::output::{self, Logs};

const QUICK: Duration = Duration::from_millis(200);

/// How long anything may take that should be quick: machines are shared.
const PATIENCE: Duration = Duration::from_secs(60);

/// A daemon whose supervisor thread is the test.
pub(super) struct World {
    folder: TempDir,
    pub(super) handle: Handle,
    pub(super) asks: mpsc::Receiver<Ask>,
    writer: JournalWriter,
    pub(super) views: watch::Sender<crate::daemon::handle::Views>,
    _tasks: JoinSet<()>,
}

pub(super) fn view(name: &str) -> ServiceView {
    ServiceView {
        name: name.parse().unwrap(),
        description: String::new(),
        state: State::Stopped,
        why: String::new(),
        pid: None,
        incarnation: Incarnation(0),
        ready: false,
        wanted: true,
        enabled: name != "off",
        paused: None,
        group: None,
        adopted: false,
        started: None,
        restarts: 0,
        ports: Vec::new(),
        sockets: Vec::new(),
        last_exit: None,
        next_start: None,
    }
}

pub(super) fn world() -> World {
    let (ask, asks) = mpsc::channel(8);
    let names = ["api", "db", "off"].map(view).map(|view| (view.name.clone(), Arc::new(view)));
    let (views, views_seen) = watch::channel(Arc::new(BTreeMap::from(names)));
    let (writer, journal, waiting) = Journal::new(1, Vec::new());
    let mut tasks = JoinSet::new();
    tasks.spawn(Arc::clone(&journal).run(waiting));
    let household = Household { cgroups: None, keeper: std::process::id() };
    // Nobody moves while a test runs.
    let (_, tenants) = watch::channel(Arc::default());
    let folder = tempfile::tempdir().unwrap();
    let boot = BootFile::of(folder.path());
    let held = Held { ledger: output::handle::ledger(None, &[]).unwrap(), folder: None };
    let (logs, _) = Logs::start(folder.path().join("log"), held).unwrap();
    for name in ["api", "db", "off"] {
        logs.configure(&name.parse().unwrap(), &LogSpec::default());
    }
    let handle =
        Handle::new(ask, views_seen, journal, SourceName::Scripted, None, tenants, household, boot, logs);
    World { folder, handle, asks, writer, views, _tasks: tasks }
}

/// A server for a world; ends with what is returned.
struct Served {
    socket: PathBuf,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Served {
    fn client(&self) -> Client {
        Client::at(&self.socket)
    }

    /// Sends bytes on a new connection, and returns what comes back until the server closes it.
    async fn raw(&self, bytes: &[u8]) -> String {
        let mut stream = UnixStream::connect(&self.socket).await.unwrap();
        // The server may close before it has read everything.
        drop(stream.write_all(bytes).await);
        let mut answer = Vec::new();
        drop(stream.read_to_end(&mut answer).await);
        String::from_utf8_lossy(&answer).into_owned()
    }
}

fn limits() -> Limits {
    Limits { operators: 4, readers: 1, head: QUICK, body: QUICK, drain: QUICK }
}

fn serve(world: &World) -> Served {
    let socket = world.folder.path().join("defib.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let (stop, stopping) = watch::channel(false);
    let task = tokio::spawn(serve_within(limits(), listener, world.handle.clone(), stopping));
    Served { socket, stop, task }
}

/// Answers the next request, and returns what was asked.
async fn answer(asks: &mut mpsc::Receiver<Ask>, with: Reply) -> (String, Verb) {
    match asks.recv().await.unwrap() {
        Ask::Verb { service, verb, reply } => {
            reply.send(with).unwrap();
            (service.to_string(), verb)
        }
        Ask::Reload { .. } | Ask::Shutdown { .. } | Ask::Leave | Ask::Restart { .. } | Ask::Stats { .. } => {
            panic!("something else was asked for")
        }
    }
}

fn tell(world: &mut World, name: &str) {
    let what = Told::State { from: State::Stopped, to: State::Starting, why: String::new() };
    let record =
        Record { at: Tick(1), service: name.parse().unwrap(), incarnation: Incarnation(1), pid: None, what };
    world.writer.tell(Tick(1), Happened::Service(record));
}

#[tokio::test]
async fn verbs_reach_the_supervisor_and_its_answers_the_client() {
    let mut world = world();
    let served = serve(&world);
    let (client, api) = (served.client(), "api".parse().unwrap());
    let reply = Reply::Done("already running".to_owned());
    let (done, asked) = tokio::join!(client.act(&api, Verb::Start, true), answer(&mut world.asks, reply));
    assert_eq!(asked, ("api".to_owned(), Verb::Start));
    let done = done.unwrap();
    assert_eq!((done.result, done.detail.as_str()), (Progress::Done, "already running"));

    let kill = Verb::Kill(defib_core::model::Signal(1));
    let reply = Reply::Failed("api has no process".to_owned());
    let (failed, asked) = tokio::join!(client.act(&api, kill, true), answer(&mut world.asks, reply));
    assert_eq!(asked.1, kill);
    assert!(matches!(failed, Err(Error::Failed(why)) if why == "api has no process"));

    let (refused, _) =
        tokio::join!(client.act(&api, Verb::Start, true), answer(&mut world.asks, Reply::Disabled));
    assert!(matches!(refused, Err(Error::Disabled(_))));

    let accepted = client.act(&api, Verb::Stop, false).await.unwrap();
    assert_eq!(accepted.result, Progress::Accepted);
    let off = "off".parse().unwrap();
    assert!(matches!(client.act(&off, Verb::Start, false).await, Err(Error::Disabled(_))));
}

#[tokio::test]
async fn an_unknown_name_is_answered_with_the_nearest() {
    let world = world();
    let served = serve(&world);
    let error = served.client().act(&"apo".parse().unwrap(), Verb::Stop, true).await.unwrap_err();
    assert_eq!(error.to_string(), "no service is named \"apo\"; did you mean api?");
    assert!(matches!(error, Error::NotFound(_)));
    let answer = served.raw(b"GET /v1/status/apo HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
    assert!(
        answer.starts_with("HTTP/1.1 404 Not Found\r\ncontent-type: application/problem+json\r\n"),
        "{answer}"
    );
    assert!(answer.contains(r#""type":"about:blank","title":"Not Found","status":404,"#), "{answer}");
    assert!(answer.ends_with(r#""code":"not-found","nearest":["api"]}"#), "{answer}");
}

#[tokio::test]
async fn the_status_is_that_of_the_view() {
    let world = world();
    let served = serve(&world);
    let status = served.client().status().await.unwrap();
    let names: Vec<_> = status.services.iter().map(|service| service.name.as_str()).collect();
    assert_eq!((names, status.source), (vec!["api", "db", "off"], SourceName::Scripted));
    let off = served.client().service(&"off".parse().unwrap()).await.unwrap();
    assert_eq!((off.state, off.enabled), (State::Stopped, false));
}

#[tokio::test]
async fn a_reader_may_look_but_not_act() {
    let mut world = world();
    let socket = world.folder.path().join("reader.sock");
    let listener = UnixListener::bind(&socket).unwrap();
    let (_stop, stopping) = watch::channel(false);
    let app = routes::router(world.handle.clone(), stopping, QUICK).layer(Extension(Peer::Reader { uid: 7 }));
    let task = tokio::spawn(async move { axum::serve(listener, app).await });
    let client = Client::at(&socket);
    assert_eq!(client.status().await.unwrap().services.len(), 3);
    assert_eq!(client.events(None, None).await.unwrap(), []);
    let api = "api".parse().unwrap();
    for verb in [Verb::Start, Verb::Stop, Verb::Kill(defib_core::model::Signal::KILL)] {
        assert!(matches!(client.act(&api, verb, true).await, Err(Error::Denied(_))));
    }
    assert!(matches!(client.shutdown(true, false).await, Err(Error::Denied(_))));
    assert!(matches!(client.set_boot(&api, false).await, Err(Error::Denied(_))));
    assert!(matches!(client.inspect(&api, 1).await, Err(Error::Denied(_))), "it tells what the kernel hides");
    assert_eq!(client.usage().await.unwrap().services.len(), 3);
    assert!(world.asks.try_recv().is_err(), "nothing has reached the supervisor");
    task.abort();
}

#[tokio::test]
async fn a_stream_resumes_without_a_gap_or_a_double() {
    let mut world = world();
    let served = serve(&world);
    for _ in 0..3 {
        tell(&mut world, "api");
    }
    let mut events = served.client().follow(None, None).await.unwrap();
    let mut last = 0;
    for wanted in 1..=3 {
        last = events.next().await.unwrap().unwrap().seq.unwrap();
        assert_eq!(last, wanted);
    }
    drop(events);
    tell(&mut world, "db");
    let mut events = served.client().follow(Some(last), None).await.unwrap();
    tell(&mut world, "api");
    for wanted in 4..=5 {
        assert_eq!(events.next().await.unwrap().unwrap().seq, Some(wanted));
    }

    let answer = served
        .raw(b"GET /v1/events?after=1 HTTP/1.1\r\nhost: x\r\nlast-event-id: 4\r\nconnection: close\r\n\r\n");
    let answer = answer.await;
    let (_, body) = answer.split_once("\r\n\r\n").unwrap();
    let list: Vec<Event> = serde_json::from_str(body).unwrap();
    assert_eq!(list.iter().map(|event| event.seq).collect::<Vec<_>>(), [Some(5)], "the header decides");

    let db = "db".parse().unwrap();
    let list = served.client().events(None, Some(&db)).await.unwrap();
    assert_eq!(list.iter().map(|event| event.seq).collect::<Vec<_>>(), [Some(4)]);
    assert!(matches!(list[0].what, What::State { .. }));

    tell(&mut world, "api");
    served.stop.send(true).unwrap();
    assert_eq!(events.next().await.unwrap().map(|event| event.seq), Some(Some(6)), "told in the last moment");
    assert!(events.next().await.unwrap().is_none(), "the stream ends with the daemon");
    served.task.await.unwrap();
}

#[tokio::test]
async fn nonsense_is_refused_and_served_on() {
    let world = world();
    let served = serve(&world);
    let post = |path: &str, body: &str| {
        let length = body.len();
        format!(
            "POST {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n{body}"
        )
    };
    let kill = "/v1/services/api/kill";
    for (request, status, code) in [
        (post(kill, "{\"signal\":\"NOPE\"}"), "400", "bad-request"),
        (post(kill, "{\"signal\":9}"), "400", "bad-request"),
        (post(kill, &"[".repeat(60_000)), "400", "bad-request"),
        (post(kill, &" ".repeat(65_537)), "413", "bad-request"),
        (post("/v1/shutdown", "\u{0}\u{1}"), "400", "bad-request"),
        (post("/v1/services/api/explode", ""), "404", "not-found"),
        (post("/v1/services/%ff%fe/stop", ""), "400", "bad-request"),
        (post("/v1/services/..%2f..%2fx/stop", ""), "404", "not-found"),
        (post("/v1/services/api/stop?wait=perhaps", ""), "400", "bad-request"),
        (post("/v1/status", ""), "405", "bad-request"),
        (post("/nowhere", ""), "404", "not-found"),
        (
            post("/v1/events", "").replace("POST", "GET").replace("events", "events?after=-1"),
            "400",
            "bad-request",
        ),
    ] {
        let answer = served.raw(request.as_bytes()).await;
        let line = &request[..request.len().min(60)];
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{line}: {answer}");
        assert!(answer.contains("application/problem+json"), "{line}: {answer}");
        assert!(answer.contains(&format!("\"code\":\"{code}\"")), "{line}: {answer}");
    }
    for garbage in [&b"\0\x01\x02\xff\xfe\r\n\r\n"[..], b"GET\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00"] {
        let answer = served.raw(garbage).await;
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400"), "{answer}");
    }
    let head = format!("GET /v1/status HTTP/1.1\r\nx: {}\r\n\r\n", "y".repeat(100_000));
    assert!(served.raw(head.as_bytes()).await.starts_with("HTTP/1.1 431"));
    assert!(served.client().status().await.is_ok());
}

#[tokio::test]
async fn who_does_not_go_on_is_let_go() {
    let world = world();
    let served = serve(&world);
    let slow_body = b"POST /v1/shutdown HTTP/1.1\r\nhost: x\r\ncontent-length: 10\r\n\r\n{";
    let slow_head = b"GET /v1/status HT";
    let idle = b"GET /v1/status/api HTTP/1.1\r\nhost: x\r\n\r\n";
    let all = async {
        tokio::join!(served.raw(slow_body), served.raw(slow_head), served.raw(b""), served.raw(idle))
    };
    let (body, head, nothing, idle) = tokio::time::timeout(PATIENCE, all).await.unwrap();
    assert!(body.starts_with("HTTP/1.1 408"), "{body}");
    assert!(head.is_empty() || head.starts_with("HTTP/1.1 408"), "{head}");
    assert!(nothing.is_empty() || nothing.starts_with("HTTP/1.1 408"), "{nothing}");
    assert!(idle.starts_with("HTTP/1.1 200"), "{idle}");
}

#[tokio::test]
async fn one_connection_too_many_is_told_so() {
    let world = world();
    let served = serve(&world);
    let mut streams = Vec::new();
    for _ in 0..limits().operators {
        streams.push(served.client().follow(None, None).await.unwrap());
    }
    let error = served.client().status().await.unwrap_err();
    assert!(error.to_string().contains("too many connections"), "{error}");
    streams.pop();
    while served.client().status().await.is_err() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_full_queue_and_a_leaving_daemon_are_no_waiting_rooms() {
    let mut world = world();
    let served = serve(&world);
    let client = served.client();
    let api = "api".parse().unwrap();
    for _ in 0..8 {
        client.act(&api, Verb::Stop, false).await.unwrap();
    }
    let error = client.act(&api, Verb::Stop, true).await.unwrap_err();
    assert!(error.to_string().contains("try again"), "{error}");
    world.asks.close();
    while world.asks.try_recv().is_ok() {}
    let error = client.act(&api, Verb::Stop, true).await.unwrap_err();
    assert!(error.to_string().contains("shutting down"), "{error}");
}

#[tokio::test]
async fn a_shutdown_says_whether_it_hurries() {
    let mut world = world();
    let served = serve(&world);
    for hurry in [false, true] {
        served.client().shutdown(hurry, false).await.unwrap();
        let ask = world.asks.recv().await.unwrap();
        assert!(matches!(ask, Ask::Shutdown { hurry: asked } if asked == hurry));
    }
    served.client().shutdown(false, true).await.unwrap();
    assert!(matches!(world.asks.recv().await.unwrap(), Ask::Leave));
    // Without a body it does not.
    let answer = served.raw(b"POST /v1/shutdown HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 202"), "{answer}");
    assert!(matches!(world.asks.recv().await.unwrap(), Ask::Shutdown { hurry: false }));
}

#[tokio::test]
async fn whether_a_service_starts_with_defib_is_kept_and_shown() {
    let world = world();
    let served = serve(&world);
    let client = served.client();
    let api = "api".parse().unwrap();
    let answer = client.set_boot(&api, false).await.unwrap();
    assert_eq!((answer.verb.as_str(), answer.detail.as_str()), ("boot", "does not start with defib"));
    let found = client.inspect(&api, 10).await.unwrap();
    assert_eq!((found.boot, found.pid, found.notes), (Some(false), None, vec![]));
    assert_eq!(client.inspect(&"db".parse().unwrap(), 10).await.unwrap().boot, None);
    let unknown = client.set_boot(&"apj".parse().unwrap(), true).await.unwrap_err();
    assert!(matches!(&unknown, Error::NotFound(text) if text.contains("did you mean api?")), "{unknown}");
    let too_many = client.inspect(&api, 5000).await.unwrap_err();
    assert!(too_many.to_string().contains("at most 4096"), "{too_many}");
    let empty =
        served.raw(b"POST /v1/services/api/boot HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await;
    assert!(empty.starts_with("HTTP/1.1 400") && empty.contains("{\\\"start\\\":true}"), "{empty}");
}
