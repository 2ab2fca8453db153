//! A client that follows the events of a daemon.

use std::io::{BufRead, BufReader};
use std::process::{Child, Stdio};
use std::sync::{Arc, Mutex};

use serde_json::Value;

use crate::Daemon;

/// Everything that a daemon tells, from its first event on.
#[derive(Debug)]
pub struct Ear {
    client: Child,
    heard: Arc<Mutex<Vec<Value>>>,
}

impl Ear {
    /// Begins to listen, with these arguments to `defib events`.
    pub fn new(daemon: &Daemon, args: &[&str]) -> Self {
        let mut command = daemon.command(&["events", "--json", "--follow"]);
        let mut client = command.args(args).stdout(Stdio::piped()).spawn().expect("the program starts");
        let lines = BufReader::new(client.stdout.take().expect("it is piped")).lines();
        let heard = Arc::new(Mutex::new(Vec::new()));
        let into = Arc::clone(&heard);
        std::thread::spawn(move || {
            for line in lines.map_while(Result::ok) {
                let event = serde_json::from_str(&line).expect("JSON");
                into.lock().expect("nobody panics with it").push(event);
            }
        });
        Self { client, heard }
    }

    /// All events so far.
    pub fn all(&self) -> Vec<Value> {
        self.heard.lock().expect("nobody panics with it").clone()
    }

    /// Those of a service and a kind.
    pub fn of(&self, service: &str, kind: &str) -> Vec<Value> {
        let wanted = |event: &Value| event["service"] == service && event["kind"] == kind;
        self.all().into_iter().filter(wanted).collect()
    }
}

impl Drop for Ear {
    fn drop(&mut self) {
        self.client.kill().ok();
        self.client.wait().ok();
    }
}
