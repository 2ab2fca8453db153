//! All that the daemons tell, one after the other: a client that follows, and resumes where it was.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader};
use std::process::Stdio;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;

use super::ledger::End;
use super::unit::Client;

/// What was told of the end of a life.
#[derive(Clone, Debug)]
pub(super) struct Tale {
    pub(super) service: String,
    pub(super) pid: u32,
    pub(super) incarnation: u64,
    /// `None`: unknown.
    pub(super) end: Option<End>,
    /// Who asked for it.
    pub(super) by: String,
    /// As it was told.
    pub(super) text: String,
}

/// Everything that was told.
#[derive(Debug, Default)]
pub(super) struct Told {
    pub(super) ends: Vec<Tale>,
    /// Events that were lost.
    pub(super) lost: Vec<String>,
    /// Starts that failed.
    pub(super) failed: Vec<String>,
    /// Everything, line by line.
    pub(super) all: Vec<String>,
}

/// What the daemons' own log has of an end. It is written at once, so a daemon that is killed before a client could ask
/// has told it there; but a line of it names no life.
#[derive(Clone, Debug)]
pub(super) struct Logged {
    pub(super) end: Option<End>,
    /// Who asked for it.
    pub(super) by: String,
    /// As it is written.
    pub(super) text: String,
}

/// The ends of each service in the daemons' own log, in order.
pub(super) fn logged(log: &str) -> BTreeMap<String, Vec<Logged>> {
    let mut found: BTreeMap<String, Vec<Logged>> = BTreeMap::new();
    for text in log.lines() {
        let Ok(line) = serde_json::from_str::<Value>(text) else { continue };
        let fields = &line["fields"];
        if let (Some("exit"), Some(service)) = (line["message"].as_str(), fields["service"].as_str()) {
            let by = fields["by"].as_str().unwrap_or_default().to_owned();
            found.entry(service.to_owned()).or_default().push(Logged {
                end: end(fields),
                by,
                text: text.to_owned(),
            });
        }
    }
    found
}

/// How a process ended, by `code` or `signal`.
fn end(object: &Value) -> Option<End> {
    let code = object["code"].as_i64().and_then(|code| i32::try_from(code).ok()).map(End::Exit);
    let signal = object["signal"].as_str().and_then(|name| Signal::from_str(name).ok());
    signal.map(|signal| End::Signal(signal as i32)).or(code)
}

/// The client.
#[derive(Debug)]
pub(super) struct Tales {
    over: Arc<AtomicBool>,
    listener: JoinHandle<Told>,
}

impl Tales {
    pub(super) fn new(client: Client) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let ended = Arc::clone(&over);
        let listener = std::thread::spawn(move || {
            let (mut told, mut after) = (Told::default(), 0);
            while !ended.load(Ordering::Relaxed) {
                listen(&client, &mut told, &mut after, &ended);
                std::thread::sleep(Duration::from_millis(5));
            }
            told
        });
        Self { over, listener }
    }

    /// Waits until the daemon, which is leaving, has told everything; at most so long.
    pub(super) fn end(self, limit: Duration) -> Told {
        self.over.store(true, Ordering::Relaxed);
        let begun = Instant::now();
        while !self.listener.is_finished() && begun.elapsed() < limit {
            std::thread::sleep(Duration::from_millis(10));
        }
        if self.listener.is_finished() { self.listener.join().unwrap_or_default() } else { Told::default() }
    }
}

/// Follows one daemon, until it ends.
fn listen(client: &Client, told: &mut Told, after: &mut u64, over: &AtomicBool) {
    let mut command = client.command(&["events", "--json", "--follow", "--after", &after.to_string()]);
    let Ok(mut follower) = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn() else { return };
    if let Some(out) = follower.stdout.take() {
        for line in BufReader::new(out).lines().map_while(Result::ok) {
            told.take(line, after);
        }
    }
    if over.load(Ordering::Relaxed) {
        follower.kill().ok();
    }
    follower.wait().ok();
}

impl Told {
    fn take(&mut self, line: String, after: &mut u64) {
        let Ok(event) = serde_json::from_str::<Value>(&line) else {
            self.lost.push(format!("no JSON: {line}"));
            return;
        };
        if let Some(seq) = event["seq"].as_u64() {
            *after = seq;
        }
        let text = |key: &str| event[key].as_str().unwrap_or_default().to_owned();
        match event["kind"].as_str() {
            Some("exit") if event["main"] == true => {
                let pid = event["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok());
                self.ends.push(Tale {
                    service: text("service"),
                    pid: pid.unwrap_or_default(),
                    incarnation: event["incarnation"].as_u64().unwrap_or_default(),
                    end: end(&event),
                    by: text("by"),
                    text: line.clone(),
                });
            }
            // A jump of the numbers from one daemon to the next has no count.
            Some("lost") if !event["count"].is_null() => self.lost.push(line.clone()),
            Some("exec") if event["ok"] == false => self.failed.push(line.clone()),
            _ => {}
        }
        self.all.push(line);
    }
}
