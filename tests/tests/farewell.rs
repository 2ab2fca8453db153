//! Clients that have connected when the daemon leaves for another, and ask only then.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;

use defib_tests::{Daemon, http, lives, metrics_address, patience, patiently};

/// A connection to either of the two sockets.
trait Line: Read + Write {}
impl<T: Read + Write> Line for T {}

fn connect(daemon: &Daemon) -> UnixStream {
    let stream = UnixStream::connect(daemon.path("run/defib.sock")).expect("the API's socket");
    stream.set_read_timeout(Some(patience())).expect("a socket");
    stream
}

/// What comes back for a request.
fn ask(stream: &mut impl Line, request: &str) -> Option<http::Answer> {
    stream
        .write_all(format!("{request} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").as_bytes())
        .ok()?;
    http::answer(&http::read(stream))
}

/// Connects, lets defib restart itself, asks when the daemon has begun to leave, and returns what was answered.
fn round(daemon: &Daemon) -> Vec<Option<http::Answer>> {
    let old = daemon.daemon();
    let address = metrics_address(daemon);
    let (mut follower, mut api) = (connect(daemon), connect(daemon));
    let mut scraper: TcpStream = http::connect(address);
    // Half a request was always enough to be heard.
    let mut half = connect(daemon);
    half.write_all(b"GET /v1/daemon HTTP/1.1\r\nhost: x\r\nconnection: cl").expect("it reads");
    follower
        .write_all(b"GET /v1/events?follow=true&after=18446744073709551615 HTTP/1.1\r\nhost: x\r\n\r\n")
        .expect("it reads");
    // They are accepted one after the other, so by now all are.
    let mut head = [0; 12];
    follower.read_exact(&mut head).expect("an answer");
    assert_eq!(&head, b"HTTP/1.1 200");
    assert_eq!(http::get(address, "/alive").body, "OK");
    let agreed = ask(&mut connect(daemon), "POST /v1/restart").expect("an answer");
    assert_eq!(agreed.status, 200, "{}", agreed.body);
    // It ends when clients are told to go.
    http::read(&mut follower);
    half.write_all(b"ose\r\n\r\n").ok();
    let answers = [ask(&mut api, "GET /v1/daemon"), ask(&mut scraper, "GET /alive")];
    let answers = answers.into_iter().chain([http::answer(&http::read(&mut half))]).collect();
    patiently("the next daemon", || (!lives(old) && daemon.daemon() != old).then_some(()));
    answers
}

#[test]
fn who_has_connected_and_asks_late_is_answered_by_the_daemon_that_leaves() {
    let daemon =
        Daemon::start("[listen]\nmetrics = \"127.0.0.1:0\"\n[service.it]\ncommand = \"sleep 1000\"\n");
    daemon.wait_state("it", "running");
    // A machine may be too busy to ask within the grace. Without one nobody is ever answered.
    let answered = (0..10).any(|_| {
        let answers = round(&daemon);
        answers.iter().all(|answer| answer.as_ref().is_some_and(|answer| answer.status == 200))
    });
    assert!(answered, "{}", daemon.log());
    daemon.wait("it", "in its first life", |it| it["incarnation"] == 1 && it["state"] == "running");
}

/// A verb is refused in words, not left without an answer until time is up.
#[test]
fn who_asks_late_for_a_verb_is_told_that_the_daemon_leaves() {
    let daemon = Daemon::start("[service.it]\ncommand = \"sleep 1000\"\n");
    daemon.wait_state("it", "running");
    let told = (0..10).any(|_| {
        let old = daemon.daemon();
        let (mut follower, mut late) = (connect(&daemon), connect(&daemon));
        follower
            .write_all(b"GET /v1/events?follow=true&after=18446744073709551615 HTTP/1.1\r\nhost: x\r\n\r\n")
            .expect("it reads");
        follower.read_exact(&mut [0; 12]).expect("an answer");
        ask(&mut connect(&daemon), "POST /v1/restart").expect("an answer");
        http::read(&mut follower);
        let answer = ask(&mut late, "POST /v1/services/it/restart");
        patiently("the next daemon", || (!lives(old) && daemon.daemon() != old).then_some(()));
        answer.is_some_and(|answer| answer.status == 503 && answer.body.contains("shutting down"))
    });
    assert!(told, "{}", daemon.log());
    daemon.wait("it", "in its first life", |it| it["incarnation"] == 1 && it["state"] == "running");
}
