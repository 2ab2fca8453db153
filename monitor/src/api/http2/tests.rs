//! Clients with much patience, and limits with none.

use axum::http::StatusCode;
use http_body_util::Empty;
use hyper::client::conn::http2::{SendRequest, handshake};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::task::JoinHandle;

use super::*;

const QUICK: Duration = Duration::from_millis(200);

/// How long anything may take that should be quick, and what is not meant to end meanwhile: machines are shared.
const PATIENCE: Duration = Duration::from_secs(60);

struct Served {
    client: DuplexStream,
    places: Arc<Semaphore>,
    /// Lets one request be answered that waits at `/slow`.
    go: Arc<Semaphore>,
    stop: watch::Sender<bool>,
    task: JoinHandle<hyper::Result<()>>,
}

/// A connection on which a request beside another takes one of these places.
fn served(head: Duration, longest: Duration, places: usize) -> Served {
    let (client, server) = tokio::io::duplex(4096);
    let (places, go) = (Arc::new(Semaphore::new(places)), Arc::new(Semaphore::new(0)));
    let waits = Arc::clone(&go);
    let slow = async move || {
        waits.acquire().await.unwrap().forget();
        "x".repeat(100_000)
    };
    let app = Router::new()
        .route("/slow", axum::routing::get(slow))
        .route("/last", axum::routing::get(async || [(header::CONNECTION, "close")]));
    let full = Router::new().fallback(async || StatusCode::SERVICE_UNAVAILABLE);
    let room = Room { places: Arc::clone(&places), full, longest };
    let (stop, stopping) = watch::channel(false);
    let task = tokio::spawn(serve(server, app, room, head, stopping));
    Served { client, places, go, stop, task }
}

/// The end of the connection.
async fn ended(task: JoinHandle<hyper::Result<()>>) {
    drop(tokio::time::timeout(PATIENCE, task).await.expect("it ends").unwrap());
}

async fn client(stream: DuplexStream) -> SendRequest<Empty<Bytes>> {
    let (sender, connection) = handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    sender
}

fn get(path: &str) -> Request<Empty<Bytes>> {
    Request::get(format!("http://x{path}")).body(Empty::new()).unwrap()
}

/// The preface and settings with a window of nothing: no byte of a body can be sent.
const DEAF: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\x06\x04\0\0\0\0\0\0\x04\0\0\0\0";

/// `GET /slow` on a stream.
fn slow(stream: u8) -> Vec<u8> {
    [b"\0\0\x0c\x01\x05\0\0\0", &[stream][..], b"\x82\x86\x41\x01x\x04\x05/slow"].concat()
}

#[tokio::test]
async fn who_is_silent_or_does_not_read_is_let_go() {
    for (said, head, longest) in [
        (Vec::new(), QUICK, PATIENCE),
        (DEAF.to_vec(), QUICK, PATIENCE),
        ([DEAF, &slow(1)].concat(), PATIENCE, QUICK),
    ] {
        let mut served = served(head, longest, 1);
        served.go.add_permits(1);
        served.client.write_all(&said).await.unwrap();
        ended(served.task).await;
        let mut heard = Vec::new();
        served.client.read_to_end(&mut heard).await.unwrap();
        assert!(heard.len() < 1000, "{}", heard.len());
    }
}

#[tokio::test]
async fn who_asks_and_gives_up_again_and_again_is_let_go() {
    let mut served = served(PATIENCE, PATIENCE, 1);
    served.client.write_all(DEAF).await.unwrap();
    for stream in (0..=GIVEN_UP as u8 + 1).map(|n| 2 * n + 1) {
        let reset = [b"\0\0\x04\x03\0\0\0\0", &[stream][..], b"\0\0\0\x08"].concat();
        for bytes in [slow(stream), reset] {
            // It may have ended already.
            served.client.write_all(&bytes).await.ok();
            // Each is looked at on its own: what comes all at once is h2's business.
            for _ in 0..20 {
                tokio::task::yield_now().await;
            }
        }
    }
    ended(served.task).await;
    assert_eq!(served.places.available_permits(), 1);
}

#[tokio::test]
async fn each_request_beside_another_takes_a_place() {
    let served = served(PATIENCE, PATIENCE, 1);
    let mut client = client(served.client).await;
    let mut waiting = Vec::new();
    for places in [1, 0] {
        waiting.push(tokio::spawn(client.send_request(get("/slow"))));
        while served.places.available_permits() != places {
            tokio::task::yield_now().await;
        }
        // The first takes none: that it has come is seen by the one that is answered beside it.
        if places == 1 {
            let beside = client.send_request(get("/nothing")).await.unwrap();
            assert_eq!(beside.status(), StatusCode::NOT_FOUND);
            drop(beside);
            while served.places.available_permits() != places {
                tokio::task::yield_now().await;
            }
        }
    }
    assert_eq!(client.send_request(get("/slow")).await.unwrap().status(), StatusCode::SERVICE_UNAVAILABLE);
    served.go.add_permits(2);
    for answer in waiting {
        let answer = answer.await.unwrap().unwrap();
        assert_eq!(answer.into_body().collect().await.unwrap().to_bytes().len(), 100_000);
    }
    while served.places.available_permits() != 1 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn what_is_under_way_at_the_end_is_answered() {
    let mut silent = served(PATIENCE, PATIENCE, 1);
    silent.client.write_all(DEAF).await.unwrap();
    silent.stop.send_replace(true);
    ended(silent.task).await;

    let served = served(PATIENCE, PATIENCE, 1);
    let mut client = client(served.client).await;
    let waiting = tokio::spawn(client.send_request(get("/slow")));
    let beside = client.send_request(get("/nothing")).await.unwrap();
    assert_eq!(beside.status(), StatusCode::NOT_FOUND, "the other is under way");
    served.stop.send_replace(true);
    served.go.add_permits(1);
    let answer = waiting.await.unwrap().unwrap();
    assert_eq!(answer.into_body().collect().await.unwrap().to_bytes().len(), 100_000);
    ended(served.task).await;
}

#[tokio::test]
async fn an_answer_that_says_so_is_the_last() {
    let served = served(PATIENCE, PATIENCE, 1);
    let mut client = client(served.client).await;
    let answer = client.send_request(get("/last")).await.unwrap();
    assert!(answer.status() == StatusCode::OK && !answer.headers().contains_key(header::CONNECTION));
    ended(served.task).await;
}
